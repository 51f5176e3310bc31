//! `knats man`: the manual, made of the same command line that is parsed.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap_mangen::Man;

use super::{EXIT_CODES, say};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  knats man | man -l -\n  knats man --dir ~/.local/share/man/man1    # then: man knats-tail"
)]
pub(super) struct Args {
    /// Write the pages of all commands into this directory instead of showing the first one
    #[arg(long, value_name = "DIRECTORY")]
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut command = super::command().disable_help_subcommand(true);
    command.build();
    match &args.dir {
        None => say(&String::from_utf8(page(command)?.1)?)?,
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
            for (name, page) in pages(command)? {
                let file = dir.join(name);
                std::fs::write(&file, page).with_context(|| format!("cannot write {}", file.display()))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The pages of a command and of all below it, by the names of their files.
fn pages(command: clap::Command) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut pages = Vec::new();
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        pages.extend(self::pages(sub.clone())?);
    }
    pages.push(page(command)?);
    Ok(pages)
}

fn page(command: clap::Command) -> anyhow::Result<(String, Vec<u8>)> {
    let man = Man::new(command);
    let mut page = Vec::new();
    man.render(&mut page).context("cannot write a page")?;
    page.extend_from_slice(format!(".SH \"EXIT STATUS\"\n{EXIT_CODES}\n").as_bytes());
    Ok((man.get_filename(), page))
}
