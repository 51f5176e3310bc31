//! Durations on the command line: `5s`, `500ms`, `10m`, `1h30m`.

use std::time::Duration;

/// Reads a duration that may be zero.
///
/// # Errors
/// Says what was expected.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|duration| Duration::try_from(duration).ok())
        .ok_or_else(|| "expected a duration such as 5s, 500ms, 10m or 1h30m".to_owned())
}

/// Reads a duration that may not be zero.
///
/// # Errors
/// Says what was expected.
pub(crate) fn parse_positive(text: &str) -> Result<Duration, String> {
    let duration = parse(text)?;
    if duration.is_zero() { Err("expected more than zero, such as 5s or 500ms".to_owned()) } else { Ok(duration) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in
            [("5s", 5000), ("500ms", 500), ("10m", 600_000), ("1h30m", 5_400_000), ("0s", 0), ("1.5s", 1500)]
        {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in ["", "5", "-5s", "soon", "5s later", "1y", "99999999999999999999s"] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(parse_positive("0s").is_err());
    }
}
