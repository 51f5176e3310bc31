//! An issuer of bearer tokens on loopback, and tokens made by hand: tests must be able to make what no library would.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::{Answer, Sink};

const DISCOVERY: &str = "/.well-known/openid-configuration";
const KEYS: &str = "/keys";

/// A signing key with its name.
#[derive(Clone)]
pub struct Signer {
    pub id: String,
    key: Key,
}

#[derive(Clone)]
enum Key {
    Rsa(Arc<RsaKeyPair>),
    P256(Arc<EcdsaKeyPair>),
    Ed25519(Arc<Ed25519KeyPair>),
}

impl Signer {
    pub fn rs256(id: &str) -> Self {
        Self { id: id.to_owned(), key: Key::Rsa(Arc::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())) }
    }

    pub fn es256(id: &str) -> Self {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        Self { id: id.to_owned(), key: Key::P256(Arc::new(key)) }
    }

    pub fn ed25519(id: &str) -> Self {
        Self { id: id.to_owned(), key: Key::Ed25519(Arc::new(Ed25519KeyPair::generate().unwrap())) }
    }

    /// The same key under another name.
    pub fn named(&self, id: &str) -> Self {
        Self { id: id.to_owned(), key: self.key.clone() }
    }

    /// As the issuer publishes it (RFC 7517).
    pub fn jwk(&self) -> Value {
        let mut key = match &self.key {
            Key::Rsa(_) => json!({"kty": "RSA", "alg": "RS256", "n": self.modulus(), "e": "AQAB"}),
            Key::P256(pair) => {
                // An uncompressed point: 4, x, y.
                let point = pair.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": encode(&point[1..33]), "y": encode(&point[33..65])})
            }
            Key::Ed25519(pair) => json!({"kty": "OKP", "crv": "Ed25519", "x": encode(pair.public_key().as_ref())}),
        };
        key["kid"] = json!(self.id);
        key["use"] = json!("sig");
        key
    }

    /// The public half of an RSA key, as DER (RFC 8017) and as its modulus.
    pub fn public(&self) -> Vec<u8> {
        let Key::Rsa(pair) = &self.key else { panic!("no RSA key") };
        pair.public_key().as_ref().to_vec()
    }

    fn modulus(&self) -> String {
        // A sequence of two integers: its head and that of the first one take 9 bytes.
        encode(&self.public()[9..265])
    }

    fn algorithm(&self) -> &'static str {
        match &self.key {
            Key::Rsa(_) => "RS256",
            Key::P256(_) => "ES256",
            Key::Ed25519(_) => "EdDSA",
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match &self.key {
            Key::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature).unwrap();
                signature
            }
            Key::P256(pair) => pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec(),
            Key::Ed25519(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.algorithm(), "kid": self.id, "typ": "JWT"}), claims)
    }

    /// Signed by this key whatever the header says.
    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let message = unsigned(header, claims);
        format!("{message}.{}", encode(&self.sign(message.as_bytes())))
    }
}

/// Header and claims of a token, without the dot before the signature.
pub fn unsigned(header: &Value, claims: &Value) -> String {
    format!("{}.{}", encode(header.to_string().as_bytes()), encode(claims.to_string().as_bytes()))
}

pub fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Seconds from now, as claims count them.
pub fn from_now(seconds: i64) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    i64::try_from(now).unwrap() + seconds
}

/// Publishes keys, when it is not down.
pub struct Issuer {
    server: Sink,
    keys: Arc<Mutex<Vec<Value>>>,
    is_down: Arc<AtomicBool>,
    /// What it calls itself.
    name: Arc<Mutex<String>>,
}

impl Issuer {
    pub async fn start(keys: &[&Signer]) -> Self {
        let (name, is_down) = (Arc::new(Mutex::new(String::new())), Arc::new(AtomicBool::new(false)));
        let published = Arc::new(Mutex::new(keys.iter().map(|key| key.jwk()).collect::<Vec<_>>()));
        let (shown, calls_itself, down) = (published.clone(), name.clone(), is_down.clone());
        let server = Sink::answering(move |request| {
            let name = calls_itself.lock().unwrap().clone();
            let body = match request.target() {
                _ if down.load(Ordering::Relaxed) => return Answer::reset(),
                DISCOVERY => json!({"issuer": name, "jwks_uri": format!("{name}{KEYS}")}),
                KEYS => json!({"keys": *shown.lock().unwrap()}),
                _ => return Answer::status(404),
            };
            Answer::status(200).body(body.to_string())
        });
        let server = server.await;
        *name.lock().unwrap() = server.url("");
        Self { server, keys: published, is_down, name }
    }

    /// Its `iss`.
    pub fn name(&self) -> String {
        self.name.lock().unwrap().clone()
    }

    pub fn calls_itself(&self, name: &str) {
        name.clone_into(&mut self.name.lock().unwrap());
    }

    pub fn publish(&self, keys: Vec<Value>) {
        *self.keys.lock().unwrap() = keys;
    }

    pub fn is_down(&self, is_down: bool) {
        self.is_down.store(is_down, Ordering::Relaxed);
    }

    /// How often its keys were asked for.
    pub fn looks(&self) -> usize {
        self.server.requests(KEYS).len()
    }

    pub fn address(&self) -> std::net::SocketAddr {
        super::http::split_url(&self.server.url("/")).0
    }

    /// Good claims for channel `default/CHANNEL`.
    pub fn claims(&self, channel: &str) -> Value {
        json!({
            "iss": self.name(),
            "sub": "system:serviceaccount:default:sender",
            "aud": [format!("messaging.knative.dev/natsjetstreamchannel/default/{channel}")],
            "exp": from_now(600),
            "nbf": from_now(-5),
        })
    }
}
