//! Looks through what streams hold, newest first and many messages at once. It asks the API, not a consumer: that would bring
//! headers which the client cannot parse, and one such message costs the connection.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jiff::Timestamp;

use super::api::{Api, ApiError, StoredMessage};

/// Sequences that one walker goes through, one message after the other.
const RANGE: u64 = 256;
/// Walkers at once, each with one request under way. More are no faster, and the server has others to serve.
const WALKERS: usize = 64;
/// Messages that are handed over; nobody reads more.
const MAX_FOUND: usize = 256;

/// A part of a stream, both ends included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub stream: String,
    pub first: u64,
    pub last: u64,
}

/// What came of looking.
#[derive(Debug, Default)]
pub struct Looked {
    /// Messages that were wanted, each with its stream.
    pub found: Vec<(String, StoredMessage)>,
    /// Messages that were looked at.
    pub messages: u64,
    /// When the oldest of them was stored.
    pub oldest: Option<Timestamp>,
}

impl Window {
    /// Its sequences in ranges, newest first: each with its first and last.
    fn ranges(&self) -> impl Iterator<Item = (u64, u64)> + use<> {
        let Self { first, last, .. } = *self;
        let span = (last + 1).saturating_sub(first);
        (0..span.div_ceil(RANGE)).map(move |step| {
            let last = last - step * RANGE;
            (last.saturating_sub(RANGE - 1).max(first), last)
        })
    }
}

/// Looks at every message of the windows. `looked` is told how many sequences are done, some at a time.
///
/// # Errors
/// When JetStream does not answer or says no; what is gone meanwhile is not there.
pub async fn scan(
    api: &Api,
    windows: &[Window],
    wanted: impl Fn(&str, &StoredMessage) -> bool,
    looked: impl Fn(u64),
) -> Result<Looked, ApiError> {
    let wanted = &wanted;
    let numbered = (0..windows.len()).flat_map(|number| windows[number].ranges().map(move |range| (number, range)));
    // By number: a closure over borrowed names makes a future that cannot be sent to another thread.
    let walks = numbered.map(|(number, (first, last))| async move {
        let stream = windows[number].stream.as_str();
        let mut part = Looked::default();
        let mut from = first;
        while from <= last
            && let Some(message) = api.next_message(stream, ">", from).await?
            && message.sequence <= last
        {
            from = message.sequence + 1;
            part.messages += 1;
            part.oldest = Some(part.oldest.map_or(message.stored_at, |oldest| oldest.min(message.stored_at)));
            if wanted(stream, &message) {
                part.found.push((stream.to_owned(), message));
            }
        }
        Ok::<_, ApiError>((part, last + 1 - first))
    });
    let sum = |mut all: Looked, (mut part, sequences): (Looked, u64)| {
        looked(sequences);
        part.found.truncate(MAX_FOUND.saturating_sub(all.found.len()));
        all.found.append(&mut part.found);
        all.messages += part.messages;
        all.oldest = [all.oldest, part.oldest].into_iter().flatten().min();
        std::future::ready(Ok(all))
    };
    stream::iter(walks).buffer_unordered(WALKERS).try_fold(Looked::default(), sum).await
}

/// All that a stream holds now; `None` when there is no such stream.
///
/// # Errors
/// When JetStream does not answer or says no.
pub async fn window(api: &Api, stream: &str) -> Result<Option<Window>, ApiError> {
    let Some(info) = api.stream_info(stream).await? else { return Ok(None) };
    let number = |field: &str| info["state"][field].as_u64().unwrap_or(0);
    Ok(Some(Window { stream: stream.to_owned(), first: number("first_seq").max(1), last: number("last_seq") }))
}

/// The message of that sequence; `None` when it is gone.
///
/// # Errors
/// When JetStream does not answer or says no.
pub async fn stored(api: &Api, stream: &str, sequence: u64) -> Result<Option<StoredMessage>, ApiError> {
    Ok(api.next_message(stream, ">", sequence).await?.filter(|message| message.sequence == sequence))
}

/// The first wanted message on a subject among `at_most`, from sequence `from` on.
///
/// # Errors
/// When JetStream does not answer or says no.
pub async fn next_on(
    api: &Api,
    stream: &str,
    subject: &str,
    mut from: u64,
    at_most: usize,
    wanted: impl Fn(&StoredMessage) -> bool,
) -> Result<Option<StoredMessage>, ApiError> {
    for _ in 0..at_most {
        let Some(message) = api.next_message(stream, subject, from).await? else { break };
        if wanted(&message) {
            return Ok(Some(message));
        }
        from = message.sequence + 1;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_cover_a_window_once_newest_first() {
        let ranges = |first, last| {
            let window = Window { stream: "S".into(), first, last };
            window.ranges().collect::<Vec<_>>()
        };
        assert_eq!(ranges(1, 600), [(345, 600), (89, 344), (1, 88)]);
        assert_eq!(ranges(5, 5), [(5, 5)]);
        assert_eq!(ranges(6, 5), []);
        assert_eq!(ranges(1, 0), []);
    }
}
