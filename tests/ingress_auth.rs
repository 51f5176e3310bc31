//! Bearer tokens at the ingress: who may send to which channel, and what happens while the issuer is away.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::bridge::Setup;
use crate::support::http::{Message, call, post};
use crate::support::metrics::scrape;
use crate::support::resources::{broker, channel};
use crate::support::tls::{Authority, Front};
use crate::support::tokens::{Issuer, Signer, encode, from_now, unsigned};
use crate::support::{Bridge, Nats, event, until, within};

const STREAM: &str = "KN_DEFAULT__FOO";

struct World {
    nats: Nats,
    bridge: Bridge,
    issuer: Issuer,
    signer: Signer,
}

/// A bridge with channels `foo` and `bar` and broker `main`, whose issuer's keys it has.
async fn world() -> World {
    world_of(&[&Signer::es256("one")]).await
}

/// The same with these keys.
async fn world_of(signers: &[&Signer]) -> World {
    let (nats, issuer) = (Nats::start().await, Issuer::start(signers).await);
    let bridge = guarded(&nats, &issuer.name()).start().await;
    let world = World { nats, bridge, issuer, signer: signers[0].clone() };
    world.has_keys().await;
    world
}

fn guarded(nats: &Nats, issuer: &str) -> Setup {
    Bridge::of(nats, &[channel("foo"), channel("bar"), broker("main")]).flag("--oidc-issuer", issuer)
}

impl World {
    /// Waits until a token that is not taken is told so: before, nobody can tell.
    async fn has_keys(&self) {
        let token = self.signer.token(&with(self.issuer.claims("foo"), "aud", json!("x")));
        until("the bridge has the issuer's keys", || async { self.send(&token).await.status() == 401 }).await;
    }

    async fn send(&self, token: &str) -> Message {
        self.send_to("foo", token).await
    }

    async fn send_to(&self, name: &str, token: &str) -> Message {
        let call = post(&self.bridge.url(&format!("/default/{name}"))).event(&event("1"));
        call.header("authorization", format!("Bearer {token}")).send().await
    }
}

fn with(mut claims: Value, name: &str, value: Value) -> Value {
    claims[name] = value;
    claims
}

