//! The management API: what the commands show and do, over HTTP, to those who may.

use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::support::http::{Call, Message, call, get};
use crate::support::nats::header;
use crate::support::resources::{channel, subscribe};
use crate::support::{Answer, Bridge, Nats, Sink, event, eventually, until, within};

const TOKEN: &str = "0123456789abcdef0123";

/// A bridge that knows the token, and the folder that holds it.
struct Admin {
    bridge: Bridge,
    _dir: tempfile::TempDir,
}

impl Admin {
    async fn serve(nats: &Nats, documents: &[Value]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file: PathBuf = dir.path().join("token");
        std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
        let bridge = Bridge::of(nats, documents).flag("--admin-token-file", file.to_str().unwrap()).start().await;
        Self { bridge, _dir: dir }
    }

    fn url(&self, path: &str) -> String {
        self.bridge.admin_url(&format!("/api/v1{path}"))
    }

    fn call(&self, method: &str, path: &str) -> Call {
        call(method, &self.url(path)).header("authorization", format!("Bearer {TOKEN}"))
    }

    /// Reads, without the token.
    async fn get(&self, path: &str) -> Value {
        let answer = get(&self.url(path)).send().await;
        assert_eq!(answer.status(), 200, "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"), "{path}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{path}");
        answer.json()
    }

    async fn post(&self, path: &str, body: Value) -> Message {
        let call = self.call("POST", path).header("content-type", "application/json");
        call.body(body.to_string()).send().await
    }

    async fn posted(&self, path: &str, body: Value) -> Value {
        let answer = self.post(path, body).await;
        assert_eq!(answer.status(), 200, "{path}: {}", answer.text());
        answer.json()
    }
}

/// A problem with this status whose detail says all of that.
fn assert_problem(answer: &Message, status: u16, said: &[&str]) {
    assert_eq!(answer.status(), status, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", answer.text());
    let problem = answer.json();
    assert_eq!((&problem["type"], &problem["status"]), (&json!("about:blank"), &json!(status)));
    let detail = problem["detail"].as_str().unwrap();
    for words in said {
        assert!(detail.contains(words), "{words:?} is not in {detail:?}");
    }
}

#[tokio::test]
async fn channels_and_subscriptions_are_told_as_the_commands_tell_them() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(200)).await;
    let documents = [channel("foo"), channel("bar"), subscribe("sub", "foo", &sink.url("/"))];
    let admin = Admin::serve(&nats, &documents).await;
    admin.bridge.send("foo", &event("1")).await;
    nats.settled("KN_DEFAULT__FOO").await;

    let channels = admin.get("/channels").await;
    let named: Vec<_> = channels["items"].as_array().unwrap().iter().map(|channel| &channel["name"]).collect();
    assert_eq!(named, ["bar", "foo"]);
    let foo = admin.get("/channels/default/foo").await;
    assert_eq!(foo["items"], json!([channels["items"][1]]));
    assert_eq!((&foo["items"][0]["events"], &foo["items"][0]["subscriptions"]), (&json!(1), &json!(1)));
    assert_eq!(admin.get("/channels?namespace=other").await, json!({"items": []}));

    let all = admin.get("/subscriptions?namespace=default").await;
    let sub = &all["items"][0];
    let told = (&sub["name"], &sub["channel"], &sub["state"], &sub["lag"], &sub["bridges"]);
    assert_eq!(told, (&json!("sub"), &json!("default/foo"), &json!("idle"), &json!(0), &json!(1)));
    assert_eq!(all["gaps"], json!([]));
    let one = admin.get("/subscriptions/default/sub").await;
    assert_eq!((&one["items"][0]["consumer"], &one["items"][0]["sink"]), (&sub["consumer"], &json!(sink.url("/"))));
    assert_eq!(admin.get("/subscriptions?namespace=other").await, json!({"items": [], "gaps": []}));

    let near = get(&admin.url("/subscriptions/default/sup")).send().await;
    assert_problem(&near, 404, &["default/sup", "did you mean default/sub?"]);
    assert_problem(&get(&admin.url("/channels/default/sub")).send().await, 404, &["no channel default/sub"]);
}

