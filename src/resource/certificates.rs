//! Certificates in PEM, as manifests and files hold them.

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// The certificate authorities in a PEM text, at least one.
///
/// # Errors
/// What is wrong with it.
pub fn authorities(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = read.map_err(|error| format!("is no PEM ({error}), expected certificates in PEM"))?;
    if certificates.is_empty() {
        return Err("holds no certificate, expected at least one in PEM (-----BEGIN CERTIFICATE-----)".to_owned());
    }
    let mut store = RootCertStore::empty();
    for (index, certificate) in certificates.iter().enumerate() {
        let added = store.add(certificate.clone());
        added.map_err(|error| format!("holds no certificate authority in place {}: {error}", index + 1))?;
    }
    Ok(certificates)
}
