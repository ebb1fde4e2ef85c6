//! Where the coordinator is, and how to speak TLS with it. Used by every client of its API.

use std::path::{Path, PathBuf};
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};

/// How to speak TLS with a coordinator; PEM files, read at every connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// Whom to believe; `None`: the authorities that this host trusts.
    pub ca: Option<PathBuf>,
    /// Certificate chain and key that we show.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// A coordinator.
#[derive(Clone, Debug)]
pub struct Coordinator {
    /// `http://host:port`, or `https://` for TLS.
    pub address: String,
    /// For `https://`.
    pub tls: Tls,
}

impl Coordinator {
    /// Without TLS.
    pub fn plain(address: impl Into<String>) -> Self {
        Self { address: address.into(), tls: Tls::default() }
    }

    /// Ready to connect, with what the files hold now.
    pub fn endpoint(&self) -> Result<Endpoint> {
        let wrong = |why: String| Error::new(Code::InvalidRequest, format!("coordinator {}: {why}", self.address));
        // A silent coordinator is noticed within the lease: 5 s is the least that etcd-like servers bear.
        let endpoint = Endpoint::from_shared(self.address.clone())
            .map_err(|error| wrong(error.to_string()))?
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true);
        if endpoint.uri().scheme_str() != Some("https") {
            if self.tls != Tls::default() {
                return Err(wrong("certificates go with https://".into()));
            }
            return Ok(endpoint);
        }
        let read = |path: &Path| std::fs::read(path).map_err(|error| wrong(format!("{}: {error}", path.display())));
        let mut config = ClientTlsConfig::new();
        config = match &self.tls.ca {
            Some(path) => config.ca_certificate(Certificate::from_pem(read(path)?)),
            None => config.with_enabled_roots(),
        };
        if let Some((certificate, key)) = &self.tls.client {
            config = config.identity(Identity::from_pem(read(certificate)?, read(key)?));
        }
        endpoint.tls_config(config).map_err(|error| wrong(reasons(&error)))
    }
}

/// An error with all that lies beneath it.
pub fn reasons(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(beneath) = source {
        let more = beneath.to_string();
        if !text.ends_with(&more) {
            text = format!("{text}: {more}");
        }
        source = beneath.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_need_an_address_of_tls() {
        let tls = Tls { ca: Some("/nowhere/ca.pem".into()), client: None };
        let with = |address: &str| Coordinator { address: address.into(), tls: tls.clone() }.endpoint().unwrap_err();
        assert!(with("http://127.0.0.1:1").message.contains("https://"));
        assert!(with("https://127.0.0.1:1").message.contains("/nowhere/ca.pem"));
        assert!(Coordinator::plain("http://127.0.0.1:1").endpoint().is_ok());
    }
}
