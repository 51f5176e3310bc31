//! Whom sinks may be signed by beside the authorities of the system, and who we are to them: what the files hold that the flags
//! name.

use std::path::{Path, PathBuf};

use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::client::ClientError;
use crate::resource::certificates;

/// Where certificates for deliveries are (PEM).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Certificate authorities.
    pub authorities: Option<PathBuf>,
    /// Our certificate, with what lies between it and its authority, and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

impl Files {
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let client = self.client.iter().flat_map(|(certificate, key)| [certificate, key]);
        self.authorities.iter().chain(client).cloned().collect()
    }
}

/// What the files hold. Not to be printed: a key is among it.
#[derive(Clone, Default)]
pub(super) struct Trust {
    pub(super) authorities: Vec<CertificateDer<'static>>,
    pub(super) identity: Option<reqwest::Identity>,
    /// As it was read, to know a change by.
    texts: Vec<Vec<u8>>,
}

impl Trust {
    /// # Errors
    /// What is wrong with which file.
    pub(super) fn read(files: &Files) -> Result<Self, ClientError> {
        let mut trust = Self::default();
        if let Some(path) = &files.authorities {
            let pem = read(path, AUTHORITIES)?;
            trust.authorities = certificates::authorities(&pem).map_err(|fault| bad(AUTHORITIES, path, fault))?;
            trust.texts.push(pem);
        }
        if let Some((certificate, key)) = &files.client {
            let (chain, secret) = (read(certificate, CERTIFICATE)?, read(key, KEY)?);
            trust.identity = Some(identity((certificate, &chain), (key, &secret))?);
            trust.texts.extend([chain, secret]);
        }
        Ok(trust)
    }

    pub(super) fn is_of_the_same_files(&self, other: &Self) -> bool {
        self.texts == other.texts
    }
}

const AUTHORITIES: &str = "the certificate authorities of sinks (--sink-ca-file)";
const CERTIFICATE: &str = "the client certificate for sinks (--sink-client-cert-file)";
const KEY: &str = "the key of the client certificate for sinks (--sink-client-key-file)";

fn read(path: &Path, what: &str) -> Result<Vec<u8>, ClientError> {
    std::fs::read(path).map_err(|error| ClientError(format!("cannot read {what} from {}: {error}", path.display())))
}

fn bad(what: &str, path: &Path, fault: impl std::fmt::Display) -> ClientError {
    ClientError(format!("{what}: {} {fault}", path.display()))
}

/// Our certificate with its key, which belongs to it.
fn identity(certificate: (&Path, &[u8]), key: (&Path, &[u8])) -> Result<reqwest::Identity, ClientError> {
    let ((chain_path, chain), (key_path, secret)) = (certificate, key);
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(chain).collect();
    let found = found.map_err(|error| bad(CERTIFICATE, chain_path, format!("is no PEM ({error})")))?;
    if found.is_empty() {
        return Err(bad(CERTIFICATE, chain_path, "holds no certificate, expected one in PEM"));
    }
    let private = PrivateKeyDer::from_pem_slice(secret)
        .map_err(|_| bad(KEY, key_path, "holds no private key, expected one in PEM"))?;
    CertifiedKey::from_der(found, private, &aws_lc_rs::default_provider())
        .map_err(|error| bad(KEY, key_path, format!("does not go with {}: {error}", chain_path.display())))?;
    let both = [chain, b"\n", secret].concat();
    reqwest::Identity::from_pem(&both).map_err(|_| bad(CERTIFICATE, chain_path, "cannot be used with its key"))
}