fn without(mut claims: Value, name: &str) -> Value {
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[tokio::test]
async fn a_valid_token_opens_the_channel_or_broker_that_its_audience_names_and_no_other() {
    let world = world().await;
    let claims = world.issuer.claims("foo");
    for audience in [
        json!("messaging.knative.dev/natsjetstreamchannel/default/foo"),
        json!(["other", "messaging.knative.dev/channel/default/foo"]),
    ] {
        let token = world.signer.token(&with(claims.clone(), "aud", audience));
        assert_eq!(world.send(&token).await.status(), 202);
        for other in ["bar", "main"] {
            let answer = world.send_to(other, &token).await;
            assert_eq!(answer.status(), 401, "{other}");
            assert!(answer.text().contains(&format!("/default/{other}'")), "{}", answer.text());
        }
    }
    let token = world.signer.token(&with(claims, "aud", json!("eventing.knative.dev/broker/default/main")));
    assert_eq!((world.send_to("main", &token).await.status(), world.send(&token).await.status()), (202, 401));
}

#[tokio::test]
async fn tokens_are_signed_with_rsa_or_elliptic_curves() {
    let signers = [Signer::rs256("rsa"), Signer::es256("p256"), Signer::ed25519("ed25519")];
    let nats = Nats::start().await;
    let issuer = Issuer::start(&[&signers[0], &signers[1], &signers[2]]).await;
    // Kinds of keys that nobody knows disturb nobody.
    issuer.publish([json!({"kty": "new", "kid": "x"})].into_iter().chain(signers.iter().map(Signer::jwk)).collect());
    let bridge = guarded(&nats, &issuer.name()).start().await;
    let world = World { nats, bridge, issuer, signer: signers[0].clone() };
    world.has_keys().await;
    for signer in &signers {
        let answer = world.send(&signer.token(&world.issuer.claims("foo"))).await;
        assert_eq!(answer.status(), 202, "{}: {}", signer.id, answer.text());
    }
}

#[tokio::test]
async fn a_request_without_a_good_token_is_401_and_stores_nothing() {
    let rsa = Signer::rs256("rsa");
    let world = world_of(&[&Signer::es256("one"), &rsa]).await;
    let World { issuer, signer, bridge, nats, .. } = &world;
    let claims = issuer.claims("foo");
    let good = signer.token(&claims);
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, _) = message.split_once('.').unwrap();
    let hs256 = |secret: &[u8]| {
        let message = unsigned(&json!({"alg": "HS256", "kid": "rsa"}), &claims);
        let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
        format!("{message}.{}", encode(aws_lc_rs::hmac::sign(&key, message.as_bytes()).as_ref()))
    };
    let forged = encode(with(claims.clone(), "sub", json!("root")).to_string().as_bytes());
    let cases: Vec<(&str, String)> = vec![
        ("no JWT", "not-a-token".into()),
        ("two parts", message.into()),
        ("no signature", format!("{message}.")),
        ("other claims under a good signature", format!("{header}.{forged}.{signature}")),
        ("alg none", format!("{}.", unsigned(&json!({"alg": "none"}), &claims))),
        ("alg none, named", format!("{}.", unsigned(&json!({"alg": "none", "kid": "one"}), &claims))),
        ("HS256 with the public key", hs256(&rsa.public())),
        ("HS256 with the modulus", hs256(rsa.jwk()["n"].as_str().unwrap().as_bytes())),
        ("another key of that name", Signer::es256("one").token(&claims)),
        ("the algorithm of another key", rsa.token_with(&json!({"alg": "RS256", "kid": "one"}), &claims)),
        ("an algorithm that its key is not for", rsa.token_with(&json!({"alg": "RS512", "kid": "rsa"}), &claims)),
        ("a key in the token", signer.token_with(&json!({"alg": "ES256", "jwk": signer.jwk()}), &claims)),
        ("crit", signer.token_with(&json!({"alg": "ES256", "kid": "one", "crit": ["b64"], "b64": false}), &claims)),
        ("another issuer", signer.token(&with(claims.clone(), "iss", json!("https://example.com")))),
        ("the issuer with a slash", signer.token(&with(claims.clone(), "iss", json!(format!("{}/", issuer.name()))))),
        ("another audience", signer.token(&with(claims.clone(), "aud", json!("x")))),
        ("expired", signer.token(&with(claims.clone(), "exp", json!(from_now(-60))))),
        ("not valid yet", signer.token(&with(claims.clone(), "nbf", json!(from_now(90))))),
        ("for ever", signer.token(&without(claims.clone(), "exp"))),
        ("a time that is none", signer.token(&with(claims.clone(), "exp", json!("tomorrow")))),
        ("for everything", signer.token(&without(claims.clone(), "aud"))),
        ("of nobody", signer.token(&without(claims.clone(), "iss"))),
        ("without a subject", signer.token(&without(claims.clone(), "sub"))),
    ];
    for (what, token) in &cases {
        let answer = world.send(token).await;
        assert_eq!(answer.status(), 401, "{what}: {}", answer.text());
        let challenge = answer.header("www-authenticate").unwrap_or_default();
        assert_eq!(challenge, "Bearer error=\"invalid_token\"", "{what}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{what}");
        assert!(!answer.text().contains(token), "{what}: {}", answer.text());
    }
    for authorization in [None, Some("Basic YTpi"), Some("Bearer"), Some(good.as_str())] {
        let mut call = post(&bridge.url("/default/foo")).event(&event("1"));
        if let Some(authorization) = authorization {
            call = call.header("authorization", authorization);
        }
        let answer = call.send().await;
        assert_eq!((answer.status(), answer.header("www-authenticate")), (401, Some("Bearer")), "{authorization:?}");
    }
    assert_eq!(nats.count(STREAM).await, 0);
    assert_eq!((world.send(&good).await.status(), nats.count(STREAM).await), (202, 1));
    let log = bridge.stderr();
    assert!(cases.iter().all(|(_, token)| !log.contains(token)) && !log.contains(&good), "{log}");
    let labels = [("channel", "default/foo"), ("mode", "unknown"), ("result", "unauthorized")];
    assert!(scrape(bridge).await.value("ingress_events_total", &labels) >= Some(cases.len() as f64));
}

#[tokio::test]
async fn the_body_is_not_asked_for_before_the_token_is_good() {
    let world = world().await;
    let mut stream = TcpStream::connect(world.bridge.address()).await.unwrap();
    let head = "POST /default/foo HTTP/1.1\r\nhost: x\r\nce-specversion: 1.0\r\nce-id: 1\r\nce-source: /s\r\n\
                ce-type: t\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    within("an answer", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 401");
}

