//! What becomes of connections at the ingress before there is a request on them, and of the files and keys that it takes to
//! let them in.

use super::family::{Family, Kind};
use super::tally::Tally;

/// The instruments of the ingress' doors.
#[derive(Debug, Default)]
pub struct ConnectionMeter {
    /// Closed because their peers had as many as they may have.
    pub over_limit: Tally,
    /// Closed because their TLS handshake failed or took too long.
    pub handshakes: Tally,
    /// Changes of TLS files that cannot be used.
    pub certificates: Tally,
    /// Looks for the issuer's keys that failed.
    pub issuer: Tally,
}

impl ConnectionMeter {
    pub(super) fn families(&self) -> [Family; 3] {
        let counter = |name, help| Family::new(name, Kind::Counter, help);
        let refused = counter("ingress_connections_refused_total", "Connections closed before any request.")
            .with(vec![("reason", "peer_limit".into())], self.over_limit.count())
            .with(vec![("reason", "tls_handshake".into())], self.handshakes.count());
        let certificates = counter("tls_reload_failures_total", "Changed TLS files that could not be used.")
            .with(vec![], self.certificates.count());
        let issuer = counter("oidc_key_failures_total", "Times that the issuer's keys could not be had.")
            .with(vec![], self.issuer.count());
        [refused, certificates, issuer]
    }
}