#[tokio::test]
async fn nothing_is_changed_without_the_token() {
    let nats = Nats::start().await;
    let documents = [channel("foo"), subscribe("sub", "foo", "http://127.0.0.1:1/")];
    let admin = Admin::serve(&nats, &documents).await;
    let changing = [
        ("POST", "/subscriptions/default/sub/pause"),
        ("POST", "/subscriptions/default/sub/resume"),
        ("POST", "/subscriptions/default/sub/replay"),
        ("POST", "/subscriptions/default/sub/redrive"),
        ("DELETE", "/deadletters/1"),
    ];
    for (method, path) in changing {
        for shown in [None, Some("Bearer 0123456789abcdef0124"), Some("Basic MDEyMzQ1Njc4OWFiY2RlZjAxMjM=")] {
            let asked = call(method, &admin.url(path));
            let asked = shown.into_iter().fold(asked, |asked, shown| asked.header("authorization", shown));
            let answer = asked.send().await;
            assert_problem(&answer, 401, &["--admin-token-file"]);
            assert_eq!(answer.header("www-authenticate"), Some("Bearer realm=\"knats\""));
        }
    }
    // A wrong token is wrong for reading, too, where none is needed.
    let wrong = get(&admin.url("/channels")).header("authorization", "Bearer wrong").send().await;
    assert_problem(&wrong, 401, &["--admin-token-file"]);
    assert_eq!(admin.get("/subscriptions/default/sub").await["items"][0]["paused_until"], Value::Null);

    let without = Bridge::serve(&nats, &documents).await;
    for (method, path) in changing {
        let asked = call(method, &without.admin_url(&format!("/api/v1{path}")));
        let answer = asked.header("authorization", format!("Bearer {TOKEN}")).send().await;
        assert_problem(&answer, 401, &["--admin-token-file FILE"]);
    }
}

#[tokio::test]
async fn a_subscription_is_paused_resumed_and_replayed() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(200)).await;
    let admin = Admin::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    for id in ["1", "2", "3"] {
        admin.bridge.send("foo", &event(id)).await;
    }
    nats.settled("KN_DEFAULT__FOO").await;
    let path = |what: &str| format!("/subscriptions/default/sub/{what}");

    let counted = admin.posted(&path("replay"), json!({"from": "seq:2", "dry_run": true})).await;
    let expected = json!({
        "subscription": "default/sub", "stream": "KN_DEFAULT__FOO", "consumer": counted["consumer"], "from_sequence": 2,
        "events": 2, "redelivered": 2, "paused": false, "replayed": false,
    });
    assert_eq!(counted, expected);
    assert_eq!(sink.requests("/").len(), 3);
    let replayed = admin.posted(&path("replay"), json!({"from": "2"})).await;
    assert_eq!((&replayed["redelivered"], &replayed["replayed"]), (&json!(2), &json!(true)));
    until("two events come again", || async { sink.requests("/").len() == 5 }).await;

    let paused = admin.posted(&path("pause"), json!({"for_seconds": 3600})).await;
    let now = admin.get("/subscriptions/default/sub").await;
    assert_eq!((&now["items"][0]["state"], &now["items"][0]["paused_until"]), (&json!("paused"), &paused["until"]));
    let forever = admin.posted(&path("pause"), json!({})).await;
    assert_eq!(forever, json!({"subscription": "default/sub", "until": null}));
    for resumed in [true, false] {
        let answer = admin.posted(&path("resume"), json!({})).await;
        assert_eq!(answer, json!({"subscription": "default/sub", "resumed": resumed}));
    }
    let future = admin.post(&path("replay"), json!({"from": "2999-01-01T00:00:00Z"})).await;
    assert_problem(&future, 409, &["still to come"]);
    assert_eq!(future.json()["reason"], "refused");
}

