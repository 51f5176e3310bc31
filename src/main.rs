//! Start-up in one screen: all of it is `cli::run`.

use std::process::ExitCode;

fn main() -> ExitCode {
    knats::cli::run()
}
