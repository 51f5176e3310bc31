//! Who we are at NATS: everything that the settings name files for, read once.

use std::path::{Path, PathBuf};

use super::connect::{Settings, SettingsError, address, without_identity};
use super::secret::read;

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
    pub(super) inbox_prefix: Option<String>,
    pub(super) tls_first: bool,
}

impl Secrets {
    /// # Errors
    /// When a file cannot be read, or settings that go together come alone.
    pub(super) async fn read(settings: &Settings) -> Result<Self, SettingsError> {
        let mut secrets =
            Self { inbox_prefix: settings.inbox_prefix.clone(), tls_first: settings.tls_first, ..Self::default() };
        if let Some(path) = &settings.credentials_file {
            secrets.credentials = Some((path.clone(), read(path, CREDENTIALS).await?));
        }
        match (&settings.user, &settings.password) {
            (Some(user), Some(password)) => {
                let password = password.reveal("the NATS password (--nats-password-file)").await?;
                secrets.user = Some((user.clone(), password));
            }
            (None, None) => {}
            _ => return Err(together("--nats-user", "--nats-password-file")),
        }
        if let Some(token) = &settings.token {
            secrets.token = Some(token.reveal("the NATS token (--nats-token-file)").await?);
        }
        if let Some(path) = &settings.nkey_file {
            secrets.nkey = Some((path.clone(), read(path, NKEY).await?));
        }
        secrets.identify(&settings.urls)?;
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

    /// Takes who we are from the URLs, unless it is said besides.
    fn identify(&mut self, urls: &[String]) -> Result<(), SettingsError> {
        if self.credentials.is_some() || self.user.is_some() || self.token.is_some() || self.nkey.is_some() {
            return Ok(());
        }
        for url in urls {
            match without_identity(address(url)?).1 {
                Some((user, Some(password))) => self.user = Some((user, password)),
                Some((token, None)) => self.token = Some(token),
                None => continue,
            }
            break;
        }
        Ok(())
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
