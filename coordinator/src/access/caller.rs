//! Who calls: by the connection, or by what a coordinator says that hands the call on.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tonic::body::Body;
use tonic::codegen::http::Request;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::transport::server::{Connected, TcpConnectInfo, TlsConnectInfo};

use super::certificate::Shown;

/// Says that the call was handed on, and from where it came.
const FROM: &str = "dts-caller-address";
/// The caller's certificate; missing if none was shown.
const CERTIFICATE: &str = "dts-caller-bin";

/// Who calls.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// What was shown, and verified.
    pub certificate: Option<Arc<Shown>>,
    /// Where the call came from.
    pub address: Option<SocketAddr>,
}

type TlsInfo = <TlsStream<TcpStream> as Connected>::ConnectInfo;

impl Caller {
    /// The other end of the connection.
    pub fn of_connection(request: &Request<Body>) -> Self {
        if let Some(info) = request.extensions().get::<TlsInfo>() {
            let info: &TlsConnectInfo<TcpConnectInfo> = info;
            let chain = info.peer_certs();
            let certificate = chain.as_ref().and_then(|chain| Shown::read(chain.first()?)).map(Arc::new);
            return Self { certificate, address: info.get_ref().remote_addr() };
        }
        let info = request.extensions().get::<TcpConnectInfo>();
        Self { certificate: None, address: info.and_then(TcpConnectInfo::remote_addr) }
    }

    /// For the audit trail.
    pub fn who(&self) -> String {
        match &self.certificate {
            None => "nobody by name".into(),
            Some(certificate) if certificate.agent => format!("agent {}", certificate.who()),
            Some(certificate) => certificate.who(),
        }
    }

    /// Writes it on a request that is handed on.
    pub fn put(&self, request: &mut Request<Body>) {
        let mut headers = MetadataMap::from_headers(std::mem::take(request.headers_mut()));
        let address = self.address.map(|address| address.to_string()).unwrap_or_default();
        if let Ok(address) = MetadataValue::try_from(address) {
            headers.insert(FROM, address);
        }
        if let Some(certificate) = &self.certificate {
            headers.insert_bin(CERTIFICATE, MetadataValue::from_bytes(&certificate.der));
        }
        *request.headers_mut() = headers.into_headers();
    }
}

/// What stands on a request, taken off it; `None` if it does not claim to be handed on.
pub fn take(request: &mut Request<Body>) -> Option<Caller> {
    let mut headers = MetadataMap::from_headers(std::mem::take(request.headers_mut()));
    let (from, shown) = (headers.remove(FROM), headers.remove_bin(CERTIFICATE));
    *request.headers_mut() = headers.into_headers();
    let address = from?.to_str().ok().and_then(|address| address.parse().ok());
    let der = shown.and_then(|shown| shown.to_bytes().ok());
    let certificate = der.and_then(|der| Shown::read(&CertificateDer::from(der.to_vec())));
    Some(Caller { certificate: certificate.map(Arc::new), address })
}
