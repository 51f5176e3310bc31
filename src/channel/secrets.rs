//! Who we are at NATS: everything that the settings name files for, read once.

use std::path::{Path, PathBuf};

use super::connect::{Settings, SettingsError};

const CREDENTIALS: &str = "NATS credentials (--nats-creds)";
const NKEY: &str = "the NATS nkey seed (--nats-nkey-file)";

/// What to show to a server. Never logged.
#[derive(Default)]
pub(super) struct Secrets {
    /// The text of a credentials file, and where it is.
    pub(super) credentials: Option<(PathBuf, String)>,
    pub(super) user: Option<(String, String)>,
    pub(super) token: Option<String>,
    /// A seed, and where it is.
    pub(super) nkey: Option<(PathBuf, String)>,
    /// Certificate and key; read again for each connection, since they are renewed.
    pub(super) client_certificate: Option<(PathBuf, PathBuf)>,
    pub(super) ca_file: Option<PathBuf>,
}

impl Secrets {
    /// # Errors
    /// When a file cannot be read, or settings that go together come alone.
    pub(super) async fn read(settings: &Settings) -> Result<Self, SettingsError> {
        let mut secrets = Self::default();
        if let Some(path) = &settings.credentials_file {
            secrets.credentials = Some((path.clone(), read(path, CREDENTIALS).await?));
        }
        match (&settings.user, &settings.password_file) {
            (Some(user), Some(path)) => {
                let password = read(path, "the NATS password (--nats-password-file)").await?;
                secrets.user = Some((user.clone(), password));
            }
            (None, None) => {}
            _ => return Err(together("--nats-user", "--nats-password-file")),
        }
        if let Some(path) = &settings.token_file {
            secrets.token = Some(read(path, "the NATS token (--nats-token-file)").await?);
        }
        if let Some(path) = &settings.nkey_file {
            secrets.nkey = Some((path.clone(), read(path, NKEY).await?));
        }
        if let Some(path) = &settings.ca_file {
            read(path, "the CA certificates (--nats-ca)").await?;
            secrets.ca_file = Some(path.clone());
        }
        match (&settings.client_certificate, &settings.client_key) {
            (Some(certificate), Some(key)) => {
                read(certificate, "the client certificate (--nats-cert)").await?;
                read(key, "the client key (--nats-key)").await?;
                secrets.client_certificate = Some((certificate.clone(), key.clone()));
            }
            (None, None) => {}
            _ => return Err(together("--nats-cert", "--nats-key")),
        }
        Ok(secrets)
    }
}

/// Credentials that cannot be used.
pub(super) fn bad_credentials(path: &Path, error: std::io::Error) -> SettingsError {
    SettingsError::File { what: CREDENTIALS, path: path.to_owned(), error }
}

/// A seed that cannot be used.
pub(super) fn bad_nkey(path: &Path, error: std::io::Error) -> SettingsError {
    SettingsError::File { what: NKEY, path: path.to_owned(), error }
}

fn together(one: &str, other: &str) -> SettingsError {
    SettingsError::Contradiction(format!("{one} and {other} go together, expected both or neither"))
}

async fn read(path: &PathBuf, what: &'static str) -> Result<String, SettingsError> {
    match tokio::fs::read_to_string(path).await {
        Ok(text) => Ok(text.trim_end().to_owned()),
        Err(error) => Err(SettingsError::File { what, path: path.clone(), error }),
    }
}
