//! The closed sets that labels take their values from.

/// What became of the events of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Stored, 202.
    Accepted,
    /// 400.
    Invalid,
    /// 400: a broker's event that has come round too often.
    TtlUsedUp,
    /// 401.
    Unauthorized,
    /// 403.
    Forbidden,
    /// 404.
    NoSuchChannel,
    /// 405.
    MethodNotAllowed,
    /// 408.
    TooSlow,
    /// 413.
    TooLarge,
    /// 415.
    UnsupportedFormat,
    /// 503: too many requests at once, or no memory for their bodies.
    Overloaded,
    /// 503: JetStream is away, full, or silent, or an issuer's keys cannot be had.
    Unavailable,
    /// 500.
    Failed,
}

impl Received {
    pub(super) const NAMES: [&str; 13] = [
        "accepted",
        "invalid",
        "ttl_used_up",
        "unauthorized",
        "forbidden",
        "no_such_channel",
        "method_not_allowed",
        "too_slow",
        "too_large",
        "unsupported_format",
        "overloaded",
        "unavailable",
        "failed",
    ];
}

/// How events lie in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Binary,
    Structured,
    Batch,
    /// It was refused before anybody looked.
    Unknown,
}

impl Mode {
    pub(super) const NAMES: [&str; 4] = ["binary", "structured", "batch", "unknown"];
}

/// How a subscription is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It is not in place yet.
    Waiting,
    Delivering,
    /// It wants no events for now: its sink cannot be reached, or its predecessor finishes.
    Held,
    /// It should have events and gets none.
    Stalled,
    Paused,
}

impl State {
    pub(super) const NAMES: [&str; 5] = ["waiting", "delivering", "held", "stalled", "paused"];
}
