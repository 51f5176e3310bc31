//! ISO 8601 durations, as delivery options have them, and Go's, as the JetStream templates have them.

use std::time::Duration;

use jiff::fmt::temporal::SpanParser;

/// No delivery option is longer.
const MAX_DELIVERY: Duration = Duration::from_secs(366 * 24 * 3600);

const HOURS_PER_DAY: i128 = 24;
const DAYS_PER_WEEK: i128 = 7;
const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Reads an ISO 8601 duration such as `PT0.2S` or `P1DT2H`. Days are 24 hours; years and months are refused, since their
/// length depends on the date, and so are signs.
///
/// # Errors
/// What was expected instead.
pub(super) fn iso8601(text: &str) -> Result<Duration, String> {
    let expected =
        || "an ISO 8601 duration of weeks, days, hours, minutes and seconds such as PT0.2S or P1DT2H".to_owned();
    let date_part = text.split('T').next().unwrap_or_default();
    // The parser takes lower-case designators, which a cluster's webhook refuses.
    if !text.starts_with('P') || date_part.contains(['Y', 'M']) || text.contains(|c: char| c.is_ascii_lowercase()) {
        return Err(expected());
    }
    let span = SpanParser::new().parse_span(text).map_err(|_| expected())?;
    let hours = (i128::from(span.get_weeks()) * DAYS_PER_WEEK + i128::from(span.get_days())) * HOURS_PER_DAY
        + i128::from(span.get_hours());
    let seconds = (hours * 60 + i128::from(span.get_minutes())) * 60 + i128::from(span.get_seconds());
    let millis = seconds * 1000 + i128::from(span.get_milliseconds());
    let nanos = (millis * 1000 + i128::from(span.get_microseconds())) * 1000 + i128::from(span.get_nanoseconds());
    from_nanos(nanos.try_into().map_err(|_| expected())?)
        .filter(|duration| *duration <= MAX_DELIVERY)
        .ok_or_else(|| "an ISO 8601 duration of at most 366 days".to_owned())
}

/// Reads a duration as Go writes it: `30s`, `1m30s`, `1.5h`, `0`. Signs are refused.
///
/// # Errors
/// What was expected instead.
pub(super) fn go(text: &str) -> Result<Duration, String> {
    let expected = || "a duration such as 30s, 1m30s, 1.5h or 168h (units ns, us, ms, s, m, h)".to_owned();
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    if text.is_empty() {
        return Err(expected());
    }
    let mut rest = text;
    let mut nanos: u128 = 0;
    while !rest.is_empty() {
        let (part, after) = go_part(rest).ok_or_else(expected)?;
        nanos = nanos.checked_add(part).ok_or_else(expected)?;
        rest = after;
    }
    // Go's own bound: nanoseconds in 63 bits, about 292 years. NATS counts the same way.
    if i64::try_from(nanos).is_err() {
        return Err("a duration of at most 2562047h".to_owned());
    }
    from_nanos(nanos).ok_or_else(expected)
}

/// One number with its unit, in nanoseconds, and what follows it.
fn go_part(text: &str) -> Option<(u128, &str)> {
    let number_end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, rest) = text.split_at(number_end);
    let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let scale: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => NANOS_PER_SECOND,
        "m" => 60 * NANOS_PER_SECOND,
        "h" => 3600 * NANOS_PER_SECOND,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let whole = if whole.is_empty() { 0 } else { whole.parse::<u64>().ok()? };
    // Digits beyond the 15th are below a nanosecond even for hours.
    let fraction = &fraction[..fraction.len().min(15)];
    let denominator = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let fraction = if fraction.is_empty() { 0 } else { fraction.parse::<u128>().ok()? };
    Some((u128::from(whole) * scale + fraction * scale / denominator, rest))
}

fn from_nanos(nanos: u128) -> Option<Duration> {
    let seconds = u64::try_from(nanos / NANOS_PER_SECOND).ok()?;
    let subsecond = u32::try_from(nanos % NANOS_PER_SECOND).ok()?;
    Some(Duration::new(seconds, subsecond))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Option<Duration> {
        Some(Duration::from_millis(millis))
    }

    #[test]
    fn iso_8601_durations() {
        for (text, expected) in [
            ("PT0.2S", ms(200)),
            ("PT0,2S", ms(200)),
            ("PT0S", ms(0)),
            ("P0D", ms(0)),
            ("PT1S", ms(1_000)),
            ("PT1M", ms(60_000)),
            ("PT1.5M", ms(90_000)),
            ("PT1H", ms(3_600_000)),
            ("P1DT2H", ms(26 * 3_600_000)),
            ("P1W", ms(7 * 24 * 3_600_000)),
            ("P366D", ms(366 * 24 * 3_600_000)),
            ("P1WT1H1M1.001S", ms(((7 * 24 + 1) * 3600 + 61) * 1000 + 1)),
            ("P366DT0.001S", None),
            ("P53W", None),
            ("PT99999999999999999S", None),
            ("P1Y", None),
            ("P0Y", None),
            ("P1M", None),
            ("P1MT1M", None),
            ("-PT1S", None),
            ("+PT1S", None),
            ("PT-1S", None),
            ("P", None),
            ("PT", None),
            ("P1.5D", None),
            ("pt1s", None),
            ("PT1s", None),
            ("PT1S ", None),
            (" PT1S", None),
            ("PT1S1M", None),
            ("1s", None),
            ("5 hours", None),
            ("0", None),
            ("", None),
            ("PÄ", None),
        ] {
            assert_eq!(iso8601(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn go_durations() {
        for (text, expected) in [
            ("30s", ms(30_000)),
            ("1m30s", ms(90_000)),
            ("1.5h", ms(5_400_000)),
            ("168h", ms(168 * 3_600_000)),
            ("168h0m0s", ms(168 * 3_600_000)),
            ("100ms", ms(100)),
            (".5s", ms(500)),
            ("1.s", ms(1_000)),
            ("0", ms(0)),
            ("0s", ms(0)),
            ("30s1m", ms(90_000)),
            ("1us", Some(Duration::from_micros(1))),
            ("1µs", Some(Duration::from_micros(1))),
            ("7ns", Some(Duration::from_nanos(7))),
            ("0.3333333333333333333h", Some(Duration::from_nanos(1_199_999_999_999))),
            ("2562047h", ms(2_562_047 * 3_600_000)),
            ("2562048h", None),
            ("99999999999999999999h", None),
            ("-1s", None),
            ("+1s", None),
            ("1", None),
            ("s", None),
            (".s", None),
            ("1..5s", None),
            ("1d", None),
            ("1 s", None),
            ("1S", None),
            ("PT1S", None),
            ("", None),
            ("٣s", None),
        ] {
            assert_eq!(go(text).ok(), expected, "{text}");
        }
    }
}
