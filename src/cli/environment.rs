//! Gives every flag its environment variable, `KNATS_` and the name of the flag, in one place so that none is forgotten.

use clap::builder::BoolishValueParser;
use clap::{Arg, ArgAction, Command};

const PREFIX: &str = "KNATS_";

/// The command line with an environment variable for every visible flag, and the defaults that `dev` has of its own.
pub(super) fn attach(command: Command) -> Command {
    with_variables(super::dev::defaults(command))
}

fn with_variables(command: Command) -> Command {
    let names: Vec<String> = command.get_subcommands().map(|sub| sub.get_name().to_owned()).collect();
    let command = command.mut_args(with_variable);
    names.into_iter().fold(command, |command, name| command.mut_subcommand(name, with_variables))
}

fn with_variable(arg: Arg) -> Arg {
    if arg.is_hide_set() {
        return arg;
    }
    let Some(long) = arg.get_long() else { return arg };
    // clap keeps names of variables for as long as the process lives.
    let name: &'static str = format!("{PREFIX}{}", long.to_uppercase().replace('-', "_")).leak();
    if std::env::var_os(name).is_some_and(|value| value.is_empty()) {
        // `KNATS_X=` is how a manifest or a script says that there is none.
        return arg;
    }
    let arg = arg.env(name).hide_env_values(true);
    // A switch takes what people write for yes and no (1, true, yes, on; 0, false, no, off), and takes nothing else for a yes.
    if matches!(arg.get_action(), ArgAction::SetTrue) { arg.value_parser(BoolishValueParser::new()) } else { arg }
}
