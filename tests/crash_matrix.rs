//! At every point of an event's way the bridge is killed, loses its connections or stands still, before what it waits for there,
//! meanwhile or after it, and no event is lost; nobody gets one again but those of whom the list of points says so. Generated from that list.
#![cfg(debug_assertions)]

use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use knats::fault_point::{Point, Receiver, Row, Way};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::http::post;
use crate::support::nats::{header, text};
use crate::support::process::{Process, knats};
use crate::support::resources::{broker, channel, channel_ref, channel_with, subscription, trigger};
use crate::support::{Answer, Bridge, Nats, Request, Sink, event, eventually, until};

const STREAM: &str = "KN_DEFAULT__FOO";
/// Of the channel or broker that a way leads into.
const OTHER: &str = "KN_DEFAULT__BAR";
const LETTERS: &str = "KN_DEADLETTERS";
const KILLS: &[&str] = &["kill-before", "kill-after"];
/// What is said at the point has left then.
const KILLS_MEANWHILE: &[&str] = &["kill-meanwhile"];
const HINDRANCES: &[&str] = &["cut-before", "cut-after", "stall"];

macro_rules! ways {
    ($($module:ident: $way:ident),+ $(,)?) => {
        $(mod $module {
            use super::*;

            #[tokio::test]
            async fn killed_anywhere_it_loses_nothing() {
                walk(Way::$way, KILLS).await;
            }

            #[tokio::test]
            async fn killed_in_the_middle_of_anything_it_loses_nothing() {
                walk(Way::$way, KILLS_MEANWHILE).await;
            }

            #[tokio::test]
            async fn cut_off_or_stalled_anywhere_it_loses_nothing() {
                walk(Way::$way, HINDRANCES).await;
            }
        })+

        /// A way that nobody walks does not compile.
        #[test]
        fn every_point_lies_on_a_way_that_is_walked() {
            let walked = |way: Way| match way { $(Way::$way => true),+ };
            for point in Point::ALL {
                assert!(!point.rows().is_empty() && point.rows().iter().all(|row| walked(row.way)), "{point:?}");
            }
        }
    };
}

ways! {
    taken_in: Ingress,
    taken_in_as_a_batch: BatchedIngress,
    delivered: Delivery,
    delivered_into_a_channel: IntoChannel,
    filtered: Filtered,
    retries_used_up: UsedUp,
    replied: Reply,
    replied_into_a_channel: ReplyIntoChannel,
    replied_into_the_broker: BrokerReply,
    sent_to_the_dead_letter_sink: DeadLetterSink,
    kept: Kept,
    not_kept_at_first: NotKept,
    set_aside: Poison,
    not_set_aside_at_first: PoisonNotKept,
    delivered_in_a_batch: Batch,
    delivered_in_a_batch_that_fails: FailedBatch,
    redriven: Redrive,
    redriven_and_kept_again: RedriveKept,
    drained: Drain,
}

/// How often an event came to each place, or shall come without any fault.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    subscriber: usize,
    reply: usize,
    dead_letter_sink: usize,
    /// Copies among the dead letters, and in the other channel.
    kept: usize,
    passed_on: usize,
}

fn without_fault(way: Way) -> Seen {
    let seen = Seen { subscriber: 1, ..Seen::default() };
    match way {
        Way::Ingress | Way::BatchedIngress | Way::Delivery | Way::Batch => seen,
        Way::IntoChannel => Seen { subscriber: 0, passed_on: 1, ..seen },
        Way::Filtered => Seen::default(),
        Way::UsedUp => Seen { subscriber: 3, kept: 1, ..seen },
        Way::Reply => Seen { reply: 2, ..seen },
        Way::ReplyIntoChannel | Way::BrokerReply => Seen { passed_on: 1, ..seen },
        Way::DeadLetterSink => Seen { dead_letter_sink: 2, ..seen },
        Way::Kept | Way::NotKept => Seen { kept: 1, ..seen },
        Way::Poison | Way::PoisonNotKept => Seen { subscriber: 0, kept: 1, ..seen },
        Way::FailedBatch | Way::Redrive | Way::RedriveKept | Way::Drain => Seen { subscriber: 2, ..seen },
    }
}

/// What the sinks answer on a way.
fn answer(way: Way, request: &Request, met: &Mutex<HashSet<String>>) -> Answer {
    let first = request.attempt == 1;
    match (way, request.target()) {
        (Way::Reply | Way::DeadLetterSink, "/reply" | "/letters") if first => Answer::status(500),
        (_, "/reply" | "/letters") => Answer::status(200),
        (Way::UsedUp, _) => Answer::status(500),
        (Way::DeadLetterSink | Way::Kept | Way::NotKept, _) => Answer::status(400),
        (Way::Reply | Way::ReplyIntoChannel | Way::BrokerReply, _) => Answer::event(request.id()),
        (Way::Redrive, _) if first => Answer::status(500),
        (Way::RedriveKept, _) if first => Answer::status(400),
        (Way::Drain, _) if first => Answer::hang(),
        (Way::FailedBatch, _) => {
            let mut met = met.lock().unwrap();
            let is_new = ids_of(request).into_iter().fold(false, |is_new, id| is_new | met.insert(id));
            Answer::status(if is_new { 500 } else { 200 })
        }
        _ => Answer::status(200),
    }
}