#[tokio::test]
async fn dead_letters_are_paged_looked_at_thrown_away_and_redriven() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|request| Answer::status(if request.attempt == 1 { 422 } else { 200 })).await;
    let admin = Admin::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    for id in ["1", "2", "3", "4"] {
        admin.bridge.send("foo", &event(id)).await;
        nats.settled("KN_DEFAULT__FOO").await;
    }
    nats.dead_letters(4).await;
    let ids = |page: &Value| -> Vec<String> {
        page["items"].as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap().to_owned()).collect()
    };

    let first = admin.get("/deadletters?limit=3&subscription=default/sub").await;
    assert_eq!((ids(&first), &first["next_after"]), (vec!["1".into(), "2".into(), "3".into()], &json!(3)));
    assert_eq!((&first["items"][0]["code"], &first["keeping"]["letters"]), (&json!(422), &json!(4)));
    let second = admin.get("/deadletters?limit=3&after=3").await;
    assert_eq!((ids(&second), &second["next_after"]), (vec!["4".into()], &Value::Null));
    for (query, found) in [("id=2", 1), ("code=500", 0), ("code=422", 4), ("channel=default/bar", 0), ("type=test", 4)]
    {
        assert_eq!(ids(&admin.get(&format!("/deadletters?{query}")).await).len(), found, "{query}");
    }
    let one = admin.get("/deadletters/2").await;
    assert_eq!((&one["event"]["id"], &one["sequence"], &one["dest"]), (&json!("2"), &json!(2), &json!(sink.url("/"))));

    assert_eq!(admin.call("DELETE", "/deadletters/2").send().await.status(), 204);
    assert_problem(&admin.call("DELETE", "/deadletters/2").send().await, 404, &["sequence 2"]);
    assert_problem(&get(&admin.url("/deadletters/2")).send().await, 404, &["sequence 2"]);

    let path = "/subscriptions/default/sub/redrive";
    let counted = admin.posted(path, json!({"dry_run": true, "limit": 2})).await;
    let told = (&counted["matched"], &counted["left"], &counted["delivered"], &counted["more"]);
    assert_eq!(told, (&json!(2), &json!(2), &json!(0), &json!(true)));
    assert_eq!((&counted["until_sequence"], sink.requests("/").len()), (&json!(4), 4));
    let some = admin.posted(path, json!({"limit": 2, "until_sequence": 4})).await;
    let told = (&some["delivered"], &some["left"], &some["more"], &some["dry_run"]);
    assert_eq!(told, (&json!(2), &json!(0), &json!(true), &json!(false)));
    let rest = admin.posted(path, json!({"until_sequence": 4})).await;
    assert_eq!((&rest["delivered"], &rest["more"]), (&json!(1), &json!(false)));
    assert!(nats.messages("KN_DEADLETTERS").await.is_empty());

    assert_problem(&admin.post(path, json!({"id": "2"})).await, 404, &["id '2'"]);
    let nobody = "/subscriptions/default/other/redrive";
    nats.publish(
        "knats.deadletter.default.other",
        &[("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")],
        "x",
    )
    .await;
    let refused = admin.post(nobody, json!({})).await;
    assert_problem(&refused, 409, &["no bridge delivers default/other"]);
    assert_eq!(refused.json()["reason"], "refused");
    assert_eq!(header(&nats.messages("KN_DEADLETTERS").await[0], "ce-id"), Some("1"));
}

#[tokio::test]
async fn messages_that_are_no_events_are_not_in_the_way_of_a_redrive() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(200)).await;
    let admin = Admin::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    for _ in 0..3 {
        nats.publish("knats.deadletter.default.sub", &[("Knats-Reason", "no source")], "x").await;
    }
    let headers = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
    nats.publish("knats.deadletter.default.sub", &headers, "x").await;
    nats.dead_letters(4).await;
    let done = admin.posted("/subscriptions/default/sub/redrive", json!({"limit": 1})).await;
    let told = (&done["delivered"], &done["poison"], &done["more"]);
    assert_eq!(told, (&json!(1), &json!(3), &json!(false)));
}

