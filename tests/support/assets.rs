//! Streams with their messages and consumers as values: read out of a server, and made anew in another one by plain calls of the
//! JetStream API, without a word of the product's own code.

use async_nats::Client;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::nats::Nats;
use super::{until, within};

/// One stream as a file has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// As the server tells it, without what the server notes for itself.
    pub config: Value,
    /// In order, from sequence 1 on.
    pub messages: Vec<Message>,
    pub consumers: Vec<Consumer>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    pub subject: String,
    /// As they lie in the header block.
    pub headers: Vec<(String, String)>,
    /// Text, or an array of bytes where it is none.
    pub payload: Value,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Consumer {
    pub config: Value,
    /// The stream sequence up to which all is acknowledged.
    pub acknowledged: u64,
}

/// All streams of a server, by name.
pub async fn read(nats: &Nats) -> Vec<Stream> {
    let client = nats.client().await;
    let mut streams = Vec::new();
    for name in nats.stream_names().await {
        let info = ask(&client, &format!("STREAM.INFO.{name}"), &json!({})).await;
        let consumers = ask(&client, &format!("CONSUMER.LIST.{name}"), &json!({})).await;
        let mut consumers: Vec<Consumer> = consumers["consumers"].as_array().unwrap().iter().map(consumer).collect();
        consumers.sort_by_key(|consumer| consumer.config["name"].to_string());
        let messages = nats.messages(&name).await.iter().map(message).collect();
        streams.push(Stream { config: own(&info["config"]), messages, consumers });
    }
    streams
}

/// What cannot be told apart from a server that was there before.
pub async fn write(nats: &Nats, streams: &[Stream]) {
    let client = nats.client().await;
    for stream in streams {
        let name = stream.config["name"].as_str().unwrap();
        ask(&client, &format!("STREAM.CREATE.{name}"), &stream.config).await;
        for message in &stream.messages {
            let headers: Vec<(&str, &str)> = message.headers.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            nats.publish(&message.subject, &headers, bytes(&message.payload)).await;
        }
        assert_eq!(nats.count(name).await, stream.messages.len() as u64, "messages of {name}");
        for consumer in &stream.consumers {
            make(&client, name, consumer).await;
        }
    }
}

async fn make(client: &Client, stream: &str, consumer: &Consumer) {
    let name = consumer.config["name"].as_str().unwrap();
    let config = json!({"stream_name": stream, "config": consumer.config, "action": "create"});
    ask(client, &format!("CONSUMER.CREATE.{stream}.{name}"), &config).await;
    let floor = || async {
        let info = ask(client, &format!("CONSUMER.INFO.{stream}.{name}"), &json!({})).await;
        info["ack_floor"]["stream_seq"].as_u64().unwrap()
    };
    // What is delivered has the subject that it was stored under, so an ordinary request would not know it for its answer.
    let (next, inbox) = (format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}"), client.new_inbox());
    let mut deliveries = client.subscribe(inbox.clone()).await.unwrap();
    loop {
        let before = floor().await;
        if before >= consumer.acknowledged {
            return;
        }
        client.publish_with_reply(next.clone(), inbox.clone(), "1".into()).await.unwrap();
        let message = within("a message to acknowledge", deliveries.next()).await.unwrap();
        let reply = message.reply.unwrap_or_else(|| panic!("{name} gives nothing: {:?}", message.status));
        client.publish(reply, "+ACK".into()).await.unwrap();
        until("it is acknowledged", || async { floor().await > before }).await;
    }
}

/// What the server says of a stream and its consumers, as far as an unwanted change would show.
pub async fn looks(nats: &Nats, streams: &[Stream]) -> Vec<Value> {
    let client = nats.client().await;
    let mut looks = Vec::new();
    for stream in streams {
        let name = stream.config["name"].as_str().unwrap();
        let info = ask(&client, &format!("STREAM.INFO.{name}"), &json!({})).await;
        looks.push(json!([info["created"], info["config"]]));
        let list = ask(&client, &format!("CONSUMER.LIST.{name}"), &json!({})).await;
        let mut consumers: Vec<Value> = list["consumers"].as_array().unwrap().clone();
        consumers.sort_by_key(|consumer| consumer["name"].to_string());
        looks.extend(consumers.iter().map(|info| json!([info["created"], info["config"]])));
    }
    looks
}

async fn ask(client: &Client, subject: &str, question: &Value) -> Value {
    let answer = client.request(format!("$JS.API.{subject}"), question.to_string().into());
    let answer = within(subject, answer).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer.get("error").is_none(), "{subject}: {answer}");
    answer
}

fn consumer(info: &Value) -> Consumer {
    let config = own(&info["config"]);
    // What a pinned consumer gives is for whoever holds the pin; its place is not made anew.
    let is_pinned = config.get("priority_groups").is_some();
    let acknowledged = if is_pinned { 0 } else { info["ack_floor"]["stream_seq"].as_u64().unwrap() };
    Consumer { config, acknowledged }
}

/// Without the server's own notes.
fn own(config: &Value) -> Value {
    let mut config = config.clone();
    if let Some(metadata) = config["metadata"].as_object() {
        let ours: Map<String, Value> = metadata
            .iter()
            .filter(|(key, _)| !key.starts_with("_nats."))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        config["metadata"] = Value::Object(ours);
    }
    config
}

fn message(message: &async_nats::jetstream::message::StreamMessage) -> Message {
    let mut headers: Vec<(String, String)> = message
        .headers
        .iter()
        .flat_map(|(name, values)| values.iter().map(|value| (name.to_string(), value.as_str().to_owned())))
        .collect();
    // The client has no order of them.
    headers.sort();
    let payload = match std::str::from_utf8(&message.payload) {
        Ok(text) => json!(text),
        Err(_) => json!(message.payload.to_vec()),
    };
    Message { subject: message.subject.to_string(), headers, payload }
}

fn bytes(payload: &Value) -> Vec<u8> {
    match payload {
        Value::String(text) => text.clone().into_bytes(),
        other => serde_json::from_value(other.clone()).unwrap(),
    }
}
