//! TLS for those who come in: certificates from files, which count again soon after they change, so that a renewal needs no
//! restart. Connections that stand keep what they were made with.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use aws_lc_rs::digest;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::telemetry::ConnectionMeter;

/// What clients may choose (ALPN), the preferred one first.
const PROTOCOLS: [&str; 2] = ["h2", "http/1.1"];
/// How often the files are read. Their contents are compared, because a mounted Secret is swapped by a link above them, and a
/// change counts when it looks the same twice, so that files which are being written are not taken for faulty ones.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Bytes of one file; a bundle with all authorities that a system trusts has a quarter of that.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

const EXPECTED_CERTIFICATE: &str = "expected PEM with the server's certificate first and those that signed it after it";
const EXPECTED_KEY: &str = "expected PEM with one private key (PKCS#8, PKCS#1 or SEC1)";
const EXPECTED_CA: &str =
    "expected PEM with the certificates of the authorities that clients' certificates are signed by";

/// Where the certificates are.
#[derive(Debug, Clone)]
pub struct Files {
    /// The server's own, followed by those that signed it.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Authorities of clients. With them, a client without a certificate of theirs is not let in.
    pub client_ca: Option<PathBuf>,
}

/// What connections shake hands with.
#[derive(Clone)]
pub struct Tls(Arc<State>);

struct State {
    files: Files,
    config: RwLock<Arc<ServerConfig>>,
    /// Of the contents in force at the start.
    first: Mark,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Tls").field(&self.0.files).finish()
    }
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// Names the file that cannot be used, and what was expected in it.
    pub fn read(files: Files) -> Result<Self, String> {
        let contents = Contents::read(&files)?;
        let config = RwLock::new(Arc::new(contents.config(&files)?));
        let first = mark(&Ok(contents));
        Ok(Self(Arc::new(State { files, config, first })))
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
        let config = Arc::clone(&*self.0.config.read().unwrap_or_else(PoisonError::into_inner));
        TlsAcceptor::from(config).accept(stream).await
    }

    /// Reads the files again and again until `shutdown`, and takes what is new for the handshakes to come. What cannot be used is
    /// told and counted once, and the last good certificates stay.
    pub async fn follow(&self, meter: &ConnectionMeter, shutdown: &CancellationToken) {
        let (mut judged, mut before) = (self.0.first, None);
        while shutdown.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some() {
            let files = self.0.files.clone();
            let reading = tokio::task::spawn_blocking(move || Contents::read(&files));
            let contents = reading.await.unwrap_or_else(|error| Err(error.to_string()));
            let mark = mark(&contents);
            let is_settled = before.replace(mark) == Some(mark);
            if mark != judged && is_settled {
                judged = mark;
                self.take(contents, meter);
            }
        }
    }

    fn take(&self, contents: Result<Contents, String>, meter: &ConnectionMeter) {
        let file = self.0.files.certificate.display();
        match contents.and_then(|contents| contents.config(&self.0.files)) {
            Ok(config) => {
                *self.0.config.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
                tracing::info!(%file, "new TLS certificate in force");
            }
            Err(fault) => {
                meter.certificates.add();
                tracing::error!(%file, fault, "new TLS files refused, the last good ones stay in force");
            }
        }
    }
}

/// What the files hold.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

/// Tells contents apart without keeping a key.
type Mark = [u8; digest::SHA256_OUTPUT_LEN];

fn mark(contents: &Result<Contents, String>) -> Mark {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut add = |bytes: &[u8]| {
        context.update(&bytes.len().to_be_bytes());
        context.update(bytes);
    };
    match contents {
        Ok(Contents { certificate, key, client_ca }) => {
            add(certificate);
            add(key);
            add(client_ca.as_deref().unwrap_or_default());
        }
        Err(fault) => add(fault.as_bytes()),
    }
    let mut mark = [0; digest::SHA256_OUTPUT_LEN];
    mark.copy_from_slice(context.finish().as_ref());
    mark
}

impl Contents {
    fn read(files: &Files) -> Result<Self, String> {
        Ok(Self {
            certificate: read(&files.certificate, EXPECTED_CERTIFICATE)?,
            key: read(&files.key, EXPECTED_KEY)?,
            client_ca: files.client_ca.as_deref().map(|file| read(file, EXPECTED_CA)).transpose()?,
        })
    }

    fn config(&self, files: &Files) -> Result<ServerConfig, String> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match (&self.client_ca, &files.client_ca) {
            (Some(bytes), Some(file)) => {
                let fault = |error: &dyn std::fmt::Display| format!("{}: {error}; {EXPECTED_CA}", file.display());
                let mut roots = RootCertStore::empty();
                for certificate in certificates(bytes, file, EXPECTED_CA)? {
                    roots.add(certificate).map_err(|error| fault(&error))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| fault(&error))?)
            }
            _ => builder.with_no_client_auth(),
        };
        let certificates = certificates(&self.certificate, &files.certificate, EXPECTED_CERTIFICATE)?;
        let (certificate, key) = (files.certificate.display(), files.key.display());
        // What is wrong with a key is not shown: the words for it may quote the file.
        let private = PrivateKeyDer::from_pem_slice(&self.key).map_err(|_| format!("{key}: no key; {EXPECTED_KEY}"))?;
        let mut config = builder.with_single_cert(certificates, private).map_err(|error| {
            format!("{certificate} and {key} do not go together ({error}), expected a certificate and its key")
        })?;
        config.alpn_protocols = PROTOCOLS.iter().map(|name| name.as_bytes().to_vec()).collect();
        Ok(config)
    }
}

fn read(file: &Path, expected: &str) -> Result<Vec<u8>, String> {
    let fault = |error: &dyn std::fmt::Display| format!("{}: {error}; {expected}", file.display());
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(|error| fault(&error))?;
    opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| fault(&error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(fault(&format_args!("longer than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

fn certificates(bytes: &[u8], file: &Path, expected: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let fault = |error: &dyn std::fmt::Display| format!("{}: {error}; {expected}", file.display());
    let certificates: Vec<_> =
        CertificateDer::pem_slice_iter(bytes).collect::<Result<_, _>>().map_err(|error| fault(&error))?;
    if certificates.is_empty() { Err(fault(&"no certificate")) } else { Ok(certificates) }
}
