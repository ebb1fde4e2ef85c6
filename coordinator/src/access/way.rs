//! The way from one coordinator to another, over TLS: shows our certificate, believes the fleet's authorities.

use std::path::PathBuf;
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

const CONNECT: Duration = Duration::from_secs(2);
/// A silent leader is noticed within the two together.
const PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3));

/// How coordinators speak TLS with each other; PEM files, read whenever a way is made.
#[derive(Clone, Debug)]
pub struct PeerTls {
    /// Whom to believe; `None`: the authorities that this host trusts.
    pub ca: Option<PathBuf>,
    /// Our certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// A way to a coordinator; it connects when it is used.
pub fn way(address: &str, tls: Option<&PeerTls>) -> Result<Channel> {
    let wrong = |why: String| Error::new(Code::Internal, format!("the way to the leader at {address}: {why}"));
    let mut endpoint = Endpoint::from_shared(address.to_owned()).map_err(|error| wrong(error.to_string()))?;
    if let Some(tls) = tls.filter(|_| address.starts_with("https://")) {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|error| wrong(format!("{}: {error}", path.display())));
        let config = match &tls.ca {
            Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path)?)),
            None => ClientTlsConfig::new().with_enabled_roots(),
        };
        let identity = Identity::from_pem(read(&tls.certificate)?, read(&tls.key)?);
        endpoint = endpoint.tls_config(config.identity(identity)).map_err(|error| wrong(error.to_string()))?;
    }
    Ok(endpoint.connect_timeout(CONNECT).http2_keep_alive_interval(PING.0).keep_alive_timeout(PING.1).connect_lazy())
}
