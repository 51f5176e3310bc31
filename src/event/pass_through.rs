//! Owns the headers that travel beside an event without being part of it: Knative's pass-through list (`x-request-id`,
//! `knative-*`, `x-b3-*`) and the W3C trace headers. All others end at the ingress.

use std::borrow::Cow;

use ::http::HeaderMap;

use super::Headers;
use super::media_type::is_token;

/// What travels is copied into every stored message; further headers are left behind.
const MAX_HEADERS: usize = 32;
/// Names and values together, in bytes.
const MAX_BYTES: usize = 8 * 1024;
/// Trace Context asks everybody to carry 512 bytes; a longer `tracestate` is left behind.
const MAX_TRACESTATE_BYTES: usize = 512;
/// Trace Context, section 3.3.1.1: a list has 32 members at most.
const MAX_TRACESTATE_MEMBERS: usize = 32;

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Headers kept beside an event from the ingress to the sink. Names are lower-case, values visible ASCII.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PassThrough {
    headers: Vec<(String, String)>,
}

impl PassThrough {
    /// Picks what passes through; a broken `traceparent` is left behind, and its `tracestate` with it.
    pub fn from_http(headers: &HeaderMap) -> Self {
        Self::pick(headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())))
    }

    /// The same from names and values in any case, as a NATS message has them.
    pub fn from_pairs<'a>(headers: impl Iterator<Item = (&'a str, &'a str)>) -> Self {
        Self::pick(headers.map(|(name, value)| (name, value.as_bytes())))
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// A header of one name may be there several times.
    pub fn write(&self, headers: &mut dyn Headers) {
        for (name, value) in self.iter() {
            headers.add(name, value);
        }
    }

    /// The `traceparent`, valid when there is one.
    pub fn traceparent(&self) -> Option<&str> {
        self.iter().find(|(name, _)| *name == TRACEPARENT).map(|(_, value)| value)
    }

    /// The `tracestate` that goes with the `traceparent`.
    pub fn tracestate(&self) -> Option<&str> {
        self.iter().find(|(name, _)| *name == TRACESTATE).map(|(_, value)| value)
    }

    /// These headers, with another `traceparent`. What `tracestate` there is stays.
    #[must_use]
    pub fn with_traceparent(&self, traceparent: String) -> Self {
        let mut headers: Vec<_> = self.headers.iter().filter(|(name, _)| name != TRACEPARENT).cloned().collect();
        headers.push((TRACEPARENT.to_owned(), traceparent));
        Self { headers }
    }

    /// These headers, with the trace headers of `other` where there is no trace of their own.
    #[must_use]
    pub fn with_trace_of(mut self, other: &Self) -> Self {
        if !self.iter().any(|(name, _)| name == TRACEPARENT) {
            let of_trace = |name: &str| name == TRACEPARENT || name == TRACESTATE;
            self.headers.extend(other.headers.iter().filter(|(name, _)| of_trace(name)).cloned());
        }
        self
    }

    fn pick<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut picked = Self::default();
        let mut bytes = 0;
        let mut trace = Trace::default();
        for (name, value) in headers {
            let Some(kind) = Kind::of(name) else { continue };
            let Some(value) = visible(value) else { continue };
            match kind {
                Kind::TraceParent => trace.parent(value),
                Kind::TraceState => trace.state(value),
                Kind::Other => picked.keep(name, value, &mut bytes),
            }
        }
        if let Some(parent) = trace.valid_parent() {
            picked.keep(TRACEPARENT, parent, &mut bytes);
            if let Some(state) = trace.valid_state() {
                picked.keep(TRACESTATE, state, &mut bytes);
            }
        }
        picked
    }

    fn keep(&mut self, name: &str, value: &str, bytes: &mut usize) {
        let size = name.len() + value.len();
        if self.headers.len() < MAX_HEADERS && *bytes + size <= MAX_BYTES {
            *bytes += size;
            self.headers.push((name.to_ascii_lowercase(), value.to_owned()));
        }
    }
}

