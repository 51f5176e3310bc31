//! Who sends an event: the check of its bearer token, as Knative does it (OpenID Connect, audience per channel).

mod keys;
mod token;

use std::path::PathBuf;

use http::HeaderMap;
use http::header::AUTHORIZATION;
use tokio_util::sync::CancellationToken;
use url::Url;

use super::error::Error;
use crate::resource::{ChannelKind, Key};
use crate::telemetry::ConnectionMeter;
use keys::{Keys, Source};

/// A longer token is none: what Kubernetes issues has a tenth of that.
const MAX_TOKEN_BYTES: usize = 16 * 1024;
/// Kinds that a channel may be declared as. They share their names, so a token for any of them means the same channel.
const CHANNEL_KINDS: [&str; 3] = ["natsjetstreamchannel", "channel", "natsschannel"];

/// Whose tokens are taken.
#[derive(Debug, Clone)]
pub struct Settings {
    issuer: String,
    source: Source,
}

impl Settings {
    /// `issuer` is the `iss` of tokens to the letter, and where its keys are asked for; `ca_file` (PEM) are authorities that its
    /// certificate may be signed by beside those of the system.
    ///
    /// # Errors
    /// When the issuer is no URL that can be asked, or the file cannot be used.
    pub fn new(issuer: &str, ca_file: Option<PathBuf>) -> Result<Self, String> {
        let expected = "expected an http or https URL without user and query, such as https://kubernetes.default.svc";
        let url = Url::parse(issuer).map_err(|error| format!("\"{issuer}\" is no URL ({error}), {expected}"))?;
        let is_bare = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        if !matches!(url.scheme(), "http" | "https") || !is_bare || url.password().is_some() {
            return Err(format!("an issuer cannot be there, {expected}"));
        }
        let source = Source { issuer: issuer.to_owned(), ca_file };
        source.client()?;
        Ok(Self { issuer: issuer.to_owned(), source })
    }
}

/// Checks the tokens of one issuer.
pub(super) struct Oidc {
    issuer: String,
    keys: Keys,
}

impl Oidc {
    pub(super) fn new(settings: &Settings) -> Self {
        Self { issuer: settings.issuer.clone(), keys: Keys::new(settings.source.clone()) }
    }

    /// Keeps the issuer's keys fresh until `shutdown`.
    pub(super) async fn follow(&self, meter: &ConnectionMeter, shutdown: &CancellationToken) {
        shutdown.run_until_cancelled(self.keys.follow(meter)).await;
    }

    /// The subject of the request's token, which is valid for this channel.
    ///
    /// # Errors
    /// When there is no token or not a valid one, and when that cannot be found out because the issuer's keys are not to be had.
    pub(super) async fn subject(&self, headers: &HeaderMap, kind: ChannelKind, key: &Key) -> Result<String, Error> {
        let token = bearer(headers)?.ok_or_else(|| Error::NoToken(key.clone()))?;
        let audiences = audiences(kind, key);
        let token = token::Token::read(token, &self.issuer)?;
        let verifier = self.keys.find(token.key_id(), token.algorithm()).await?;
        token.verify(&verifier, &self.issuer, &audiences)
    }
}

/// `Authorization: Bearer TOKEN` (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Result<Option<&str>, Error> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::BadToken("there is more than one Authorization header"));
    }
    let value = value.to_str().map_err(|_| Error::BadToken("it is not visible ASCII"))?;
    let token = match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
        _ => return Ok(None),
    };
    if token.len() > MAX_TOKEN_BYTES { Err(Error::BadToken("it is too long")) } else { Ok(Some(token)) }
}

/// What a token for the channel or broker must be for (`aud`): `GROUP/KIND/NAMESPACE/NAME` in lower case, as Knative names it.
fn audiences(kind: ChannelKind, key: &Key) -> Vec<String> {
    match kind {
        ChannelKind::Broker => vec![format!("eventing.knative.dev/broker/{key}")],
        ChannelKind::Channel => CHANNEL_KINDS.map(|kind| format!("messaging.knative.dev/{kind}/{key}")).to_vec(),
    }
}
