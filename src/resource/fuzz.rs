//! What holds of manifests and durations whatever they say. `crate::fuzz` makes the input up.

use std::time::Duration;

use super::{Desired, Resolver, duration, manifest};

const FILE: &str = "fuzz.yaml";

/// A manifest file: what is wrong with it is told with its place, as text that can be shown; what is right comes to the same when it is read
/// again.
pub(crate) fn manifests(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (documents, mut faults) = manifest::of_text(FILE, text);
    let resolver = Resolver::default();
    match Desired::build(&documents, &resolver) {
        Ok(desired) => assert_eq!(Desired::build(&documents, &resolver).as_ref(), Ok(&desired)),
        Err(found) => {
            assert!(!found.is_empty());
            faults.extend(found);
        }
    }
    for fault in faults {
        assert!(fault.file == FILE && fault.document.is_some(), "{fault:?} has no place");
        let text = fault.to_string();
        // A fault of CESQL has a caret below.
        let is_shown = |character: char| character == '\n' || !character.is_control();
        assert!(!fault.message.is_empty() && text.chars().all(is_shown), "{text:?} cannot be shown");
    }
}

/// Durations of both kinds: within their bounds, and the same when they are written in the smallest unit.
pub(crate) fn durations(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match duration::iso8601(text) {
        Ok(read) => {
            assert!(read <= Duration::from_secs(366 * 24 * 3600));
            let written = format!("PT{}.{:09}S", read.as_secs(), read.subsec_nanos());
            assert_eq!(duration::iso8601(&written), Ok(read), "{written}");
        }
        Err(fault) => assert!(fault.contains("duration")),
    }
    match duration::go(text) {
        Ok(read) => assert_eq!(duration::go(&format!("{}ns", read.as_nanos())), Ok(read)),
        Err(fault) => assert!(fault.contains("duration")),
    }
}
