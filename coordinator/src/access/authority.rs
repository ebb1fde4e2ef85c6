//! Signs the certificates of agents.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use dts_common::error::{Code, Error, Result};
use rcgen::{
    CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, Issuer,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{DnsName, ServerName};

use super::certificate::AGENT;

/// Clocks differ by so much at most.
const SKEW: Duration = Duration::from_secs(300);
const LONGEST_NAME: usize = 63;
const LONGEST_REQUEST: usize = 16 << 10;

/// The authority of agents; its files are read at every signature, so that they may be replaced in place.
#[derive(Clone, Debug)]
pub struct Authority {
    /// Its certificate, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// How long the certificates live.
    pub lifetime: Duration,
}

/// Since 1970.
pub fn millis(at: SystemTime) -> u64 {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What an agent gets.
#[derive(Clone, Debug)]
pub struct Signed {
    /// Its certificate, then the authority's.
    pub pem: String,
    /// It is worth nothing after.
    pub expires: SystemTime,
}

/// A name that a certificate can be for.
pub fn check_name(name: &str) -> Result<()> {
    let dns = DnsName::try_from(name).is_ok() && ServerName::try_from(name).is_ok();
    if dns && name.len() <= LONGEST_NAME {
        return Ok(());
    }
    let message = format!("agent_id {name:?} has to be a DNS name of at most {LONGEST_NAME} characters");
    Err(Error::new(Code::InvalidRequest, message))
}

impl Authority {
    /// A certificate for this agent and the key of this request. What else the request asks for is ignored.
    pub fn sign(&self, name: &str, request_pem: &str) -> Result<Signed> {
        check_name(name)?;
        let wrong = |why: String| Error::new(Code::InvalidRequest, format!("request_pem: {why}"));
        if request_pem.len() > LONGEST_REQUEST {
            return Err(wrong(format!("more than {LONGEST_REQUEST} bytes")));
        }
        let request =
            CertificateSigningRequestParams::from_pem(request_pem).map_err(|error| wrong(error.to_string()))?;
        let (pem, issuer) = self.issuer()?;
        let now = SystemTime::now();
        let expires = now + self.lifetime;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let text = |text: &str| text.try_into().map_err(|_| wrong("the agent's name is not ASCII".into()));
        params.subject_alt_names =
            vec![SanType::DnsName(text(name)?), SanType::URI(text(&format!("{AGENT}{}", millis(now)))?)];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        let skew = SKEW.min(self.lifetime / 10);
        (params.not_before, params.not_after) = ((now - skew).into(), expires.into());
        let signed = params.signed_by(&request.public_key, &issuer).map_err(|error| self.broken(&error.to_string()))?;
        Ok(Signed { pem: format!("{}{pem}", signed.pem()), expires })
    }

    /// Fails if the files are not a certificate and its key.
    pub fn check(&self) -> Result<()> {
        self.issuer().map(drop)
    }

    fn issuer(&self) -> Result<(String, Issuer<'static, KeyPair>)> {
        let read = |path: &PathBuf| {
            std::fs::read_to_string(path).map_err(|error| self.broken(&format!("{}: {error}", path.display())))
        };
        let (certificate, key) = (read(&self.certificate)?, read(&self.key)?);
        let key = KeyPair::from_pem(&key).map_err(|error| self.broken(&format!("{}: {error}", self.key.display())))?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)
            .map_err(|error| self.broken(&format!("{}: {error}", self.certificate.display())))?;
        Ok((certificate, issuer))
    }

    fn broken(&self, why: &str) -> Error {
        Error::new(Code::InvalidRequest, format!("the authority of agents: {why}"))
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertifiedIssuer, IsCa};
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    use super::*;
    use crate::access::certificate::{Shown, names};

    fn authority(dir: &std::path::Path) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let (certificate, key) = (dir.join("ca.pem"), dir.join("ca.key"));
        std::fs::write(&certificate, issuer.pem()).unwrap();
        std::fs::write(&key, issuer.key().serialize_pem()).unwrap();
        Authority { certificate, key, lifetime: Duration::from_secs(60) }
    }

    #[test]
    fn a_certificate_is_for_the_agent_and_not_for_what_the_request_asks() {
        let dir = tempfile::tempdir().unwrap();
        let authority = authority(dir.path());
        authority.check().unwrap();
        let key = KeyPair::generate().unwrap();
        let greedy = CertificateParams::new(vec!["boss".to_owned()]).unwrap();
        let request = greedy.serialize_request(&key).unwrap().pem().unwrap();
        let signed = authority.sign("a1", &request).unwrap();
        let der = CertificateDer::from_pem_slice(signed.pem.as_bytes()).unwrap();
        let shown = Shown::read(&der).unwrap();
        assert_eq!((shown.names, shown.agent), (vec!["a1".to_owned()], true));
        assert!(names(&der, "a1") && !names(&der, "boss"));
        assert!(authority.sign("not a name", &request).is_err());
        assert!(authority.sign("a1", "-----BEGIN NOTHING-----").is_err());
    }
}