/// The events of a request: one, or those of a batch.
fn ids_of(request: &Request) -> Vec<String> {
    match request.header("ce-id") {
        Some(id) => vec![id.to_owned()],
        None => request.json().as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect(),
    }
}

fn documents(way: Way, sink: &Sink) -> Vec<Value> {
    let own = json!({"uri": sink.url("/")});
    let delivery = json!({"retry": if matches!(way, Way::UsedUp | Way::Reply | Way::DeadLetterSink) { 2 } else { 5 },
        "backoffPolicy": "linear", "backoffDelay": "PT0.05S"});
    if way == Way::BrokerReply {
        let spec = json!({"subscriber": own, "delivery": delivery, "filter": {"attributes": {"type": "test"}}});
        return vec![broker("bar"), trigger("sub", "bar", spec)];
    }
    let mut spec = json!({"subscriber": own, "delivery": delivery});
    let annotations = match way {
        Way::Delivery => json!({"knats.dev/max-in-flight": "1"}),
        Way::Batch | Way::FailedBatch => json!({"knats.dev/batch": "3/500ms"}),
        Way::Filtered => json!({"knats.dev/filters": "[{prefix: {type: wanted}}]"}),
        _ => json!({}),
    };
    match way {
        Way::IntoChannel => spec["subscriber"] = json!({"ref": channel_ref("bar")}),
        Way::ReplyIntoChannel => spec["reply"] = json!({"ref": channel_ref("bar")}),
        Way::Reply => spec["reply"] = json!({"uri": sink.url("/reply")}),
        Way::DeadLetterSink => spec["delivery"]["deadLetterSink"] = json!({"uri": sink.url("/letters")}),
        _ => {}
    }
    let mut subscription = subscription("sub", "foo", spec);
    subscription["metadata"]["annotations"] = annotations;
    vec![channel_with("foo", json!({"consumerConfigTemplate": {"ackWait": "1200ms"}})), channel("bar"), subscription]
}

/// A bridge that can be made to fail, and what is around it.
struct World {
    way: Way,
    nats: Nats,
    jetstream: async_nats::jetstream::Context,
    sink: Sink,
    bridge: Bridge,
    /// Where requests are what is made to fail, deliveries are another bridge's.
    _dispatcher: Option<Bridge>,
    dir: TempDir,
}

async fn walk(way: Way, actions: &[&str]) {
    let rows = Point::ALL.iter().flat_map(|point| point.rows().iter().map(move |row| (*point, row)));
    let mut world = World::new(way).await;
    for (point, row) in rows.filter(|(_, row)| row.way == way) {
        for action in actions {
            world.check(point, row, action).await;
        }
    }
}

impl World {
    async fn new(way: Way) -> Self {
        Self::with(way, "300ms").await
    }

    async fn with(way: Way, drain_timeout: &str) -> Self {
        let nats = Nats::start().await;
        let met = Mutex::default();
        let sink = Sink::answering(move |request| answer(way, request, &met)).await;
        let dir = tempfile::tempdir().unwrap();
        let bridge = || Bridge::of(&nats, &documents(way, &sink)).flag("--publish-timeout", "1s");
        let armed = bridge().variable("KNATS_FAULT", dir.path().join("fault").to_str().unwrap());
        let is_ingress = matches!(way, Way::Ingress | Way::BatchedIngress);
        let (bridge, _dispatcher) = if is_ingress {
            let dispatcher = bridge().flag("--role", "dispatcher").start().await;
            (armed.flag("--role", "ingress").start().await, Some(dispatcher))
        } else {
            (armed.flag("--drain-timeout", drain_timeout).start().await, None)
        };
        let jetstream = nats.jetstream().await;
        Self { way, nats, jetstream, sink, bridge, _dispatcher, dir }
    }

    fn fault(&self) -> PathBuf {
        self.dir.path().join("fault")
    }

