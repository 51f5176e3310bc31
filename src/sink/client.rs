//! The HTTP client that everything in the house sends with.

use std::time::Duration;

use reqwest::Url;
use reqwest::redirect::Policy;

/// How long it may take until a connection stands.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections that are kept although nobody uses them, for each host, and for how long.
const IDLE_PER_HOST: usize = 256;
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// Notices a peer that went away without a word.
const TCP_KEEPALIVE: Duration = Duration::from_secs(20);

/// Two pools of connections: through the proxy of the environment, and past it for hosts on this machine.
#[derive(Debug, Clone)]
pub struct Client {
    outside: reqwest::Client,
    loopback: reqwest::Client,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot set up the HTTP client: {0}")]
pub struct ClientError(#[from] reqwest::Error);

impl Client {
    /// # Errors
    /// When the proxy settings of the environment or the system's certificates cannot be used.
    pub fn new() -> Result<Self, ClientError> {
        Ok(Self { outside: builder().build()?, loopback: builder().no_proxy().build()? })
    }

    /// The pool for a URL.
    pub fn for_url(&self, url: &Url) -> &reqwest::Client {
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let loopback =
            host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        if loopback { &self.loopback } else { &self.outside }
    }
}

fn builder() -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("knats/", env!("CARGO_PKG_VERSION")))
        // A redirect is an outcome, not an instruction: following it could send an event twice or elsewhere.
        .redirect(Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(IDLE_PER_HOST)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .tcp_keepalive(TCP_KEEPALIVE)
        .tcp_nodelay(true)
}
