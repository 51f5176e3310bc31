//! Sinks that fall ill in the middle of their work: hangs at each stage of an exchange, one event in many that is slow, a sink
//! that comes and goes. The events end as their policy says, and everybody else is served meanwhile.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

use crate::support::http::read_message;
use crate::support::nats::header;
use crate::support::resources::{channel, subscribe, subscription};
use crate::support::{Answer, Bridge, Gate, Nats, Sink, event, until};

const STREAM: &str = "KN_DEFAULT__FOO";

/// How far a sink gets with a request before it falls silent for good, its connection open.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// The connection stands, and nobody takes it from the system.
    NotAccepted,
    NothingRead,
    /// Some of the request is read.
    HeadRead,
    HalfStatusLine,
    HalfHead,
    /// A reply whose body does not come to its end.
    HalfReply,
    /// A plain answer whose body does not come to its end: its status has said all.
    HalfBody,
}

impl Stage {
    const ALL: [Self; 7] = [
        Self::NotAccepted,
        Self::NothingRead,
        Self::HeadRead,
        Self::HalfStatusLine,
        Self::HalfHead,
        Self::HalfReply,
        Self::HalfBody,
    ];

    fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// The code that its dead letter tells of; none when the event counts as delivered.
    fn code(self) -> Option<&'static str> {
        match self {
            Self::HalfBody => None,
            _ => Some("500"),
        }
    }

    /// Serves one connection after the other in this way.
    async fn serve(self, listener: TcpListener) {
        if let Self::NotAccepted = self {
            return std::future::pending().await;
        }
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(self.hang(stream));
        }
    }

    async fn hang(self, mut stream: TcpStream) {
        let answer: &[u8] = match self {
            Self::NotAccepted | Self::NothingRead => b"",
            Self::HeadRead => {
                let _ = stream.read(&mut [0; 40]).await;
                b""
            }
            Self::HalfStatusLine => b"HTTP/1.1 20",
            Self::HalfHead => b"HTTP/1.1 200 OK\r\ncontent-le",
            Self::HalfReply => {
                b"HTTP/1.1 200 OK\r\nce-specversion: 1.0\r\nce-id: r\r\nce-source: /r\r\nce-type: r\r\ncontent-length: 9\r\n\r\nab"
            }
            Self::HalfBody => b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab",
        };
        if !answer.is_empty() {
            let (read, mut write) = stream.split();
            let _ = read_message(&mut BufReader::new(read)).await;
            let _ = write.write_all(answer).await;
        }
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_sink_that_hangs_at_any_stage_is_given_up_in_time_and_others_are_served() {
    let nats = Nats::start().await;
    let sink = Sink::start().await;
    let mut documents = vec![channel("foo"), subscribe("good", "foo", &sink.url("/good"))];
    for stage in Stage::ALL {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(stage.serve(listener));
        let spec = json!({
            "subscriber": {"uri": url},
            "reply": {"uri": sink.url("/reply")},
            "delivery": {"retry": 1, "backoffDelay": "PT0.01S", "timeout": "PT1S"},
        });
        documents.push(subscription(&stage.name(), "foo", spec));
    }
    let bridge = Bridge::serve(&nats, &documents).await;
    for id in ["1", "2"] {
        bridge.send("foo", &event(id)).await;
    }
    sink.wait_for("/good", 2).await;
    nats.settled(STREAM).await;
    let kept = nats.messages("KN_DEADLETTERS").await;
    for stage in Stage::ALL {
        let subject = format!("knats.deadletter.default.{}", stage.name());
        let codes: Vec<_> = kept
            .iter()
            .filter(|letter| letter.subject.as_str() == subject)
            .map(|letter| header(letter, "ce-knativeerrorcode"))
            .collect();
        assert_eq!(codes, stage.code().map_or(vec![], |code| vec![Some(code); 2]), "{stage:?}");
    }
    assert_eq!((sink.requests("/reply").len(), sink.requests("/good").len()), (0, 2));
}

#[tokio::test]
async fn one_event_in_many_that_is_slow_holds_up_none_of_the_others() {
    const EVENTS: usize = 600;
    let nats = Nats::start().await;
    let gate = Gate::new();
    let slow = gate.clone();
    let sink = Sink::answering(move |request| match request.id().parse::<usize>() {
        Ok(id) if id % 100 == 7 => Answer::status(200).behind(&slow),
        _ => Answer::status(200),
    })
    .await;
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    for id in 0..EVENTS {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    // All have been asked for, though none of the slow ones is answered.
    sink.wait_for("/", EVENTS).await;
    let fast = nats.consumers(STREAM).await.remove(0);
    assert!(fast.num_ack_pending >= EVENTS / 100, "{fast:?}");
    gate.open();
    nats.settled(STREAM).await;
    assert_eq!(sink.requests("/").len(), EVENTS, "none was asked for twice");
    assert_eq!(nats.messages("KN_DEADLETTERS").await.len(), 0);
}

#[tokio::test]
async fn a_sink_that_comes_and_goes_gets_every_event_and_none_is_dead() {
    const EVENTS: usize = 200;
    let nats = Nats::start().await;
    let turns = AtomicUsize::new(0);
    // Well for a few requests, then 503, then resets, then hangs up without an answer, and again.
    let sink = Sink::answering(move |_| match turns.fetch_add(1, Ordering::Relaxed) % 40 {
        0..20 => Answer::status(200),
        20..30 => Answer::status(503),
        30..35 => Answer::reset(),
        _ => Answer::raw(""),
    })
    .await;
    let delivery = json!({"retry": 60, "backoffPolicy": "linear", "backoffDelay": "PT0.02S"});
    let spec = json!({"subscriber": {"uri": sink.url("/")}, "delivery": delivery});
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    for id in 0..EVENTS {
        bridge.send("foo", &event(&id.to_string())).await;
    }
    nats.settled(STREAM).await;
    let mut ids: Vec<usize> = sink.requests("/").iter().map(|request| request.id().parse().unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids, (0..EVENTS).collect::<Vec<_>>());
    assert_eq!(nats.messages("KN_DEADLETTERS").await.len(), 0);
}

#[tokio::test]
async fn a_sink_that_moves_to_another_process_on_its_address_is_found_there() {
    let nats = Nats::start().await;
    // Its connections end with it.
    let first = Sink::answering(|_| Answer::status(200).header("connection", "close")).await;
    let port = first.url("/").rsplit(':').next().unwrap().trim_end_matches('/').parse().unwrap();
    let spec = json!({
        "subscriber": {"uri": first.url("/")},
        "delivery": {"retry": 60, "backoffPolicy": "linear", "backoffDelay": "PT0.05S"},
    });
    let bridge = Bridge::serve(&nats, &[channel("foo"), subscription("sub", "foo", spec)]).await;
    bridge.send("foo", &event("1")).await;
    first.wait_for_id("/", "1").await;
    drop(first);
    bridge.send("foo", &event("2")).await;
    let tried = || async { nats.consumers(STREAM).await.remove(0).delivered.consumer_sequence >= 3 };
    until("it was tried while nobody was there", tried).await;
    let second = Sink::at(port).await;
    second.wait_for_id("/", "2").await;
    nats.settled(STREAM).await;
    assert_eq!(second.requests("/").len(), 1);
}
