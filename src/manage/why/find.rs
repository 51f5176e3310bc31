//! Owns how an event is found by its id: in the log of attempts, else by looking through streams, newest first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;

use super::Question;
use crate::channel::attempts::{self, Attempt};
use crate::channel::inventory::{self, ConsumerFacts, StreamFacts};
use crate::channel::scan::{self, Looked, Window};
use crate::channel::stream::stream_name;
use crate::channel::{StoredMessage, dead_letter, name};
use crate::event::{self, Event};
use crate::manage::{Error, Manager, while_doing};
use crate::resource::{ChannelKind, Key};

/// Messages that are looked at when nobody says how far to look back.
const AT_MOST: u64 = 200_000;
/// Events with one id that an answer names.
const MAX_NAMED: usize = 20;

/// One event with everything that was met on the way.
pub(super) struct Found {
    /// As the log of attempts shows it.
    pub(super) source: String,
    pub(super) stream: Option<String>,
    pub(super) channel: Option<(Key, ChannelKind)>,
    /// The sequences at which it is or was stored, oldest first.
    pub(super) sequences: Vec<u64>,
    pub(super) records: Vec<Attempt>,
    /// Dead letters that were met, with their subscriptions.
    pub(super) letters: Vec<(Key, StoredMessage)>,
    /// Those of its stream.
    pub(super) consumers: Vec<ConsumerFacts>,
}

impl Found {
    /// Whether an event is this one.
    pub(super) fn is(&self, event: &Event, question: &Question) -> bool {
        event.id() == question.id && attempts::shown(event.source()) == self.source
    }

    /// The consumer of a subscription.
    pub(super) fn consumer(&self, key: &Key) -> Option<&ConsumerFacts> {
        self.consumers.iter().find(|consumer| consumer.subscription.as_ref() == Some(key))
    }
}

/// What the account holds.
struct World {
    streams: Vec<StreamFacts>,
    consumers: Vec<ConsumerFacts>,
}

/// What was met under the id that was asked for.
#[derive(Default)]
struct Trail {
    /// Stream and source, and the sequences there.
    places: BTreeMap<(String, String), BTreeSet<u64>>,
    records: Vec<Attempt>,
    /// Source, subscription and message.
    letters: Vec<(String, Key, StoredMessage)>,
}

pub(super) async fn find(
    manager: &Manager,
    question: &Question,
    now: Timestamp,
    progress: impl Fn(u64, u64),
) -> Result<Found, Error> {
    let world = World::read(manager).await?;
    let mut trail = Trail::default();
    trail.follow(manager.attempts_of(&question.id, question.source.as_deref()).await?);
    trail.place_letters(&world);
    trail.places.retain(|(stream, _), _| world.is_of(stream, question));
    let mut looked = String::new();
    if trail.places.is_empty() || question.since.is_some() {
        let windows = windows(manager, question, &world, now).await?;
        looked = trail.look(manager, question, &windows, progress).await?;
        trail.place_letters(&world);
        trail.places.retain(|(stream, _), _| world.is_of(stream, question));
    }
    choose(trail, question, &world, &looked)
}

impl World {
    async fn read(manager: &Manager) -> Result<Self, Error> {
        let doing = "cannot list the streams and their consumers";
        let streams = inventory::streams(&manager.api).await.map_err(while_doing(doing))?;
        let consumers = inventory::consumers(&manager.api, &streams).await.map_err(while_doing(doing))?;
        Ok(Self { streams, consumers })
    }

    /// The channels that a stream holds, as far as JetStream or the manifests tell.
    fn channels(&self, stream: &str, question: &Question) -> Vec<(Key, ChannelKind)> {
        let declared = question.desired.iter().flat_map(|desired| desired.channels.values());
        let declared = declared.filter(|channel| stream_name(channel) == stream);
        let declared: Vec<_> = declared.map(|channel| (channel.key.clone(), channel.kind)).collect();
        if !declared.is_empty() {
            return declared;
        }
        let facts = self.streams.iter().find(|facts| facts.name == stream);
        facts.map(|facts| facts.channels(&self.consumers)).unwrap_or_default()
    }

    /// Whether a stream is that of the channel that was asked for, if one was.
    fn is_of(&self, stream: &str, question: &Question) -> bool {
        let Some(wanted) = &question.channel else { return true };
        let channels = self.channels(stream, question);
        channels.iter().any(|(key, _)| key == wanted) || (channels.is_empty() && name::stream(wanted) == stream)
    }

    /// The stream that a subscription reads.
    fn stream_of(&self, subscription: &Key) -> Option<&str> {
        let consumer = self.consumers.iter().find(|consumer| consumer.subscription.as_ref() == Some(subscription));
        consumer.map(|consumer| consumer.stream.as_str())
    }
}

