//! Certificates made for one test, and servers that speak TLS with them.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};

use crate::port::free_port;
use crate::server::Server;

/// A certificate authority of one's own.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Its certificate.
    pub file: PathBuf,
    dir: tempfile::TempDir,
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct Identity {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

impl Authority {
    /// A new one, unrelated to every other.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("ca.pem");
        std::fs::write(&file, issuer.pem())?;
        Ok(Self { issuer, file, dir })
    }

    /// Its certificate as PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for a server of these names or addresses.
    pub fn server(&self, names: &[&str]) -> Result<Identity> {
        self.sign(names, &[ExtendedKeyUsagePurpose::ServerAuth], false)
    }

    /// The same, for a time that is over.
    pub fn expired(&self, names: &[&str]) -> Result<Identity> {
        self.sign(names, &[ExtendedKeyUsagePurpose::ServerAuth], true)
    }

    /// Its key, in a file.
    pub fn key(&self) -> Result<PathBuf> {
        let path = self.dir.path().join("ca.key");
        std::fs::write(&path, self.issuer.key().serialize_pem())?;
        Ok(path)
    }

    /// A certificate for a client.
    pub fn client(&self, name: &str) -> Result<Identity> {
        self.sign(&[name], &[ExtendedKeyUsagePurpose::ClientAuth], false)
    }

    /// A certificate for a node of a cluster, which is a client of the others.
    pub fn node(&self, names: &[&str]) -> Result<Identity> {
        self.sign(names, &[ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth], false)
    }

    fn sign(&self, names: &[&str], usage: &[ExtendedKeyUsagePurpose], expired: bool) -> Result<Identity> {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names.clone())?;
        params.distinguished_name.push(DnType::CommonName, names.first().context("a name")?.clone());
        params.extended_key_usages = usage.to_vec();
        const DAY: Duration = Duration::from_secs(86_400);
        let now = SystemTime::now();
        let (from, to) = if expired { (now - 3 * DAY, now - DAY) } else { (now - DAY, now + 3 * DAY) };
        (params.not_before, params.not_after) = (from.into(), to.into());
        let key = KeyPair::generate()?;
        let certificate: Certificate = params.signed_by(&key, &self.issuer as &Issuer<'_, KeyPair>)?;
        let at = tempfile::Builder::new().prefix("identity").tempdir_in(self.dir.path())?.keep();
        let identity = Identity { certificate: at.join("cert.pem"), key: at.join("key.pem") };
        std::fs::write(&identity.certificate, certificate.pem())?;
        std::fs::write(&identity.key, key.serialize_pem())?;
        Ok(identity)
    }
}

/// A server with a TLS port beside the plain one that the tests themselves use.
pub struct TlsServer {
    /// The server, with its plain port.
    pub plain: Server,
    /// Its TLS port.
    pub port: u16,
}

impl TlsServer {
    /// Starts one that shows `identity` and takes clients of `authority`: all of them, or those with a certificate.
    pub fn start(
        name: &str,
        identity: &Identity,
        authority: &Authority,
        asks_clients: bool,
        options: &[&str],
    ) -> Result<Self> {
        let text = |path: &Path| path.to_str().map(str::to_owned).context("a path of the test");
        let (port, asks) = (free_port(), if asks_clients { "yes" } else { "no" });
        let (tls_port, certificate, key, ca) =
            (port.to_string(), text(&identity.certificate)?, text(&identity.key)?, text(&authority.file)?);
        let mut all = vec!["--tls-port", &tls_port, "--tls-cert-file", &certificate, "--tls-key-file", &key];
        all.extend(["--tls-ca-cert-file", &ca, "--tls-auth-clients", asks]);
        all.extend(options);
        Ok(Self { plain: Server::start(name, &all)?, port })
    }

    /// `rediss://`, by an address.
    pub fn url(&self) -> String {
        format!("rediss://127.0.0.1:{}", self.port)
    }

    /// Shows another certificate from now on, and takes clients of another authority.
    pub fn show(&self, identity: &Identity, authority: &Authority) -> Result<()> {
        let mut connection = self.plain.connect()?;
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("tls-cert-file").arg(identity.certificate.to_str());
        set.arg("tls-ca-cert-file").arg(authority.file.to_str());
        set.arg("tls-key-file").arg(identity.key.to_str()).exec(&mut connection)?;
        Ok(())
    }
}
