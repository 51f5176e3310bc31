//! `knats completion`: what a shell needs to complete commands and flags, made of the same command line that is parsed.

use std::process::ExitCode;

use clap_complete::Shell;

use super::say;

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    knats completion bash > ~/.local/share/bash-completion/completions/knats\n  \
    knats completion zsh > \"${fpath[1]}/_knats\"\n  \
    knats completion fish > ~/.config/fish/completions/knats.fish")]
pub(super) struct Args {
    /// The shell to complete in
    #[arg(value_enum)]
    shell: Shell,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut super::command(), "knats", &mut script);
    say(&String::from_utf8(script)?)?;
    Ok(ExitCode::SUCCESS)
}
