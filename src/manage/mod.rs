//! What operators ask and do: straight from JetStream, with or without a bridge that runs. The commands and the management API
//! are two faces of this room; it knows neither terminals nor HTTP.

mod attempts;
pub mod bridges;
pub mod channels;
pub mod dead_letters;
pub mod diff;
pub mod doctor;
pub mod prune;
pub mod redrive;
pub mod steering;
pub mod subscriptions;
pub mod tail;
pub mod why;

use std::time::Duration;

use crate::channel::connect::{Settings, SettingsError};
use crate::channel::{Api, ApiError, CallError, Connection};

/// How long a command waits for its connection. A bridge waits for ever; a person does not.
const CONNECT: Duration = Duration::from_secs(5);

/// Answers the questions of operators and carries out what they decide.
#[derive(Clone)]
pub struct Manager {
    pub(crate) api: Api,
    pub(crate) connection: Connection,
}

/// Why a question could not be answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("cannot connect to NATS at {urls}: {reason}")]
    NotConnected { urls: String, reason: String },
    #[error("{doing}: {cause}")]
    Api { doing: String, cause: ApiError },
    #[error("{doing}: {cause}")]
    Call { doing: String, cause: CallError },
    /// What was asked about is not there.
    #[error("{0}")]
    NotFound(String),
    /// The question fits several things; the text names them.
    #[error("{0}")]
    Ambiguous(String),
    /// The NATS server is too old for it.
    #[error("{what} needs nats-server {version} or newer")]
    TooOld { what: &'static str, version: &'static str },
    /// It cannot be done as things are; the text says what to do.
    #[error("{0}")]
    Refused(String),
}

impl Manager {
    /// Connects, for one command.
    ///
    /// # Errors
    /// When the settings are wrong, or there is no connection within some seconds.
    pub async fn connect(settings: &Settings) -> Result<Self, Error> {
        let connection = Connection::open(settings, "knats-manage").await?;
        connection
            .established(CONNECT)
            .await
            .map_err(|reason| Error::NotConnected { urls: settings.shown_urls(), reason })?;
        Ok(Self::new(connection))
    }

    /// Shares the connection of a bridge.
    pub fn new(connection: Connection) -> Self {
        Self { api: Api::new(connection.clone()), connection }
    }
}

/// Says what was being done when the API failed.
fn while_doing(doing: impl Into<String>) -> impl FnOnce(ApiError) -> Error {
    let doing = doing.into();
    move |cause| Error::Api { doing, cause }
}