#[tokio::test]
async fn an_event_a_server_and_the_manifests_in_force_are_told_of() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(422)).await;
    let admin = Admin::serve(&nats, &[channel("foo"), subscribe("sub", "foo", &sink.url("/"))]).await;
    admin.bridge.send("foo", &event("a/b c")).await;
    nats.dead_letters(1).await;
    nats.settled("KN_DEFAULT__FOO").await;

    let attempts = || async {
        let answer = get(&admin.url("/events/a%2Fb%20c/why?source=/test&channel=default/foo")).send().await;
        let story = (answer.status() == 200).then(|| answer.json())?;
        (story["subscriptions"][0]["attempts"].as_array()?.len() == 1).then_some(story)
    };
    let story = eventually("the attempt is in the log", attempts).await;
    assert_eq!(
        (&story["id"], &story["stream"], &story["sequence"]),
        (&json!("a/b c"), &json!("KN_DEFAULT__FOO"), &json!(1))
    );
    let chapter = &story["subscriptions"][0];
    assert_eq!((&chapter["subscription"], &chapter["attempts"][0]["code"]), (&json!("default/sub"), &json!(422)));
    assert_problem(&get(&admin.url("/events/nowhere/why")).send().await, 404, &["nowhere"]);

    let report = admin.get("/doctor").await;
    assert_eq!((&report["checks"][0]["check"], &report["checks"][0]["status"]), (&json!("reachable"), &json!("ok")));
    assert_eq!(report["meanings"][0]["storage"], "file");

    assert_eq!(admin.get("/diff").await, json!({"items": []}));
    admin.bridge.write("resources.yaml", &[channel("foo")]);
    let left_over = || async {
        let items = admin.get("/diff?prune=true").await["items"].clone();
        items.as_array().is_some_and(|items| !items.is_empty()).then_some(items)
    };
    let items = eventually("a consumer is left over", left_over).await;
    let told = (&items[0]["change"], &items[0]["resource"], &items[0]["events"]["meaning"]);
    assert_eq!(told, (&json!("delete"), &json!("subscription default/sub"), &json!("undelivered")));
    assert_eq!(admin.get("/diff").await, json!({"items": []}));
}

/// An open feed, read by lines.
struct Feed(BufReader<TcpStream>);

impl Feed {
    async fn open(admin: &Admin, query: &str) -> Self {
        let url = admin.url(&format!("/feed{query}"));
        let rest = url.strip_prefix("http://").unwrap();
        let (address, path) = rest.split_at(rest.find('/').unwrap());
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n\r\n").as_bytes()).await.unwrap();
        let mut feed = Self(BufReader::new(stream));
        assert!(feed.line().await.unwrap().contains("200"));
        feed.until("content-type: text/event-stream").await;
        feed
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = within("a line of the feed", self.0.read_line(&mut line)).await;
        (read.unwrap_or(0) > 0).then(|| line.trim_end().to_owned())
    }

    async fn until(&mut self, wanted: &str) {
        while self.line().await.expect("the feed goes on") != wanted {}
    }

    /// The data of the next item of that name.
    async fn next(&mut self, name: &str) -> Value {
        let data = async {
            self.until(&format!("event: {name}")).await;
            loop {
                let line = self.line().await.expect("the feed goes on");
                if let Some(data) = line.strip_prefix("data: ") {
                    return serde_json::from_str(data).unwrap();
                }
            }
        };
        within(&format!("{name} of the feed"), data).await
    }
}

