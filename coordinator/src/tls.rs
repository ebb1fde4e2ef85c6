//! TLS for the API: who may connect, and who they are. Files are read at every connection, so that they may be replaced
//! in place.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dts_common::pem;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::access::authority::Authority;
use crate::access::certificate::names;
use crate::access::way::PeerTls;
use crate::access::{Access, Roles};

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
    /// Signs the certificates of agents; those who have none yet may connect, and ask for one.
    pub authority: Option<Authority>,
    /// Who may what, by a name in the certificate.
    pub roles: Arc<Roles>,
    /// Names in the certificates of coordinators: they hand calls on in the name of who called them.
    pub peers: Vec<String>,
    /// Those who may have signed them, PEM; `None`: those of `client_ca`.
    pub peer_ca: Option<PathBuf>,
}

/// A connection that is through its handshake.
pub type Accepted = io::Result<TlsStream<TcpStream>>;

impl Tls {
    /// What calls have to hold against.
    pub fn access(&self) -> Access {
        let (asks, roles) = (self.client_ca.is_some(), self.roles.clone());
        Access { asks, roles, peers: Arc::new(self.peers.clone()) }
    }

    /// How to speak with other coordinators.
    pub fn peer(&self) -> PeerTls {
        let ca = self.peer_ca.clone().or_else(|| self.client_ca.clone());
        PeerTls { ca, certificate: self.certificate.clone(), key: self.key.clone() }
    }

    /// Says now what would be said to the first who connects, or to the first call that is handed on.
    pub fn check(&self, one_of_many: bool) -> Result<(), String> {
        self.config()?;
        if let Some(authority) = &self.authority {
            authority.check().map_err(|error| error.message)?;
        }
        if !one_of_many || self.client_ca.is_none() {
            return Ok(());
        }
        let own = pem::certificates("certificate", &self.certificate)?;
        let ours = own.first().is_some_and(|own| self.peers.iter().any(|peer| names(own, peer)));
        if ours {
            return Ok(());
        }
        let what = "coordinators over etcd know each other by --peer, a DNS name in the certificate of each of them";
        Err(format!("{what}; certificate {} has none of those given", self.certificate.display()))
    }

    /// Reads the files.
    pub fn config(&self) -> Result<ServerConfig, String> {
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = pem::authorities("client CA file", path)?;
                if let Some(authority) = &self.authority {
                    for certificate in pem::certificates("authority of agents", &authority.certificate)? {
                        roots.add(certificate).map_err(|error| error.to_string())?;
                    }
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                // Who shows none gets no further than to the place where agents get theirs.
                let verifier = if self.authority.is_some() { verifier.allow_unauthenticated() } else { verifier };
                builder.with_client_cert_verifier(verifier.build().map_err(|error| error.to_string())?)
            }
        };
        let chain = pem::certificates("certificate", &self.certificate)?;
        let mut config = builder
            .with_single_cert(chain, pem::key("key", &self.key)?)
            .map_err(|error| format!("certificate {}: {error}", self.certificate.display()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
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
