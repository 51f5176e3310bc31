//! A NATS of operator mode: accounts and users are JWTs that others sign, and the bridge shows a credentials file.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

use crate::support::resources::{channel, subscribe};
use crate::support::tls::Authority;
use crate::support::{Bridge, Nats, Sink, event, until};

/// An operator with an account that may use JetStream, and the account of the system.
struct Operator {
    key: KeyPair,
    account: KeyPair,
    system: KeyPair,
}

impl Operator {
    fn new() -> Self {
        Self { key: KeyPair::new_operator(), account: KeyPair::new_account(), system: KeyPair::new_account() }
    }

    /// What a server is told of them.
    fn settings(&self) -> String {
        let operator =
            signed(&self.key, &self.key, json!({"type": "operator", "system_account": self.system.public_key()}));
        let unlimited = json!({"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true, "conn": -1, "leaf": -1});
        let mut with_jetstream = unlimited.clone();
        for limit in ["mem_storage", "disk_storage", "streams", "consumer"] {
            with_jetstream[limit] = json!(-1);
        }
        let account = |account: &KeyPair, limits: &Value| {
            let claims = json!({"type": "account", "limits": limits, "default_permissions": {"pub": {}, "sub": {}}});
            format!("{}: {:?}", account.public_key(), signed(&self.key, account, claims))
        };
        format!(
            "operator: {operator:?}\nsystem_account: {}\nresolver: MEMORY\nresolver_preload: {{\n{}\n{}\n}}\n",
            self.system.public_key(),
            account(&self.account, &with_jetstream),
            account(&self.system, &unlimited),
        )
    }

    /// The credentials file of a new user of the account.
    fn credentials(&self) -> String {
        let user = KeyPair::new_user();
        let claims = json!({"type": "user", "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1});
        format!(
            "-----BEGIN NATS USER JWT-----\n{}\n------END NATS USER JWT------\n\n\
             -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
            signed(&self.account, &user, claims),
            user.seed().unwrap()
        )
    }
}

/// A JWT about `subject`.
fn signed(issuer: &KeyPair, subject: &KeyPair, mut nats: Value) -> String {
    nats["version"] = json!(2);
    let header = json!({"typ": "JWT", "alg": "ed25519-nkey"});
    let claims = json!({
        "jti": subject.public_key(),
        "iat": 1_700_000_000,
        "iss": issuer.public_key(),
        "name": "test",
        "sub": subject.public_key(),
        "nats": nats,
    });
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let text = format!("{}.{}", part(&header), part(&claims));
    let signature = issuer.sign(text.as_bytes()).unwrap();
    format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature))
}

#[tokio::test]
async fn credentials_work_over_tls_those_of_a_stranger_do_not_and_neither_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let (operator, authority) = (Operator::new(), Authority::new("ca"));
    authority.certify(&["127.0.0.1"]).write(dir.path(), "server");
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).to_str().unwrap().to_owned()
    };
    let (certificate, key) = (dir.path().join("server.pem"), dir.path().join("server.key"));
    let tls = format!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}");
    let nats = Nats::start_as(&format!("{}{tls}", operator.settings()));
    let sink = Sink::start().await;
    let ca = file("ca.pem", authority.pem());
    let start = |name: &str, credentials: &str| {
        let setup = Bridge::of(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]);
        setup.flag("--nats-ca", &ca).flag("--nats-creds", &file(name, credentials)).flag("--log", "trace").spawn()
    };
    let (ours, theirs) = (operator.credentials(), Operator::new().credentials());
    let bridge = start("ours", &ours);
    bridge.wait_until_ready().await;
    bridge.send("foo", &event("1")).await;
    sink.wait_for_id("/", "1").await;
    let stranger = start("theirs", &theirs);
    let refused = || async { stranger.stderr().to_lowercase().contains("authorization violation") };
    until("the log tells that NATS does not know the stranger", refused).await;
    assert_eq!(stranger.readyz().await.unwrap().status(), 503);
    for (bridge, credentials) in [(&bridge, &ours), (&stranger, &theirs)] {
        let log = bridge.stderr();
        let secret = credentials.lines().find(|line| line.starts_with("SU")).unwrap();
        assert!(!log.contains(secret), "the seed is in the log");
    }
}