#[tokio::test]
async fn a_feed_shows_events_and_deliveries_and_ends_with_the_bridge() {
    let nats = Nats::start().await;
    let sink = Sink::answering(|_| Answer::status(201)).await;
    let documents = [channel("foo"), channel("bar"), subscribe("sub", "foo", &sink.url("/"))];
    let mut admin = Admin::serve(&nats, &documents).await;
    admin.bridge.send("foo", &event("early")).await;

    let mut back = Feed::open(&admin, "?last=1&only=events&channel=default/foo&channel=default/bar").await;
    assert_eq!(back.next("event").await["event"]["id"], "early");
    let mut feed = Feed::open(&admin, "?subscription=default/sub&filter=id%20%3D%20%27now%27").await;
    assert_eq!(feed.next("note").await["text"], "deliveries of 1 bridge are shown");
    admin.bridge.send("foo", &event("other")).await;
    admin.bridge.send("foo", &event("now").data("application/json", "{\r\n  \"a\": 1.10\r\n}")).await;
    let stored = feed.next("event").await;
    assert_eq!(
        (&stored["kind"], &stored["event"]["id"], &stored["sequence"]),
        (&json!("event"), &json!("now"), &json!(3))
    );
    let delivery = feed.next("delivery").await;
    assert_eq!((&delivery["id"], &delivery["code"]), (&json!("now"), &json!(201)));

    admin.bridge.term();
    within("the feed ends", async { while feed.line().await.is_some() {} }).await;
    assert!(admin.bridge.wait().await.success());
}

#[tokio::test]
async fn feeds_are_bounded_and_a_closed_one_makes_room() {
    let nats = Nats::start().await;
    let admin = Admin::serve(&nats, &[channel("foo")]).await;
    let mut feeds = Vec::new();
    for _ in 0..16 {
        feeds.push(Feed::open(&admin, "?only=events").await);
    }
    let full = get(&admin.url("/feed?only=events")).send().await;
    assert_problem(&full, 503, &["16 feeds are open"]);
    assert!(full.header("retry-after").is_some());
    feeds.pop();
    let room = || async {
        let head = call("HEAD", &admin.url("/feed?only=events")).try_send();
        head.await.is_ok_and(|answer| answer.status() == 200)
    };
    until("there is room for another feed", room).await;
}

#[tokio::test]
async fn what_is_asked_wrongly_is_a_problem_that_names_the_place() {
    let nats = Nats::start().await;
    let admin = Admin::serve(&nats, &[channel("foo"), subscribe("sub", "foo", "http://127.0.0.1:1/")]).await;
    for (path, said) in [
        ("/channels/Default/foo", "\"Default\" is not a namespace"),
        ("/channels/default/f_o", "\"f_o\" is not a name"),
        ("/channels/default/a%2Fb", "is not a name"),
        ("/channels?namespace=A", "namespace"),
        ("/channels?nmespace=a", "nmespace"),
        ("/deadletters?limit=0", "limit: expected a number from 1 to 1000"),
        ("/deadletters?limit=1001", "limit: expected a number from 1 to 1000"),
        ("/deadletters?limit=99999999999999999999999", "limit"),
        ("/deadletters?id=", "id: expected a text"),
        ("/deadletters?limit=1&limit=2", "limit"),
        ("/deadletters?subscription=x", "is not NAMESPACE/NAME"),
        ("/deadletters/0", "sequence"),
        ("/deadletters/x", "sequence"),
        ("/events/1/why?since_seconds=-1", "since_seconds"),
        ("/feed?filter=)", "the filter"),
        ("/feed?only=all", "only"),
        ("/feed?last=10001", "last"),
        ("/feed?channel=x", "channel"),
        ("/feed?nme=x", "nme"),
    ] {
        assert_problem(&get(&admin.url(path)).send().await, 400, &[said]);
    }
    let pause = "/subscriptions/default/sub/pause";
    let replay = "/subscriptions/default/sub/replay";
    for (path, body, said) in [
        (pause, json!({"for_secnds": 1}), "for_secnds"),
        (pause, json!({"for_seconds": "1"}), "for_seconds"),
        (pause, json!({"for_seconds": 0}), "for_seconds: expected a number from 1"),
        (pause, json!([1]), "no JSON object"),
        (pause, json!(null), "no JSON object"),
        (replay, json!({}), "from"),
        (replay, json!({"from": "yesterday"}), "from: expected a time"),
    ] {
        assert_problem(&admin.post(path, body).await, 400, &[said]);
    }
    let with = |kind: &str, body: &str| admin.call("POST", pause).header("content-type", kind).body(body);
    assert_problem(&with("application/json", "{").send().await, 400, &["the body"]);
    assert_problem(&with("application/json", "").send().await, 400, &["the body is missing"]);
    assert_problem(&with("text/plain", "{}").send().await, 415, &["application/json"]);
    let large = format!("{{\"for_seconds\": 1{}}}", " ".repeat(64 * 1024));
    assert_problem(&with("application/json", &large).send().await, 413, &["65536 bytes"]);
    assert_eq!(admin.get("/subscriptions/default/sub").await["items"][0]["state"], "idle");

    for path in ["/nothing", "/channels/", "/channels/default"] {
        let nothing = get(&admin.url(path)).send().await;
        assert_problem(&nothing, 404, &["/api/v1 says what there is"]);
        assert_eq!(nothing.header("cache-control"), Some("no-store"));
    }
    let method = admin.call("PUT", "/channels").send().await;
    assert_problem(&method, 405, &["PUT"]);
    assert_eq!(method.header("allow"), Some("GET,HEAD"));
}