    async fn check(&mut self, point: Point, row: &Row, action: &str) {
        let case = format!("{}-{action}", point.name());
        let several = matches!(self.way, Way::BatchedIngress | Way::Batch | Way::FailedBatch);
        let ids: Vec<String> = (0..if several { 3 } else { 1 }).map(|n| format!("{case}-{n}")).collect();
        if matches!(self.way, Way::NotKept | Way::PoisonNotKept) {
            self.limit_letters(true).await;
        }
        if self.way != Way::Drain {
            self.arm(&format!("{} {action}", point.name()));
        }
        self.pass(&ids, action).await;
        self.settled(&case, &ids).await;
        for id in &ids {
            let (seen, wanted) = (self.seen(id).await, without_fault(self.way));
            let more = |who| usize::from(row.again.contains(&who));
            let fewest = wanted.subscriber.saturating_sub(usize::from(row.spends)).max(wanted.subscriber.min(1));
            let subscriber = fewest..=wanted.subscriber + more(Receiver::Subscriber);
            let reply = wanted.reply..=wanted.reply + more(Receiver::Reply);
            let letters = wanted.dead_letter_sink..=wanted.dead_letter_sink + more(Receiver::DeadLetterSink);
            assert!(
                subscriber.contains(&seen.subscriber)
                    && reply.contains(&seen.reply)
                    && letters.contains(&seen.dead_letter_sink)
                    && (seen.kept, seen.passed_on) == (wanted.kept, wanted.passed_on),
                "{id}: {seen:?}, expected {wanted:?}, and once more {:?}",
                row.again
            );
        }
    }

    fn arm(&self, fault: &str) {
        let aside = self.dir.path().join("aside");
        std::fs::write(&aside, fault).unwrap();
        std::fs::rename(aside, self.fault()).unwrap();
    }

    /// Sends events on their way while the bridge meets the fault, and brings it back.
    async fn pass(&mut self, ids: &[String], action: &str) {
        match self.way {
            Way::Ingress | Way::BatchedIngress => {
                let (url, batched) = (self.bridge.url("/default/foo"), self.way == Way::BatchedIngress);
                let ids = ids.to_vec();
                let sender = tokio::spawn(async move { send(&url, &ids, batched).await });
                self.recover(action).await;
                sender.await.unwrap();
            }
            Way::Redrive | Way::RedriveKept => {
                self.store("knats.deadletter.default.sub", &ids[0]).await;
                let asking = self.redrive();
                self.recover(action).await;
                drop(asking);
            }
            Way::Drain => {
                self.store("foo.default", &ids[0]).await;
                self.sink.wait_for_id("/", &ids[0]).await;
                self.arm(&ids[0].replacen(&format!("-{action}-0"), &format!(" {action}"), 1));
                self.bridge.term();
                let ended = self.bridge.wait().await;
                assert_eq!(ended.code(), (!action.starts_with("kill")).then_some(0), "{}", ids[0]);
                assert!(!self.fault().exists(), "{}: nothing came there", ids[0]);
                self.bridge.start_again().await;
            }
            Way::BrokerReply => {
                self.store("bar.default._type.test", &ids[0]).await;
                self.recover(action).await;
            }
            _ => {
                for id in ids {
                    self.store("foo.default", id).await;
                }
                self.recover(action).await;
            }
        }
    }

    /// Waits for the fault, and starts the bridge again where that has ended it.
    async fn recover(&mut self, action: &str) {
        let fault = self.fault();
        until("an event comes to the point", || async { !fault.exists() }).await;
        if action.starts_with("kill") {
            assert_eq!(self.bridge.wait().await.code(), None, "it was not killed");
            self.bridge.start_again().await;
        }
        if matches!(self.way, Way::NotKept | Way::PoisonNotKept) {
            self.limit_letters(false).await;
        }
    }

    /// Stores an event as other writers do; on some ways it is none.
    async fn store(&self, subject: &str, id: &str) {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("ce-specversion", "1.0");
        if !matches!(self.way, Way::Poison | Way::PoisonNotKept) {
            for (name, value) in [("ce-id", id), ("ce-source", "/test"), ("ce-type", "test")] {
                headers.insert(name, value);
            }
        }
        let stored = self.jetstream.publish_with_headers(subject.to_owned(), headers, id.to_owned().into()).await;
        stored.unwrap().await.unwrap();
    }

    fn redrive(&self) -> Process {
        let mut command = knats();
        command.args(["redrive", "default/sub", "--nats-url", &self.nats.url()]);
        Process::spawn(command, self.dir.path(), "redrive")
    }

    /// Leaves no room for dead letters, or room again.
    async fn limit_letters(&self, is_full: bool) {
        let mut config = self.nats.stream(LETTERS).await.get_info().await.unwrap().config;
        config.discard = async_nats::jetstream::stream::DiscardPolicy::New;
        config.max_bytes = if is_full { 1 } else { -1 };
        self.jetstream.update_stream(config).await.unwrap();
    }