/// What to look through: the streams of channels and the dead letters, as far back as was asked for, else so that the newest of
/// all come to a bounded number.
async fn windows(
    manager: &Manager,
    question: &Question,
    world: &World,
    now: Timestamp,
) -> Result<Vec<(Window, bool)>, Error> {
    let is_channel =
        |facts: &&StreamFacts| !world.channels(&facts.name, question).is_empty() && world.is_of(&facts.name, question);
    let of_channel = |facts: &StreamFacts| Window {
        stream: facts.name.clone(),
        first: facts.first_sequence.max(1),
        last: facts.last_sequence,
    };
    let mut all: Vec<Window> = world.streams.iter().filter(is_channel).map(of_channel).collect();
    let letters = scan::window(&manager.api, dead_letter::STREAM).await;
    all.extend(letters.map_err(while_doing(format!("cannot look at stream {}", dead_letter::STREAM)))?);
    if let Some(since) = question.since {
        let time = now.checked_sub(since).unwrap_or(Timestamp::MIN);
        let mut windows = Vec::new();
        for window in all {
            let doing = while_doing(format!("cannot look through stream {}", window.stream));
            let first =
                manager.api.first_since(&window.stream, window.first..=window.last, time).await.map_err(doing)?;
            windows.push((Window { first, ..window }, true));
        }
        return Ok(windows);
    }
    Ok(share(all))
}

/// The newest of each window, so that they come to [`AT_MOST`] together, and whether that is the whole window. What a small one
/// leaves goes to the larger ones.
fn share(mut windows: Vec<Window>) -> Vec<(Window, bool)> {
    let span = |window: &Window| (window.last + 1).saturating_sub(window.first);
    windows.sort_by_key(span);
    let (mut left, mut others) = (AT_MOST, u64::try_from(windows.len()).unwrap_or(u64::MAX));
    let mut shared = Vec::new();
    for window in windows {
        let part = span(&window).min(left / others);
        (left, others) = (left - part, others - 1);
        let first = window.last + 1 - part;
        let whole = first <= window.first;
        shared.push((Window { first, ..window }, whole));
    }
    shared
}

impl Trail {
    fn follow(&mut self, records: Vec<Attempt>) {
        for record in &records {
            // A redrive goes out from the stream of dead letters.
            if record.stream != dead_letter::STREAM {
                let place = self.places.entry((record.stream.clone(), record.source.clone())).or_default();
                place.insert(record.sequence);
            }
        }
        self.records = records;
    }

    /// Looks through streams; the text says through what.
    async fn look(
        &mut self,
        manager: &Manager,
        question: &Question,
        windows: &[(Window, bool)],
        progress: impl Fn(u64, u64),
    ) -> Result<String, Error> {
        let whole = windows.iter().all(|(_, whole)| *whole);
        let windows: Vec<Window> = windows.iter().map(|(window, _)| window.clone()).collect();
        let total = windows.iter().map(|window| (window.last + 1).saturating_sub(window.first)).sum();
        let done = AtomicU64::new(0);
        let told = |sequences| {
            progress(done.fetch_add(sequences, Ordering::Relaxed) + sequences, total);
        };
        let wanted = |stream: &str, message: &StoredMessage| fits(stream, message, question).is_some();
        let scanned = scan::scan(&manager.api, &windows, wanted, told).await;
        let Looked { found, messages, oldest } =
            scanned.map_err(while_doing("cannot look through the streams of the channels"))?;
        for (stream, message) in found {
            let Some(event) = fits(&stream, &message, question) else { continue };
            let source = attempts::shown(event.source());
            if stream == dead_letter::STREAM {
                self.letters.extend(subscription_of(&message).map(|key| (source, key, message)));
            } else {
                self.places.entry((stream, source)).or_default().insert(message.sequence);
            }
        }
        let streams = windows.len();
        Ok(match (whole, oldest) {
            (_, None) => format!("{streams} streams, which hold nothing as young as that"),
            (true, Some(_)) if question.since.is_none() => format!("all {messages} messages of {streams} streams"),
            (_, Some(oldest)) => format!("the newest {messages} messages of {streams} streams, back to {oldest:.0}"),
        })
    }

