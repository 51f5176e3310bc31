//! `spec.consumerConfigTemplate` of a channel: what the consumers of its subscriptions are made like, as eventing-natss
//! defines it.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::values;
use crate::resource::reader::Fields;
use crate::resource::{ConsumerTemplate, DeliverPolicy, duration};

/// An ack wait outside of these is a mistake: redelivery while the request runs, or none for a day.
const ACK_WAIT: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);

/// Reads `spec.consumerConfigTemplate`.
pub(super) fn read(template: &mut Fields<'_>) -> ConsumerTemplate {
    read_fields_without_effect(template);
    ConsumerTemplate {
        deliver_policy: read_deliver_policy(template),
        ack_wait: template.take("ackWait").and_then(|at| {
            let in_range = |text: &str| duration::go(text).map(|wait| ACK_WAIT.contains(&wait).then_some(wait));
            at.parsed(|text| in_range(text)?.ok_or_else(|| "a duration from 1s to 24h".to_owned()))
        }),
        max_ack_pending: template.take("maxAckPending").and_then(|at| values::limit(&at, i32::MAX)).map(i64::from),
        filter_subject: template.take("filterSubject").and_then(|at| at.parsed(values::subject)),
        replay_original: template.take("replayPolicy").and_then(|at| {
            // Go clients always write the field, empty where it is not set.
            at.choice(&[("Instant", Some(false)), ("Original", Some(true)), ("", None)])?
        }),
        rate_limit_bps: template.take("rateLimitBPS").and_then(|at| {
            at.has_no_effect();
            at.integer(0..=u64::MAX.into()).filter(|bps| *bps != 0)
        }),
        sample_frequency: template.take("sampleFrequency").and_then(|at| at.parsed(percentage)),
    }
}

/// How the events are fetched and how often they are retried is decided elsewhere: by the dispatcher and by `delivery`.
fn read_fields_without_effect(template: &mut Fields<'_>) {
    if let Some(at) = template.take("maxDeliver") {
        at.integer::<i32>(-1..=i32::MAX.into());
        at.has_no_effect();
    }
    if let Some(at) = template.take("consumerType") {
        at.choice(&[("Push", ()), ("Pull", ())]);
        at.has_no_effect();
    }
    if let Some(at) = template.take("fetchBatchSize") {
        at.integer::<i32>(1..=i32::MAX.into());
        at.has_no_effect();
    }
    if let Some(at) = template.take("fetchMaxWait") {
        at.integer::<i64>(0..=i64::MAX.into());
        at.has_no_effect();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    All,
    Last,
    New,
    ByStartSequence,
    ByStartTime,
}

/// The policy and its start, which must match.
fn read_deliver_policy(template: &mut Fields<'_>) -> Option<DeliverPolicy> {
    let policy = template.take("deliverPolicy");
    let policies = [
        ("All", Policy::All),
        ("Last", Policy::Last),
        ("New", Policy::New),
        ("ByStartSequence", Policy::ByStartSequence),
        ("ByStartTime", Policy::ByStartTime),
    ];
    let chosen = policy.as_ref().and_then(|at| at.choice(&policies));
    let sequence_at = template.take("optStartSeq");
    let sequence = sequence_at.as_ref().and_then(values::sequence);
    let time_at = template.take("optStartTime");
    let time = time_at.as_ref().and_then(values::timestamp);
    // A policy that could not be read matches anything: one fault is enough.
    let unreadable = policy.is_some() && chosen.is_none();
    if let Some(at) = sequence_at
        && sequence.is_some()
        && !unreadable
        && chosen != Some(Policy::ByStartSequence)
    {
        at.fault("counts only with a deliverPolicy of ByStartSequence, expected that or no value");
    }
    if let Some(at) = &time_at
        && !unreadable
        && chosen != Some(Policy::ByStartTime)
    {
        at.fault("counts only with a deliverPolicy of ByStartTime, expected that or no value");
    }
    let missing = |field: &str| {
        template.at().fault(format!("{field} is missing, expected with that deliverPolicy"));
        None
    };
    match chosen? {
        Policy::All => Some(DeliverPolicy::All),
        Policy::Last => Some(DeliverPolicy::Last),
        Policy::New => Some(DeliverPolicy::New),
        Policy::ByStartSequence => sequence.map(DeliverPolicy::ByStartSequence).or_else(|| missing("optStartSeq")),
        Policy::ByStartTime if time_at.is_none() => missing("optStartTime"),
        Policy::ByStartTime => time.map(DeliverPolicy::ByStartTime),
    }
}

/// `30` or `30%`.
fn percentage(text: &str) -> Result<u8, &'static str> {
    let digits = text.strip_suffix('%').unwrap_or(text);
    let percent = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse::<u8>().ok());
    percent.flatten().filter(|percent| *percent <= 100).ok_or("a percentage from 0 to 100, such as \"30\" or \"30%\"")
}
