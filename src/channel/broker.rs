//! What a broker does that a channel does not: it counts how often an event may still come round, notes its arrival, and puts
//! its type into the subject, so that JetStream itself can select by it.

use std::collections::BTreeSet;

use jiff::Timestamp;

use super::publish::PublishError;
use crate::event::Event;

/// The extension that counts down each time an event enters a broker (Knative's loop guard).
pub const TTL: &str = "knativebrokerttl";
const ARRIVAL_TIME: &str = "knativearrivaltime";
const FIRST_TTL: i32 = 255;
/// No namespace and no name of a resource begins like this, so the subject is nobody else's.
const TYPE_TOKEN: &str = "_type";
/// The longest token for a type. Types that share one cost each other a delivery that the filter refuses.
const MAX_TOKEN: usize = 100;

/// The event as a broker stores it.
pub(super) fn admit(event: &Event) -> Result<Event, PublishError> {
    let ttl = match event.attribute(TTL).and_then(|ttl| ttl.parse::<i32>().ok()) {
        Some(left) => left.saturating_sub(1),
        None => FIRST_TTL,
    };
    if ttl <= 0 {
        return Err(PublishError::TtlUsedUp);
    }
    let mut admitted = event.clone();
    let arrival = Timestamp::now().to_string();
    for (name, value) in [(TTL, ttl.to_string()), (ARRIVAL_TIME, arrival)] {
        admitted.set_extension(name, &value).map_err(|error| PublishError::Refused(error.to_string()))?;
    }
    Ok(admitted)
}

/// Takes the loop guard off an event of a broker: filters and subscribers are not shown it.
pub(super) fn take_ttl(event: &mut Event) -> Option<String> {
    let ttl = event.attribute(TTL).map(str::to_owned);
    event.remove_extension(TTL);
    ttl
}

/// The subject of an event of that type, below the broker's own.
pub fn subject(broker: &str, kind: &str) -> String {
    let token: String = kind
        .chars()
        .take(MAX_TOKEN)
        .map(|character| if character.is_ascii_alphanumeric() || character == '-' { character } else { '_' })
        .collect();
    format!("{broker}.{TYPE_TOKEN}.{token}")
}

/// The pattern that takes the events of all types.
pub(super) fn all_subjects(broker: &str) -> String {
    format!("{broker}.{TYPE_TOKEN}.*")
}

/// The subjects that bring the events of these types, and those that somebody else put on the broker's plain subject.
pub(super) fn filter_subjects(broker: &str, types: &[String]) -> Vec<String> {
    let mut subjects: BTreeSet<String> = types.iter().map(|kind| subject(broker, kind)).collect();
    subjects.insert(broker.to_owned());
    subjects.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Builder, SpecVersion};

    fn event(ttl: Option<&str>) -> Event {
        let mut builder = Builder::new(SpecVersion::V10);
        for (name, value) in [("id", "1"), ("source", "/s"), ("type", "t")] {
            builder.attribute(name, value).unwrap();
        }
        if let Some(ttl) = ttl {
            builder.attribute(TTL, ttl).unwrap();
        }
        builder.build().unwrap()
    }

    #[test]
    fn the_ttl_starts_at_255_counts_down_and_ends() {
        let check = |ttl, expected: Option<&str>| {
            let admitted = admit(&event(ttl)).ok();
            assert_eq!(admitted.as_ref().and_then(|event| event.attribute(TTL)), expected, "{ttl:?}");
        };
        check(None, Some("255"));
        check(Some("255"), Some("254"));
        check(Some("2"), Some("1"));
        check(Some("1"), None);
        check(Some("0"), None);
        check(Some("-2147483648"), None);
        check(Some("soon"), Some("255"));
    }

    #[test]
    fn a_type_is_one_token_whatever_it_holds() {
        assert_eq!(subject("b.default", "com.example.X"), "b.default._type.com_example_X");
        assert_eq!(subject("b.default", "a b>*é"), "b.default._type.a_b___");
        assert_eq!(filter_subjects("b.default", &["a.b".into(), "a_b".into()]), ["b.default", "b.default._type.a_b"]);
    }
}
