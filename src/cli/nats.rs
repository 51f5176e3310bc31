//! How every command is told where NATS is and who it is there: by flags, or by a context of the NATS CLI.

use std::path::PathBuf;

use clap::builder::NonEmptyStringValueParser;

use super::Usage;
use crate::channel::Secret;
use crate::channel::connect::Settings;
use crate::channel::context::{Contexts, DEFAULT_URL};
use crate::manage::{Error, Manager};

/// The flags of a connection to NATS. Secrets come from files only.
#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Args {
    /// NATS servers, comma separated [default: nats://127.0.0.1:4222]
    #[arg(long, value_name = "URL", value_delimiter = ',', value_parser = NonEmptyStringValueParser::new())]
    pub nats_url: Vec<String>,
    /// A context of the NATS CLI; --nats-... flags take the place of what it says
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,
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
        Manager::connect(&self.settings()?).await.map_err(|error| match error {
            Error::Settings(error) => Usage(error.to_string()).into(),
            error => error.into(),
        })
    }

    /// What a command of an operator connects to: by flags and `--context`; when there is neither, by the context that
    /// `nats context select` has chosen, as the NATS CLI itself would.
    ///
    /// # Errors
    /// Of usage, when the context cannot be used.
    pub(super) fn settings(&self) -> Result<Settings, Usage> {
        let flags = self.flags();
        let selected = match (&self.context, contexts()) {
            // The secrets of a context that nobody has named go nowhere but where it says itself.
            (None, Some(contexts)) if flags == Settings::default() => contexts.selected().map_err(usage)?,
            _ => None,
        };
        self.with_context(self.context.clone().or(selected), flags)
    }

    /// What a bridge connects to. It takes a context only by its name: what a person has selected for another command is no
    /// reason for a service to run elsewhere.
    ///
    /// # Errors
    /// Of usage, when the context cannot be used.
    pub(super) fn settings_of_bridge(&self) -> Result<Settings, Usage> {
        self.with_context(self.context.clone(), self.flags())
    }

    fn with_context(&self, context: Option<String>, flags: Settings) -> Result<Settings, Usage> {
        self.warn_of_secrets();
        let mut settings = match (context, contexts()) {
            (None, _) => Settings::default(),
            (Some(name), Some(contexts)) => contexts.load(&name).map_err(usage)?,
            (Some(name), None) => {
                let hint = "neither XDG_CONFIG_HOME nor HOME says where contexts are";
                return Err(Usage(format!("there is no NATS context '{name}': {hint}")));
            }
        };
        override_with(&mut settings, flags);
        if settings.urls.is_empty() {
            settings.urls.push(DEFAULT_URL.to_owned());
        }
        Ok(settings)
    }

    /// A secret in an argument is not kept from anybody.
    fn warn_of_secrets(&self) {
        let has_user = |url: &String| url.contains('@');
        let is_argument = |url: &String| std::env::args().any(|argument| argument.contains(url.as_str()));
        if self.nats_url.iter().filter(|url| has_user(url)).any(is_argument) {
            tracing::warn!(
                "a password or token in --nats-url can be read by everybody on this machine in the list of processes; \
                 --nats-password-file, --nats-token-file or the variable KNATS_NATS_URL keep it"
            );
        }
    }

    /// What the flags say.
    fn flags(&self) -> Settings {
        Settings {
            urls: self.nats_url.clone(),
            credentials_file: self.nats_creds.clone(),
            user: self.nats_user.clone(),
            password: self.nats_password_file.clone().map(Secret::File),
            token: self.nats_token_file.clone().map(Secret::File),
            nkey_file: self.nats_nkey_file.clone(),
            ca_file: self.nats_ca.clone(),
            client_certificate: self.nats_cert.clone(),
            client_key: self.nats_key.clone(),
            ..Settings::default()
        }
    }
}

/// Lets flags take the place of what they are about: where NATS is, who we are there, whom we trust.
fn override_with(settings: &mut Settings, flags: Settings) {
    if !flags.urls.is_empty() {
        settings.urls = flags.urls;
    }
    let identified =
        flags.credentials_file.is_some() || flags.user.is_some() || flags.token.is_some() || flags.nkey_file.is_some();
    if identified {
        settings.credentials_file = flags.credentials_file;
        (settings.user, settings.password) = (flags.user, flags.password);
        settings.token = flags.token;
        settings.nkey_file = flags.nkey_file;
    }
    if flags.client_certificate.is_some() {
        (settings.client_certificate, settings.client_key) = (flags.client_certificate, flags.client_key);
    }
    if flags.ca_file.is_some() {
        settings.ca_file = flags.ca_file;
    }
}

/// Where this person keeps contexts.
fn contexts() -> Option<Contexts> {
    let folder = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = folder("HOME");
    let config = folder("XDG_CONFIG_HOME").or_else(|| Some(home.as_ref()?.join(".config")))?;
    Some(Contexts::of(&config, home))
}

fn usage(error: impl std::fmt::Display) -> Usage {
    Usage(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_takes_the_place_of_the_whole_one() {
        let mut settings = Settings {
            urls: vec!["nats://a".into()],
            user: Some("ann".into()),
            password: Some(Secret::Text("p".into())),
            ca_file: Some("/ca".into()),
            ..Settings::default()
        };
        override_with(&mut settings, Settings { token: Some(Secret::File("/t".into())), ..Settings::default() });
        let expected = Settings {
            urls: vec!["nats://a".into()],
            token: Some(Secret::File("/t".into())),
            ca_file: Some("/ca".into()),
            ..Settings::default()
        };
        assert_eq!(settings, expected);
    }
}
