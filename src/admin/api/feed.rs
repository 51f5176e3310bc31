//! What happens now, as server-sent events: the items of `knats tail`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http::Uri;
use http::request::Parts;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use url::form_urlencoded::Serializer;
use utoipa::{IntoParams, ToSchema};

use super::Shared;
use super::extract::{Name, Number, Query, Text};
use super::failure::{Always, Failure, OfOne};
use crate::manage::tail::{self, Begin, Item, MAX_HISTORY, Only, Sort, Tail, Wanted};

/// Feeds open at once. A bridge tells 32 watchers of its deliveries; half of them are left to `knats tail`.
pub(super) const MAX_FEEDS: usize = 16;
/// Channels and subscriptions of one feed.
const MAX_NAMES: usize = 16;
/// How often a silent feed says that it lives; proxies close what is silent for half a minute.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// What is to be seen.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Asked {
    /// A channel, `NAMESPACE/NAME`; may be repeated, 16 with subscriptions. Everything when neither is given.
    #[serde(default)]
    #[param(inline, required = false, max_items = 8)]
    channel: Vec<Name>,
    /// A subscription, `NAMESPACE/NAME`; may be repeated.
    #[serde(default)]
    #[param(inline, required = false, max_items = 8)]
    subscription: Vec<Name>,
    /// Only what is about events that this CloudEvents SQL expression holds for.
    #[param(inline, required = false)]
    filter: Option<Text>,
    /// Only what is about events of this type.
    #[param(inline, required = false)]
    r#type: Option<Text>,
    /// Only what is about events of this source.
    #[param(inline, required = false)]
    source: Option<Text>,
    /// Only what is about events with this id.
    #[param(inline, required = false)]
    id: Option<Text>,
    /// Only one half.
    #[param(inline, required = false)]
    only: Option<Half>,
    /// Begin so many events back in each channel, before any filter.
    #[param(inline, required = false)]
    last: Option<Back>,
}

#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Half {
    Events,
    Deliveries,
}

impl<S: Send + Sync> FromRequestParts<S> for Asked {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        // The names may be repeated, which a struct cannot be read from.
        let pairs: Vec<(String, String)> = Query::read(&parts.uri)?;
        let (mut channel, mut subscription, mut rest) = (Vec::new(), Vec::new(), Serializer::new(String::from("/?")));
        for (name, value) in pairs {
            let names = match name.as_str() {
                "channel" => &mut channel,
                "subscription" => &mut subscription,
                _ => {
                    rest.append_pair(&name, &value);
                    continue;
                }
            };
            names.push(Name::try_from(value).map_err(|fault| Failure::bad(format!("the query: {name}: {fault}")))?);
        }
        if channel.len() + subscription.len() > MAX_NAMES {
            let detail = format!("the query: more than {MAX_NAMES} channels and subscriptions, expected fewer");
            return Err(Failure::bad(detail));
        }
        let rest: Uri = rest.finish().parse().map_err(|_| Failure::bad("the query: it cannot be read"))?;
        Ok(Self { channel, subscription, ..Query::read(&rest)? })
    }
}

impl Asked {
    fn wanted(self) -> Result<Wanted, Failure> {
        let all = |names: Vec<Name>, sort| names.into_iter().map(move |name| (name.0, Some(sort)));
        let names = all(self.channel, Sort::Channel).chain(all(self.subscription, Sort::Subscription)).collect();
        let text = |text: &Option<Text>| text.as_ref().map(|text| text.0.clone());
        let (kind, source, id) = (text(&self.r#type), text(&self.source), text(&self.id));
        let attributes = [("type", kind.as_deref()), ("source", source.as_deref()), ("id", id.as_deref())];
        let filter = tail::filter(&attributes, text(&self.filter).as_deref());
        Ok(Wanted {
            names,
            begin: self.last.map_or(Begin::Now, |last| Begin::Last(last.0)),
            filter: filter.map_err(|fault| Failure::bad(format!("the query: {fault}")))?,
            only: self.only.map(|half| match half {
                Half::Events => Only::Events,
                Half::Deliveries => Only::Deliveries,
            }),
        })
    }
}

type Back = Number<1, MAX_HISTORY>;

/// One open feed.
struct Feed {
    tail: Tail,
    end: CancellationToken,
    _place: OwnedSemaphorePermit,
}

/// What happens now, as server-sent events: `event` (an event as it was stored; its SSE id is `STREAM/SEQUENCE`), `delivery` (a
/// request to a sink and its outcome) and `note` (what whoever looks on should know). The data of each is one `FeedItem`. It never ends by itself; a feed
/// that is opened again begins anew.
#[utoipa::path(
    get, path = "/feed", tag = "events", params(Asked),
    responses(
        (status = 200, description = "A stream that does not end.", body = String, content_type = "text/event-stream"),
        Always, OfOne
    )
)]
pub(super) async fn feed(State(shared): State<Arc<Shared>>, asked: Asked) -> Result<Response, Failure> {
    let wanted = asked.wanted()?;
    let place = Arc::clone(&shared.feeds).try_acquire_owned();
    let place = place.map_err(|_| Failure::busy(format!("{MAX_FEEDS} feeds are open already, close one")))?;
    let tail = shared.manager.tail(wanted).await?;
    let feed = Feed { tail, end: shared.shutdown.clone(), _place: place };
    let items = stream::unfold(feed, |mut feed| async {
        let item = feed.end.run_until_cancelled(feed.tail.next()).await.flatten()?;
        Some((Ok::<_, Infallible>(told(&item)), feed))
    });
    Ok(Sse::new(items).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

fn told(item: &Item) -> Event {
    // An event's own JSON may be spread over lines, which means nothing in JSON and much to server-sent events.
    let json = serde_json::to_string(item).unwrap_or_default().replace(['\r', '\n'], " ");
    let event = match item {
        Item::Event(stored) => Event::default().event("event").id(format!("{}/{}", stored.stream, stored.sequence)),
        Item::Delivery(_) => Event::default().event("delivery"),
        Item::Note(_) => Event::default().event("note"),
    };
    event.data(json)
}
