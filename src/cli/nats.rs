//! How every command is told where NATS is and who it is there.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;

use super::Usage;
use crate::channel::connect::Settings;
use crate::manage::{Error, Manager};

/// The flags of a connection to NATS. Secrets come from files only.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Args {
    /// NATS servers, comma separated
    #[arg(long, value_name = "URL", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    #[arg(default_value = "nats://127.0.0.1:4222")]
    pub nats_url: Vec<String>,
    /// NATS credentials file (.creds)
    #[arg(long, value_name = "FILE")]
    pub nats_creds: Option<PathBuf>,
    /// NATS user, with --nats-password-file
    #[arg(long, value_name = "NAME", requires = "nats_password_file")]
    pub nats_user: Option<String>,
    /// File that holds the NATS user's password
    #[arg(long, value_name = "FILE", requires = "nats_user")]
    pub nats_password_file: Option<PathBuf>,
    /// File that holds a NATS token
    #[arg(long, value_name = "FILE")]
    pub nats_token_file: Option<PathBuf>,
    /// File that holds an NKey seed
    #[arg(long, value_name = "FILE")]
    pub nats_nkey_file: Option<PathBuf>,
    /// Certificate authorities that NATS servers may be signed by (PEM)
    #[arg(long, value_name = "FILE")]
    pub nats_ca: Option<PathBuf>,
    /// Client certificate for NATS (PEM), with --nats-key
    #[arg(long, value_name = "FILE", requires = "nats_key")]
    pub nats_cert: Option<PathBuf>,
    /// Key of the client certificate (PEM)
    #[arg(long, value_name = "FILE", requires = "nats_cert")]
    pub nats_key: Option<PathBuf>,
}

impl Args {
    /// Connects, for one command.
    ///
    /// # Errors
    /// When the flags cannot work (exit code 2), or NATS does not answer (exit code 1).
    pub(super) async fn manager(&self) -> anyhow::Result<Manager> {
        Manager::connect(&self.settings()).await.map_err(|error| match error {
            Error::Settings(error) => Usage(error.to_string()).into(),
            error => error.into(),
        })
    }

    pub(super) fn settings(&self) -> Settings {
        Settings {
            urls: self.nats_url.clone(),
            credentials_file: self.nats_creds.clone(),
            user: self.nats_user.clone(),
            password_file: self.nats_password_file.clone(),
            token_file: self.nats_token_file.clone(),
            nkey_file: self.nats_nkey_file.clone(),
            ca_file: self.nats_ca.clone(),
            client_certificate: self.nats_cert.clone(),
            client_key: self.nats_key.clone(),
        }
    }
}
