//! One thing that is wrong with a manifest, and where.

use std::fmt::{self, Write as _};

/// Shown as `FILE: document N: PATH: what is wrong, expected what`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub file: String,
    /// From 1; `None` when the file as a whole is at fault.
    pub document: Option<usize>,
    /// The field, as in `spec.delivery.retry`.
    pub path: Option<String>,
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, &self.file)?;
        if let Some(document) = self.document {
            write!(f, ": document {document}")?;
        }
        for part in self.path.iter().chain([&self.message]) {
            f.write_str(": ")?;
            show(f, part)?;
        }
        Ok(())
    }
}

/// Parts may quote what was written, and a terminal must not take that for commands. Lines are our own.
fn show(f: &mut fmt::Formatter<'_>, part: &str) -> fmt::Result {
    part.chars().try_for_each(|character| match character {
        '\n' => f.write_char('\n'),
        control if control.is_control() => write!(f, "{}", control.escape_default()),
        other => f.write_char(other),
    })
}

impl std::error::Error for Fault {}
