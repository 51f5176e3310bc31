//! RFC 3339 timestamps: whether a text is one. The text itself is what an event keeps, so nothing is parsed into a value.

/// Strictly the grammar and the ranges of RFC 3339, leap second 60 included; `t` and `z` may be lower-case.
pub(super) fn is_rfc3339(text: &str) -> bool {
    let bytes = text.as_bytes();
    let Some((date_time, rest)) = bytes.split_at_checked("2020-03-21T12:34:56".len()) else {
        return false;
    };
    let shape = b"0000-00-00T00:00:00";
    let in_shape = date_time.iter().zip(shape).all(|(byte, expected)| match expected {
        b'0' => byte.is_ascii_digit(),
        b'T' => matches!(byte, b'T' | b't'),
        _ => byte == expected,
    });
    in_shape && in_range(date_time) && is_offset(without_fraction(rest))
}

fn in_range(date_time: &[u8]) -> bool {
    let number = |from: usize, to: usize| {
        date_time[from..to].iter().fold(0_u32, |number, digit| number * 10 + u32::from(digit.wrapping_sub(b'0')))
    };
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    (1..=days(year, month)).contains(&day) && number(11, 13) < 24 && number(14, 16) < 60 && number(17, 19) <= 60
}

/// 0 for a month that is none.
fn days(year: u32, month: u32) -> u32 {
    match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 0,
    }
}

/// A dot without digits stays, and is no offset then.
fn without_fraction(rest: &[u8]) -> &[u8] {
    match rest.strip_prefix(b".") {
        Some([first, more @ ..]) if first.is_ascii_digit() => {
            let digits = more.iter().take_while(|byte| byte.is_ascii_digit()).count();
            &more[digits..]
        }
        _ => rest,
    }
}

fn is_offset(rest: &[u8]) -> bool {
    match rest {
        [b'Z' | b'z'] => true,
        [b'+' | b'-', hour @ .., b':', minute_tens @ b'0'..=b'5', minute_ones] => {
            let hour_ok = matches!(hour, [b'0' | b'1', b'0'..=b'9'] | [b'2', b'0'..=b'3']);
            hour_ok && minute_tens.is_ascii_digit() && minute_ones.is_ascii_digit()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rfc_3339_is_a_time() {
        for valid in [
            "2020-03-21T12:34:56.78Z",
            "2020-03-21T12:34:56Z",
            "2020-03-21t12:34:56z",
            "2018-04-05T17:31:00.123456789123+02:00",
            "2018-04-05T17:31:00-00:00",
            "2016-12-31T23:59:60Z",
            "2020-02-29T00:00:00Z",
            "2000-02-29T00:00:00+23:59",
        ] {
            assert!(is_rfc3339(valid), "{valid}");
        }
        for invalid in [
            "",
            "2020",
            "2020-03-21",
            "2020-03-21T12:34:56",
            "2020-03-21 12:34:56Z",
            "2020-03-21T12:34:56.Z",
            "2020-03-21T12:34Z",
            "2020-3-21T12:34:56Z",
            "2020-13-21T12:34:56Z",
            "2020-00-21T12:34:56Z",
            "2020-04-31T12:34:56Z",
            "2020-04-00T12:34:56Z",
            "2019-02-29T12:34:56Z",
            "1900-02-29T12:34:56Z",
            "2020-03-21T24:00:00Z",
            "2020-03-21T12:60:00Z",
            "2020-03-21T12:34:61Z",
            "2020-03-21T12:34:56+24:00",
            "2020-03-21T12:34:56+02:60",
            "2020-03-21T12:34:56+0200",
            "2020-03-21T12:34:56+2:00",
            "2020-03-21T12:34:56+02:00x",
            "2020-03-21T12:34:56ZZ",
            "+020-03-21T12:34:56Z",
            "2020-03-21T12:34:5é",
            "２020-03-21T12:34:56Z",
        ] {
            assert!(!is_rfc3339(invalid), "{invalid}");
        }
    }
}
