//! Owns the baseline: the program that one writes in an afternoon with axum, cloudevents-sdk, async-nats and reqwest. It has
//! no retries, dead letters, filters, metrics or bounds, and it loses what it should not; it says what the work itself costs
//! when nothing is done about its cost.

use std::sync::Arc;

use async_nats::jetstream;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use cloudevents::{AttributesReader as _, Event, EventBuilder as _, EventBuilderV10};
use futures_util::StreamExt as _;
use tokio::sync::Semaphore;

const SUBJECT: &str = "bench.straightforward";
const STREAM: &str = "STRAIGHTFORWARD";
/// As many requests at once as the bridge has for one subscription.
const IN_FLIGHT: usize = 256;

/// Which halves run, and where everything is.
pub struct Settings {
    pub nats: String,
    pub listen: Option<String>,
    pub sink: Option<String>,
}

pub async fn run(settings: Settings) {
    let client = async_nats::connect(&settings.nats).await.unwrap();
    let context = jetstream::new(client);
    let config = jetstream::stream::Config {
        name: STREAM.to_owned(),
        subjects: vec![SUBJECT.to_owned()],
        ..jetstream::stream::Config::default()
    };
    let stream = context.get_or_create_stream(config).await.unwrap();
    let dispatching = settings.sink.map(|sink| tokio::spawn(dispatch(stream, sink)));
    if let Some(listen) = settings.listen {
        let listener = tokio::net::TcpListener::bind(listen).await.unwrap();
        let router = Router::new().fallback(post(take)).with_state(context);
        axum::serve(listener, router).await.unwrap();
    }
    if let Some(dispatching) = dispatching {
        dispatching.await.unwrap();
    }
}

async fn take(State(context): State<jetstream::Context>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let mut builder = EventBuilderV10::new();
    for (name, value) in &headers {
        let (Some(name), Ok(value)) = (name.as_str().strip_prefix("ce-"), value.to_str()) else { continue };
        builder = match name {
            "id" => builder.id(value),
            "source" => builder.source(value),
            "type" => builder.ty(value),
            "subject" => builder.subject(value),
            "time" => builder.time(value),
            "specversion" => builder,
            other => builder.extension(other, value),
        };
    }
    let Ok(data) = serde_json::from_slice::<serde_json::Value>(&body) else { return StatusCode::BAD_REQUEST };
    let Ok(event) = builder.data("application/json", data).build() else { return StatusCode::BAD_REQUEST };
    let Ok(payload) = serde_json::to_vec(&event) else { return StatusCode::BAD_REQUEST };
    let stored = match context.publish(SUBJECT, payload.into()).await {
        Ok(ack) => ack.await.is_ok(),
        Err(_) => false,
    };
    if stored { StatusCode::ACCEPTED } else { StatusCode::SERVICE_UNAVAILABLE }
}

async fn dispatch(stream: jetstream::stream::Stream, sink: String) {
    let config = jetstream::consumer::pull::Config {
        durable_name: Some("straightforward".to_owned()),
        ..jetstream::consumer::pull::Config::default()
    };
    let consumer = stream.get_or_create_consumer("straightforward", config).await.unwrap();
    let mut messages = consumer.messages().await.unwrap();
    let client = reqwest::Client::new();
    let slots = Arc::new(Semaphore::new(IN_FLIGHT));
    while let Some(message) = messages.next().await {
        let message = message.unwrap();
        let slot = Arc::clone(&slots).acquire_owned().await.unwrap();
        let (client, sink) = (client.clone(), sink.clone());
        tokio::spawn(async move {
            let event: Event = serde_json::from_slice(&message.payload).unwrap();
            let mut request = client.post(sink).header("ce-specversion", "1.0").header("ce-id", event.id());
            request = request.header("ce-source", event.source().to_string()).header("ce-type", event.ty());
            for (name, value) in event.iter_extensions() {
                request = request.header(format!("ce-{name}"), value.to_string());
            }
            let data: serde_json::Value = event.data().unwrap().clone().try_into().unwrap();
            let sent = request.header("content-type", "application/json").body(data.to_string()).send().await;
            if sent.is_ok_and(|answer| answer.status().is_success()) {
                message.ack().await.unwrap();
            }
            drop(slot);
        });
    }
}
