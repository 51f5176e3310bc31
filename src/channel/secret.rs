//! A secret on its way from where people keep it to the connection that needs it. Nothing prints it: not a log, not an error.

use std::fmt;
use std::path::{Path, PathBuf};

use super::connect::SettingsError;

/// Something that only NATS may learn.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// Read when a connection is made.
    File(PathBuf),
    Text(String),
}

impl Secret {
    /// What it is; `what` names it for people.
    pub(super) async fn reveal(&self, what: &'static str) -> Result<String, SettingsError> {
        match self {
            Self::File(path) => read(path, what).await,
            Self::Text(text) => Ok(text.clone()),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "Secret(in {})", path.display()),
            Self::Text(_) => f.write_str("Secret(***)"),
        }
    }
}

/// The text of a file without the line end behind it.
pub(super) async fn read(path: &Path, what: &'static str) -> Result<String, SettingsError> {
    match tokio::fs::read_to_string(path).await {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(error) => Err(SettingsError::File { what, path: path.to_owned(), error }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::Text("hush".into())), "Secret(***)");
        assert_eq!(format!("{:?}", Some(Secret::File("/a".into()))), "Some(Secret(in /a))");
    }
}