    /// A dead letter stands for its event in the stream that its subscription reads; where that is not known, only if nothing else
    /// is known of an event of its source.
    fn place_letters(&mut self, world: &World) {
        let redriven = self.records.iter().filter(|record| record.stream == dead_letter::STREAM);
        let redriven = redriven
            .filter_map(|record| Some((record.source.clone(), Key::new(&record.namespace, &record.subscription)?)));
        let kept = self.letters.iter().map(|(source, subscription, _)| (source.clone(), subscription.clone()));
        for (source, subscription) in redriven.chain(kept).collect::<Vec<_>>() {
            match world.stream_of(&subscription) {
                Some(stream) => {
                    self.places.entry((stream.to_owned(), source)).or_default();
                }
                None if self.places.keys().any(|(_, known)| *known == source) => {}
                None => {
                    self.places.entry((String::new(), source)).or_default();
                }
            }
        }
    }
}

fn choose(trail: Trail, question: &Question, world: &World, looked: &str) -> Result<Found, Error> {
    let asked = Asked(question);
    if trail.places.len() > 1 {
        let mut text = format!("{asked} is the id of {} events; name one of them:", trail.places.len());
        for (stream, source) in trail.places.keys().take(MAX_NAMED) {
            let channel = world.channels(stream, question).first().map(|(key, _)| format!(" --channel {key}"));
            text.push_str(&format!("\n  --source {source:?}{}  (stream {stream})", channel.unwrap_or_default()));
        }
        return Err(Error::Ambiguous(text));
    }
    let Some(((stream, source), sequences)) = trail.places.into_iter().next() else {
        let further = if question.since.is_none() {
            "; --since 168h looks back a week"
        } else {
            "; a longer --since looks further back"
        };
        let further = if looked.starts_with("all ") { "" } else { further };
        return Err(Error::NotFound(format!(
            "{asked} is not known: it is not in the log of attempts, and not in {looked}{further}"
        )));
    };
    let channel = world.channels(&stream, question).into_iter().next();
    let is_here = |subscription: &Key| world.stream_of(subscription).is_none_or(|its| its == stream);
    let letters = trail.letters.into_iter().filter(|(of, subscription, _)| *of == source && is_here(subscription));
    let letters = letters.map(|(_, subscription, message)| (subscription, message)).collect();
    let records = trail.records.into_iter();
    let same =
        |record: &Attempt| record.source == source && (record.stream == stream || record.stream == dead_letter::STREAM);
    let consumers = world.consumers.iter().filter(|consumer| consumer.stream == stream).cloned().collect();
    Ok(Found {
        channel,
        sequences: sequences.into_iter().collect(),
        records: records.filter(same).collect(),
        letters,
        consumers,
        stream: Some(stream).filter(|stream| !stream.is_empty()),
        source,
    })
}

/// The event that was asked for, in words.
struct Asked<'q>(&'q Question);

impl std::fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.0.id)?;
        if let Some(source) = &self.0.source {
            write!(f, " from {source:?}")?;
        }
        if let Some(channel) = &self.0.channel {
            write!(f, " in channel {channel}")?;
        }
        Ok(())
    }
}

/// The event that a message holds, if it is one that was asked for.
fn fits(stream: &str, message: &StoredMessage, question: &Question) -> Option<Event> {
    if stream == dead_letter::STREAM && message.header_pairs().all(|(name, _)| name != "ce-specversion") {
        // A message that was set aside is no event.
        return None;
    }
    let event = event_of(stream, message)?;
    let source_fits = question.source.as_ref().is_none_or(|source| source == event.source());
    (event.id() == question.id && source_fits).then_some(event)
}

/// The event that a message holds; `None` when it is none.
pub(super) fn event_of(stream: &str, message: &StoredMessage) -> Option<Event> {
    // Whatever a header holds that is no text, it is not read as if it were not there.
    std::str::from_utf8(&message.headers).ok()?;
    let origin = event::nats::Origin {
        stream,
        sequence: message.sequence,
        subject: &message.subject,
        stored_at_nanos: message.stored_at.as_nanosecond(),
    };
    event::nats::decode(message.header_pairs(), message.payload.clone(), origin).ok().map(|(event, _)| event)
}

/// Whose dead letter a message is, by its subject.
fn subscription_of(message: &StoredMessage) -> Option<Key> {
    let (namespace, name) = message.subject.strip_prefix("knats.deadletter.")?.split_once('.')?;
    Key::new(namespace, name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_small_streams_leave_goes_to_the_large_ones() {
        let window = |name: &str, first, last| Window { stream: name.to_owned(), first, last };
        let shared = share(vec![window("large", 1, 1_000_000), window("empty", 8, 7), window("small", 11, 20)]);
        let shown: Vec<_> =
            shared.iter().map(|(one, whole)| (one.stream.as_str(), one.first, one.last, *whole)).collect();
        let large = 1_000_001 - (AT_MOST - 10);
        assert_eq!(shown, [("empty", 8, 7, true), ("small", 11, 20, true), ("large", large, 1_000_000, false)]);
    }
}
