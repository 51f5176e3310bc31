//! Owns how a story is put together from what was found: the event, the consumers of its stream, its attempts, its dead letters.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;

use super::find::{Found, event_of};
use super::{Chapter, Letter, Matching, Question, State, Story};
use crate::channel::attempts::{self, Attempt, Next, Purpose, Reach};
use crate::channel::inventory::ConsumerFacts;
use crate::channel::{StoredMessage, Whereabouts, broker, dead_letter, name, scan, whereabouts};
use crate::event::Event;
use crate::filter::{Filter, Verdict};
use crate::manage::{Error, Manager, while_doing};
use crate::resource::{ChannelKind, Key, shown_url};

/// Dead letters of one subscription that are looked through for the one of an event, from when it was given up on.
const MAX_LETTERS_LOOKED: usize = 1000;
/// What a dead letter has beside the attributes of its event.
const ERROR_ATTRIBUTES: [&str; 3] = ["knativeerrordest", "knativeerrorcode", "knativeerrordata"];

/// Tells the story of what was found.
pub(super) async fn tell(
    manager: &Manager,
    question: &Question,
    mut found: Found,
    now: Timestamp,
) -> Result<Story, Error> {
    let sequence = found.sequences.last().copied();
    let message = stored(manager, question, &found, sequence).await?;
    let subscriptions = subscriptions_of(question, &found);
    let mut places = Vec::new();
    for key in &subscriptions {
        places.push(place(manager, &found, sequence, message.as_ref(), key).await?);
    }
    // After the consumers: what they have settled is in the log by then, and not the other way round.
    found.records = manager.attempts_of(&question.id, Some(&found.source)).await?;
    found
        .records
        .retain(|record| Some(&record.stream) == found.stream.as_ref() || record.stream == dead_letter::STREAM);
    let letters = letters(manager, question, &found, sequence).await?;
    let reach = attempts::reach(&manager.api, now).await;
    let reach = reach.map_err(while_doing(format!("cannot look at the log of attempts ({})", attempts::STREAM)))?;

    let event = message.as_ref().zip(found.stream.as_ref()).and_then(|(message, stream)| event_of(stream, message));
    let mut event = event.or_else(|| letters.iter().find_map(|(_, letter)| original(letter)));
    if let (Some(event), Some((_, ChannelKind::Broker))) = (&mut event, &found.channel) {
        // Filters are not shown it.
        event.remove_extension(broker::TTL);
    }
    let heard_of = found.records.iter().map(|record| record.time);
    let heard_of = heard_of.chain(letters.iter().map(|(_, letter)| letter.stored_at)).min();
    let received_at = message.as_ref().map(|message| message.stored_at).or(heard_of);
    let facts = Facts { event: event.as_ref(), sequence, received_at, reach, now };
    let chapters = subscriptions.iter().zip(places);
    let chapters = chapters.map(|(key, place)| chapter(question, &found, &letters, &facts, key, place)).collect();
    let kind = event.as_ref().map(Event::kind).or(found.records.first().map(|record| record.kind.as_str()));
    Ok(Story {
        id: question.id.clone(),
        kind: kind.unwrap_or_default().to_owned(),
        channel: found.channel.as_ref().map(|(key, _)| key.to_string()),
        sequence,
        also_at: found.sequences.iter().rev().skip(1).copied().collect(),
        received_at,
        stored: message.is_some(),
        attributes: event.as_ref().map(other_attributes).unwrap_or_default(),
        data_bytes: event.as_ref().map(|event| event.data().map_or(0, bytes::Bytes::len)),
        attempt_log_from: match reach {
            Reach::Absent => None,
            Reach::From(time) => Some(time),
        },
        subscriptions: chapters,
        stream: found.stream,
        source: event.as_ref().map_or(found.source, |event| event.source().to_owned()),
    })
}

/// The event's message, if its stream still holds it. A stream that was made anew counts from 1 once more, so what is at the
/// sequence may be another one.
async fn stored(
    manager: &Manager,
    question: &Question,
    found: &Found,
    sequence: Option<u64>,
) -> Result<Option<StoredMessage>, Error> {
    let (Some(stream), Some(sequence)) = (&found.stream, sequence) else { return Ok(None) };
    let doing = while_doing(format!("cannot read message {sequence} of stream {stream}"));
    let message = scan::stored(&manager.api, stream, sequence).await.map_err(doing)?;
    Ok(message.filter(|message| event_of(stream, message).is_some_and(|event| found.is(&event, question))))
}

