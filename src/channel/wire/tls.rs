//! TLS to NATS. The files are read for each connection, so renewed certificates count from the next one on.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::channel::secrets::Secrets;

/// Where the certificates are.
#[derive(Clone)]
pub(super) struct Tls {
    ca_file: Option<PathBuf>,
    client_certificate: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    pub(super) fn new(secrets: &Secrets) -> Self {
        Self { ca_file: secrets.ca_file.clone(), client_certificate: secrets.client_certificate.clone() }
    }

    /// Goes on in TLS over a connection, with a server that must prove to be `host`.
    pub(super) async fn wrap(&self, stream: TcpStream, host: &str) -> io::Result<TlsStream<TcpStream>> {
        let host = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let files = self.clone();
        // Reading all that a system trusts takes its time.
        let config = tokio::task::spawn_blocking(move || files.config()).await.map_err(io::Error::other)??;
        TlsConnector::from(Arc::new(config)).connect(host, stream).await
    }

    fn config(&self) -> io::Result<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(self.roots()?);
        let Some((certificate, key)) = &self.client_certificate else { return Ok(builder.with_no_client_auth()) };
        let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
        builder.with_client_auth_cert(certificates(certificate)?, key).map_err(io::Error::other)
    }

    /// The authorities of the file, else those of the system.
    fn roots(&self) -> io::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        if let Some(file) = &self.ca_file {
            for certificate in certificates(file)? {
                roots.add(certificate).map_err(io::Error::other)?;
            }
            return Ok(roots);
        }
        let found = rustls_native_certs::load_native_certs();
        if let (true, Some(error)) = (found.certs.is_empty(), found.errors.into_iter().next()) {
            return Err(io::Error::other(error));
        }
        roots.add_parsable_certificates(found.certs);
        Ok(roots)
    }
}

fn certificates(file: &PathBuf) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(file).and_then(Iterator::collect).map_err(io::Error::other)
}
