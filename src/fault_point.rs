//! Named places on an event's way where a test can make the bridge fail, and what a crash there may cost ([`points`]).
//!
//! Each `.await` between a request and its 202, and between a pulled message and its settlement, is wrapped in [`at`]. In a
//! release build that is the future itself. In a debug build a file that the variable `KNATS_FAULT` names may hold the name of a
//! point and of an action; the next event that comes there takes the file away, which is how a test knows, and meets its fault.

mod points;

pub use points::{Point, Receiver, Row, Way};

/// Goes on with `future`, here.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn at<F: Future>(_: Point, future: F) -> F {
    future
}

/// Goes on with `future`, and fails before it, meanwhile or after it when a test wants that.
#[cfg(debug_assertions)]
pub fn at<'a, F: Future<Output: Send> + Send + 'a>(
    point: Point,
    future: F,
) -> std::pin::Pin<Box<dyn Future<Output = F::Output> + Send + 'a>> {
    let mut future = Box::pin(future);
    Box::pin(async move {
        armed::pass(point, armed::Side::Before).await;
        armed::pass_meanwhile(point, &mut future).await;
        let output = future.await;
        armed::pass(point, armed::Side::After).await;
        output
    })
}

/// Goes on with a connection until it ends by itself, or until a fault cuts it: then there is nothing to give.
#[cfg(not(debug_assertions))]
pub async fn cuttable<F: Future>(connection: F) -> Option<F::Output> {
    Some(connection.await)
}

/// Goes on with a connection until it ends by itself, or until a fault cuts it: then there is nothing to give.
#[cfg(debug_assertions)]
pub async fn cuttable<F: Future>(connection: F) -> Option<F::Output> {
    armed::cuttable(connection).await
}

/// Calls `reconnect` at each cut, for a connection that only its library can end.
#[cfg(debug_assertions)]
pub async fn at_each_cut<F: Future>(reconnect: impl Fn() -> F) {
    if armed::FILE.is_none() {
        return;
    }
    let mut cuts = armed::CUTS.subscribe();
    while cuts.changed().await.is_ok() {
        reconnect().await;
    }
}

#[cfg(debug_assertions)]
mod armed {
    use std::path::Path;
    use std::sync::LazyLock;
    use std::time::Duration;

    use tokio::sync::watch;

    use super::Point;

    /// Names the file that arms a fault: a point's name and an action's, with a space between them.
    const VARIABLE: &str = "KNATS_FAULT";
    /// Longer than the ack wait and the publish timeout of the tests that arm it.
    const STALL: Duration = Duration::from_millis(1600);
    /// What was said before the point has left by then; what is said at it has not when the fault is after it.
    const PAUSE: Duration = Duration::from_millis(30);
    /// How long a cut may take to be noticed.
    const CUT: Duration = Duration::from_secs(1);

    pub(super) static FILE: LazyLock<Option<std::ffi::OsString>> = LazyLock::new(|| std::env::var_os(VARIABLE));
    /// How many connections have been asked to end, and how often one of them has.
    pub(super) static CUTS: LazyLock<watch::Sender<u64>> = LazyLock::new(|| watch::Sender::new(0));
    static CUT_OFF: LazyLock<watch::Sender<u64>> = LazyLock::new(|| watch::Sender::new(0));

    #[derive(Clone, Copy, PartialEq, Eq)]
    pub(super) enum Side {
        Before,
        Meanwhile,
        After,
    }

    #[derive(Clone, Copy)]
    enum Action {
        Kill,
        Cut,
        Stall,
    }

    /// Meets the fault that is armed for this side of this point, if any.
    pub(super) async fn pass(point: Point, side: Side) {
        let Some(action) = FILE.as_deref().and_then(|file| claim(Path::new(file), point, side)) else { return };
        if side == Side::Before {
            tokio::time::sleep(PAUSE).await;
        }
        match action {
            Action::Kill => std::process::abort(),
            Action::Cut => cut().await,
            Action::Stall => tokio::time::sleep(STALL).await,
        }
    }

    /// Ends the process a moment after `future` has begun, whether that is at its end by then or not.
    pub(super) async fn pass_meanwhile<F: Future + Unpin>(point: Point, future: &mut F) {
        let Some(file) = FILE.as_deref() else { return };
        if claim(Path::new(file), point, Side::Meanwhile).is_some() {
            let _ = futures_util::future::join(tokio::time::timeout(PAUSE, future), tokio::time::sleep(PAUSE)).await;
            std::process::abort();
        }
    }

    /// Takes the fault, so that nobody else meets it.
    fn claim(file: &Path, point: Point, side: Side) -> Option<Action> {
        let text = std::fs::read_to_string(file).ok()?;
        let action = match (text.trim().strip_prefix(point.name())?, side) {
            (" kill-before", Side::Before) | (" kill-meanwhile", Side::Meanwhile) | (" kill-after", Side::After) => {
                Action::Kill
            }
            (" cut-before", Side::Before) | (" cut-after", Side::After) => Action::Cut,
            (" stall", Side::Before) => Action::Stall,
            _ => return None,
        };
        std::fs::remove_file(file).ok()?;
        Some(action)
    }

    /// Ends the connections, and comes back when that of the events is known to be gone.
    async fn cut() {
        let mut off = CUT_OFF.subscribe();
        off.mark_unchanged();
        CUTS.send_modify(|cuts| *cuts += 1);
        // Without a connection there is none to end.
        let _ = tokio::time::timeout(CUT, off.changed()).await;
    }

    pub(super) async fn cuttable<F: Future>(connection: F) -> Option<F::Output> {
        let mut cuts = CUTS.subscribe();
        tokio::select! {
            // What lies in its buffer shall not leave.
            biased;
            _ = cuts.changed() => {
                CUT_OFF.send_modify(|off| *off += 1);
                None
            }
            ended = connection => Some(ended),
        }
    }
}
