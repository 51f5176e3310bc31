//! What a person sees of a long run: a line on standard error that is drawn again and again, on a terminal only.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::{Duration, Instant};

/// A run that is over sooner shows nothing.
const FIRST: Duration = Duration::from_millis(500);
const BETWEEN: Duration = Duration::from_millis(100);
const WIDTH: usize = 30;

/// The line, as long as it is wanted.
#[derive(Debug)]
pub(super) struct Progress {
    started: Instant,
    next: Duration,
    of: Option<u64>,
    verb: &'static str,
    drawn: bool,
    wanted: bool,
}

impl Progress {
    /// `of` is how many events there will be, when that is known; `verb` what is done with them.
    pub(super) fn new(of: Option<u64>, verb: &'static str, wanted: bool) -> Self {
        Self { started: Instant::now(), next: FIRST, of, verb, drawn: false, wanted }
    }

    /// Whether standard error shows it to a person.
    pub(super) fn is_possible() -> bool {
        io::stderr().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Draws the line when it is time to.
    pub(super) fn show(&mut self, done: u64) {
        let elapsed = self.elapsed();
        if !self.wanted || elapsed < self.next {
            return;
        }
        self.next = elapsed + BETWEEN;
        self.drawn = true;
        // It is a service: who closed standard error does not want it.
        let _ = write!(io::stderr(), "\r\x1b[K{}", line(done, self.of, self.verb, elapsed));
    }

    /// Takes the line away.
    pub(super) fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "shown only")]
fn line(done: u64, of: Option<u64>, verb: &str, elapsed: Duration) -> String {
    let rate = done as f64 / elapsed.as_secs_f64();
    let mut line = String::new();
    if let Some(of) = of {
        let full = (WIDTH as u128 * u128::from(done.min(of)) / u128::from(of.max(1))) as usize;
        // Writing to a String cannot fail.
        let _ = write!(line, "[{}{}] {done}/{of}", "#".repeat(full), ".".repeat(WIDTH - full));
    } else {
        let _ = write!(line, "{done}");
    }
    let _ = write!(line, " {verb}, {rate:.0}/s");
    if let Some(of) = of.filter(|of| done > 0 && *of > done) {
        let left = ((of - done) as f64 / rate).ceil() as u64;
        let _ = write!(line, ", {}:{:02} left", left / 60, left % 60);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_how_much_is_done_how_fast_and_how_long_it_takes_yet() {
        for (done, of, seconds, expected) in [
            (0, Some(10), 1, "[..............................] 0/10 accepted, 0/s"),
            (100, Some(1000), 1, "[###...........................] 100/1000 accepted, 100/s, 0:09 left"),
            (1000, Some(1_000_000), 10, "[..............................] 1000/1000000 accepted, 100/s, 166:30 left"),
            (10, Some(10), 2, "[##############################] 10/10 accepted, 5/s"),
            (42, None, 2, "42 accepted, 21/s"),
            (u64::MAX, Some(u64::MAX), 1, "[##############################]"),
        ] {
            let line = line(done, of, "accepted", Duration::from_secs(seconds));
            assert!(line.starts_with(expected), "{line}");
        }
    }

    #[test]
    fn what_is_not_wanted_is_not_drawn() {
        let mut progress = Progress::new(Some(1), "accepted", false);
        progress.next = Duration::ZERO;
        progress.show(1);
        assert!(!progress.drawn);
    }
}
