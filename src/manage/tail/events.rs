//! Events as streams take them, each stream from its cursor on.

use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::{Begin, Item, MAX_HISTORY, Only, StoredEvent, counted, passes};
use crate::channel::watch::{Delivery, Told};
use crate::channel::{Api, ApiError, StoredMessage, StreamState};
use crate::filter::Filter;

/// How often streams are asked for what is new. Each costs a question a tick.
const TICK: Duration = Duration::from_millis(200);
/// With many streams ticks are further apart, so that questions stay below a hundred a second.
const TICK_PER_STREAM: Duration = Duration::from_millis(10);
/// How often new channels are looked for where all are followed.
const LOOK_FOR_CHANNELS: Duration = Duration::from_secs(5);
/// Messages of one stream that are read before it is another's turn, and those that are in memory at once.
const TURN: u64 = 256;
const CHUNK: u64 = 16;
/// A tail that is further behind than this skips, or it would tell of yesterday for ever.
const MAX_BEHIND: u64 = 2 * MAX_HISTORY;
/// How far behind it is after that.
const AFTER_SKIP: u64 = 1000;

/// Reads streams and takes deliveries, each in its place.
pub(super) struct Reader {
    pub(super) api: Api,
    pub(super) items: mpsc::Sender<Item>,
    pub(super) deliveries: mpsc::Receiver<Told>,
    pub(super) cursors: Vec<Cursor>,
    /// What is to be said before anything else.
    pub(super) notes: Vec<Item>,
    /// When it began, if it follows channels that are made later too.
    pub(super) follows_all_since: Option<Timestamp>,
    pub(super) is_away: bool,
    pub(super) filter: Option<Filter>,
    pub(super) only: Option<Only>,
}

/// How far a stream was read.
pub(super) struct Cursor {
    stream: String,
    channel: String,
    created: String,
    /// The sequence of the message that is read next.
    next: u64,
    /// Messages that cannot be shown.
    unreadable: u64,
    /// What went wrong last, until all is well again.
    trouble: Option<String>,
}

/// Nobody takes items any more.
struct Unwanted;

impl Cursor {
    /// Where to begin in a stream, and what is to be said of it; `None` when there is no such stream.
    pub(super) async fn begin(api: &Api, stream: &str, begin: Begin) -> Result<Option<(Self, Option<Item>)>, ApiError> {
        let Some(state) = api.stream_state(stream).await? else { return Ok(None) };
        let end = state.last + 1;
        let wanted = match begin {
            Begin::Now => end,
            Begin::Last(count) => end.saturating_sub(count),
            Begin::At(time) => api.first_since(stream, state.first..=state.last, time).await?,
        };
        let next = wanted.max(end.saturating_sub(MAX_HISTORY)).clamp(state.first.min(end), end);
        let note = (wanted < next && matches!(begin, Begin::At(_))).then(|| {
            let left_out = counted(next - wanted, "event", "events");
            Item::note(format!("{stream}: the newest {MAX_HISTORY} are shown, {left_out} before them are not"))
        });
        Ok(Some((Self::at(stream, &state, next), note)))
    }

    fn at(stream: &str, state: &StreamState, next: u64) -> Self {
        Self {
            stream: stream.to_owned(),
            channel: state.channel.as_ref().map_or_else(|| stream.to_owned(), ToString::to_string),
            created: state.created.clone(),
            next,
            unreadable: 0,
            trouble: None,
        }
    }

    /// Comes to terms with what the stream is now; says what of it cannot be shown.
    fn follow(&mut self, state: &StreamState) -> Option<String> {
        let stream = &self.stream;
        if state.created != self.created || state.last + 1 < self.next {
            self.created.clone_from(&state.created);
            self.next = state.first;
            return Some(format!("stream {stream} was made anew"));
        }
        if state.first > self.next {
            let gone = counted(state.first - self.next, "event", "events");
            self.next = state.first;
            return Some(format!("{gone} of {stream} left the stream before they could be shown"));
        }
        let behind = state.last + 1 - self.next;
        if behind > MAX_BEHIND {
            self.next = state.last + 1 - AFTER_SKIP;
            let skipped = counted(behind - AFTER_SKIP, "event", "events");
            return Some(format!("too slow to follow: skipped {skipped} of {stream}"));
        }
        None
    }
}

