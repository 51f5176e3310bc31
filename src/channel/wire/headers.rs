//! Reads the header block of a message: `NATS/1.0`, maybe a status, then `name: value` lines, of which one that begins with
//! white space goes on with the one before.

use std::borrow::Cow;

use smallvec::SmallVec;

const VERSION: &str = "NATS/1.0";

/// The block as text in which every header has one line; `None` when it is not UTF-8.
pub(in crate::channel) fn text(block: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(block).ok()?;
    let folded = |at: usize| matches!(block.get(at + 1), Some(b' ' | b'\t'));
    if !memchr::memchr_iter(b'\n', block).any(folded) {
        return Some(Cow::Borrowed(text));
    }
    Some(Cow::Owned(
        ["\r\n", "\n"].into_iter().fold(text.to_owned(), |text, end| {
            text.replace(&format!("{end} "), " ").replace(&format!("{end}\t"), "\t")
        }),
    ))
}

/// Names and values. Those of a usual event take no memory of their own.
pub(in crate::channel) type Pairs<'a> = SmallVec<[(&'a str, &'a str); 16]>;

/// The headers in order, names as they are written, values without the white space around them; `None` when a line is no header.
pub(in crate::channel) fn pairs(text: &str) -> Option<Pairs<'_>> {
    let mut lines = Lines(text);
    let Some(first) = lines.next() else { return Some(Pairs::new()) };
    let status = first.strip_prefix(VERSION)?.split_whitespace().next();
    if status.is_some_and(|status| status.parse::<u16>().is_err()) {
        return None;
    }
    let mut pairs = Pairs::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_at(memchr::memchr(b':', line.as_bytes())?);
        let value = &value[1..];
        // Without an early end, so that the compiler can look at many bytes at once.
        if !name.bytes().fold(true, |is, byte| is & byte.is_ascii_graphic()) {
            return None;
        }
        pairs.push((name, value.trim_ascii()));
    }
    Some(pairs)
}

/// The lines of a text, as [`str::lines`] gives them, found with memchr.
struct Lines<'a>(&'a str);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        if self.0.is_empty() {
            return None;
        }
        let end = memchr::memchr(b'\n', self.0.as_bytes());
        let (line, rest) = self.0.split_at(end.map_or(self.0.len(), |end| end + 1));
        self.0 = rest;
        let line = line.strip_suffix('\n').map_or(line, |line| line.strip_suffix('\r').unwrap_or(line));
        Some(line)
    }
}

/// The status in the first line, and what it says of itself.
pub(in crate::channel) fn status(block: &[u8]) -> Option<(u16, String)> {
    let line = block.strip_prefix(VERSION.as_bytes())?.split(|byte| *byte == b'\r' || *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    let (code, description) = line.trim().split_once(' ').unwrap_or((line.trim(), ""));
    Some((code.parse().ok()?, description.trim().to_owned()))
}

/// Whether this says that a pull is still known to the server, and no more.
pub(in crate::channel) fn is_heartbeat(block: &[u8]) -> bool {
    block.strip_prefix(VERSION.as_bytes()).is_some_and(|rest| rest.starts_with(b" 100"))
}

/// The value of a header, whatever stands in the others.
pub(in crate::channel) fn find(block: &[u8], name: &str) -> Option<String> {
    let value = |line: &[u8]| Some(line.strip_prefix(name.as_bytes())?.strip_prefix(b":")?.trim_ascii().to_vec());
    String::from_utf8(block.split(|byte| *byte == b'\n').find_map(value)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(block: &[u8]) -> Option<Vec<(String, String)>> {
        let text = text(block)?;
        Some(pairs(&text)?.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn headers_are_read_as_they_are_written() {
        let check = |block: &str, expected: &[(&str, &str)]| {
            let expected: Vec<_> =
                expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            assert_eq!(read(block.as_bytes()), Some(expected), "{block:?}");
        };
        check("", &[]);
        check("NATS/1.0\r\n\r\n", &[]);
        check("NATS/1.0 503\r\n\r\n", &[]);
        check("NATS/1.0\r\nA-b:  c d \r\nA-b:e:f\r\nx:\r\n\r\n", &[("A-b", "c d"), ("A-b", "e:f"), ("x", "")]);
        check("NATS/1.0\r\na: b\r\n c\r\n\td\r\ne: é\r\n\r\n", &[("a", "b c\td"), ("e", "é")]);
    }

    #[test]
    fn what_is_no_header_is_unreadable() {
        let blocks: [&[u8]; 6] = [
            b"NATS/1.0\r\na: \xff\r\n\r\n",
            b"NATS/1.0\r\na b: c\r\n\r\n",
            b"NATS/1.0\r\n a: c\r\n\r\n",
            b"NATS/1.0\r\nno colon\r\n\r\n",
            b"NATS/1.0 abc\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
        ];
        for block in blocks {
            assert_eq!(read(block), None, "{}", block.escape_ascii());
        }
    }

    #[test]
    fn a_status_is_in_the_first_line() {
        assert_eq!(status(b"NATS/1.0 404 No Messages\r\n\r\n"), Some((404, "No Messages".to_owned())));
        assert_eq!(status(b"NATS/1.0 503\r\n\r\n"), Some((503, String::new())));
        assert_eq!(status(b"NATS/1.0\r\na: 1\r\n\r\n"), None);
        assert_eq!(status(b""), None);
    }

    #[test]
    fn one_header_is_found_among_unreadable_ones() {
        let block = b"NATS/1.0\r\nbad: \xff\r\nPin: a b \r\nPinned: c\r\n\r\n";
        assert_eq!(find(block, "Pin").as_deref(), Some("a b"));
        assert_eq!((find(block, "pin"), find(block, "bad"), find(b"", "Pin")), (None, None, None));
    }
}