#[tokio::test]
async fn options_needs_no_token_and_neither_does_hearing_of_no_such_channel() {
    let world = world().await;
    assert_eq!(call("OPTIONS", &world.bridge.url("/default/foo")).send().await.status(), 200);
    assert_eq!(world.send_to("nope", "x").await.status(), 404);
}

/// The channel takes events from these only.
fn for_subjects(channel: Value, subjects: &str) -> Value {
    let mut channel = channel;
    channel["metadata"]["annotations"] = json!({"knats.dev/allowed-subjects": subjects});
    channel
}

#[tokio::test]
async fn a_channel_with_allowed_subjects_is_403_to_all_others_and_the_list_may_change() {
    let signer = Signer::es256("one");
    let (nats, issuer) = (Nats::start().await, Issuer::start(&[&signer]).await);
    let list = "system:serviceaccount:default:sender, system:serviceaccount:shop:*";
    let documents = [for_subjects(channel("foo"), list), for_subjects(broker("main"), "root")];
    let bridge = Bridge::of(&nats, &documents).flag("--oidc-issuer", &issuer.name()).start().await;
    let world = World { nats, bridge, issuer, signer };
    world.has_keys().await;
    let token = |subject: &str| world.signer.token(&with(world.issuer.claims("foo"), "sub", json!(subject)));
    for (subject, status) in [
        ("system:serviceaccount:default:sender", 202),
        ("system:serviceaccount:shop:orders", 202),
        ("system:serviceaccount:default:sender2", 403),
        ("system:serviceaccount:default:*", 403),
        ("system:serviceaccount:shop", 403),
        ("", 403),
    ] {
        let answer = world.send(&token(subject)).await;
        assert_eq!(answer.status(), status, "{subject}: {}", answer.text());
    }
    let audience = json!("eventing.knative.dev/broker/default/main");
    let to_broker = world.signer.token(&with(world.issuer.claims("foo"), "aud", audience));
    assert_eq!(world.send_to("main", &to_broker).await.status(), 403);
    world
        .bridge
        .write("resources.yaml", &[for_subjects(channel("foo"), "system:serviceaccount:shop:*"), broker("main")]);
    let sender = token("system:serviceaccount:default:sender");
    until("the new list is in force", || async { world.send(&sender).await.status() == 403 }).await;
    assert_eq!(world.send_to("main", &to_broker).await.status(), 202);
}

#[tokio::test]
async fn a_list_of_subjects_that_cannot_be_read_is_a_fault_of_the_manifest() {
    let nats = Nats::start().await;
    let ended = Bridge::of(&nats, &[for_subjects(channel("foo"), "a*b")]).ended().await;
    assert_eq!(ended.code, Some(2));
    assert!(ended.stderr.contains("metadata.annotations[knats.dev/allowed-subjects]"), "{}", ended.stderr);
}

#[tokio::test]
async fn keys_may_be_changed_and_made_up_names_of_keys_do_not_flood_the_issuer() {
    let world = world().await;
    let (old, new) = (world.signer.clone(), Signer::es256("two"));
    let claims = world.issuer.claims("foo");
    world.issuer.publish(vec![old.jwk(), new.jwk()]);
    let made_up = Signer::es256("made up");
    let token = new.token(&claims);
    // A token of the new key is never refused for good, whatever others show meanwhile.
    let taken = || async {
        for n in 0..10 {
            let answer = world.send(&made_up.named(&n.to_string()).token(&claims)).await;
            assert!(matches!(answer.status(), 401 | 503), "{}", answer.text());
        }
        let answer = world.send(&token).await;
        assert!(matches!(answer.status(), 202 | 503), "{}", answer.text());
        if answer.status() == 503 {
            assert_eq!(answer.header("retry-after"), Some("5"));
        }
        answer.status() == 202
    };
    let begun = tokio::time::Instant::now();
    until("the new key is known", taken).await;
    assert_eq!(world.send(&old.token(&claims)).await.status(), 202);
    // One look before this test, and at most one in five seconds since.
    let (looks, most) = (world.issuer.looks(), 2 + usize::try_from(begun.elapsed().as_secs() / 5).unwrap());
    assert!(looks <= most, "{looks} looks in {:?}", begun.elapsed());
    world.issuer.publish(vec![new.jwk()]);
    // Another look, and the old key is gone.
    let gone = || async {
        world.send(&made_up.token(&claims)).await;
        world.send(&old.token(&claims)).await.status() != 202
    };
    until("the old key is no longer taken", gone).await;
}

