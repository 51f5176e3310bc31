//! The command line: one file a command, each with its flags, its output and its exit code. Thin: how things work is known
//! elsewhere. The only room where errors are `anyhow`'s.
//!
//! Exit codes of every command: 0 done, 1 the thing asked about has a fault, 2 usage or configuration.

mod completion;
mod confirm;
mod demo;
mod dev;
mod diff;
mod discard;
mod doctor;
mod duration;
mod environment;
mod get;
mod http;
mod ingress;
mod letters;
mod logging;
mod man;
mod nats;
mod nats_server;
mod output;
mod overrides;
mod pause;
mod poll;
mod progress;
mod prune;
mod redrive;
mod replay;
mod resume;
mod send;
mod sender;
pub mod serve;
mod shutdown;
mod sinks;
mod size;
mod tail;
mod validate;
mod view;
mod why;

use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::error::{ContextKind, ContextValue};
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use crate::resource::shown_url;

/// What every command ends with; its own help says what that means for it.
const EXIT_CODES: &str = "0 done, 1 the thing asked about has a fault, 2 usage or configuration.";

#[derive(Debug, Parser)]
#[command(name = "knats", version, about = "A Knative-style CloudEvents bridge over NATS JetStream")]
#[command(after_help = format!("Every flag has an environment variable: --nats-url is KNATS_NATS_URL.\n\n\
    Exit codes: {EXIT_CODES}\n\n\
    Example, with nothing to configure:\n  knats demo"))]
struct Cli {
    #[command(flatten)]
    logging: logging::Args,

    /// End when standard input does, so that a part never outlives the process that started it.
    #[arg(long, global = true, hide = true)]
    exit_with_parent: bool,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the bridge against a NATS server that already runs
    Serve(Box<serve::Args>),
    /// Run the bridge with a NATS server of its own: nothing to configure
    Dev(Box<dev::Args>),
    /// Watch currency rates flow from a poller through the bridge to a viewer
    Demo(demo::Args),
    /// Send CloudEvents: from flags, a file or standard input
    Send(send::Args),
    /// Poll an HTTP API and send what it says as CloudEvents
    Poll(poll::Args),
    /// Receive CloudEvents and print them
    View(view::Args),
    /// Check manifests
    Validate(validate::Args),
    /// Show channels, subscriptions and dead letters: what they hold, how far behind they are and why
    Get(get::Args),
    /// Hold a subscription back
    Pause(pause::Args),
    /// Let a paused subscription go on
    Resume(resume::Args),
    /// Deliver events once more that a subscription has had
    Replay(replay::Args),
    /// Delete the consumers of subscriptions that nobody declares any more
    Prune(prune::Args),
    /// Watch events and deliveries as they happen
    Tail(Box<tail::Args>),
    /// Write what a shell needs to complete commands and flags
    Completion(completion::Args),
    /// Write the manual
    Man(man::Args),
    /// Tell the story of one event: where it is, who wanted it, what became of it
    Why(Box<why::Args>),
    /// Show what `serve` would create, change or cannot change in JetStream
    Diff(diff::Args),
    /// Check a NATS server, and say what a 202 means on it
    Doctor(doctor::Args),
    /// Send kept dead letters to their subscription again
    Redrive(Box<redrive::Args>),
    /// Throw kept dead letters away
    Discard(Box<discard::Args>),
}

/// An error of usage or configuration: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// What a command leaves to do before it ends.
type Running = Pin<Box<dyn Future<Output = anyhow::Result<ExitCode>>>>;

/// Of a value that cannot be read, what may be a secret in a URL is not repeated.
fn without_secrets(mut error: clap::Error) -> clap::Error {
    if let Some(ContextValue::String(value)) = error.get(ContextKind::InvalidValue) {
        let shown = shown_url(value);
        error.insert(ContextKind::InvalidValue, ContextValue::String(shown));
    }
    error
}

/// Parses the command line, runs what it asks for, and gives the exit code.
pub fn run() -> ExitCode {
    let matches = command().try_get_matches().unwrap_or_else(|error| without_secrets(error).exit());
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Err(error) = logging::start(&cli.logging) {
        return fail(&error);
    }
    let runtime = match runtime(cli.command.threads()) {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::Error::new(error).context("cannot start the runtime")),
    };
    let result = runtime.block_on(async {
        let shutdown = shutdown::token(cli.exit_with_parent)?;
        start(cli.command, shutdown).await
    });
    // A read of standard input cannot be cancelled; nothing here is worth waiting for it.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| fail(&error))
}

/// The whole command line.
fn command() -> clap::Command {
    environment::attach(Cli::command())
}

