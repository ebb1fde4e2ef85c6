//! TLS for the API: who may connect, and who they are. Files are read at every connection, so that they may be replaced
//! in place.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dts_common::pem;
use rustls::ServerConfig;
use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::service::Interceptor;

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Handshakes under way at once; further connections wait in the listener's queue.
const HANDSHAKES: usize = 128;
/// A listener without descriptors left tries again after so long.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// What the API shows, and what it asks of those who connect.
#[derive(Clone, Debug)]
pub struct Tls {
    /// Our certificate with its chain, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
    /// Those who connect need a certificate of these authorities, PEM; `None`: anybody may.
    pub client_ca: Option<PathBuf>,
    /// Who may administer tasks, by a name in the certificate; empty: everybody who may connect.
    pub operators: Vec<String>,
}

/// A connection that is through its handshake.
pub type Accepted = io::Result<TlsStream<TcpStream>>;

impl Tls {
    /// Reads the files.
    pub fn config(&self) -> Result<ServerConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(pem::authorities("client CA file", path)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|error| error.to_string())?)
            }
        };
        let chain = pem::certificates("certificate", &self.certificate)?;
        let mut config = builder
            .with_single_cert(chain, pem::key("key", &self.key)?)
            .map_err(|error| format!("certificate {}: {error}", self.certificate.display()))?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        // A resumed session would outlive the authority that let it in.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Takes connections until cancelled, each through its handshake in a task of its own.
    pub async fn accept(self, listener: TcpListener, accepted: mpsc::Sender<Accepted>, cancel: CancellationToken) {
        let (places, tls) = (Arc::new(Semaphore::new(HANDSHAKES)), Arc::new(self));
        let mut handshakes = JoinSet::new();
        loop {
            while handshakes.try_join_next().is_some() {}
            let next = async {
                let place = places.clone().acquire_owned().await;
                (listener.accept().await, place)
            };
            let (socket, place) = tokio::select! {
                next = next => next,
                () = cancel.cancelled() => break,
            };
            match socket {
                Ok((socket, _)) => {
                    let (tls, accepted) = (tls.clone(), accepted.clone());
                    handshakes.spawn(async move {
                        if let Some(stream) = tls.shake_hands(socket).await {
                            let _served_or_ended = accepted.send(Ok(stream)).await;
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "no connection taken");
                    sleep(ACCEPT_AGAIN).await;
                }
            }
        }
        handshakes.shutdown().await;
    }

    async fn shake_hands(self: Arc<Self>, socket: TcpStream) -> Option<TlsStream<TcpStream>> {
        let peer = socket.peer_addr().ok();
        let refused = |why: String| tracing::warn!(?peer, why, "TLS connection refused");
        let read = tokio::task::spawn_blocking(move || self.config()).await;
        let config = match read.map_err(|error| error.to_string()).and_then(|config| config) {
            Ok(config) => config,
            Err(why) => {
                refused(why);
                return None;
            }
        };
        let _only_slower_without = socket.set_nodelay(true);
        let handshake = Box::pin(TlsAcceptor::from(Arc::new(config)).accept(socket));
        match timeout(HANDSHAKE_TIMEOUT, handshake).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                refused(error.to_string());
                None
            }
            Err(_) => {
                refused("no end of the handshake".into());
                None
            }
        }
    }
}

/// True if the certificate is for this name: a subject alternative name of type DNS, or an address.
pub fn names(certificate: &CertificateDer<'_>, name: &str) -> bool {
    let Ok(name) = ServerName::try_from(name) else { return false };
    ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
}

/// Lets operators through.
#[derive(Clone, Debug, Default)]
pub struct Operators(pub Arc<Vec<String>>);

impl Interceptor for Operators {
    fn call(&mut self, request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        if self.0.is_empty() {
            return Ok(request);
        }
        let shown = request.peer_certs();
        let certificate = shown.as_ref().and_then(|chain| chain.first());
        if certificate.is_some_and(|certificate| self.0.iter().any(|name| names(certificate, name))) {
            return Ok(request);
        }
        Err(Status::permission_denied("the certificate of this client names no operator of this coordinator"))
    }
}