/// Where the event stands with the consumer of a subscription, if there is one.
async fn place(
    manager: &Manager,
    found: &Found,
    sequence: Option<u64>,
    message: Option<&StoredMessage>,
    key: &Key,
) -> Result<Option<Whereabouts>, Error> {
    let (Some(stream), Some(consumer), Some(sequence)) = (&found.stream, found.consumer(key), sequence) else {
        return Ok(None);
    };
    let doing = while_doing(format!("cannot look at consumer {} of stream {stream}", consumer.name));
    whereabouts::of(&manager.api, stream, &consumer.name, sequence, message).await.map_err(doing)
}

fn other_attributes(event: &Event) -> BTreeMap<String, String> {
    let others = event.attributes().filter(|(name, _)| !matches!(*name, "id" | "source" | "type"));
    others.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What is known of the event itself.
struct Facts<'f> {
    event: Option<&'f Event>,
    sequence: Option<u64>,
    received_at: Option<Timestamp>,
    reach: Reach,
    now: Timestamp,
}

/// The subscriptions of the channel: those with a consumer, those that the manifests name, and those that had to do with the event.
fn subscriptions_of(question: &Question, found: &Found) -> BTreeSet<Key> {
    let channel = found.channel.as_ref().map(|(key, _)| key);
    let of_channel =
        |consumer: &&ConsumerFacts| consumer.channel.as_ref().zip(channel).is_none_or(|(its, channel)| its == channel);
    let there = found.consumers.iter().filter(of_channel).filter_map(|consumer| consumer.subscription.clone());
    let declared = question.desired.iter().flat_map(|desired| desired.subscriptions.values());
    let declared = declared.filter(|subscription| Some(&subscription.channel) == channel);
    let told = found.records.iter().filter_map(|record| Key::new(&record.namespace, &record.subscription));
    let kept = found.letters.iter().map(|(key, _)| key.clone());
    there.chain(declared.map(|subscription| subscription.key.clone())).chain(told).chain(kept).collect()
}

/// The kept dead letters of the event: those that were met, and those that its attempts tell of.
async fn letters(
    manager: &Manager,
    question: &Question,
    found: &Found,
    sequence: Option<u64>,
) -> Result<Vec<(Key, StoredMessage)>, Error> {
    let doing = || while_doing(format!("cannot look through stream {}", dead_letter::STREAM));
    let mut letters = found.letters.clone();
    let mut window = None;
    for record in found.records.iter().filter(|record| record.next == Next::Kept) {
        let Some(key) = Key::new(&record.namespace, &record.subscription) else { continue };
        if letters.iter().any(|(known, letter)| *known == key && letter.stored_at >= record.time) {
            continue;
        }
        if window.is_none() {
            window = scan::window(&manager.api, dead_letter::STREAM).await.map_err(doing())?;
        }
        let Some(window) = &window else { break };
        let from =
            manager.api.first_since(&window.stream, window.first..=window.last, record.time).await.map_err(doing())?;
        let is_it = |message: &StoredMessage| is_letter_of(question, found, sequence, message);
        let subject = name::dead_letter_subject(&key);
        let stream = dead_letter::STREAM;
        let letter = scan::next_on(&manager.api, stream, &subject, from, MAX_LETTERS_LOOKED, is_it).await;
        letters.extend(letter.map_err(doing())?.map(|letter| (key, letter)));
    }
    letters.sort_by_key(|(_, letter)| letter.sequence);
    letters.dedup_by_key(|(_, letter)| letter.sequence);
    Ok(letters)
}

fn is_letter_of(question: &Question, found: &Found, sequence: Option<u64>, message: &StoredMessage) -> bool {
    let header = |wanted: &str| message.header_pairs().find(|(name, _)| *name == wanted).map(|(_, value)| value);
    // One that was too large for its attributes says where it was.
    if let (Some(stream), Some(at)) = (header(dead_letter::ORIGIN_STREAM), header(dead_letter::ORIGIN_SEQUENCE)) {
        return Some(stream) == found.stream.as_deref() && at.parse().ok() == sequence;
    }
    event_of(dead_letter::STREAM, message).is_some_and(|event| found.is(&event, question))
}

/// The event that a dead letter was made of.
fn original(letter: &StoredMessage) -> Option<Event> {
    let mut event = event_of(dead_letter::STREAM, letter)?;
    for attribute in ERROR_ATTRIBUTES {
        event.remove_extension(attribute);
    }
    Some(event)
}