#[tokio::test]
async fn while_nats_is_away_the_answer_is_503_and_comes_at_once() {
    let mut nats = Nats::start().await;
    let admin = Admin::serve(&nats, &[channel("foo"), subscribe("sub", "foo", "http://127.0.0.1:1/")]).await;
    nats.kill9();
    admin.bridge.wait_for_readyz("not connected", |answer| answer.status() == 503).await;
    for path in ["/channels", "/subscriptions/default/sub", "/deadletters", "/events/1/why", "/diff", "/feed"] {
        let answer = get(&admin.url(path)).send().await;
        assert_problem(&answer, 503, &["NATS is not connected"]);
        assert!(answer.header("retry-after").is_some(), "{path}");
    }
    let answer = admin.post("/subscriptions/default/sub/redrive", json!({})).await;
    assert_problem(&answer, 503, &["NATS is not connected"]);
    // The doctor has something to say.
    assert_eq!(get(&admin.url("/doctor")).send().await.status(), 200);
}

#[tokio::test]
async fn the_way_in_leads_everywhere_and_the_document_knows_every_path() {
    let nats = Nats::start().await;
    let admin = Admin::serve(&nats, &[channel("foo")]).await;
    let index = admin.get("").await;
    assert_eq!(index["version"], env!("CARGO_PKG_VERSION"));
    let document = admin.get("/openapi.json").await;
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    for (name, link) in index["links"].as_object().unwrap() {
        assert_eq!(link, &json!(format!("/api/v1/{name}")));
        assert!(document["paths"][link.as_str().unwrap()]["get"].is_object(), "{name}");
    }
    for (path, item) in document["paths"].as_object().unwrap() {
        let there = path.replace("{namespace}", "default").replace("{name}", "foo").replace("{sequence}", "1");
        let url = admin.bridge.admin_url(&there.replace("{id}", "1"));
        let methods: Vec<String> = item.as_object().unwrap().keys().map(|method| method.to_uppercase()).collect();
        let answer = call("PUT", &url).header("authorization", format!("Bearer {TOKEN}")).send().await;
        assert_eq!(answer.status(), 405, "{path}");
        let allowed = answer.header("allow").unwrap().replace("HEAD", "").replace(",,", ",");
        let mut allowed: Vec<&str> = allowed.split(',').filter(|method| !method.is_empty()).collect();
        allowed.sort_unstable();
        let mut methods: Vec<&str> = methods.iter().map(String::as_str).collect();
        methods.sort_unstable();
        assert_eq!(allowed, methods, "{path}");
    }
}
