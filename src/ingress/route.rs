//! Which channel a request means, read from its path and host alone: what is declared is not known here.

use http::HeaderMap;
use http::Uri;
use http::header::HOST;
use http::uri::Authority;

use crate::resource::Key;

/// The names of a channel's Service end so, in Knative's own channels and in eventing-natss.
const SERVICE_SUFFIXES: [&str; 2] = ["-kn-jsm-channel", "-kn-channel"];

/// What a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// `/NAMESPACE/NAME`, or `/` at the host of a channel's Service.
    Channel(Key),
    /// `/` at the host of a Service that cannot be a channel's, because no resource may have such a name.
    NoName(String),
    /// `/` at any other host.
    Default,
}

/// `None` when the path has neither shape. The path wins over the host.
pub(super) fn parse(uri: &Uri, headers: &HeaderMap) -> Option<Route> {
    if uri.path() == "/" {
        return Some(host(uri, headers).map_or(Route::Default, |host| by_host(&host)));
    }
    // Names of resources hold nothing that would need percent-coding, so there is nothing to decode.
    let (namespace, name) = uri.path().strip_prefix('/')?.split_once('/')?;
    Key::new(namespace, name).map(Route::Channel)
}

/// What the host of a channel's Service has in it, in any case.
const MARK: &[u8] = b"-kn-";

/// The host without port: of the `:authority` of HTTP/2 or an absolute URI, else of the `Host` header (RFC 9112, 3.2.2).
fn host(uri: &Uri, headers: &HeaderMap) -> Option<String> {
    if let Some(host) = uri.host() {
        return Some(host.to_owned());
    }
    let host = headers.get(HOST)?;
    // Most hosts are no Service's, and are not looked at further.
    if !host.as_bytes().windows(MARK.len()).any(|part| part.eq_ignore_ascii_case(MARK)) {
        return None;
    }
    let authority: Authority = host.to_str().ok()?.parse().ok()?;
    Some(authority.host().to_owned())
}

/// `NAME-kn-channel.NAMESPACE.svc[.DOMAIN]`, in any case.
fn by_host(host: &str) -> Route {
    let host = host.to_ascii_lowercase();
    let mut labels = host.split('.');
    let (Some(service), Some(namespace), Some("svc")) = (labels.next(), labels.next(), labels.next()) else {
        return Route::Default;
    };
    let Some(name) = SERVICE_SUFFIXES.iter().find_map(|suffix| service.strip_suffix(suffix)) else {
        return Route::Default;
    };
    Key::new(namespace, name).map_or_else(|| Route::NoName(host.clone()), Route::Channel)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn channel(namespace: &str, name: &str) -> Option<Route> {
        Some(Route::Channel(Key::new(namespace, name).unwrap()))
    }

    fn parse_with(uri: &str, host: &str) -> Option<Route> {
        let headers = [(HOST, host.parse().unwrap())].into_iter().collect();
        parse(&uri.parse().unwrap(), &headers)
    }

    #[test]
    fn a_path_is_namespace_and_name_and_nothing_else() {
        let check = |path: &str, expected: Option<Route>| assert_eq!(parse_with(path, "x"), expected, "{path}");
        check("/default/foo", channel("default", "foo"));
        check("/default/foo.bar", channel("default", "foo.bar"));
        check("/default/foo?a=b/c", channel("default", "foo"));
        check("http://elsewhere/default/foo", channel("default", "foo"));
        for path in [
            "/default",
            "/default/",
            "/default/foo/",
            "/default/foo/bar",
            "//foo",
            "//default/foo",
            "/default//foo",
            "/a/b%2Fc",
            "/default/f%6Fo",
            "/Default/foo",
            "/default/Foo",
            "/default/foo_bar",
            "/default/-foo",
            "/default/.",
            "/../foo",
            "/default/*",
            "/default/%3E",
            "*",
            "//",
        ] {
            check(path, None);
        }
    }

    #[test]
    fn at_the_root_the_host_of_a_service_names_the_channel() {
        let check = |host: &str, expected: Route| assert_eq!(parse_with("/", host), Some(expected), "{host}");
        let foo = || Route::Channel(Key::new("default", "foo").unwrap());
        for host in [
            "foo-kn-channel.default.svc",
            "foo-kn-channel.default.svc.cluster.local",
            "foo-kn-jsm-channel.default.svc",
            "foo-kn-jsm-channel.default.svc.cluster.local:8080",
            "foo-kn-channel.default.svc:80",
            "FOO-KN-Channel.Default.SVC.Cluster.Local",
            "foo-kn-channel.default.svc.cluster.local.",
            "foo-kn-channel.default.svc.",
            "foo-kn-channel.default.svc.cluster.local.:8080",
            "foo-kn-channel.default.svc.example.org",
        ] {
            check(host, foo());
        }
        check("a-kn-channel-kn-channel.b.svc", Route::Channel(Key::new("b", "a-kn-channel").unwrap()));
        check("a-kn-jsm-kn-channel.b.svc", Route::Channel(Key::new("b", "a-kn-jsm").unwrap()));
        for host in [
            "",
            "localhost",
            "127.0.0.1:8080",
            "[::1]:8080",
            "foo.default.svc.cluster.local",
            "foo-kn-channel",
            "foo-kn-channel.default",
            "foo-kn-channel.default.example.org",
            "foo-kn-channel.default.svcs",
            "default.svc",
            "x.foo-kn-channel.default.svc",
            "not a host",
        ] {
            check(host, Route::Default);
        }
        for host in
            ["-kn-channel.default.svc", "foo-kn-channel..svc", "f_o-kn-channel.default.svc", "--kn-channel.a.svc"]
        {
            check(host, Route::NoName(host.to_owned()));
        }
    }

    #[test]
    fn the_authority_of_an_absolute_uri_comes_before_the_host_header() {
        let uri = "http://foo-kn-channel.default.svc:8080/?x=y";
        assert_eq!(parse_with(uri, "bar-kn-channel.default.svc"), channel("default", "foo"));
        assert_eq!(parse_with("http://localhost/", "bar-kn-channel.default.svc"), Some(Route::Default));
    }

    #[test]
    fn without_any_host_the_root_is_the_default() {
        assert_eq!(parse(&Uri::from_static("/"), &HeaderMap::new()), Some(Route::Default));
    }

    #[test]
    fn the_path_wins_over_the_host() {
        assert_eq!(parse_with("/default/foo", "bar-kn-channel.default.svc"), channel("default", "foo"));
        assert_eq!(parse_with("/foo", "bar-kn-channel.default.svc"), None);
    }
}
