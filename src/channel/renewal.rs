//! How long a pull waits at the server before it is renewed, how often the server gives a sign of life meanwhile, and how
//! long a silence is too long. A subscription to which nothing happens asks ever more rarely.

use std::time::Duration;

/// How long the pull of a subscription waits that has had something to do. When it was for nothing, the consumer is looked at.
const BUSY: Duration = Duration::from_secs(15);
/// How long pulls wait at most: each that was for nothing waits twice as long as the one before. So this is also how long it may
/// go unnoticed that an idle consumer was paused; 5,000 idle subscriptions make 42 pulls a second.
const IDLE: Duration = Duration::from_secs(120);
/// The same for a pinned consumer, which takes a bridge that does not pull for gone. It never grows.
const PINNED: Duration = Duration::from_secs(3);
/// The most often that the server gives a sign of life.
const HEARTBEAT_MIN: Duration = Duration::from_millis(1500);
/// The most rarely. It bounds how long a pull may be waited for that the server knows nothing of any more.
const HEARTBEAT_MAX: Duration = Duration::from_secs(15);
/// The shortest silence that counts as one: less could be a busy server.
const SILENCE_MIN: Duration = Duration::from_secs(11);

/// The times of one consumer's next pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Renewal {
    shortest: Duration,
    longest: Duration,
    expires: Duration,
}

impl Renewal {
    pub(super) fn new(pinned: bool) -> Self {
        let (shortest, longest) = if pinned { (PINNED, PINNED) } else { (BUSY, IDLE) };
        Self { shortest, longest, expires: shortest }
    }

    /// How long the pull waits.
    pub(super) fn expires(&self) -> Duration {
        self.expires
    }

    /// How often the server says that a waiting pull is still known to it.
    pub(super) fn heartbeat(&self) -> Duration {
        (self.expires / 4).clamp(HEARTBEAT_MIN, HEARTBEAT_MAX)
    }

    /// Without a word for so long, the pull is lost: one heartbeat may be late.
    pub(super) fn silence(&self) -> Duration {
        (self.heartbeat() * 2 + Duration::from_secs(1)).max(SILENCE_MIN)
    }

    /// A message has come.
    pub(super) fn brought_something(&mut self) {
        self.expires = self.shortest;
    }

    /// The pull has run its whole time.
    pub(super) fn ran_out(&mut self) {
        self.expires = (self.expires * 2).min(self.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(renewal: &Renewal) -> (f64, f64, f64) {
        (renewal.expires().as_secs_f64(), renewal.heartbeat().as_secs_f64(), renewal.silence().as_secs_f64())
    }

    #[test]
    fn an_idle_subscription_asks_ever_more_rarely_until_something_comes() {
        let mut renewal = Renewal::new(false);
        let mut seen = vec![seconds(&renewal)];
        for _ in 0..4 {
            renewal.ran_out();
            seen.push(seconds(&renewal));
        }
        let expected =
            [(15.0, 3.75, 11.0), (30.0, 7.5, 16.0), (60.0, 15.0, 31.0), (120.0, 15.0, 31.0), (120.0, 15.0, 31.0)];
        assert_eq!(seen, expected);
        renewal.brought_something();
        assert_eq!(seconds(&renewal), (15.0, 3.75, 11.0));
    }

    #[test]
    fn a_pinned_consumer_is_pulled_from_all_the_time() {
        let mut renewal = Renewal::new(true);
        renewal.ran_out();
        assert_eq!(seconds(&renewal), (3.0, 1.5, 11.0));
    }
}
