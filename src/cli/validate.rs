//! `knats validate`: checks manifests without touching anything, and prints every fault with file, document and field.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::resource::{ChannelKind, Desired, Fault, Key, Resolver, SubscriptionKind, resolve_entry};

const EXAMPLES: &str = "\
Examples:
  knats validate -f manifests/
  knats validate -f channel.yaml -f subscription.yaml --resolve default/viewer=http://127.0.0.1:8081

Faults go to standard output, one a line: FILE: document N: FIELD: what is wrong, expected what.
A fault in an expression shows it below, with a caret under the place.
Exit code: 0 no fault, 1 any fault or an unreadable file, 2 wrong usage.";

#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Manifest file, or directory of .yaml, .yml and .json files
    #[arg(short = 'f', long, value_name = "PATH", num_args = 1.., value_delimiter = ',', required = true)]
    pub(super) resources: Vec<PathBuf>,

    /// What a reference to a Service means outside a cluster
    #[arg(long, value_name = "NS/NAME=URL", value_delimiter = ',', value_parser = resolve_entry)]
    pub(super) resolve: Vec<(Key, String)>,
}

/// Checks the manifests and prints what is found: faults to standard output, warnings and the count of faults to standard
/// error.
pub(super) fn run(args: Args) -> ExitCode {
    let verdict = check(args);
    // Nobody listens any more when this fails; the exit code still tells.
    let _ = io::stdout().write_all(verdict.output.as_bytes());
    let _ = io::stderr().write_all(verdict.notes.as_bytes());
    if verdict.is_valid { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    output: String,
    notes: String,
    is_valid: bool,
}

fn check(args: Args) -> Verdict {
    let resolver = Resolver { services: args.resolve.into_iter().collect() };
    let mut verdict = Verdict::default();
    match Desired::load(&args.resources, &resolver) {
        Ok(desired) => verdict.accept(&desired),
        Err(faults) => verdict.refuse(&faults),
    }
    verdict
}

impl Verdict {
    fn accept(&mut self, desired: &Desired) {
        for subscription in desired.undeclared_channels() {
            let (kind, key, channel) = (subscription.kind, &subscription.key, &subscription.channel);
            let noun = match kind {
                SubscriptionKind::Subscription => ChannelKind::Channel,
                SubscriptionKind::Trigger => ChannelKind::Broker,
            };
            let _ = writeln!(self.notes, "warning: {kind} {key}: no file declares its {noun} {channel}");
        }
        let channels = |kind| desired.channels.values().filter(|channel| channel.kind == kind).count();
        let subscriptions = |kind| desired.subscriptions.values().filter(|found| found.kind == kind).count();
        let counts = [
            counted(channels(ChannelKind::Channel), "channel"),
            counted(channels(ChannelKind::Broker), "broker"),
            counted(subscriptions(SubscriptionKind::Subscription), "subscription"),
            counted(subscriptions(SubscriptionKind::Trigger), "trigger"),
        ];
        let _ = writeln!(self.output, "valid: {}", counts.join(", "));
        self.is_valid = true;
    }

    fn refuse(&mut self, faults: &[Fault]) {
        for fault in faults {
            let _ = writeln!(self.output, "{fault}");
        }
        let _ = writeln!(self.notes, "invalid: {}", counted(faults.len(), "fault"));
    }
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn verdict_on(yaml: &str, flags: &[&str]) -> Verdict {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("f.yaml");
        std::fs::write(&file, yaml).unwrap();
        let path = file.display().to_string();
        let cli = Cli::try_parse_from(["validate", "-f", &path].iter().chain(flags)).unwrap();
        let mut verdict = check(cli.args);
        verdict.output = verdict.output.replace(&path, "f.yaml");
        verdict
    }

    #[test]
    fn valid_manifests_are_counted_and_a_channel_that_no_file_declares_is_a_warning() {
        let verdict = verdict_on(
            "{apiVersion: messaging.knative.dev/v1, kind: Subscription, metadata: {name: s}, spec: {channel: {apiVersion: \
             messaging.knative.dev/v1, kind: Channel, name: c}, subscriber: {ref: {apiVersion: apps/v1, kind: Deployment, \
             name: d}}}}\n---\n{apiVersion: messaging.knative.dev/v1, kind: Channel, metadata: {name: other}}\n",
            &["--resolve", "default/d=http://127.0.0.1:1"],
        );
        assert_eq!(verdict.output, "valid: 1 channel, 0 brokers, 1 subscription, 0 triggers\n");
        assert_eq!(verdict.notes, "warning: subscription default/s: no file declares its channel default/c\n");
        assert!(verdict.is_valid);
    }

    #[test]
    fn brokers_and_triggers_are_counted_for_themselves() {
        let yaml = "{apiVersion: eventing.knative.dev/v1, kind: Broker, metadata: {name: b}}\n---\n{apiVersion: \
                    eventing.knative.dev/v1, kind: Trigger, metadata: {name: t}, spec: {broker: other, subscriber: {uri: \
                    http://s}}}\n";
        let verdict = verdict_on(yaml, &[]);
        assert_eq!(verdict.output, "valid: 0 channels, 1 broker, 0 subscriptions, 1 trigger\n");
        assert_eq!(verdict.notes, "warning: trigger default/t: no file declares its broker default/other\n");
    }

    #[test]
    fn every_fault_is_one_line_of_output() {
        let verdict = verdict_on("a: [\n---\n{kind: x}\n---\n[]\n", &[]);
        let lines: Vec<&str> = verdict.output.lines().collect();
        assert_eq!(lines.len(), 3, "{lines:#?}");
        for (line, start) in lines.iter().zip(["f.yaml: document 1: ", "f.yaml: document 2: ", "f.yaml: document 3: "])
        {
            assert!(line.starts_with(start), "{line}");
        }
        assert_eq!(verdict.notes, "invalid: 3 faults\n");
        assert!(!verdict.is_valid);
    }

    #[test]
    fn a_path_that_does_not_exist_is_a_fault() {
        let cli = Cli::try_parse_from(["validate", "-f", "/nonexistent/x.yaml"]).unwrap();
        let verdict = check(cli.args);
        assert!(verdict.output.starts_with("/nonexistent/x.yaml: cannot be read"), "{}", verdict.output);
        assert!(!verdict.is_valid);
    }
}
