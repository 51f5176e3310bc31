//! The command line: one file a command, each with its flags, its output and its exit code. Thin: how things work is known
//! elsewhere. The only room where errors are `anyhow`'s.
//!
//! Exit codes of every command: 0 done, 1 the thing asked about has a fault, 2 usage or configuration.

mod demo;
mod dev;
mod duration;
mod environment;
mod http;
mod logging;
mod nats;
mod nats_server;
mod output;
mod overrides;
mod poll;
mod send;
mod sender;
pub mod serve;
mod shutdown;
mod validate;
mod view;
mod why;

use std::future::Future;
use std::io::Write as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use tokio_util::sync::CancellationToken;

#[derive(Debug, Parser)]
#[command(name = "knats", version, about = "A Knative-style CloudEvents bridge over NATS JetStream")]
#[command(after_help = "Every flag has an environment variable: --nats-url is KNATS_NATS_URL.\n\n\
    Exit codes: 0 done, 1 the thing asked about has a fault, 2 usage or configuration.\n\n\
    Example, with nothing to configure:\n  knats demo")]
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
    /// Tell the story of one event: where it is, who wanted it, what became of it
    Why(Box<why::Args>),
}

/// An error of usage or configuration: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// What a command leaves to do before it ends.
type Running = Pin<Box<dyn Future<Output = anyhow::Result<ExitCode>>>>;

/// Parses the command line, runs what it asks for, and gives the exit code.
pub fn run() -> ExitCode {
    let matches = environment::attach(Cli::command()).get_matches();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    if let Err(error) = logging::start(&cli.logging) {
        return fail(&error);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
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

/// Boxed: the commands' futures are large, and one runs at a time.
fn start(command: Command, shutdown: CancellationToken) -> Running {
    match command {
        Command::Serve(args) => Box::pin(serve::run(*args, shutdown)),
        Command::Dev(args) => Box::pin(dev::run(*args, shutdown)),
        Command::Demo(args) => Box::pin(demo::run(args, shutdown)),
        Command::Send(args) => Box::pin(send::run(args, shutdown)),
        Command::Poll(args) => Box::pin(poll::run(args, shutdown)),
        Command::View(args) => Box::pin(view::run(args, shutdown)),
        Command::Validate(args) => Box::pin(async move { Ok(validate::run(args)) }),
        Command::Why(args) => Box::pin(why::run(*args, shutdown)),
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

    fn command() -> clap::Command {
        environment::attach(Cli::command())
    }

    #[test]
    fn the_command_line_holds_together() {
        command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        for sub in command().get_subcommands_mut() {
            let help = sub.render_long_help().to_string();
            assert!(help.contains("Example"), "{}: {help}", sub.get_name());
        }
    }

    #[test]
    fn every_flag_has_its_environment_variable() {
        for sub in command().get_subcommands() {
            let own = sub.get_arguments().filter(|arg| !arg.is_hide_set() && !arg.is_positional());
            for arg in own.filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version")) {
                let long = arg.get_long().unwrap();
                let expected = format!("KNATS_{}", long.to_uppercase().replace('-', "_"));
                assert_eq!(arg.get_env().unwrap().to_str(), Some(expected.as_str()), "{} --{long}", sub.get_name());
            }
        }
    }

    #[test]
    fn development_listens_on_loopback_unless_told_otherwise() {
        let matches = command().try_get_matches_from(["knats", "dev"]).unwrap();
        let Command::Dev(args) = Cli::from_arg_matches(&matches).unwrap().command else { panic!("not dev") };
        assert_eq!(args.serve.listen.to_string(), "127.0.0.1:8080");
        assert!(args.serve.nats.nats_url.is_empty());
        let matches = command().try_get_matches_from(["knats", "serve"]).unwrap();
        let Command::Serve(args) = Cli::from_arg_matches(&matches).unwrap().command else { panic!("not serve") };
        assert_eq!(args.listen.to_string(), "0.0.0.0:8080");
        assert_eq!(args.nats.nats_url, ["nats://127.0.0.1:4222"]);
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