#[tokio::test]
async fn while_the_issuer_is_away_nobody_is_taken_or_refused_until_its_keys_are_known() {
    let signer = Signer::es256("one");
    let (nats, issuer) = (Nats::start().await, Issuer::start(&[&signer]).await);
    issuer.is_down(true);
    let bridge = guarded(&nats, &issuer.name()).start().await;
    let world = World { nats, bridge, issuer, signer };
    let good = world.signer.token(&world.issuer.claims("foo"));
    for token in [&good, &Signer::es256("x").token(&world.issuer.claims("foo"))] {
        let answer = world.send(token).await;
        assert_eq!((answer.status(), answer.header("retry-after")), (503, Some("5")), "{}", answer.text());
        assert!(!answer.text().contains(&world.issuer.name()), "{}", answer.text());
    }
    assert_eq!(world.nats.count(STREAM).await, 0);
    until("the log tells why", || async { world.bridge.stderr().contains("the issuer's keys cannot be had") }).await;
    world.issuer.is_down(false);
    until("the keys are known", || async { world.send(&good).await.status() == 202 }).await;
    // What is known stays known.
    world.issuer.is_down(true);
    assert_eq!(world.send(&good).await.status(), 202);
}

#[tokio::test]
async fn an_issuer_that_calls_itself_otherwise_is_none() {
    let signer = Signer::es256("one");
    let (nats, issuer) = (Nats::start().await, Issuer::start(&[&signer]).await);
    let (name, token) = (issuer.name(), signer.token(&issuer.claims("foo")));
    issuer.calls_itself("https://example.com");
    let bridge = guarded(&nats, &name).start().await;
    until("the log tells why", || async { bridge.stderr().contains("is of issuer 'https://example.com'") }).await;
    let world = World { nats, bridge, issuer, signer };
    assert_eq!(world.send(&token).await.status(), 503);
}

#[tokio::test]
async fn an_issuer_with_a_certificate_of_its_own_authority_is_trusted_with_that_authority_only() {
    let (authority, signer) = (Authority::new("a"), Signer::es256("one"));
    let (nats, issuer) = (Nats::start().await, Issuer::start(&[&signer]).await);
    let front = Front::before_server(issuer.address(), &authority.certify(&["127.0.0.1"]), None).await;
    let secure = format!("https://{}", front.address());
    issuer.calls_itself(&secure);
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.crt");
    std::fs::write(&ca, authority.pem()).unwrap();
    let token = signer.token(&issuer.claims("foo"));
    let send = |bridge: &Bridge| {
        let call = post(&bridge.url("/default/foo")).event(&event("1"));
        call.header("authorization", format!("Bearer {token}")).send()
    };
    let trusting = guarded(&nats, &secure).flag("--oidc-ca-file", ca.to_str().unwrap()).start().await;
    until("the keys are known", || async { send(&trusting).await.status() == 202 }).await;
    let wary = guarded(&nats, &secure).start().await;
    until("the log tells why", || async { wary.stderr().contains("the issuer's keys cannot be had") }).await;
    assert_eq!(send(&wary).await.status(), 503);
}

#[tokio::test]
async fn an_issuer_or_authority_that_cannot_be_is_named_with_exit_2() {
    for (issuer, ca, named) in [
        ("kubernetes", None, "--oidc-issuer"),
        ("ftp://example.com", None, "--oidc-issuer"),
        ("https://example.com/?x", None, "--oidc-issuer"),
        ("https://example.com", Some("/nowhere/ca.crt"), "/nowhere/ca.crt"),
    ] {
        let setup = Bridge::at("nats://127.0.0.1:1").flag("--oidc-issuer", issuer);
        let setup = ca.into_iter().fold(setup, |setup, file| setup.flag("--oidc-ca-file", file));
        let ended = within("its end", setup.ended()).await;
        assert_eq!(ended.code, Some(2), "{issuer}: {}", ended.stderr);
        assert!(ended.stderr.contains(named) && ended.stderr.contains("expected"), "{issuer}: {}", ended.stderr);
    }
}

#[tokio::test]
async fn without_an_issuer_anybody_may_send_and_a_list_that_counts_for_nothing_is_told() {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[for_subjects(channel("foo"), "root")]).await;
    bridge.send("foo", &event("1")).await;
    until("the log tells of it", || async { bridge.stderr().contains("has allowed subjects") }).await;
}
