//! The issuer's public keys: fetched by one task, looked at by every request.
//!
//! Requests never ask the issuer themselves. One that names a key which is not there asks the task to look again, and waits for
//! that look. Looks begin no sooner than [`LOOK_PAUSE`] one after the other, so names that somebody makes up cost the issuer
//! nothing to speak of. A request in between is told to come again: until the next look nobody knows whether the key is a new one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep_until, timeout};
use url::Url;

use crate::ingress::error::Error;
use crate::sink::Client;
use crate::sink::client::exchange;
use crate::telemetry::ConnectionMeter;

/// From the beginning of one look to that of the next, at least.
pub(super) const LOOK_PAUSE: Duration = Duration::from_secs(5);
/// When nobody asks: a key that the issuer withdraws is refused after this time.
const LOOK_EVERY: Duration = Duration::from_secs(300);
/// For each of the two documents.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than a whole look may take.
const WAIT_TIMEOUT: Duration = Duration::from_secs(12);
/// Requests that may wait for a look at a time.
const MAX_WAITING: usize = 256;
const MAX_DOCUMENT_BYTES: usize = 1024 * 1024;
/// Keys of one issuer; further ones are left out.
const MAX_KEYS: usize = 100;

/// Where the keys come from (OpenID Connect Discovery 1.0, section 4).
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) issuer: String,
    pub(super) ca_file: Option<PathBuf>,
}

/// Why the keys could not be had. For the log: whoever shows a token need not know where the bridge asks.
struct Failure(String);

/// A key with the algorithms that it is for. A token is never checked with another one: a public key is no secret for HMAC.
#[derive(Clone)]
pub(super) struct Verifier {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    pub(super) key: DecodingKey,
}

/// What is known of the issuer.
#[derive(Clone, Default)]
struct Known {
    /// `None` until they were had once. What was had stays when a later look fails.
    keys: Option<Arc<[Verifier]>>,
    /// When the last look began, and whether it failed.
    looked: Option<Instant>,
    has_failed: bool,
}

pub(super) struct Keys {
    source: Source,
    known: watch::Sender<Known>,
    /// Somebody names a key that is not there.
    asked: Notify,
    waiting: Semaphore,
}

impl Keys {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            known: watch::Sender::new(Known::default()),
            asked: Notify::new(),
            waiting: Semaphore::new(MAX_WAITING),
        }
    }

    /// Looks at once, then when it is asked to, and every now and then. Never ends.
    pub(super) async fn follow(&self, meter: &ConnectionMeter) {
        loop {
            let began = Instant::now();
            let looked = self.source.keys().await;
            let has_failed = looked.is_err();
            if let Err(Failure(failure)) = &looked
                && let Some(count) = meter.issuer.add()
            {
                tracing::warn!(issuer = self.source.issuer, failure, count, "the issuer's keys cannot be had");
            }
            self.known.send_modify(|known| {
                (known.looked, known.has_failed) = (Some(began), has_failed);
                known.keys = looked.ok().or(known.keys.take());
            });
            sleep_until(began + LOOK_PAUSE).await;
            // Until there are any, nobody can be let in.
            let has_keys = self.known.borrow().keys.is_some();
            if has_keys {
                // An error is the end of the time.
                let _ = timeout(LOOK_EVERY.saturating_sub(began.elapsed()), self.asked.notified()).await;
            }
        }
    }

    /// The key of that name that is for this algorithm. Without a name, the issuer's only one.
    ///
    /// # Errors
    /// [`Error::BadToken`] once a look that began after the call has not found it, [`Error::NoKeys`] when there is no such look.
    pub(super) async fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Verifier, Error> {
        let begun = Instant::now();
        let mut looks = self.known.subscribe();
        let known = looks.borrow_and_update().clone();
        if let Some(verifier) = known.find(id, algorithm)? {
            return Ok(verifier);
        }
        let (Some(_), Some(looked)) = (&known.keys, known.looked) else { return Err(known.no_keys()) };
        if begun < looked + LOOK_PAUSE {
            return Err(known.no_keys());
        }
        let Ok(_place) = self.waiting.try_acquire() else { return Err(known.no_keys()) };
        self.asked.notify_one();
        // Whether it came to a look is seen by what is known then.
        let _ = timeout(WAIT_TIMEOUT, looks.changed()).await;
        let known = looks.borrow().clone();
        match known.find(id, algorithm)? {
            Some(verifier) => Ok(verifier),
            None if !known.has_failed && known.looked.is_some_and(|looked| looked >= begun) => {
                Err(Error::BadToken("its issuer has no such key"))
            }
            None => Err(known.no_keys()),
        }
    }
}

