//! `knats doctor`: checks a NATS server and says what a 202 means on it.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use super::diff::{Format, declared};
use super::output::plain;
use super::{Usage, nats, say};
use crate::manage::doctor::{Check, Monitored, Report, Status};
use crate::manage::{Error, Manager};
use crate::resource::{Desired, Key, resolve_entry};
use crate::sink::client::{self, Client, Url};

const EXAMPLES: &str = "\
Examples:
  knats doctor --nats-url nats://nats.example.com:4222
  knats doctor -f manifests/ --monitor http://127.0.0.1:8222 -o json

One line a check: ok, warn or fail, what was looked at, what was found; what to do. Then what a 202 means in each kind of stream.
It looks at the streams KN_* and at those of the channels that -f declares, and it writes nothing to the server.
Exit code: 0 no fail, 1 any fail, 2 wrong usage or faulty manifests.";

/// How long the monitoring port may take, and how much it may say.
const MONITOR_TIMEOUT: Duration = Duration::from_secs(5);
const MONITOR_BYTES: usize = 1024 * 1024;

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    nats: nats::Args,
    /// Manifest files or directories whose channels and subscriptions are looked at, too
    #[arg(short = 'f', long, value_name = "PATH", num_args = 1.., value_delimiter = ',')]
    resources: Vec<PathBuf>,
    /// What a reference to a Service means outside a cluster
    #[arg(long, value_name = "NAMESPACE/NAME=URL", value_delimiter = ',', value_parser = resolve_entry)]
    resolve: Vec<(Key, String)>,
    /// Monitoring port of a NATS server, which tells its sync_interval
    #[arg(long, value_name = "URL")]
    monitor: Option<Url>,
    /// Text for people, or one JSON object
    #[arg(short = 'o', long, value_enum, default_value_t)]
    output: Format,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let desired =
        if args.resources.is_empty() { Desired::default() } else { declared(&args.resources, &args.resolve)? };
    let monitored = match &args.monitor {
        Some(url) => Some(read(url).await),
        None => None,
    };
    let report = match Manager::connect(&args.nats.settings()?).await {
        Ok(manager) => manager.doctor(&desired, monitored).await,
        Err(Error::Settings(error)) => return Err(Usage(error.to_string()).into()),
        Err(error) => Report::unreachable(error.to_string()),
    };
    match args.output {
        Format::Text => say(&text(&report))?,
        Format::Json => say(&(serde_json::to_string_pretty(&report)? + "\n"))?,
    }
    Ok(if report.has_failed() { ExitCode::from(1) } else { ExitCode::SUCCESS })
}

/// What a monitoring port says under `/varz`.
async fn read(monitor: &Url) -> Monitored {
    let mut url = monitor.clone();
    url.path_segments_mut().map_err(|()| "no URL of a server".to_owned())?.pop_if_empty().push("varz");
    let client = Client::with(MONITOR_TIMEOUT, None).map_err(|error| error.to_string())?;
    let answer = client::exchange(client.get(url), MONITOR_BYTES).await.map_err(|error| error.to_string())?;
    if !answer.status.is_success() {
        return Err(format!("it answered {}", answer.status));
    }
    serde_json::from_slice::<Value>(&answer.body).map_err(|_| "its answer is no JSON".to_owned())
}

fn text(report: &Report) -> String {
    let subject = |check: &Check| match &check.about {
        Some(about) => format!("{} {}", check.check, plain(about)),
        None => check.check.to_owned(),
    };
    let width = report.checks.iter().map(|check| subject(check).chars().count()).max().unwrap_or(0);
    let mut text = String::new();
    for check in &report.checks {
        let status = match check.status {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        };
        let advice = check.advice.as_ref().map(|advice| format!("; {advice}")).unwrap_or_default();
        let found = plain(&format!("{}{advice}", check.finding));
        let _ = writeln!(text, "{status:4}  {:width$}  {found}", subject(check));
    }
    for meaning in &report.meanings {
        let _ = writeln!(text, "{}", plain(&meaning.sentence));
    }
    text
}