/// What passes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    TraceParent,
    TraceState,
    Other,
}

impl Kind {
    /// `None` when it does not pass. `retry-after` is on Knative's list too; it is an answer's header and means nothing to the
    /// next request.
    fn of(name: &str) -> Option<Self> {
        let starts = |prefix: &str| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
        // Most headers are told by their first letter.
        match name.as_bytes().first()? {
            b't' | b'T' if name.eq_ignore_ascii_case(TRACEPARENT) => Some(Self::TraceParent),
            b't' | b'T' if name.eq_ignore_ascii_case(TRACESTATE) => Some(Self::TraceState),
            b'x' | b'X' if name.eq_ignore_ascii_case("x-request-id") => Some(Self::Other),
            b'x' | b'X' if starts("x-b3-") && is_token(name) => Some(Self::Other),
            b'k' | b'K' if starts("knative-") && is_token(name) => Some(Self::Other),
            _ => None,
        }
    }
}

fn visible(value: &[u8]) -> Option<&str> {
    let visible = value.iter().all(|byte| matches!(byte, b' '..=b'~'));
    visible.then(|| std::str::from_utf8(value).ok()).flatten()
}

/// The W3C trace headers of one message (Trace Context, section 3).
#[derive(Default)]
struct Trace<'a> {
    parent: Option<&'a str>,
    parents: usize,
    state: Option<Cow<'a, str>>,
}

impl<'a> Trace<'a> {
    fn parent(&mut self, value: &'a str) {
        self.parent = Some(value.trim_matches(' '));
        self.parents += 1;
    }

    /// Several headers are one list. It grows no further than what is thrown away anyway.
    fn state(&mut self, value: &'a str) {
        match &mut self.state {
            None => self.state = Some(Cow::Borrowed(value)),
            Some(state) if state.len() <= MAX_TRACESTATE_BYTES => {
                let state = state.to_mut();
                state.push(',');
                state.push_str(value);
            }
            Some(_) => {}
        }
    }

    fn valid_parent(&self) -> Option<&'a str> {
        self.parent.filter(|parent| self.parents == 1 && is_traceparent(parent))
    }

    fn valid_state(&self) -> Option<&str> {
        let state = self.state.as_deref()?.trim_matches(' ');
        let members = || state.split(',').map(|member| member.trim_matches(' ')).filter(|member| !member.is_empty());
        let is_member =
            |member: &str| member.split_once('=').is_some_and(|(key, value)| !key.is_empty() && !value.is_empty());
        let valid = state.len() <= MAX_TRACESTATE_BYTES
            && (1..=MAX_TRACESTATE_MEMBERS).contains(&members().count())
            && members().all(is_member);
        valid.then_some(state)
    }
}

