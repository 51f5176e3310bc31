//! Sizes on the command line and in output: `500MB`, `2GiB`, plain bytes.

const UNITS: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1000),
    ("B", 1),
];

/// Reads a size in bytes.
///
/// # Errors
/// Says what was expected.
pub(super) fn parse(text: &str) -> Result<u64, String> {
    let split = UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, *factor)));
    let (number, factor) = split.unwrap_or((text, 1));
    let bytes = number.trim_end().parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
    bytes.ok_or_else(|| "expected a size such as 500MB, 2GiB or a number of bytes".to_owned())
}

/// A size as people read it.
pub(super) fn shown(bytes: u64) -> String {
    let (unit, factor) = UNITS.into_iter().take(3).find(|(_, factor)| bytes >= *factor).unwrap_or(("B", 1));
    let tenths = bytes.saturating_mul(10) / factor;
    if factor == 1 || tenths.is_multiple_of(10) {
        format!("{} {unit}", tenths / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in
            [("0", 0), ("17", 17), ("17B", 17), ("2kB", 2000), ("3 MB", 3_000_000), ("1KiB", 1024), ("2GiB", 2 << 30)]
        {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in ["", "x", "-1", "1.5GB", "GB", "1TB", "99999999999GiB"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_largest_unit_that_fits() {
        for (bytes, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (3 << 30, "3 GiB")] {
            assert_eq!(shown(bytes), text);
        }
    }
}
