//! TLS for tests: authorities and certificates made on the spot, and a front that speaks TLS before a plain sink.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::Sink;
use super::http::split_url;

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key.
pub struct Certified {
    pub pem: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// A certificate for these names and addresses.
    pub fn certify(&self, names: &[&str]) -> Certified {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        Certified { pem: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Certified {
    /// Writes `NAME.pem` and `NAME.key`.
    pub fn write(&self, dir: &Path, name: &str) {
        std::fs::write(dir.join(format!("{name}.pem")), &self.pem).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), &self.key).unwrap();
    }
}

/// Takes TLS connections on 127.0.0.1 and hands on what is in them to a plain sink.
pub struct Front {
    address: SocketAddr,
    refused: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Front {
    /// Shows a certificate of this authority for 127.0.0.1 and localhost.
    pub async fn before(sink: &Sink, authority: &Authority) -> Self {
        Self::start(sink, &authority.certify(&["127.0.0.1", "localhost"]), None).await
    }

    /// Also asks clients for a certificate of `clients`.
    pub async fn that_asks(sink: &Sink, authority: &Authority, clients: &Authority) -> Self {
        Self::start(sink, &authority.certify(&["127.0.0.1"]), Some(clients)).await
    }

    pub async fn start(sink: &Sink, shown: &Certified, clients: Option<&Authority>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (behind, _) = split_url(&sink.url("/")).to_owned();
        let refused = Arc::new(AtomicUsize::new(0));
        let acceptor = TlsAcceptor::from(Arc::new(server(shown, clients)));
        let server = tokio::spawn(serve(listener, acceptor, behind, Arc::clone(&refused)));
        Self { address, refused, server }
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// How many connections came to nothing so far.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn certificates(pem: &str) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
}

fn server(shown: &Certified, clients: Option<&Authority>) -> ServerConfig {
    let provider = Arc::new(default_provider());
    let builder =
        ServerConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions().unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(clients) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates(clients.pem()));
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap();
    builder.with_single_cert(certificates(&shown.pem), key).unwrap()
}

async fn serve(listener: TcpListener, acceptor: TlsAcceptor, behind: SocketAddr, refused: Arc<AtomicUsize>) {
    // Connections end with the runtime of the test.
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, refused) = (acceptor.clone(), Arc::clone(&refused));
        tokio::spawn(async move {
            let Ok(mut secure) = acceptor.accept(stream).await else {
                refused.fetch_add(1, Ordering::Relaxed);
                return;
            };
            let mut plain = TcpStream::connect(behind).await.unwrap();
            // Either side may end it as it likes.
            let _ = tokio::io::copy_bidirectional(&mut secure, &mut plain).await;
        });
    }
}