fn letter(message: &StoredMessage) -> Letter {
    let event = event_of(dead_letter::STREAM, message);
    let told = |name: &str| event.as_ref().and_then(|event| event.attribute(name)).map(str::to_owned);
    Letter {
        sequence: message.sequence,
        kept_at: message.stored_at,
        code: told("knativeerrorcode"),
        destination: told("knativeerrordest").map(|url| shown_url(&url)),
    }
}

fn chapter(
    question: &Question,
    found: &Found,
    letters: &[(Key, StoredMessage)],
    facts: &Facts<'_>,
    key: &Key,
    whereabouts: Option<Whereabouts>,
) -> Chapter {
    let is_its = |record: &&Attempt| {
        let of_subscription = record.namespace == key.namespace() && record.subscription == key.name();
        of_subscription && (record.stream == dead_letter::STREAM || Some(record.sequence) == facts.sequence)
    };
    let attempts: Vec<Attempt> = found.records.iter().filter(is_its).cloned().collect();
    let letters: Vec<Letter> = letters.iter().filter(|(of, _)| of == key).map(|(_, message)| letter(message)).collect();
    let filter = matching(question, found.consumer(key), key, facts.event);
    let reading = Reading { filter: &filter, attempts: &attempts, letters: &letters, facts };
    let (state, detail, retry_at) = reading.state(whereabouts);
    Chapter { subscription: key.to_string(), filter, state, detail, retry_at, attempts, dead_letters: letters }
}

/// What the filter of a subscription says: as the manifests have it, else as its consumer notes it.
fn matching(question: &Question, consumer: Option<&ConsumerFacts>, key: &Key, event: Option<&Event>) -> Matching {
    let unknown = |because: &str| Matching { verdict: None, because: because.to_owned(), clauses: Vec::new() };
    let declared = question.desired.as_ref().and_then(|desired| desired.subscriptions.get(key));
    let filter = match (declared, consumer) {
        (Some(subscription), _) => subscription.filter.clone(),
        (None, Some(ConsumerFacts { filter: Some(noted), .. })) => match Filter::from_declared(noted) {
            Ok(filter) => Some(filter),
            Err(_) => return unknown("its consumer notes a filter that cannot be read; -f PATH names the manifests"),
        },
        // One that names its channel would have noted its filter.
        (None, Some(ConsumerFacts { channel: Some(_), .. })) => None,
        (None, _) => return unknown("its filter is not known here; -f PATH names the manifests"),
    };
    let Some(filter) = filter else {
        let because = "it has no filter".to_owned();
        return Matching { verdict: Some(Verdict::Match), because, clauses: Vec::new() };
    };
    let Some(event) = event else {
        return unknown("the event is gone from its stream, and with it what the filter looked at");
    };
    let explanation = filter.explain(event);
    Matching { verdict: Some(explanation.verdict), because: explanation.to_string(), clauses: explanation.clauses }
}

/// What tells the state of an event at one subscription.
struct Reading<'r> {
    filter: &'r Matching,
    attempts: &'r [Attempt],
    letters: &'r [Letter],
    facts: &'r Facts<'r>,
}

type Told = (State, String, Option<Timestamp>);

