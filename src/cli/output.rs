//! What commands print: a table for people, or JSON and YAML for machines, always whole and never paged.

use std::fmt::Write as _;

use anyhow::Context as _;
use clap::ValueEnum;
use jiff::Timestamp;
use serde::Serialize;

/// The shape of the output of a command that lists things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Format {
    /// One aligned line a thing
    #[default]
    Table,
    /// The same with further columns
    Wide,
    /// One JSON array
    Json,
    /// One JSON object a line
    Ndjson,
    /// One YAML list
    Yaml,
}

/// A thing that has a line in a table.
pub(super) trait Row {
    /// The titles of the columns, and whether a column is for `wide` alone.
    const COLUMNS: &'static [(&'static str, bool)];

    /// One cell a column. `now` is for what is told as an age.
    fn cells(&self, now: Timestamp) -> Vec<String>;
}

/// All of `items` in one text.
///
/// # Errors
/// When something cannot be written as JSON or YAML.
pub(super) fn render<T: Row + Serialize>(items: &[T], format: Format, now: Timestamp) -> anyhow::Result<String> {
    Ok(match format {
        Format::Table => table(items, false, now),
        Format::Wide => table(items, true, now),
        Format::Json => serde_json::to_string_pretty(items).context("cannot write JSON")? + "\n",
        Format::Ndjson => {
            let lines = items.iter().map(serde_json::to_string).collect::<Result<Vec<_>, _>>();
            lines.context("cannot write JSON")?.into_iter().map(|line| line + "\n").collect()
        }
        Format::Yaml => serde_saphyr::to_string(&items).context("cannot write YAML")?,
    })
}

/// Aligned columns under their titles.
pub(super) fn table<T: Row>(items: &[T], wide: bool, now: Timestamp) -> String {
    let shown: Vec<usize> = (0..T::COLUMNS.len()).filter(|column| wide || !T::COLUMNS[*column].1).collect();
    let titles = shown.iter().map(|column| T::COLUMNS[*column].0.to_owned()).collect();
    let rows = items.iter().map(|item| {
        let cells = item.cells(now);
        shown.iter().map(|column| cells.get(*column).map(|cell| plain(cell)).unwrap_or_default()).collect()
    });
    let lines: Vec<Vec<String>> = std::iter::once(titles).chain(rows).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..shown.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut written = String::new();
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(written, "{cell:width$}  ");
        }
        text.push_str(written.trim_end());
        text.push('\n');
    }
    text
}

/// Text that came from outside, fit for a terminal: nothing in it can move the cursor or break the line.
pub(super) fn plain(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// How long ago, in the largest unit that says enough: `42s`, `17m`, `5h`, `3d`.
pub(super) fn age(then: Timestamp, now: Timestamp) -> String {
    short(now.as_second().saturating_sub(then.as_second()).max(0).unsigned_abs())
}

/// A number of bytes, in the largest unit that says enough: `812 B`, `5.4 KiB`, `31.0 GiB`.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let power = usize::try_from(count.ilog2() / 10).unwrap_or(1);
    let unit = UNITS.get(power - 1).copied().unwrap_or("EiB");
    // In tenths, rounded down, so that nothing overflows.
    let tenths = (count >> (10 * (power - 1))) * 10 / 1024;
    format!("{}.{} {unit}", tenths / 10, tenths % 10)
}

/// A number of seconds, in the largest unit that says enough.
pub(super) fn short(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds}s"),
        120..=7199 => format!("{}m", seconds / 60),
        7200..=172_799 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[derive(Serialize)]
    struct Thing {
        name: &'static str,
        count: u64,
    }

    impl Row for Thing {
        const COLUMNS: &'static [(&'static str, bool)] = &[("NAME", false), ("COUNT", true), ("AGE", false)];

        fn cells(&self, now: Timestamp) -> Vec<String> {
            vec![self.name.to_owned(), self.count.to_string(), age(Timestamp::UNIX_EPOCH, now)]
        }
    }

    fn rendered(format: Format) -> String {
        let things = [Thing { name: "a", count: 10 }, Thing { name: "longer\u{1b}[2J", count: 2 }];
        render(&things, format, Timestamp::from_second(90).unwrap()).unwrap()
    }

    #[test]
    fn columns_are_aligned_and_control_characters_are_shown_as_such() {
        assert_eq!(rendered(Format::Table), "NAME        AGE\na           90s\nlonger\u{fffd}[2J  90s\n");
    }

    #[test]
    fn wide_has_all_columns() {
        assert!(rendered(Format::Wide).starts_with("NAME        COUNT  AGE\n"), "{}", rendered(Format::Wide));
    }

    #[test]
    fn machines_get_one_array_or_one_object_a_line() {
        let array: serde_json::Value = serde_json::from_str(&rendered(Format::Json)).unwrap();
        assert_eq!(array[1]["count"], 2);
        let lines: Vec<String> = rendered(Format::Ndjson).lines().map(str::to_owned).collect();
        assert_eq!(lines[0], r#"{"name":"a","count":10}"#);
        assert_eq!(lines.len(), 2);
        assert!(rendered(Format::Yaml).contains("count: 10"), "{}", rendered(Format::Yaml));
    }

    #[test]
    fn nothing_is_an_empty_array_and_a_title_line() {
        let none: [Thing; 0] = [];
        let now = Timestamp::UNIX_EPOCH;
        assert_eq!(render(&none, Format::Json, now).unwrap(), "[]\n");
        assert_eq!(render(&none, Format::Table, now).unwrap(), "NAME  AGE\n");
    }

    #[test]
    fn sizes_have_the_largest_unit_that_says_enough() {
        let shown: Vec<String> =
            [0, 1023, 1024, 5555, 1 << 20, (1 << 30) - 1, u64::MAX].into_iter().map(bytes).collect();
        assert_eq!(shown, ["0 B", "1023 B", "1.0 KiB", "5.4 KiB", "1.0 MiB", "1023.9 MiB", "15.9 EiB"]);
    }

    #[test]
    fn ages_have_the_largest_unit_that_says_enough() {
        let shown: Vec<String> = [0, 119, 120, 7199, 7200, 172_799, 172_800].into_iter().map(short).collect();
        assert_eq!(shown, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
    }
}
