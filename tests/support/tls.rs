//! TLS for tests: authorities and certificates made on the spot, a client that trusts them, and a front that speaks TLS before a
//! plain server.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::Sink;
use super::http::split_url;

/// A certificate authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate with its key, both PEM.
#[derive(Debug, Clone)]
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

    /// A connection with a server whose certificate is of this authority.
    pub async fn connect(&self, address: SocketAddr, client: Option<&Certified>) -> io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(&self.pem));
        let builder = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let config = match client {
            Some(shown) => builder.with_client_auth_cert(certificates(&shown.pem), shown.private_key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        let stream = TcpStream::connect(address).await?;
        let host = ServerName::IpAddress(address.ip().into());
        TlsConnector::from(Arc::new(config)).connect(host, stream).await
    }
}

impl Certified {
    /// Writes `NAME.pem` and `NAME.key`.
    pub fn write(&self, dir: &Path, name: &str) {
        std::fs::write(dir.join(format!("{name}.pem")), &self.pem).unwrap();
        std::fs::write(dir.join(format!("{name}.key")), &self.key).unwrap();
    }

    /// Whether this is what the server of a connection has shown.
    pub fn is_of(&self, stream: &TlsStream<TcpStream>) -> bool {
        stream.get_ref().1.peer_certificates().unwrap()[0] == certificates(&self.pem)[0]
    }

    fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
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
        Self::before_server(split_url(&sink.url("/")).0, shown, clients).await
    }

    /// Before any server.
    pub async fn before_server(behind: SocketAddr, shown: &Certified, clients: Option<&Authority>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let refused = Arc::new(AtomicUsize::new(0));
        let acceptor = TlsAcceptor::from(Arc::new(server(shown, clients)));
        let server = tokio::spawn(serve(listener, acceptor, behind, Arc::clone(&refused)));
        Self { address, refused, server }
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    pub fn address(&self) -> SocketAddr {
        self.address
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
    builder.with_single_cert(certificates(&shown.pem), shown.private_key()).unwrap()
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