    /// Waits until the events are where they belong, and nothing of theirs is left to do.
    async fn settled(&self, case: &str, ids: &[String]) {
        let wanted = without_fault(self.way);
        let asked = Mutex::new(Instant::now());
        eventually(&format!("{case}: its events arrive"), || async {
            if self.way == Way::BrokerReply {
                self.ask_again(&asked).await?;
            }
            if matches!(self.way, Way::Redrive | Way::RedriveKept) && self.nats.count(LETTERS).await > 0 {
                let mut asking = self.redrive();
                // As long as a letter may take, unless nobody answers.
                let ended = async {
                    while asking.is_running() {
                        tokio::time::sleep(Duration::from_millis(20)).await
                    }
                };
                let _ = tokio::time::timeout(Duration::from_secs(4), ended).await;
                return None;
            }
            for id in ids {
                let seen = self.seen(id).await;
                if seen.subscriber < wanted.subscriber.min(1)
                    || seen.kept < wanted.kept
                    || seen.passed_on < wanted.passed_on
                {
                    return None;
                }
            }
            Some(())
        })
        .await;
        self.nats.settled(if self.way == Way::BrokerReply { OTHER } else { STREAM }).await;
    }

    /// The ack wait of a broker's consumer is half a minute: asks for what is unsettled as JetStream would do after a second.
    async fn ask_again(&self, asked: &Mutex<Instant>) -> Option<()> {
        let info = self.nats.consumers(OTHER).await.remove(0);
        if info.num_ack_pending == 0 {
            return Some(());
        }
        let is_due = asked.lock().unwrap().elapsed() > Duration::from_secs(1);
        if is_due {
            *asked.lock().unwrap() = Instant::now();
            let (stream, consumer) = (info.delivered.stream_sequence, info.delivered.consumer_sequence);
            let subject = format!("$JS.ACK.{OTHER}.{}.1.{stream}.{consumer}.0.0", info.name);
            self.nats.publish(&subject, &[], "-NAK").await;
        }
        None
    }

    async fn seen(&self, id: &str) -> Seen {
        let requests = |path: &str| {
            let all = self.sink.requests(path);
            all.iter().filter(|request| ids_of(request).iter().any(|one| one == id)).count()
        };
        let mut seen = Seen { subscriber: requests("/"), reply: requests("/reply"), ..Seen::default() };
        seen.dead_letter_sink = requests("/letters");
        let payload = id.as_bytes();
        let letters = self.nats.messages(LETTERS).await;
        seen.kept = letters.iter().filter(|letter| letter.payload == payload).count();
        let others = self.nats.messages(OTHER).await;
        let is_event = |message: &&_| header(message, "ce-id") == Some(id);
        // In the broker, the event itself is there too.
        let passed_on = others.iter().filter(is_event).filter(|message| text(&message.payload) != id);
        let passed_on =
            if self.way == Way::IntoChannel { others.iter().filter(is_event).count() } else { passed_on.count() };
        Seen { passed_on, ..seen }
    }
}

/// As a source that does not give up: again until there is a 202.
async fn send(url: &str, ids: &[String], batched: bool) {
    let batch: Vec<Value> =
        ids.iter().map(|id| json!({"specversion": "1.0", "id": id, "source": "/test", "type": "test"})).collect();
    until("the events are taken", || async {
        let call = match batched {
            true => {
                post(url).header("content-type", "application/cloudevents-batch+json").body(json!(batch).to_string())
            }
            false => post(url).event(&event(&ids[0])),
        };
        call.try_send().await.is_ok_and(|answer| answer.status() == 202)
    })
    .await;
}

#[tokio::test]
async fn what_a_filter_refuses_keeps_no_bridge_from_ending_while_nats_is_away() {
    let mut world = World::with(Way::Filtered, "60s").await;
    world.arm("refused-settled stall");
    world.store("foo.default", "1").await;
    world.recover("stall").await;
    world.nats.kill9();
    world.bridge.term();
    // Well before its deadline is over.
    assert_eq!(world.bridge.wait().await.code(), Some(0));
}

/// The list as ARCHITECTURE.md draws it.
fn table() -> String {
    let mut table =
        "| point | it waits for | way of the event | then | once more to |\n| --- | --- | --- | --- | --- |\n"
            .to_owned();
    for point in Point::ALL {
        for row in point.rows() {
            let again: Vec<&str> = row
                .again
                .iter()
                .map(|who| match who {
                    Receiver::Subscriber => "subscriber",
                    Receiver::Reply => "reply",
                    Receiver::DeadLetterSink => "dead letter sink",
                })
                .collect();
            let again = if again.is_empty() { "nobody".to_owned() } else { again.join(", ") };
            let (name, awaited, way, then) = (point.name(), point.awaited(), row.way.name(), row.then);
            table += &format!("| `{name}` | {awaited} | {way} | {then} | {again} |\n");
        }
    }
    table
}

#[test]
fn the_architecture_shows_the_list_of_points() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("ARCHITECTURE.md");
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(&table()), "the crash matrix in ARCHITECTURE.md is to be:\n{}", table());
}