/// `00-<32 hex>-<16 hex>-<2 hex>`, lower-case, neither id all zeros; a later version may have more behind another dash.
pub fn is_traceparent(value: &str) -> bool {
    const LENGTH: usize = 55;
    let Some((known, more)) = value.as_bytes().split_at_checked(LENGTH) else {
        return false;
    };
    let (version, trace_id, parent_id) = (&known[..2], &known[3..35], &known[36..52]);
    let is_hex = |text: &[u8]| text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_id = |text: &[u8]| is_hex(text) && text.iter().any(|byte| *byte != b'0');
    let dashed = [2, 35, 52].iter().all(|&place| known[place] == b'-');
    let version_ok = match version {
        b"00" => more.is_empty(),
        b"ff" => false,
        _ => is_hex(version) && (more.is_empty() || more.starts_with(b"-")),
    };
    dashed && version_ok && is_id(trace_id) && is_id(parent_id) && is_hex(&known[53..])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use ::http::HeaderValue;

    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn check(headers: &[(&str, &str)], expected: &[(&str, &str)]) {
        let picked = PassThrough::from_pairs(headers.iter().copied());
        assert_eq!(picked.iter().collect::<Vec<_>>(), expected, "{headers:?}");
    }

    #[test]
    fn only_the_known_headers_pass() {
        check(
            &[("X-Request-ID", "r 1"), ("Knative-Foo", "a"), ("X-B3-TraceId", "b"), ("x-b3-sampled", "1")],
            &[("x-request-id", "r 1"), ("knative-foo", "a"), ("x-b3-traceid", "b"), ("x-b3-sampled", "1")],
        );
        for name in
            ["authorization", "cookie", "retry-after", "x-request-id2", "kn-namespace", "ce-id", "b3", "knative"]
        {
            check(&[(name, "x")], &[]);
        }
        check(&[("x-request-id", "é"), ("knative-a", "a\tb"), ("knative-a b", "x"), ("knative-é", "x")], &[]);
    }

    #[test]
    fn trace_headers_pass_when_they_are_whole() {
        check(
            &[("tracestate", "a=1"), ("Traceparent", PARENT), ("tracestate", "b=2")],
            &[("traceparent", PARENT), ("tracestate", "a=1,b=2")],
        );
        let future = format!("cc{}-more", &PARENT[2..]);
        check(&[("traceparent", &future)], &[("traceparent", &future)]);
        for broken in [
            "",
            "00",
            &PARENT[..54],
            &format!("{PARENT}-more"),
            &format!("cc{}more", &PARENT[2..]),
            &format!("ff{}", &PARENT[2..]),
            &PARENT.to_uppercase(),
            &PARENT.replace('-', "_"),
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g",
        ] {
            check(&[("traceparent", broken), ("tracestate", "a=1")], &[]);
        }
        check(&[("traceparent", PARENT), ("traceparent", PARENT), ("tracestate", "a=1")], &[]);
        check(&[("tracestate", "a=1")], &[]);
    }

    #[test]
    fn a_tracestate_that_cannot_be_carried_leaves_the_traceparent() {
        let full = format!("a={}", "x".repeat(510));
        check(&[("traceparent", PARENT), ("tracestate", &full)], &[("traceparent", PARENT), ("tracestate", &full)]);
        let many = vec!["a=1"; 33].join(",");
        for broken in [format!("{full}x"), "nothing".to_owned(), String::new(), many] {
            check(&[("traceparent", PARENT), ("tracestate", &broken)], &[("traceparent", PARENT)]);
        }
    }

    #[test]
    fn number_and_size_are_bounded() {
        let names: Vec<String> = (0..40).map(|index| format!("knative-{index}")).collect();
        let picked = PassThrough::from_pairs(names.iter().map(|name| (name.as_str(), "x")));
        assert_eq!(picked.iter().count(), MAX_HEADERS);

        let large = "x".repeat(MAX_BYTES);
        check(&[("knative-large", &large), ("knative-small", "x")], &[("knative-small", "x")]);
    }

    #[test]
    fn nothing_to_pass_costs_nothing() {
        let picked = PassThrough::from_pairs([("ce-id", "1"), ("user-agent", "x")].into_iter());
        assert_eq!(picked.headers.capacity(), 0);
    }

    #[test]
    fn http_headers_come_and_go_unchanged() {
        let mut headers = HeaderMap::new();
        headers.append("x-b3-flags", HeaderValue::from_static("1"));
        headers.append("traceparent", HeaderValue::from_static(PARENT));
        headers.append("cookie", HeaderValue::from_static("secret"));
        let mut written = HeaderMap::new();
        PassThrough::from_http(&headers).write(&mut written);
        headers.remove("cookie");
        assert_eq!(written, headers);
    }

    proptest! {
        #[test]
        fn no_header_makes_it_panic(headers in prop::collection::vec(("(traceparent|tracestate|knative-.*|.*)", any::<String>()), 0..40)) {
            let picked = PassThrough::from_pairs(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            picked.write(&mut HeaderMap::new());
        }
    }
}
