//! Certificates and keys from PEM files. What went wrong is said with the file's path, and never with its content.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The certificates of a file, at least one. `what` names it in an error.
pub fn certificates(what: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = || CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>();
    let found = read().map_err(|error| unreadable(what, path, &error))?;
    if found.is_empty() {
        return Err(format!("{what} {} holds no PEM certificate", path.display()));
    }
    Ok(found)
}

/// The private key of a file.
pub fn key(what: &str, path: &Path) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| unreadable(what, path, &error))
}

/// The authorities of a file.
pub fn authorities(what: &str, path: &Path) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(what, path)? {
        roots.add(certificate).map_err(|error| format!("{what} {}: {error}", path.display()))?;
    }
    Ok(roots)
}

fn unreadable(what: &str, path: &Path, error: &pem::Error) -> String {
    format!("{what} {}: {error}", path.display())
}
