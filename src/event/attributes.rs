//! Owns how attributes lie in memory: one text and a list of places in it, so that an event costs two allocations and not
//! two for each attribute. It knows no rules; those are in `validate`.

use std::ops::Range;

/// Names and values in the order in which they were set. A dozen of them: looking one up is a scan.
#[derive(Debug, Clone)]
pub(super) struct Attributes {
    text: String,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone)]
struct Entry {
    name: Range<usize>,
    value: Range<usize>,
    /// Whether the value is the same in a header. Kept, for it is asked each time the event is written.
    is_plain: bool,
}

/// Room for a usual event, so that reading one grows nothing: four to eight attributes of some thirty characters.
const TEXT_ROOM: usize = 320;
const ENTRY_ROOM: usize = 8;

impl Attributes {
    pub(super) fn with_room() -> Self {
        Self { text: String::with_capacity(TEXT_ROOM), entries: Vec::with_capacity(ENTRY_ROOM) }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.entry(name).map(|entry| &self.text[entry.value.clone()])
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    /// As bytes, which need no look at where characters begin.
    fn entry(&self, name: &str) -> Option<&Entry> {
        let text = self.text.as_bytes();
        self.entries.iter().find(|entry| &text[entry.name.clone()] == name.as_bytes())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.entries.iter().map(|entry| (&self.text[entry.name.clone()], &self.text[entry.value.clone()]))
    }

    /// As [`Self::iter`], and whether the value is the same in a header.
    pub(super) fn iter_plain(&self) -> impl Iterator<Item = (&str, &str, bool)> {
        let text = &self.text;
        self.entries.iter().map(|entry| (&text[entry.name.clone()], &text[entry.value.clone()], entry.is_plain))
    }

    /// Adds or overwrites.
    pub(super) fn set(&mut self, name: &str, value: &str, is_plain: bool) {
        self.remove(name);
        self.push(name, value, is_plain);
    }

    /// Adds a name that is not there yet.
    pub(super) fn push(&mut self, name: &str, value: &str, is_plain: bool) {
        let name = self.append(name);
        let value = self.append(value);
        self.entries.push(Entry { name, value, is_plain });
    }

    /// The text of a removed attribute stays behind until the event goes.
    pub(super) fn remove(&mut self, name: &str) {
        let text = &self.text;
        self.entries.retain(|entry| &text[entry.name.clone()] != name);
    }

    fn append(&mut self, part: &str) -> Range<usize> {
        let start = self.text.len();
        self.text.push_str(part);
        start..self.text.len()
    }
}

impl PartialEq for Attributes {
    /// Events are equal whatever the order of their attributes.
    fn eq(&self, other: &Self) -> bool {
        self.entries.len() == other.entries.len() && self.iter().all(|(name, value)| other.get(name) == Some(value))
    }
}

impl Eq for Attributes {}
