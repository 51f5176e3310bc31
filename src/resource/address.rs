//! A URL that events go to, and how it is shown: user and query may be secrets.

use std::sync::Arc;

use url::Url;

/// A destination that is a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// Absolute. It may have a scheme that nobody can deliver to; such a destination was accepted with a warning and its
    /// deliveries fail.
    pub url: String,
    /// Certificate authorities (PEM) that are trusted here beside all others (`CACerts`).
    pub ca_certs: Option<Arc<str>>,
}

impl From<&str> for Address {
    fn from(url: &str) -> Self {
        Self::from(url.to_owned())
    }
}

impl From<String> for Address {
    fn from(url: String) -> Self {
        Self { url, ca_certs: None }
    }
}

/// A URL as it may be shown to anybody, without user and query; a text that is none, without what may have been meant so.
pub fn shown_url(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else { return masked(text) };
    let (has_user, has_query) = (has_user(&url), url.query().is_some());
    // Fails only for URLs that cannot have a user.
    if has_user {
        let _ = url.set_password(None).and(url.set_username("***"));
    }
    if has_query {
        url.set_query(Some("***"));
    }
    if has_user || has_query { url.into() } else { text.to_owned() }
}

fn masked(text: &str) -> String {
    let host = text.find("://").map(|scheme| scheme + "://".len());
    let (scheme, rest) = text.split_at(host.unwrap_or_default());
    let (user, rest) = match rest.rfind('@') {
        Some(at) if host.is_some() => ("***", &rest[at..]),
        _ => ("", rest),
    };
    match rest.split_once('?') {
        Some((path, _)) if host.is_some() || text.starts_with('/') => format!("{scheme}{user}{path}?***"),
        _ => format!("{scheme}{user}{rest}"),
    }
}

/// A URL without what it says of a user, as `knativeerrordest` shows it. What tells two destinations apart stays.
pub fn without_user(text: &str) -> String {
    match Url::parse(text) {
        Ok(mut url) if has_user(&url) => {
            // Fails only for URLs that cannot have a user.
            let _ = url.set_password(None).and(url.set_username(""));
            url.into()
        }
        _ => text.to_owned(),
    }
}

fn has_user(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_user_and_query_and_told_of_without_user() {
        for (url, shown, told) in [
            ("http://h/p", "http://h/p", "http://h/p"),
            ("https://H:8443/a/../b", "https://H:8443/a/../b", "https://H:8443/a/../b"),
            ("http://u:p@h/a?t=s", "http://***@h/a?***", "http://h/a?t=s"),
            ("http://u@h/@x", "http://***@h/@x", "http://h/@x"),
            ("http://h/?t=s#f", "http://h/?***#f", "http://h/?t=s#f"),
            ("ftp://u:p@h/x", "ftp://***@h/x", "ftp://h/x"),
        ] {
            assert_eq!((shown_url(url).as_str(), without_user(url).as_str()), (shown, told));
        }
    }

    #[test]
    fn what_is_no_url_is_shown_without_what_may_be_a_secret() {
        for (text, shown) in [
            ("http://u:p@h:port/a?t=s", "http://***@h:port/a?***"),
            ("http://u:p?w@h h/", "http://***@h h/"),
            ("/a b?t=s", "/a b?***"),
            ("ce.type = 'a' ? 1", "ce.type = 'a' ? 1"),
            ("a@b", "a@b"),
            ("", ""),
        ] {
            assert_eq!(shown_url(text), shown);
        }
    }
}