impl Known {
    /// `None` when a later look may find it.
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Result<Option<Verifier>, Error> {
        let Some(keys) = self.keys.as_deref() else { return Ok(None) };
        if id.is_none() && keys.len() != 1 {
            return Err(Error::BadToken("it does not name its key ('kid'), and its issuer has not just one"));
        }
        let mut named = keys.iter().filter(|key| id.is_none() || key.id.as_deref() == id).peekable();
        let is_named = named.peek().is_some();
        match named.find(|key| key.algorithms.contains(&algorithm)) {
            None if is_named => Err(Error::BadToken("its algorithm is not that of its key")),
            found => Ok(found.cloned()),
        }
    }

    fn no_keys(&self) -> Error {
        Error::NoKeys(match (&self.keys, self.has_failed) {
            (_, true) => "they could not be had when the bridge asked last",
            (None, false) => "the bridge has not asked for them yet",
            (Some(_), false) => "the bridge asked a moment ago, and the token's was not among them",
        })
    }
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

#[derive(Deserialize)]
struct KeySet {
    /// Read one by one: a key of a kind that nobody here knows is no reason to refuse the others.
    keys: Vec<Value>,
}

impl Source {
    /// A client that trusts the authorities of the file as it is now.
    ///
    /// # Errors
    /// Names the file that cannot be used.
    pub(super) fn client(&self) -> Result<Client, String> {
        let expected = "expected PEM with the certificates of authorities";
        let Some(file) = &self.ca_file else {
            return Client::with(FETCH_TIMEOUT, None).map_err(|error| error.to_string());
        };
        let fault = |error: &dyn std::fmt::Display| format!("{}: {error}; {expected}", file.display());
        let roots = std::fs::read_to_string(file).map_err(|error| fault(&error))?;
        if !roots.contains("-----BEGIN CERTIFICATE-----") {
            return Err(fault(&"no certificate"));
        }
        Client::with(FETCH_TIMEOUT, Some(&roots)).map_err(|error| fault(&error))
    }

    async fn keys(&self) -> Result<Arc<[Verifier]>, Failure> {
        let source = self.clone();
        // Reading all that a system trusts takes its time, and is done for each look: authorities are renewed too.
        let client = tokio::task::spawn_blocking(move || source.client()).await;
        let client = client.map_err(|error| Failure(error.to_string()))?.map_err(Failure)?;
        let discovery = format!("{}/.well-known/openid-configuration", self.issuer.trim_end_matches('/'));
        let Discovery { issuer, jwks_uri } = fetch(&client, &discovery).await?;
        if issuer != self.issuer {
            return Err(Failure(format!("{discovery} is of issuer '{issuer}', expected '{}'", self.issuer)));
        }
        let KeySet { keys } = fetch(&client, &jwks_uri).await?;
        Ok(keys.into_iter().filter_map(verifier).take(MAX_KEYS).collect())
    }
}

async fn fetch<T: for<'de> Deserialize<'de>>(client: &Client, url: &str) -> Result<T, Failure> {
    let fault = |what: &dyn std::fmt::Display| Failure(format!("{url}: {what}"));
    let parsed = Url::parse(url).map_err(|error| fault(&error))?;
    if !matches!(parsed.scheme(), "http" | "https") {
        return Err(fault(&"expected an http or https URL"));
    }
    let answer = exchange(client.get(parsed), MAX_DOCUMENT_BYTES).await.map_err(|error| fault(&error))?;
    if answer.status != http::StatusCode::OK {
        return Err(fault(&format_args!("status {}, expected 200", answer.status)));
    }
    if answer.truncated {
        return Err(fault(&format_args!("longer than {MAX_DOCUMENT_BYTES} bytes")));
    }
    serde_json::from_slice(&answer.body).map_err(|error| fault(&error))
}

/// `None` for a key that signs nothing we take.
fn verifier(key: Value) -> Option<Verifier> {
    let jwk: Jwk = serde_json::from_value(key).ok()?;
    if !matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature)) {
        return None;
    }
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => vec![
            Algorithm::RS256,
            Algorithm::RS384,
            Algorithm::RS512,
            Algorithm::PS256,
            Algorithm::PS384,
            Algorithm::PS512,
        ],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => vec![Algorithm::ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => vec![Algorithm::ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
        _ => return None,
    };
    // A key that says what it is for is for nothing else.
    if let Some(named) = jwk.common.key_algorithm {
        algorithms.retain(|algorithm| Algorithm::try_from(named).is_ok_and(|named| named == *algorithm));
    }
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    (!algorithms.is_empty()).then_some(Verifier { id: jwk.common.key_id, algorithms, key })
}
