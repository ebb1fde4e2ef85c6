//! What a certificate says of its owner.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use x509_parser::extensions::GeneralName;
use x509_parser::parse_x509_certificate;

/// Begins a URI in the certificates of agents that a coordinator has signed; they serve for nothing else. The time of the signature
/// follows, in milliseconds: what the certificate says itself is earlier, for clocks that are behind.
pub const AGENT: &str = "dts:agent:";

/// A certificate that somebody showed, and that was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shown {
    /// As it came.
    pub der: CertificateDer<'static>,
    /// Its DNS names.
    pub names: Vec<String>,
    /// A coordinator signed it for an agent.
    pub agent: bool,
    /// When it was signed, in milliseconds since 1970.
    pub issued_ms: u64,
    /// It is worth nothing after.
    pub expires: SystemTime,
}

impl Shown {
    /// Reads it; `None` if it is not one.
    pub fn read(der: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(der).ok()?;
        let (mut names, mut signed_ms) = (Vec::new(), None);
        if let Ok(Some(alternatives)) = certificate.subject_alternative_name() {
            for name in &alternatives.value.general_names {
                match name {
                    GeneralName::DNSName(name) => names.push((*name).to_owned()),
                    GeneralName::URI(uri) => {
                        signed_ms = signed_ms.or(uri.strip_prefix(AGENT).map(|at| at.parse().unwrap_or(0)));
                    }
                    _ => {}
                }
            }
        }
        let [from, until] = [certificate.validity().not_before, certificate.validity().not_after]
            .map(|at| u64::try_from(at.timestamp()).unwrap_or(0));
        let expires = UNIX_EPOCH.checked_add(Duration::from_secs(until))?;
        let issued_ms = signed_ms.unwrap_or(from.saturating_mul(1000));
        Some(Self { der: der.clone().into_owned(), names, agent: signed_ms.is_some(), issued_ms, expires })
    }

    /// For people.
    pub fn who(&self) -> String {
        if self.names.is_empty() { "a certificate without a DNS name".into() } else { self.names.join(", ") }
    }
}

/// True if the certificate is for this name: a subject alternative name of type DNS, or an address.
pub fn names(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(name) = ServerName::try_from(name) else { return false };
    ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
}
