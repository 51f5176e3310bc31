//! Clients that behave as badly as they can: the bridge stays up and others are served.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::http::{exchange, post};
use crate::support::metrics::scrape;
use crate::support::resources::channel;
use crate::support::tls::Authority;
use crate::support::{Bridge, Nats, event, until, within};

const STREAM: &str = "KN_DEFAULT__FOO";
const EVENT_HEADERS: &str = "host: x\r\nce-specversion: 1.0\r\nce-id: 1\r\nce-source: /s\r\nce-type: t\r\n";

async fn world() -> (Nats, Bridge) {
    let nats = Nats::start().await;
    let bridge = Bridge::serve(&nats, &[channel("foo")]).await;
    (nats, bridge)
}

/// Sends bytes, and what comes back until the other side closes or says nothing for a moment.
async fn poke(bridge: &Bridge, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(bridge.address()).await.unwrap();
    // It may be closed while we still write.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(Ok(count @ 1..)) = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut buffer)).await {
        answer.extend_from_slice(&buffer[..count]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn junk_is_refused_and_others_are_served() {
    let (nats, mut bridge) = world().await;
    let many_headers: String = (0..20_000).map(|n| format!("x-{n}: v\r\n")).collect();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello".to_vec()),
        ("no HTTP either", b"GET\r\n\r\n".to_vec()),
        ("many headers", format!("POST /default/foo HTTP/1.1\r\n{EVENT_HEADERS}{many_headers}\r\n").into_bytes()),
        (
            "a long header",
            [b"POST /default/foo HTTP/1.1\r\nx: ".to_vec(), vec![b'x'; 4 << 20], b"\r\n\r\n".to_vec()].concat(),
        ),
        ("a long path", [b"POST /".to_vec(), vec![b'p'; 1 << 20], b" HTTP/1.1\r\n\r\n".to_vec()].concat()),
        (
            "two lengths",
            format!("POST /default/foo HTTP/1.1\r\n{EVENT_HEADERS}content-length: 1\r\ncontent-length: 2\r\n\r\nxx")
                .into_bytes(),
        ),
        (
            "a negative length",
            format!("POST /default/foo HTTP/1.1\r\n{EVENT_HEADERS}content-length: -1\r\n\r\n").into_bytes(),
        ),
        (
            "a broken chunk",
            format!("POST /default/foo HTTP/1.1\r\n{EVENT_HEADERS}transfer-encoding: chunked\r\n\r\nZZ\r\nxx\r\n")
                .into_bytes(),
        ),
        (
            "a header name with a space",
            format!("POST /default/foo HTTP/1.1\r\n{EVENT_HEADERS}bad name: x\r\ncontent-length: 0\r\n\r\n")
                .into_bytes(),
        ),
    ];
    for (what, bytes) in cases {
        let answer = poke(&bridge, &bytes).await;
        assert!(!answer.starts_with("HTTP/1.1 2"), "{what}: {answer}");
        assert!(bridge.is_running(), "{what}");
    }
    assert_eq!(nats.count(STREAM).await, 0);
    bridge.send("foo", &event("1")).await;
}

#[tokio::test]
async fn header_values_that_are_no_utf_8_are_refused() {
    let (nats, bridge) = world().await;
    let answer = post(&bridge.url("/default/foo")).event(&event("1")).header("ce-subject", b"\xff\xfe").send().await;
    assert_eq!(answer.status(), 400, "{}", answer.text());
    assert_eq!(nats.count(STREAM).await, 0);
}

#[tokio::test]
async fn half_a_request_blocks_nobody_and_is_not_stored() {
    let (nats, bridge) = world().await;
    let mut held = Vec::new();
    for half in [
        "POST /default/foo HT".to_owned(),
        format!("POST /default/foo HTTP/1.1\r\n{EVENT_HEADERS}"),
        format!("POST /default/foo HTTP/1.1\r\n{EVENT_HEADERS}content-length: 100\r\n\r\nonly this"),
        format!("POST /default/foo HTTP/1.1\r\n{EVENT_HEADERS}transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"),
    ] {
        for _ in 0..20 {
            let mut stream = TcpStream::connect(bridge.address()).await.unwrap();
            stream.write_all(half.as_bytes()).await.unwrap();
            held.push(stream);
        }
    }
    bridge.send("foo", &event("1")).await;
    assert_eq!(nats.count(STREAM).await, 1);
    drop(held);
    bridge.send("foo", &event("2")).await;
    assert_eq!(nats.count(STREAM).await, 2);
}

#[tokio::test]
async fn a_body_without_end_is_refused_before_its_end() {
    let (nats, bridge) = world().await;
    let before = bridge.resident_kib();
    let head = format!("POST /default/foo HTTP/1.1\r\n{EVENT_HEADERS}transfer-encoding: chunked\r\n\r\n");
    let (mut read, mut write) = TcpStream::connect(bridge.address()).await.unwrap().into_split();
    write.write_all(head.as_bytes()).await.unwrap();
    let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
    let flood = async {
        // 128 MiB at most; the bridge must have had enough long before.
        for _ in 0..2048 {
            if write.write_all(&chunk).await.is_err() {
                return;
            }
        }
        panic!("128 MiB were taken");
    };
    let mut answer = [0; 12];
    let refused = within("the bridge refuses", async {
        tokio::select! {
            read = read.read(&mut answer) => read.unwrap_or(0),
            () = flood => 0,
        }
    })
    .await;
    let refused = String::from_utf8_lossy(&answer[..refused]).into_owned();
    assert!(refused.is_empty() || refused == "HTTP/1.1 413", "{refused}");
    let grown = bridge.resident_kib().saturating_sub(before);
    assert!(grown < 64 * 1024, "{grown} KiB more");
    assert_eq!(nats.count(STREAM).await, 0);
    bridge.send("foo", &event("1")).await;
}

#[tokio::test]
async fn a_declared_length_over_the_limit_is_413() {
    let (_nats, bridge) = world().await;
    let head = format!(
        "POST /default/foo HTTP/1.1\r\n{EVENT_HEADERS}expect: 100-continue\r\ncontent-length: 10000000000\r\n\r\n"
    );
    let answer = exchange(bridge.address(), head.as_bytes()).await.unwrap();
    assert_eq!(answer.status(), 413, "{}", answer.text());
}

#[tokio::test]
async fn deeply_nested_json_is_no_way_to_crash() {
    let (_nats, mut bridge) = world().await;
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    for body in [
        format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{deep}}}"#),
        format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","x":{deep}}}"#),
        deep.clone(),
    ] {
        let call = post(&bridge.url("/default/foo")).header("content-type", "application/cloudevents+json");
        let status = call.body(body).send().await.status();
        assert!(matches!(status, 202 | 400), "{status}");
        assert!(bridge.is_running());
    }
    bridge.send("foo", &event("2")).await;
}

