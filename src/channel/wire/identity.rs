//! The CONNECT that answers a server's INFO: who we are and how we prove it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde::{Deserialize, Serialize};

use crate::channel::connect::SettingsError;
use crate::channel::secrets::{Secrets, bad_credentials, bad_nkey};

/// What we need of an INFO.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Info {
    #[serde(default)]
    pub(super) tls_required: bool,
    /// `None` in an INFO that tells only of the cluster.
    pub(super) max_payload: Option<usize>,
    #[serde(default)]
    pub(super) nonce: String,
    /// Further servers of the cluster, `host:port`.
    #[serde(default)]
    pub(super) connect_urls: Vec<String>,
    /// Lame duck: the server is about to end.
    #[serde(default)]
    pub(super) ldm: bool,
}

/// What we show to a server.
pub(super) struct Identity {
    name: String,
    user: Option<(String, String)>,
    token: Option<String>,
    /// The key that signs the server's nonce; without a JWT the server knows us by the key itself.
    key: Option<KeyPair>,
    jwt: Option<String>,
}

#[derive(Serialize)]
struct Connect<'a> {
    name: &'a str,
    lang: &'static str,
    version: &'static str,
    protocol: u8,
    verbose: bool,
    pedantic: bool,
    echo: bool,
    headers: bool,
    no_responders: bool,
    tls_required: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pass: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nkey: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sig: Option<String>,
}

impl Identity {
    /// # Errors
    /// When a key or the credentials cannot be used.
    pub(super) fn new(secrets: &Secrets, name: &str) -> Result<Self, SettingsError> {
        let invalid = |text: String| std::io::Error::new(std::io::ErrorKind::InvalidData, text);
        let key = |seed: &str| KeyPair::from_seed(seed).map_err(|error| invalid(format!("no nkey seed: {error}")));
        let mut identity = Self {
            name: name.to_owned(),
            user: secrets.user.clone(),
            token: secrets.token.clone(),
            key: None,
            jwt: None,
        };
        if let Some((path, seed)) = &secrets.nkey {
            identity.key = Some(key(seed).map_err(|error| bad_nkey(path, error))?);
        }
        if let Some((path, text)) = &secrets.credentials {
            let (Some(jwt), Some(seed)) = (section(text, 0), section(text, 1)) else {
                let text = "expected a user JWT and an nkey seed, each between lines of dashes";
                return Err(bad_credentials(path, invalid(text.to_owned())));
            };
            identity.jwt = Some(jwt.to_owned());
            identity.key = Some(key(seed).map_err(|error| bad_credentials(path, error))?);
        }
        Ok(identity)
    }

    /// The line that answers an INFO.
    ///
    /// # Errors
    /// When the nonce cannot be signed.
    pub(super) fn connect(&self, info: &Info, tls: bool) -> Result<String, std::io::Error> {
        let signed = |key: &KeyPair| key.sign(info.nonce.as_bytes()).map_err(std::io::Error::other);
        let signature = self.key.as_ref().map(signed).transpose()?;
        let connect = Connect {
            name: &self.name,
            lang: "rust",
            version: env!("CARGO_PKG_VERSION"),
            // From 1 on the server tells of changes in its cluster.
            protocol: 1,
            verbose: false,
            pedantic: false,
            echo: true,
            headers: true,
            no_responders: true,
            tls_required: tls,
            user: self.user.as_ref().map(|(user, _)| user.as_str()),
            pass: self.user.as_ref().map(|(_, password)| password.as_str()),
            auth_token: self.token.as_deref(),
            jwt: self.jwt.as_deref(),
            nkey: self.key.as_ref().filter(|_| self.jwt.is_none()).map(KeyPair::public_key),
            sig: signature.map(|signature| URL_SAFE_NO_PAD.encode(signature)),
        };
        Ok(format!("CONNECT {}\r\n", serde_json::to_string(&connect)?))
    }
}

/// What stands alone between two lines of dashes in a credentials file; the first is the JWT, the second the seed.
fn section(text: &str, number: usize) -> Option<&str> {
    let is_mark = |line: &str| line.starts_with("---") && line.trim_end().ends_with("---");
    let lines: Vec<&str> = text.lines().collect();
    let bodies = lines.windows(3).filter(|lines| is_mark(lines[0]) && is_mark(lines[2]) && !is_mark(lines[1]));
    // An empty line between the two is no section.
    bodies.map(|lines| lines[1].trim()).filter(|body| !body.is_empty()).nth(number)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::Value;

    use super::*;

    fn info(nonce: &str) -> Info {
        serde_json::from_value(serde_json::json!({ "nonce": nonce })).unwrap()
    }

    fn connect(secrets: &Secrets) -> Value {
        let line = Identity::new(secrets, "us").unwrap().connect(&info("n0nce"), false).unwrap();
        serde_json::from_str(line.strip_prefix("CONNECT ").unwrap()).unwrap()
    }

    fn signs(connect: &Value, key: &KeyPair) {
        let signature = URL_SAFE_NO_PAD.decode(connect["sig"].as_str().unwrap()).unwrap();
        key.verify(b"n0nce", &signature).unwrap();
    }

    #[test]
    fn nobody_says_nothing_of_himself() {
        let connect = connect(&Secrets::default());
        assert_eq!(connect["name"], "us");
        assert!(connect["headers"] == true && connect["no_responders"] == true && connect["verbose"] == false);
        for field in ["user", "pass", "auth_token", "jwt", "nkey", "sig"] {
            assert!(connect.get(field).is_none(), "{field}");
        }
    }

    #[test]
    fn users_and_tokens_are_shown() {
        let user = Some(("ann".to_owned(), "secret".to_owned()));
        let connect = connect(&Secrets { user, token: Some("t".to_owned()), ..Secrets::default() });
        assert_eq!(
            (&connect["user"], &connect["pass"], &connect["auth_token"]),
            (&"ann".into(), &"secret".into(), &"t".into())
        );
    }

    #[test]
    fn an_nkey_signs_the_nonce() {
        let key = KeyPair::new_user();
        let nkey = Some((PathBuf::from("seed"), key.seed().unwrap()));
        let connect = connect(&Secrets { nkey, ..Secrets::default() });
        assert_eq!(connect["nkey"], key.public_key());
        signs(&connect, &key);
    }

    #[test]
    fn credentials_are_a_jwt_and_a_key_that_signs_the_nonce() {
        let key = KeyPair::new_user();
        for between in ["\r\n****** SECRET ******\r\n\r\n", "\r\n", ""] {
            let text = format!(
                "-----BEGIN NATS USER JWT-----\r\neyJ0.eyJq.c2ln\r\n------END NATS USER JWT------\r\n{between}\
                 -----BEGIN USER NKEY SEED-----\r\n{}\r\n------END USER NKEY SEED------\r\n",
                key.seed().unwrap()
            );
            let connect = connect(&Secrets { credentials: Some((PathBuf::from("creds"), text)), ..Secrets::default() });
            assert_eq!((&connect["jwt"], connect.get("nkey")), (&"eyJ0.eyJq.c2ln".into(), None));
            signs(&connect, &key);
        }
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let broken = Some((PathBuf::from("/broken"), "nonsense".to_owned()));
        for secrets in [
            Secrets { nkey: broken.clone(), ..Secrets::default() },
            Secrets { credentials: broken.clone(), ..Secrets::default() },
        ] {
            let error = Identity::new(&secrets, "us").err().unwrap().to_string();
            assert!(error.contains("/broken") && error.contains("--nats-"), "{error}");
        }
    }
}
