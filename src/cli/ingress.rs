//! Flags that say who gets in: TLS, tokens, and how many connections one peer may have.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use super::{Usage, socket_address};
use crate::ingress::{Access, OidcSettings};
use crate::server::{Files, Tls};

#[derive(Debug, Clone, clap::Args)]
#[group(skip)]
pub struct Args {
    /// Certificate of the ingress (PEM), those that signed it after it; with it, events come in over HTTPS too. Read again when
    /// it changes
    #[arg(long, value_name = "FILE", requires = "tls_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub tls_key_file: Option<PathBuf>,
    /// Authorities that clients' certificates must be signed by (PEM); without it clients need none
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub tls_client_ca_file: Option<PathBuf>,
    /// Where events come in over HTTPS, given a certificate
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443", value_parser = socket_address, requires = "tls_cert_file")]
    pub tls_listen: SocketAddr,
    /// Take no events in over plain HTTP: --listen counts for nothing
    #[arg(long)]
    pub tls_only: bool,
    /// Whose tokens senders must show (`Authorization: Bearer`, OpenID Connect); without it anybody may send
    #[arg(long, value_name = "URL")]
    pub oidc_issuer: Option<String>,
    /// Authorities that the issuer's certificate may be signed by, beside those of the system (PEM)
    #[arg(long, value_name = "FILE", requires = "oidc_issuer")]
    pub oidc_ca_file: Option<PathBuf>,
    /// Connections to the ingress that one address may have at a time; further ones are closed
    #[arg(long, value_name = "N", default_value = "1000")]
    pub max_connections_per_peer: NonZeroUsize,
}

impl Args {
    /// Reads the files.
    pub(super) fn access(&self) -> Result<Access, Usage> {
        if self.tls_only && self.tls_cert_file.is_none() {
            return Err(Usage("--tls-only without --tls-cert-file leaves no way in, expected both".to_owned()));
        }
        let files = self.tls_cert_file.as_ref().zip(self.tls_key_file.as_ref()).map(|(certificate, key)| Files {
            certificate: certificate.clone(),
            key: key.clone(),
            client_ca: self.tls_client_ca_file.clone(),
        });
        let issuer = self.oidc_issuer.as_deref();
        let oidc = issuer.map(|issuer| OidcSettings::new(issuer, self.oidc_ca_file.clone())).transpose();
        Ok(Access {
            tls: files.map(Tls::read).transpose().map_err(|fault| Usage(format!("TLS of the ingress: {fault}")))?,
            oidc: oidc.map_err(|fault| Usage(format!("--oidc-issuer: {fault}")))?,
            max_connections_per_peer: self.max_connections_per_peer,
        })
    }

    /// Where events come in over HTTPS, if they do.
    pub(super) fn tls_listen(&self) -> Option<SocketAddr> {
        self.tls_cert_file.as_ref().map(|_| self.tls_listen)
    }
}