#[tokio::test]
async fn many_attributes_are_taken_or_refused_and_never_lost() {
    let (nats, bridge) = world().await;
    let mut stored = 0;
    for count in [10, 60, 90, 500, 3000] {
        let sent = (0..count).fold(event(&count.to_string()), |event, n| event.attribute(&format!("ext{n}"), "v"));
        // Over the limit of headers the answer is the HTTP server's own.
        if post(&bridge.url("/default/foo")).event(&sent).try_send().await.is_ok_and(|answer| answer.status() == 202) {
            stored += 1;
        }
        assert_eq!(nats.count(STREAM).await, stored, "{count}");
    }
    assert!(stored >= 2);
}

#[tokio::test]
async fn silent_handshakes_hold_up_nobody() {
    let authority = Authority::new("a");
    let (nats, dir, identity) = (Nats::start().await, tempfile::tempdir().unwrap(), authority.certify(&["127.0.0.1"]));
    let file = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name).to_str().unwrap().to_owned()
    };
    let setup = Bridge::of(&nats, &[channel("foo")]).flag("--tls-cert-file", &file("tls.crt", &identity.pem));
    let mut bridge = setup.flag("--tls-key-file", &file("tls.key", &identity.key)).start().await;
    let mut held = Vec::new();
    // Nothing, the beginning of a handshake, and what is none.
    for start in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"\x16\x03\x01\xff\xff", b"GET / HT"] {
        for _ in 0..50 {
            let mut stream = TcpStream::connect(bridge.tls_address()).await.unwrap();
            stream.write_all(start).await.unwrap();
            held.push(stream);
        }
    }
    let mut stream = authority.connect(bridge.tls_address(), None).await.unwrap();
    let answer = post(&bridge.url("/default/foo")).event(&event("1")).send_on(&mut stream).await.unwrap();
    assert_eq!((answer.status(), bridge.is_running()), (202, true));
    bridge.send("foo", &event("2")).await;
}

#[tokio::test]
async fn a_peer_has_no_more_connections_than_it_may_and_the_rest_are_closed_and_counted() {
    let nats = Nats::start().await;
    let bridge = Bridge::of(&nats, &[channel("foo")]).flag("--max-connections-per-peer", "3").start().await;
    let connect = || async { TcpStream::connect(bridge.address()).await.unwrap() };
    let mut held = vec![connect().await, connect().await, connect().await];
    // The bridge accepts them in this order.
    let mut fourth = connect().await;
    let mut byte = [0];
    let read = within("the fourth is closed", fourth.read(&mut byte)).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    let counted = scrape(&bridge).await.value("ingress_connections_refused_total", &[("reason", "peer_limit")]);
    assert_eq!(counted, Some(1.0));
    held.pop();
    // As soon as the bridge has seen that one has gone.
    until("there is a place again", || async {
        post(&bridge.url("/default/foo")).event(&event("1")).try_send().await.is_ok_and(|answer| answer.status() == 202)
    })
    .await;
}
