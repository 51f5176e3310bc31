//! `spec.stream` of a channel: what its stream is made like, as eventing-natss defines it.

use std::time::Duration;

use super::values;
use crate::resource::reader::{At, Fields};
use crate::resource::{Discard, Placement, Retention, Source, Storage, StreamTemplate, duration};

/// The server refuses an age limit or a duplicate window below this, unless it is zero.
const MIN_DURATION: Duration = Duration::from_millis(100);

/// JetStream's own bound.
const MAX_REPLICAS: i128 = 5;

/// Reads `spec.stream`.
pub(super) fn read(stream: &mut Fields<'_>) -> StreamTemplate {
    let override_name = stream.take("overrideName").and_then(|at| at.parsed(values::stream));
    let config = stream.take("config").and_then(|at| at.object(read_config)).unwrap_or_default();
    StreamTemplate { override_name, ..config }
}

fn read_config(config: &mut Fields<'_>) -> StreamTemplate {
    let retentions = [("Limits", Retention::Limits), ("Interest", Retention::Interest), ("Work", Retention::Work)];
    let storages = [("File", Storage::File), ("Memory", Storage::Memory)];
    if let Some(mirror) = config.take("mirror") {
        mirror.fault("a mirror takes no events of its own, so it cannot be a channel; expected sources instead");
    }
    let no_ack = config.take("noAck").and_then(|at| {
        let no_ack = at.boolean()?;
        if no_ack {
            at.fault("without acknowledgements no event is known to be stored, expected false or no value");
        }
        Some(no_ack)
    });
    let duplicate_window = config.take("duplicateWindow");
    let template = StreamTemplate {
        override_name: None,
        additional_subjects: list(config, "additionalSubjects", |at| at.parsed(values::subject)),
        retention: config.take("retention").and_then(|at| {
            let retention = at.choice(&retentions)?;
            match retention {
                Retention::Limits => {}
                Retention::Interest => at.warn("JetStream drops events that come while no subscription is in place"),
                Retention::Work => at.warn("JetStream takes one subscription only, and deletes what it has consumed"),
            }
            Some(retention)
        }),
        max_consumers: config.take("maxConsumers").and_then(|at| values::limit(&at, i32::MAX)),
        max_msgs: config.take("maxMsgs").and_then(|at| values::limit(&at, i64::MAX)),
        max_msgs_per_subject: config.take("maxMsgsPerSubject").and_then(|at| values::limit(&at, i64::MAX)),
        max_bytes: config.take("maxBytes").and_then(|at| values::limit(&at, i64::MAX)),
        discard: config.take("discard").and_then(|at| at.choice(&[("Old", Discard::Old), ("New", Discard::New)])),
        max_age: config.take("maxAge").and_then(|at| stream_duration(&at)),
        max_msg_size: config.take("maxMsgSize").and_then(|at| values::limit(&at, i32::MAX)),
        storage: config.take("storage").and_then(|at| at.choice(&storages)),
        replicas: config.take("replicas").and_then(|at| at.integer(1..=MAX_REPLICAS)),
        no_ack,
        // Zero asks for the server's default, as an absent field does.
        duplicate_window: duplicate_window.as_ref().and_then(stream_duration).filter(|window| !window.is_zero()),
        placement: config.take("placement").and_then(|at| at.object(read_placement)),
        mirror: None,
        sources: list(config, "sources", |at| at.object(read_source)?),
    };
    if let (Some(at), Some(window), Some(max_age)) = (duplicate_window, template.duplicate_window, template.max_age)
        && !max_age.is_zero()
        && window > max_age
    {
        at.fault("is longer than maxAge, expected at most that");
    }
    template
}

fn read_placement(placement: &mut Fields<'_>) -> Placement {
    Placement {
        cluster: placement
            .take("cluster")
            .and_then(|at| at.string())
            .filter(|name| !name.is_empty())
            .map(str::to_owned),
        tags: list(placement, "tags", |at| at.string().map(str::to_owned)),
    }
}

fn read_source(source: &mut Fields<'_>) -> Option<Source> {
    let name = source.require("name", "the name of a stream").and_then(|at| at.parsed(values::stream));
    let start_sequence = source.take("optStartSeq").and_then(|at| values::sequence(&at));
    let start_time = source.take("optStartTime").and_then(|at| values::timestamp(&at));
    let filter_subject = source.take("filterSubject").and_then(|at| at.parsed(values::subject));
    // eventing-natss: the sequence wins where both are given.
    let start_time = start_time.filter(|_| start_sequence.is_none());
    Some(Source { name: name?, start_sequence, start_time, filter_subject })
}

fn list<'a, T>(fields: &mut Fields<'a>, name: &'static str, read: impl Fn(&At<'a>) -> Option<T>) -> Vec<T> {
    fields.take(name).iter().flat_map(At::items).filter_map(|item| read(&item)).collect()
}

/// Zero or what the server takes.
fn stream_duration(at: &At<'_>) -> Option<Duration> {
    at.parsed(|text| match duration::go(text)? {
        duration if !duration.is_zero() && duration < MIN_DURATION => {
            Err("0s or a duration of at least 100ms".to_owned())
        }
        duration => Ok(duration),
    })
}