impl Reading<'_> {
    fn state(&self, whereabouts: Option<Whereabouts>) -> Told {
        let told = |state, detail: &str| (state, detail.to_owned(), None);
        let untried = self.attempts.is_empty() && self.letters.is_empty();
        match (whereabouts, self.filter.verdict) {
            (_, Some(Verdict::NoMatch)) if untried => told(State::NotWanted, "its filter does not match"),
            (_, Some(Verdict::Error)) if untried => {
                told(State::NotWanted, "its filter cannot be evaluated on the event, which is no match")
            }
            (Some(Whereabouts::BeforeStart), _) if untried => {
                told(State::BeforeStart, "it was stored before the place where the subscription began")
            }
            (Some(Whereabouts::NotSelected { subjects }), _) => {
                let detail =
                    format!("its subject is not among those that the consumer selects: {}", subjects.join(", "));
                (State::NotWanted, detail, None)
            }
            (Some(Whereabouts::Ahead { undelivered, paused, idle }), _) => {
                let cause = match (paused, idle) {
                    (true, _) => "; its consumer is paused",
                    (_, true) => "; nobody asks for them: no bridge runs it, it is paused, or its breaker holds it",
                    _ => "",
                };
                let events = if undelivered == 1 { "event waits" } else { "events wait" };
                (State::NotDelivered, format!("not yet delivered: {undelivered} {events}{cause}"), None)
            }
            (Some(Whereabouts::BeforeStart | Whereabouts::Settled), _) => (State::Settled, self.outcome(), None),
            (Some(Whereabouts::Unsettled), _) => {
                self.open(State::InDelivery, "delivered, waiting for its acknowledgement")
            }
            (Some(Whereabouts::Open { unsettled, delivered }), _) => {
                let detail = format!(
                    "delivered; acknowledged, or one of {unsettled} of the last {delivered} events that are not: JetStream does not \
                     say which"
                );
                self.open(State::Open, &detail)
            }
            (None, _) if untried => {
                told(State::Unknown, "there is no consumer: no bridge has made it, or it was deleted")
            }
            (None, _) => self.open(State::Unknown, "JetStream does not tell any more"),
        }
    }

    /// Of an event that is delivered: what follows from its last attempt.
    fn open(&self, otherwise: State, detail: &str) -> Told {
        let Some(last) = self.attempts.last() else {
            if !self.letters.is_empty() {
                return (State::Settled, self.outcome(), None);
            }
            return (otherwise, format!("{detail}; {}", self.no_records()), None);
        };
        match (last.next, last.retry_at) {
            (Next::Retry, Some(due)) if due > self.facts.now => {
                (State::AwaitingRetry, format!("waiting for its retry until {due:.3}"), Some(due))
            }
            (Next::Retry, due) => {
                let due = due.map(|due| format!(" at {due:.3}")).unwrap_or_default();
                let detail = format!(
                    "its retry was due{due}: it is under way, or nobody asks for it (no bridge, paused, breaker)"
                );
                (State::AwaitingRetry, detail, last.retry_at)
            }
            (Next::Reply, _) => {
                (State::InDelivery, "the subscriber answered, and its reply is on its way".to_owned(), None)
            }
            (Next::DeadLetterSink, _) => {
                (State::InDelivery, "given up, and its dead letter is on its way".to_owned(), None)
            }
            (Next::Kept, _) if self.letters.is_empty() => {
                (State::InDelivery, format!("given up, and about to be kept in {}", dead_letter::STREAM), None)
            }
            (Next::Settled | Next::Kept, _) => (State::Settled, self.outcome(), None),
        }
    }

    /// How an event that is settled came to its end.
    fn outcome(&self) -> String {
        if let Some(letter) = self.letters.last() {
            return format!("settled: given up, kept in {} at sequence {}", dead_letter::STREAM, letter.sequence);
        }
        let Some(last) = self.attempts.last() else { return format!("settled; {}", self.no_records()) };
        match (last.next, last.purpose) {
            (Next::Settled, Purpose::Subscriber) if last.redrive => "settled: delivered by a redrive".to_owned(),
            (Next::Settled, Purpose::Subscriber) => format!("settled: delivered by attempt {}", last.attempt),
            (Next::Settled, Purpose::Reply) => format!("settled: delivered, its reply went to {}", last.sink),
            (Next::Settled, Purpose::DeadLetter) => format!("settled: given up, its dead letter went to {}", last.sink),
            (Next::Kept, _) => {
                format!("settled: given up; its dead letter is no longer in {}", dead_letter::STREAM)
            }
            (Next::Retry | Next::Reply | Next::DeadLetterSink, _) => {
                "settled; the log does not have its last attempt".to_owned()
            }
        }
    }

    /// What it means that there are no records.
    fn no_records(&self) -> String {
        match (self.facts.reach, self.facts.received_at) {
            (Reach::Absent, _) => {
                "there is no log of attempts; `serve --attempt-log failures` or `all` would keep one".to_owned()
            }
            (Reach::From(time), received_at) if received_at.is_none_or(|received| received < time) => {
                format!("the log of attempts reaches back to {time:.0} only")
            }
            (Reach::From(_), _) => {
                "no failures recorded; `serve --attempt-log all` would record each attempt".to_owned()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use serde_json::json;

    use super::*;

    const NOW: &str = "2026-03-02T10:00:00Z";

    fn attempt(purpose: &str, next: &str, retry_at: Option<&str>) -> Attempt {
        let record = json!({
            "time": "2026-03-02T09:00:00Z", "namespace": "default", "subscription": "s", "stream": "S", "sequence": 7,
            "id": "1", "source": "/s", "type": "t", "attempt": 1, "purpose": purpose, "sink": "http://b/",
            "duration_ms": 1.0, "next": next, "retry_at": retry_at,
        });
        serde_json::from_value(record).unwrap()
    }

    fn letter() -> Letter {
        Letter { sequence: 9, kept_at: NOW.parse().unwrap(), code: None, destination: None }
    }

    #[track_caller]
    fn check(
        whereabouts: Option<Whereabouts>,
        verdict: Verdict,
        attempts: &[Attempt],
        letters: &[Letter],
        state: State,
        detail: &str,
    ) {
        let filter = Matching { verdict: Some(verdict), because: String::new(), clauses: Vec::new() };
        let reach = Reach::From("2026-03-01T00:00:00Z".parse().unwrap());
        let now = NOW.parse().unwrap();
        let facts = Facts { event: None, sequence: Some(7), received_at: Some(now), reach, now };
        let (found, told, _) = Reading { filter: &filter, attempts, letters, facts: &facts }.state(whereabouts);
        assert!(found == state && told.contains(detail), "{found:?}: {told}");
    }

    #[test]
    fn a_filter_that_leaves_the_event_out_counts_unless_it_was_delivered_all_the_same() {
        let settled = || Some(Whereabouts::Settled);
        check(settled(), Verdict::NoMatch, &[], &[], State::NotWanted, "does not match");
        check(settled(), Verdict::Error, &[], &[], State::NotWanted, "cannot be evaluated");
        let delivered = [attempt("subscriber", "settled", None)];
        check(settled(), Verdict::NoMatch, &delivered, &[], State::Settled, "delivered by attempt 1");
        let subjects = vec!["a.>".to_owned()];
        check(Some(Whereabouts::NotSelected { subjects }), Verdict::Match, &[], &[], State::NotWanted, "selects: a.>");
    }

    #[test]
    fn what_jetstream_leaves_open_the_last_attempt_decides() {
        let open = || Some(Whereabouts::Open { unsettled: 2, delivered: 10 });
        let check = |attempts: &[Attempt], letters: &[Letter], state, detail: &str| {
            check(open(), Verdict::Match, attempts, letters, state, detail);
        };
        check(
            &[],
            &[],
            State::Open,
            "one of 2 of the last 10 events that are not: JetStream does not say which; no failures recorded",
        );
        check(
            &[attempt("subscriber", "retry", Some("2026-03-02T10:00:01Z"))],
            &[],
            State::AwaitingRetry,
            "until 2026-03-02T10:00:01",
        );
        check(
            &[attempt("subscriber", "retry", Some("2026-03-02T09:59:59Z"))],
            &[],
            State::AwaitingRetry,
            "was due at 2026-03-02T09:59:59",
        );
        check(&[attempt("subscriber", "reply", None)], &[], State::InDelivery, "its reply is on its way");
        check(
            &[attempt("subscriber", "dead_letter_sink", None)],
            &[],
            State::InDelivery,
            "its dead letter is on its way",
        );
        check(&[attempt("subscriber", "kept", None)], &[], State::InDelivery, "about to be kept");
        check(
            &[attempt("subscriber", "kept", None)],
            &[letter()],
            State::Settled,
            "kept in KN_DEADLETTERS at sequence 9",
        );
        check(&[attempt("reply", "settled", None)], &[], State::Settled, "its reply went to http://b/");
        check(&[], &[letter()], State::Settled, "at sequence 9");
    }

    #[test]
    fn without_a_consumer_the_log_and_the_dead_letters_tell() {
        check(None, Verdict::Match, &[], &[], State::Unknown, "there is no consumer");
        check(None, Verdict::Match, &[attempt("subscriber", "settled", None)], &[], State::Settled, "attempt 1");
        check(None, Verdict::Match, &[], &[letter()], State::Settled, "at sequence 9");
    }

    #[test]
    fn a_settled_event_says_what_the_log_cannot_know() {
        let settled = || Some(Whereabouts::Settled);
        check(
            settled(),
            Verdict::Match,
            &[attempt("subscriber", "retry", None)],
            &[],
            State::Settled,
            "does not have its last",
        );
        check(
            settled(),
            Verdict::Match,
            &[attempt("subscriber", "kept", None)],
            &[],
            State::Settled,
            "no longer in KN_DEADLETTERS",
        );
        check(settled(), Verdict::Match, &[], &[], State::Settled, "no failures recorded");
    }
}
