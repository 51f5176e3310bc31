//! `knats get subscriptions`: all of them as a table, or one in all detail.

use std::fmt::Write as _;
use std::process::ExitCode;

use jiff::Timestamp;

use super::Listing;
use crate::cli::output::{Format, Row, age, plain, short};
use crate::cli::say;
use crate::manage::subscriptions::{State, Subscription};
use crate::resource::Key;

const EXAMPLES: &str = "\
Examples:
  knats get subscriptions
  knats get subscriptions -o wide
  knats get subscriptions default/orders
  knats get triggers -n shop -o json

LAG is what is not settled: events that were not delivered yet, are in flight or wait for a retry; AGE is that of the
oldest of them. STATE is delivering, idle, paused, held (its breaker keeps events back while its sink is away), stalled
or no_bridge (nobody pulls).

Exit codes: 0 done, 1 there is no such subscription, or NATS does not answer or does not permit it, 2 usage or
configuration.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The one to show in detail
    #[arg(value_name = "NAMESPACE/NAME")]
    subscription: Option<Key>,
    #[command(flatten)]
    listing: Listing,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let listing = &args.listing;
    let manager = listing.nats.manager().await?;
    let mut subscriptions = manager.subscriptions(args.subscription.as_ref()).await?;
    for gap in &subscriptions.gaps {
        eprintln!("warning: {gap}");
    }
    subscriptions.found.retain(|subscription| listing.wants(&subscription.namespace));
    if args.subscription.is_some() && listing.output == Format::Table {
        let now = Timestamp::now();
        let texts: Vec<String> = subscriptions.found.iter().map(|subscription| details(subscription, now)).collect();
        say(&texts.join("\n"))?;
    } else {
        listing.say(&subscriptions.found)?;
    }
    Ok(ExitCode::SUCCESS)
}

impl Row for Subscription {
    const COLUMNS: &'static [(&'static str, bool)] = &[
        ("NAME", false),
        ("CHANNEL", false),
        ("STATE", false),
        ("LAG", false),
        ("AGE", false),
        ("IN FLIGHT", false),
        ("RETRYING", false),
        ("LAST ERROR", false),
        ("NEXT RETRY", true),
        ("BRIDGES", true),
        ("SINK", false),
        ("CONSUMER", true),
        ("REASON", false),
    ];

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let number = |number: Option<u64>| number.map(|number| number.to_string()).unwrap_or_default();
        vec![
            format!("{}/{}", self.namespace, self.name),
            self.channel.clone().unwrap_or_default(),
            self.state.to_string(),
            self.lag.to_string(),
            if self.lag == 0 { String::new() } else { self.lag_seconds.map(short).unwrap_or_default() },
            number(self.in_flight),
            number(self.waiting_for_retry),
            self.last_error
                .as_ref()
                .map(|error| format!("{} {} ago", error.code, age(error.time, now)))
                .unwrap_or_default(),
            self.next_retry.map(|due| ahead(due, now)).unwrap_or_default(),
            self.bridges.to_string(),
            self.sink.clone().unwrap_or_default(),
            self.consumer.clone(),
            self.reason.clone(),
        ]
    }
}

/// In how long.
fn ahead(due: Timestamp, now: Timestamp) -> String {
    if due <= now { "now".to_owned() } else { format!("in {}", age(now, due)) }
}

fn details(subscription: &Subscription, now: Timestamp) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    let lines = [
        ("kind", subscription.kind.clone()),
        ("channel", text(&subscription.channel)),
        ("state", subscription.state.to_string()),
        ("reason", subscription.reason.clone()),
        (
            "next event let through",
            match subscription.state {
                State::Held => subscription.held_until.map(|until| ahead(until, now)).unwrap_or_default(),
                _ => String::new(),
            },
        ),
        ("lag", subscription.lag.to_string()),
        ("oldest unsettled", subscription.lag_seconds.map(short).unwrap_or_default()),
        ("not delivered yet", subscription.undelivered.to_string()),
        ("in flight", number(subscription.in_flight)),
        ("waiting for retry", number(subscription.waiting_for_retry)),
        ("next retry", subscription.next_retry.map(|due| ahead(due, now)).unwrap_or_default()),
        (
            "last error",
            subscription.last_error.as_ref().map_or_else(String::new, |error| {
                format!("{} {} ({} ago)", error.code, error.message, age(error.time, now))
            }),
        ),
        (
            "last error's event",
            subscription
                .last_error
                .as_ref()
                .map_or_else(String::new, |error| format!("{} of {}", error.event_id, error.event_source)),
        ),
        ("sink", text(&subscription.sink)),
        ("reply", text(&subscription.reply)),
        ("dead letter sink", text(&subscription.dead_letter_sink)),
        ("filter", subscription.filter.as_ref().map(ToString::to_string).unwrap_or_default()),
        ("ordering", text(&subscription.ordering)),
        ("bridges", subscription.bridges.to_string()),
        ("stream", subscription.stream.clone()),
        ("consumer", subscription.consumer.clone()),
        ("settled to", subscription.settled_sequence.to_string()),
        ("delivered to", subscription.delivered_sequence.to_string()),
        ("may be unsettled", number(subscription.max_unsettled)),
        ("last active", subscription.last_active.map(|time| format!("{} ago", age(time, now))).unwrap_or_default()),
    ];
    let width = lines.iter().map(|(title, _)| title.len()).max().unwrap_or(0);
    let mut shown = format!("{}/{}\n", subscription.namespace, subscription.name);
    for (title, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = writeln!(shown, "  {title:width$}  {}", plain(value));
    }
    shown
}
