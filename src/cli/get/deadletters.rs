//! `knats get deadletters`: what is kept, one line each.

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::Context as _;
use jiff::Timestamp;

use crate::channel::dead_letter::STREAM;
use crate::channel::kept::Keeping;
use crate::cli::letters::{Filter, counted};
use crate::cli::output::{Format, render, short};
use crate::cli::{nats, say, size};
use crate::manage::dead_letters::{DeadLetter, Query};
use crate::resource::Key;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  knats get deadletters\n  knats get deadletters default/orders --code 503 -o wide\n  \
    knats get deadletters --older-than 24h -o ndjson | jq -r .id\n\n\
    `time` is when a letter was kept. Ends with 0 when nothing is kept, with 1 when JetStream cannot be asked."
)]
pub(super) struct Args {
    /// Of this subscription
    #[arg(value_name = "NAMESPACE/NAME")]
    subscription: Option<Key>,
    /// The same as a flag
    #[arg(long = "subscription", value_name = "NAMESPACE/NAME", conflicts_with = "subscription")]
    of: Option<Key>,
    /// Of this channel or broker
    #[arg(long, value_name = "NAMESPACE/NAME")]
    channel: Option<Key>,
    #[command(flatten)]
    filter: Filter,
    /// How to print them
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    nats: nats::Args,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let manager = args.nats.manager().await?;
    let subscription = args.subscription.as_ref().or(args.of.as_ref());
    let query = Query { channel: args.channel.clone(), ..args.filter.query(subscription) };
    let mut found = manager.dead_letters(&query).await?;
    let mut letters = Vec::new();
    while let Some(letter) = found.next().await? {
        let letter = DeadLetter::from(&letter);
        if args.output == Format::Ndjson {
            // One by one: there may be more than fit into memory.
            say(&(serde_json::to_string(&letter).context("cannot write JSON")? + "\n"))?;
        } else {
            letters.push(letter);
        }
    }
    if args.output != Format::Ndjson {
        say(&render(&letters, args.output, Timestamp::now())?)?;
    }
    if matches!(args.output, Format::Table | Format::Wide) {
        let keeping = manager.dead_letter_keeping().await?;
        // Beside the table, so that whoever cuts it into columns is not disturbed; nobody needs to read it.
        let _ = writeln!(std::io::stderr(), "{}", kept(keeping.as_ref()));
    }
    Ok(ExitCode::SUCCESS)
}

/// How many there are in all, and how they are kept.
pub(super) fn kept(keeping: Option<&Keeping>) -> String {
    let Some(keeping) = keeping else {
        return format!("there is no stream {STREAM} yet: no event was given up so far");
    };
    let age = keeping.max_age_seconds.map_or_else(|| "for ever".to_owned(), |age| format!("for {}", short(age)));
    let limit =
        keeping.max_bytes.map_or_else(|| "no limit".to_owned(), |bytes| format!("at most {}", size::shown(bytes)));
    let (letters, bytes) = (counted(keeping.letters), size::shown(keeping.bytes));
    format!("{STREAM}: {letters}, {bytes}; kept {age}, {limit}, replicas {}", keeping.replicas)
}
