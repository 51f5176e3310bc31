//! Who may send to a channel or broker: its annotation `knats.dev/allowed-subjects`.

use std::sync::Arc;

/// The subjects of tokens (`sub`) that a channel takes events from. Each is a whole subject, or the beginning of one with a `*`
/// after it, as in Knative's EventPolicy (`spec.from[].sub`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedSubjects(Arc<[String]>);

impl AllowedSubjects {
    pub(super) const ANNOTATION: &str = "allowed-subjects";

    /// Reads a list with commas; white space around a subject does not count.
    ///
    /// # Errors
    /// Says what was expected.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let subjects: Vec<&str> = text.split(',').map(str::trim).collect();
        let is_pattern = |subject: &str| {
            let whole = subject.strip_suffix('*').unwrap_or(subject);
            !subject.is_empty() && !whole.contains('*')
        };
        if !subjects.iter().all(|subject| is_pattern(subject)) {
            return Err("subjects with commas between them and a '*' at most at the end of each, \
                        as in system:serviceaccount:shop:orders,system:serviceaccount:billing:*");
        }
        Ok(Self(subjects.into_iter().map(str::to_owned).collect()))
    }

    /// Whether a token with this subject may send.
    pub fn allow(&self, subject: &str) -> bool {
        self.0.iter().any(|allowed| match allowed.strip_suffix('*') {
            Some(beginning) => subject.starts_with(beginning),
            None => subject == allowed,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_subject_is_allowed_whole_or_by_its_beginning() {
        let allowed =
            AllowedSubjects::parse("system:serviceaccount:shop:orders , system:serviceaccount:billing:*").unwrap();
        for (subject, expected) in [
            ("system:serviceaccount:shop:orders", true),
            ("system:serviceaccount:shop:orders2", false),
            ("system:serviceaccount:shop:order", false),
            ("system:serviceaccount:billing:a", true),
            ("system:serviceaccount:billing:", true),
            ("system:serviceaccount:billing", false),
            ("xsystem:serviceaccount:billing:a", false),
            ("", false),
        ] {
            assert_eq!(allowed.allow(subject), expected, "{subject}");
        }
        assert!(AllowedSubjects::parse("*").unwrap().allow("anybody"));
    }

    #[test]
    fn what_is_no_list_of_subjects_is_refused() {
        for text in ["", " ", "a,", ",a", "a,,b", "a*b", "*a", "**", "a, *:b"] {
            assert!(AllowedSubjects::parse(text).is_err(), "{text:?}");
        }
    }
}
