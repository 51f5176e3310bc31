//! The servers that a connection may go to: those of the settings, and those that a server has told of since.

use url::Url;

use crate::channel::connect::{Settings, SettingsError, without_secrets};

/// Servers of a cluster that are remembered beside our own settings.
const MAX_DISCOVERED: usize = 64;
const DEFAULT_PORT: u16 = 4222;

/// One server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Server {
    pub(super) host: String,
    pub(super) port: u16,
    /// TLS whatever the server says.
    pub(super) tls: bool,
    /// The name that its certificate must have.
    pub(super) name: String,
}

/// All of them, taken in turn.
#[derive(Debug)]
pub(super) struct Servers {
    configured: Vec<Server>,
    discovered: Vec<Server>,
    turn: usize,
}

impl Servers {
    /// # Errors
    /// When a URL is none of `nats://` or `tls://`, or there is none.
    pub(super) fn new(settings: &Settings) -> Result<Self, SettingsError> {
        let mut configured = Vec::new();
        for url in &settings.urls {
            let server = read(url).map_err(|error| SettingsError::Url { url: without_secrets(url), error })?;
            configured.push(server);
        }
        if configured.is_empty() {
            return Err(SettingsError::Contradiction("--nats-url is empty, expected a URL".to_owned()));
        }
        // Many bridges shall not all begin at the same server.
        fastrand::shuffle(&mut configured);
        Ok(Self { configured, discovered: Vec::new(), turn: 0 })
    }

    /// The one whose turn it is.
    pub(super) fn next(&mut self) -> Server {
        let count = self.configured.len() + self.discovered.len();
        let server = self.configured.iter().chain(&self.discovered).nth(self.turn % count);
        self.turn = (self.turn + 1) % count;
        // There is one at least.
        server.unwrap_or(&self.configured[0]).clone()
    }

    /// Takes in what the server `from` says of its cluster (`connect_urls`); what it said before is forgotten.
    pub(super) fn discovered(&mut self, from: &Server, urls: &[String]) {
        if urls.is_empty() {
            return;
        }
        let known = |server: &Server| {
            self.configured.iter().any(|known| (&known.host, known.port) == (&server.host, server.port))
        };
        let servers = urls.iter().filter_map(|url| read(url).ok()).map(|mut server| {
            server.tls = from.tls;
            if server.host.parse::<std::net::IpAddr>().is_ok() {
                // Certificates name hosts, and the servers of a cluster tell of each other by address.
                server.name.clone_from(&from.name);
            }
            server
        });
        self.discovered = servers.filter(|server| !known(server)).take(MAX_DISCOVERED).collect();
    }
}

fn read(text: &str) -> Result<Server, String> {
    let url = if text.contains("://") { Url::parse(text) } else { Url::parse(&format!("nats://{text}")) };
    let url = url.map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "nats" | "tls") {
        return Err(format!("scheme '{}', expected nats:// or tls://", url.scheme()));
    }
    let host = url.host_str().filter(|host| !host.is_empty()).ok_or("expected a host")?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = url.port().unwrap_or(DEFAULT_PORT);
    Ok(Server { name: host.clone(), host, port, tls: url.scheme() == "tls" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn servers(urls: &[&str]) -> Result<Servers, String> {
        let urls = urls.iter().map(|url| (*url).to_owned()).collect();
        Servers::new(&Settings { urls, ..Settings::default() }).map_err(|error| error.to_string())
    }

    #[test]
    fn urls_are_read() {
        let check = |url: &str, expected: (&str, u16, bool)| {
            let server = read(url).unwrap();
            assert_eq!((server.host.as_str(), server.port, server.tls), expected, "{url}");
        };
        check("nats://a", ("a", 4222, false));
        check("a:5", ("a", 5, false));
        check("tls://a.b:5", ("a.b", 5, true));
        check("nats://[::1]:5", ("::1", 5, false));
        check("[::1]:5", ("::1", 5, false));
        for (url, names) in [("http://a", "expected nats://"), ("nats://", "host"), ("nats://u:pw@a:x", "***@a:x")] {
            let error = servers(&[url]).unwrap_err();
            assert!(error.contains(names) && !error.contains("pw"), "{error}");
        }
        assert!(servers(&[]).unwrap_err().contains("--nats-url"));
    }

    #[test]
    fn all_take_their_turn() {
        let mut servers = servers(&["nats://a", "tls://b"]).unwrap();
        let mut turns = |count: usize| {
            let mut hosts: Vec<String> = (0..count).map(|_| servers.next().host).collect();
            hosts.sort();
            hosts
        };
        assert_eq!(turns(4), ["a", "a", "b", "b"]);
        let from = Server { host: "b".to_owned(), port: 4222, tls: true, name: "b".to_owned() };
        servers.discovered(&from, &["a:4222".to_owned(), "10.0.0.1:4222".to_owned(), "c:5".to_owned()]);
        servers.discovered(&from, &[]);
        let found: Vec<Server> = (0..4).map(|_| servers.next()).collect();
        let by_address = found.iter().find(|server| server.host == "10.0.0.1").unwrap();
        assert!(by_address.tls && by_address.name == "b" && found.iter().any(|server| server.host == "c"));
    }
}