/// One thread needs no scheduler that others could take work from.
fn runtime(threads: NonZeroUsize) -> std::io::Result<Runtime> {
    match threads.get() {
        1 => Builder::new_current_thread().enable_all().build(),
        threads => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
}

impl Command {
    /// Threads for its tasks. An event that one thread hands to another costs more than the thread saves, and NATS, the kernel's
    /// share of the network, and sinks want processors too: so a bridge takes half of them.
    fn threads(&self) -> NonZeroUsize {
        let asked = match self {
            Self::Serve(args) => args.threads,
            Self::Dev(args) => args.serve.threads,
            _ => return NonZeroUsize::MIN,
        };
        let half = || NonZeroUsize::new(std::thread::available_parallelism().map_or(1, NonZeroUsize::get) / 2);
        asked.or_else(half).unwrap_or(NonZeroUsize::MIN)
    }
}

/// Boxed: the commands' futures are large, and one runs at a time.
fn start(command: Command, shutdown: CancellationToken) -> Running {
    match command {
        Command::Serve(args) => Box::pin(serve::run(*args, shutdown)),
        Command::Dev(args) => Box::pin(dev::run(*args, shutdown)),
        Command::Demo(args) => Box::pin(demo::run(args, shutdown)),
        Command::Send(args) => Box::pin(send::run(args, shutdown)),
        Command::Poll(args) => Box::pin(poll::run(args, shutdown)),
        Command::View(args) => Box::pin(view::run(args, shutdown)),
        Command::Get(args) => Box::pin(get::run(args)),
        Command::Pause(args) => Box::pin(pause::run(args)),
        Command::Resume(args) => Box::pin(resume::run(args)),
        Command::Replay(args) => Box::pin(replay::run(args, shutdown)),
        Command::Prune(args) => Box::pin(prune::run(args, shutdown)),
        Command::Tail(args) => Box::pin(tail::run(*args, shutdown)),
        Command::Completion(args) => Box::pin(async move { completion::run(&args) }),
        Command::Man(args) => Box::pin(async move { man::run(&args) }),
        Command::Validate(args) => Box::pin(async move { Ok(validate::run(args)) }),
        Command::Why(args) => Box::pin(why::run(*args, shutdown)),
        Command::Diff(args) => Box::pin(diff::run(args)),
        Command::Doctor(args) => Box::pin(doctor::run(args)),
        Command::Redrive(args) => Box::pin(redrive::run(*args, shutdown)),
        Command::Discard(args) => Box::pin(discard::run(*args, shutdown)),
    }
}

/// Writes to standard output as a whole; `println!` panics when nobody reads any more.
///
/// # Errors
/// When standard output cannot be written to.
fn say(text: &str) -> anyhow::Result<()> {
    let mut output = std::io::stdout().lock();
    output.write_all(text.as_bytes()).and_then(|()| output.flush()).context("cannot write to standard output")
}

/// True for `*/json` and `*/*+json`, parameters aside.
fn is_json(media_type: &str) -> bool {
    let essence = media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.split_once('/').is_some_and(|(_, subtype)| subtype == "json" || subtype.ends_with("+json"))
}

/// Reads where to listen.
fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected IP:PORT, such as 127.0.0.1:8080, 0.0.0.0:8080 or [::1]:8080".to_owned())
}

/// A loopback port that nobody uses right now.
fn free_port() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).context("no free loopback port")?;
    Ok(listener.local_addr()?.port())
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    if error.is::<Usage>() { ExitCode::from(2) } else { ExitCode::FAILURE }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use super::*;

    #[test]
    fn the_command_line_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &mut clap::Command) {
            for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
                let help = sub.render_long_help().to_string();
                assert!(help.contains("Example"), "{}: {help}", sub.get_name());
                check(sub);
            }
        }
        check(&mut command());
    }

    #[test]
    fn every_flag_has_its_environment_variable() {
        fn check(command: &clap::Command) {
            for sub in command.get_subcommands() {
                let own = sub.get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_positional());
                for arg in own.filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version")) {
                    let long = arg.get_long().unwrap();
                    let expected = format!("KNATS_{}", long.to_uppercase().replace('-', "_"));
                    assert_eq!(arg.get_env().unwrap().to_str(), Some(expected.as_str()), "{} --{long}", sub.get_name());
                }
                check(sub);
            }
        }
        check(&command());
    }

    #[test]
    fn development_listens_on_loopback_unless_told_otherwise() {
        let matches = command().try_get_matches_from(["knats", "dev"]).unwrap();
        let Command::Dev(args) = Cli::from_arg_matches(&matches).unwrap().command else { panic!("not dev") };
        assert_eq!(args.serve.listen.to_string(), "127.0.0.1:8080");
        let matches = command().try_get_matches_from(["knats", "serve"]).unwrap();
        let Command::Serve(args) = Cli::from_arg_matches(&matches).unwrap().command else { panic!("not serve") };
        assert_eq!(args.listen.to_string(), "0.0.0.0:8080");
        assert_eq!(args.nats.settings_of_bridge().unwrap().urls, ["nats://127.0.0.1:4222"]);
    }

    #[test]
    fn a_bridge_has_the_threads_it_is_given_or_half_of_the_processors() {
        let threads = |line: &[&str]| {
            let matches = command().try_get_matches_from(line).unwrap();
            Cli::from_arg_matches(&matches).unwrap().command.threads().get()
        };
        let half = (std::thread::available_parallelism().unwrap().get() / 2).max(1);
        assert_eq!(threads(&["knats", "serve", "--threads", "3"]), 3);
        assert_eq!(threads(&["knats", "dev", "--threads", "5"]), 5);
        assert_eq!(threads(&["knats", "serve"]), half);
        assert_eq!(threads(&["knats", "demo"]), 1);
        assert!(command().try_get_matches_from(["knats", "serve", "--threads", "0"]).is_err());
    }

    #[test]
    fn usage_errors_end_with_2_and_faults_with_1() {
        let exit = |error| format!("{:?}", fail(&error));
        assert_eq!(exit(anyhow::Error::new(Usage("x".into()))), format!("{:?}", ExitCode::from(2)));
        assert_eq!(exit(anyhow::anyhow!("x")), format!("{:?}", ExitCode::FAILURE));
        let wrapped = anyhow::Error::new(Usage("x".into())).context("while y");
        assert_eq!(exit(wrapped), format!("{:?}", ExitCode::from(2)));
    }
}
