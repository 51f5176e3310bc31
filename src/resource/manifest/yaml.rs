//! The documents of one file. The text is split at the document markers before it is parsed, so that each document has its
//! place in the file and a broken one does not hide the faults of the others.

use serde_json::Value;
use serde_saphyr::{Error, UserMessageFormatter};

use super::{Document, Fault};

/// No file has more documents.
const MAX_DOCUMENTS: usize = 1024;

/// After so many broken documents in a file the rest of it is not read; each may have cost the whole parsing budget.
const MAX_BROKEN_DOCUMENTS: usize = 20;

/// Nodes in a document, aliases expanded: what stops an alias bomb.
const MAX_NODES: usize = 100_000;

/// Parses the text of a file and appends what it holds.
pub(super) fn parse(file: &str, text: &str, documents: &mut Vec<Document>, faults: &mut Vec<Fault>) {
    let mut fault = |document: Option<usize>, message: String| {
        faults.push(Fault { file: file.to_owned(), document, path: None, message });
    };
    let mut broken = 0;
    for (position, part) in split(text).iter().enumerate() {
        let index = position + 1;
        if index > MAX_DOCUMENTS || broken == MAX_BROKEN_DOCUMENTS {
            fault(Some(index), "is not read, expected fewer documents or fewer faults before it".to_owned());
            return;
        }
        match serde_saphyr::from_str_with_options::<Option<Value>>(part.text, options()) {
            Ok(None | Some(Value::Null)) => {}
            Ok(Some(value)) => documents.push(Document { file: file.to_owned(), index, value }),
            Err(error) => {
                broken += 1;
                fault(Some(index), describe(&error, part.lines_before));
            }
        }
    }
}

/// Reads a text within a manifest that is YAML itself. The error says what is wrong and at which line of the text.
pub(super) fn value(text: &str) -> Result<Value, String> {
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| describe(&error, 0))
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! { max_nodes: MAX_NODES },
        with_snippet: false,
    }
}

/// The parser's message with the line as the file counts it.
fn describe(error: &Error, lines_before: u64) -> String {
    let message = error.without_snippet().render_with_formatter(&UserMessageFormatter);
    // A fault is one line.
    let message = message.replace('\n', " ");
    let Some(location) = error.location() else { return format!("is not valid YAML: {message}") };
    let (line, column) = (location.line(), location.column());
    let message = message.trim_end_matches(&format!(" at line {line}, column {column}"));
    format!("is not valid YAML: {message} (line {}, column {column})", lines_before + line)
}

/// One document's text and how many lines of the file come before it.
#[derive(Debug, PartialEq, Eq)]
struct Part<'t> {
    text: &'t str,
    lines_before: u64,
}

/// Splits at the lines that YAML reserves for it: `---` begins a document and `...` ends one, even within a block of text.
/// Comments, directives and blank lines outside of documents are not documents.
fn split(text: &str) -> Vec<Part<'_>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut parts = Vec::new();
    let (mut start, mut lines_before, mut explicit) = (0, 0, false);
    let mut close = |start: usize, end: usize, lines_before: u64, explicit: bool| {
        let part = &text[start..end];
        if explicit || part.lines().any(is_content) {
            parts.push(Part { text: part, lines_before });
        }
    };
    let mut position = 0;
    for (line_number, line) in (0_u64..).zip(text.split_inclusive('\n')) {
        let end = position + line.len();
        if is_marker(line, "---") {
            close(start, position, lines_before, explicit);
            (start, lines_before, explicit) = (position, line_number, true);
        } else if is_marker(line, "...") {
            close(start, position, lines_before, explicit);
            (start, lines_before, explicit) = (end, line_number + 1, false);
        }
        position = end;
    }
    close(start, text.len(), lines_before, explicit);
    parts
}

fn is_marker(line: &str, marker: &str) -> bool {
    line.strip_prefix(marker).is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

fn is_content(line: &str) -> bool {
    let line_start = line.trim_start();
    !(line_start.is_empty() || line_start.starts_with('#') || line.starts_with('%'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Vec<(&str, u64)> {
        split(text).iter().map(|part| (part.text, part.lines_before)).collect()
    }

    #[test]
    fn documents_are_split_where_yaml_splits_them() {
        for (text, expected) in [
            ("", vec![]),
            ("# comment\n\n", vec![]),
            ("a: 1", vec![("a: 1", 0)]),
            ("a\n---\nb\n", vec![("a\n", 0), ("---\nb\n", 1)]),
            ("# c\n---\na\n---\n", vec![("---\na\n", 1), ("---\n", 3)]),
            ("--- a\n---\tb", vec![("--- a\n", 0), ("---\tb", 1)]),
            ("a\r\n---\r\nb", vec![("a\r\n", 0), ("---\r\nb", 1)]),
            ("---a\n b: ---\n", vec![("---a\n b: ---\n", 0)]),
            ("%YAML 1.2\n---\na\n...\n# c\n---\nb", vec![("---\na\n", 1), ("---\nb", 5)]),
            ("a\n...\nb", vec![("a\n", 0), ("b", 2)]),
            ("\u{feff}a", vec![("a", 0)]),
        ] {
            assert_eq!(texts(text), expected, "{text:?}");
        }
    }
}
