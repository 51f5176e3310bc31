//! What channels and subscriptions are called in JetStream. Two of them never share a name.
//!
//! Kubernetes names hold lower-case letters, digits, `-` and (not in namespaces) `.`; stream and consumer names may hold no
//! `.`. So `-` and `.` become `_` and the parts are joined by `__`. That can be read back unless a part holds `--` or `.`, or
//! is too long; only then a hash is appended, behind a second `__`, which no unhashed name has.

use aws_lc_rs::digest;

use crate::resource::Key;

/// nats-server takes at most 255 bytes; what is longer than this is cut and hashed.
const MAX_LEN: usize = 200;
/// Hexadecimal digits of the hash in a name that would be ambiguous without it.
const HASH_DIGITS: usize = 12;

/// The subject of a channel: `foo.default`.
pub fn subject(channel: &Key) -> String {
    format!("{}.{}", channel.name(), channel.namespace())
}

/// The stream of a channel that does not name its own: `KN_DEFAULT__FOO`.
pub fn stream(channel: &Key) -> String {
    unique("KN_", channel)
}

/// The durable consumer of a subscription: `KN_SUB_DEFAULT__BAR`.
pub fn consumer(subscription: &Key) -> String {
    unique("KN_SUB_", subscription)
}

/// Where the kept dead letters of a subscription go: `knats.deadletter.default.bar`.
pub fn dead_letter_subject(subscription: &Key) -> String {
    format!("knats.deadletter.{}.{}", subscription.namespace(), subscription.name())
}

/// Where the bridges that deliver a subscription are asked to redrive: `knats.bridge.redrive.default.bar`.
pub fn redrive_subject(subscription: &Key) -> String {
    format!("knats.bridge.redrive.{}.{}", subscription.namespace(), subscription.name())
}

fn unique(prefix: &str, key: &Key) -> String {
    let upper = |part: &str| part.to_ascii_uppercase().replace(['-', '.'], "_");
    let mut name = format!("{prefix}{}__{}", upper(key.namespace()), upper(key.name()));
    let ambiguous = |part: &str| part.contains("--") || part.contains('.');
    if ambiguous(key.namespace()) || ambiguous(key.name()) || name.len() > MAX_LEN {
        let hash = digest::digest(&digest::SHA256, key.to_string().as_bytes());
        name.truncate(MAX_LEN);
        name.push_str("__");
        for byte in &hash.as_ref()[..HASH_DIGITS / 2] {
            name.push_str(&format!("{byte:02X}"));
        }
    }
    name
}

/// Whether a subject with wildcards takes every message of another.
pub fn covers(pattern: &str, subject: &str) -> bool {
    let mut pattern = pattern.split('.');
    let mut subject = subject.split('.');
    loop {
        match (pattern.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(one), Some(other)) if one == other => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(namespace: &str, name: &str) -> Key {
        Key::new(namespace, name).unwrap()
    }

    #[test]
    fn names_are_those_of_the_contract() {
        assert_eq!(stream(&key("default", "foo")), "KN_DEFAULT__FOO");
        assert_eq!(stream(&key("my-ns", "my-channel")), "KN_MY_NS__MY_CHANNEL");
        assert_eq!(consumer(&key("default", "natss-sub-0")), "KN_SUB_DEFAULT__NATSS_SUB_0");
        assert_eq!(subject(&key("default", "foo")), "foo.default");
        assert_eq!(dead_letter_subject(&key("default", "bar")), "knats.deadletter.default.bar");
    }

    #[test]
    fn a_hash_is_appended_only_where_names_could_collide() {
        let pairs = [(("a--b", "c"), ("a", "b--c")), (("n", "a.b"), ("n", "a-b")), (("n", "a.b"), ("n", "a--b"))];
        for ((namespace, name), (other_namespace, other_name)) in pairs {
            assert_ne!(stream(&key(namespace, name)), stream(&key(other_namespace, other_name)));
        }
        assert!(stream(&key("a--b", "c")).starts_with("KN_A__B__C__"));
        let long = "x".repeat(253);
        assert!(stream(&key("n", &long)).len() < 255);
        assert_ne!(stream(&key("n", &long)), stream(&key("n", &"x".repeat(252))));
    }

    #[test]
    fn wildcards_cover_what_nats_says_they_cover() {
        let check = |pattern, subject, expected| assert_eq!(covers(pattern, subject), expected, "{pattern} {subject}");
        check("foo.default", "foo.default", true);
        check("foo.*", "foo.default", true);
        check("foo.>", "foo.default", true);
        check(">", "foo.default", true);
        check("foo", "foo.default", false);
        check("foo.default", "foo", false);
        check("foo.>", "foo", false);
        check("foo.*", "foo.>", false);
        check("foo.*.x", "foo.default", false);
    }

    proptest! {
        #[test]
        fn naming_is_injective(
            a in "[a-b][a-b-]{0,4}[a-b]", b in "[a-b][a-b.-]{0,4}[a-b]", c in "[a-b][a-b-]{0,4}[a-b]", d in "[a-b][a-b.-]{0,4}[a-b]"
        ) {
            if let (Some(one), Some(two)) = (Key::new(&a, &b), Key::new(&c, &d)) && one != two {
                prop_assert_ne!(stream(&one), stream(&two));
                prop_assert_ne!(consumer(&one), consumer(&two));
                prop_assert_ne!(subject(&one), subject(&two));
                prop_assert_ne!(dead_letter_subject(&one), dead_letter_subject(&two));
            }
        }
    }
}