impl Reader {
    /// Works until nobody takes items any more.
    pub(super) async fn run(mut self) {
        for note in std::mem::take(&mut self.notes) {
            if self.send(note).await.is_err() {
                return;
            }
        }
        let count = u32::try_from(self.cursors.len()).unwrap_or(u32::MAX);
        let mut ticks = tokio::time::interval(TICK.max(TICK_PER_STREAM.saturating_mul(count)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut channels_looked_for = Instant::now();
        let mut listening = true;
        loop {
            let done = tokio::select! {
                told = self.deliveries.recv(), if listening => match told {
                    Some(told) => self.told(told).await,
                    None => {
                        listening = false;
                        Ok(())
                    }
                },
                _ = ticks.tick() => {
                    if let Some(since) = self.follows_all_since
                        && channels_looked_for.elapsed() > LOOK_FOR_CHANNELS
                    {
                        self.look_for_channels(since).await;
                        channels_looked_for = Instant::now();
                    }
                    self.look_at_all().await
                }
                () = self.items.closed() => return,
            };
            if let Err(Unwanted) = done {
                return;
            }
        }
    }

    async fn look_at_all(&mut self) -> Result<(), Unwanted> {
        if self.only == Some(Only::Deliveries) {
            return Ok(());
        }
        let mut unfinished: Vec<usize> = (0..self.cursors.len()).collect();
        while !unfinished.is_empty() {
            let mut again = Vec::new();
            for index in unfinished {
                if self.look(index).await? {
                    again.push(index);
                }
                // A history of thousands must not keep deliveries waiting until there is no room for them.
                while let Ok(told) = self.deliveries.try_recv() {
                    self.tell(told).await?;
                }
            }
            unfinished = again;
        }
        Ok(())
    }

    /// Shows a delivery, and before it what its stream has taken until then.
    async fn told(&mut self, told: Told) -> Result<(), Unwanted> {
        if let Told::Delivery(delivery) = &told
            && self.only.is_none()
            && let Some(index) = self
                .cursors
                .iter()
                .position(|cursor| cursor.stream == delivery.attempt.stream && cursor.next <= delivery.attempt.sequence)
        {
            self.look(index).await?;
        }
        self.tell(told).await
    }

    async fn tell(&self, told: Told) -> Result<(), Unwanted> {
        match told {
            Told::Missed(count) => {
                let skipped = counted(count, "delivery", "deliveries");
                self.send(Item::note(format!("too slow to follow: skipped {skipped}"))).await
            }
            Told::Delivery(delivery) if self.is_wanted(&delivery) => {
                self.send(Item::Delivery(Box::new(delivery.attempt))).await
            }
            Told::Delivery(_) => Ok(()),
        }
    }

    fn is_wanted(&self, delivery: &Delivery) -> bool {
        self.filter.is_none() || delivery.event().is_some_and(|event| passes(self.filter.as_ref(), &event))
    }

    /// Reads on in one stream. True when there is more.
    async fn look(&mut self, index: usize) -> Result<bool, Unwanted> {
        let stream = self.cursors[index].stream.clone();
        let state = match self.api.stream_state(&stream).await {
            Ok(Some(state)) => state,
            Ok(None) => return self.trouble(index, format!("stream {stream} is gone")).await,
            Err(error) => return self.failed(index, &error).await,
        };
        self.is_away = false;
        self.cursors[index].trouble = None;
        if let Some(said) = self.cursors[index].follow(&state) {
            self.send(Item::note(said)).await?;
        }
        let mut from = self.cursors[index].next;
        let to = state.last.min(from + TURN - 1);
        while from <= to {
            let end = to.min(from + CHUNK - 1);
            let messages = match self.api.messages(&stream, from, end).await {
                Ok(messages) => messages,
                Err(error) => return self.failed(index, &error).await,
            };
            for message in messages {
                self.cursors[index].next = message.sequence + 1;
                self.show(index, message).await?;
            }
            from = end + 1;
            self.cursors[index].next = from;
        }
        Ok(to < state.last)
    }

    async fn show(&mut self, index: usize, message: StoredMessage) -> Result<(), Unwanted> {
        let cursor = &mut self.cursors[index];
        let StoredMessage { sequence, stored_at: time, .. } = message;
        match message.event(&cursor.stream) {
            Ok(event) if passes(self.filter.as_ref(), &event) => {
                let (channel, stream) = (cursor.channel.clone(), cursor.stream.clone());
                self.send(Item::Event(Box::new(StoredEvent { time, channel, stream, sequence, event }))).await
            }
            Ok(_) => Ok(()),
            Err(reason) => {
                cursor.unreadable += 1;
                // At each power of ten: a stream full of them must not drown the events.
                if 10_u64.pow(cursor.unreadable.ilog10()) != cursor.unreadable {
                    return Ok(());
                }
                let count = counted(cursor.unreadable, "message", "messages");
                let text = format!("{}: {count} so far cannot be shown, now {sequence}: {reason}", cursor.stream);
                self.send(Item::note(text)).await
            }
        }
    }

    async fn failed(&mut self, index: usize, error: &ApiError) -> Result<bool, Unwanted> {
        if *error != ApiError::Disconnected {
            let text = format!("cannot look into stream {}: {error}", self.cursors[index].stream);
            return self.trouble(index, text).await;
        }
        if !std::mem::replace(&mut self.is_away, true) {
            self.send(Item::note("NATS is not connected; once it is back, this goes on where it was")).await?;
        }
        Ok(false)
    }

    /// Says what is wrong, once.
    async fn trouble(&mut self, index: usize, text: String) -> Result<bool, Unwanted> {
        let cursor = &mut self.cursors[index];
        if cursor.trouble.as_ref() != Some(&text) {
            cursor.trouble = Some(text.clone());
            self.send(Item::note(text)).await?;
        }
        Ok(false)
    }

    /// Follows channels that were not there yet, from their first event on.
    async fn look_for_channels(&mut self, since: Timestamp) {
        // What is wrong will be said by the look at the streams that are known.
        for stream in self.api.channel_streams().await.unwrap_or_default() {
            if self.cursors.iter().any(|cursor| cursor.stream == stream) {
                continue;
            }
            if let Ok(Some(state)) = self.api.stream_state(&stream).await {
                let is_new = state.created.parse::<Timestamp>().is_ok_and(|created| created >= since);
                let next = if is_new { state.first } else { state.last + 1 };
                self.cursors.push(Cursor::at(&stream, &state, next));
            }
        }
    }

    async fn send(&self, item: Item) -> Result<(), Unwanted> {
        self.items.send(item).await.map_err(|_| Unwanted)
    }
}
