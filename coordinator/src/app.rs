//! Config -> build (store open, socket bound) -> run -> drain.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::agent_service_server::AgentServiceServer;
use dts_proto::v1::fleet_service_server::FleetServiceServer;
use dts_proto::v1::task_service_server::TaskServiceServer;
use futures_util::FutureExt as _;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::{interval, timeout};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;

use crate::api::agent::Fleet;
use crate::api::task::Operator;
use crate::engine::Engine;
use crate::secret::Sealer;
use crate::store::Embedded;
use crate::tls::{Operators, Tls};

/// Open connections get this long to end.
const DRAIN: Duration = Duration::from_secs(2);

/// What a coordinator needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the gRPC services listen. Without TLS that asks for certificates anyone who reaches it can command: keep it
    /// on loopback or a trusted network then.
    pub listen: SocketAddr,
    /// Holds the store and the key of its secrets.
    pub state_dir: PathBuf,
    /// An agent that is silent for so long is taken for gone.
    pub lease_ttl: Duration,
    /// How often agents report.
    pub report_interval: Duration,
    /// `None`: not encrypted.
    pub tls: Option<Tls>,
}

impl Config {
    /// With the usual lease (10 s) and report interval (250 ms).
    pub fn new(listen: SocketAddr, state_dir: PathBuf) -> Self {
        Self {
            listen,
            state_dir,
            lease_ttl: Duration::from_secs(10),
            report_interval: Duration::from_millis(250),
            tls: None,
        }
    }
}

/// A coordinator that is ready to run.
pub struct Coordinator {
    config: Config,
    engine: Arc<Engine<Embedded>>,
    listener: TcpListener,
    local_addr: SocketAddr,
}

/// Opens the store and binds the socket.
pub async fn bind(config: Config) -> Result<Coordinator> {
    if let Some(tls) = &config.tls {
        // Said now, and not to the first who connects.
        tls.config().map_err(|why| Error::new(Code::InvalidRequest, why))?;
    }
    let disk = |error: std::io::Error| Error::new(Code::AgentDisk, format!("{}: {error}", config.state_dir.display()));
    std::fs::create_dir_all(&config.state_dir).map_err(disk)?;
    let store = Embedded::open(&config.state_dir.join("store.redb"))?;
    let sealer = Sealer::open(&config.state_dir.join("secret.key"))?;
    let engine = Arc::new(Engine::open(store, sealer, config.lease_ttl).await?);
    let listen = |error: std::io::Error| {
        Error::new(Code::InvalidRequest, format!("cannot listen on {}: {error}", config.listen))
    };
    let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
    let local_addr = listener.local_addr().map_err(listen)?;
    Ok(Coordinator { config, engine, listener, local_addr })
}

impl Coordinator {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until cancelled.
    pub async fn run(self, cancel: CancellationToken) -> Result<()> {
        let internal = |what: String| Error::new(Code::Internal, what);
        let operator = || Operator { engine: self.engine.clone(), cancel: cancel.clone() };
        let fleet = Fleet {
            engine: self.engine.clone(),
            report_interval: self.config.report_interval,
            lease_ttl: self.config.lease_ttl,
            cancel: cancel.clone(),
        };
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<TaskServiceServer<Operator<Embedded>>>().await;
        let descriptors = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(dts_proto::DESCRIPTOR_SET)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let reflection = descriptors().build_v1().map_err(|error| internal(error.to_string()))?;
        let reflection_alpha = descriptors().build_v1alpha().map_err(|error| internal(error.to_string()))?;
        let clock = tokio::spawn(keep_time(self.engine.clone(), self.config.lease_ttl / 4, cancel.clone()));
        let operators = self.config.tls.as_ref().map(|tls| tls.operators.clone()).unwrap_or_default();
        let operators = Operators(Arc::new(operators));
        let router = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(Duration::from_secs(10)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .add_service(health_service)
            .add_service(reflection)
            .add_service(reflection_alpha)
            .add_service(TaskServiceServer::with_interceptor(operator(), operators.clone()))
            .add_service(FleetServiceServer::with_interceptor(operator(), operators))
            .add_service(AgentServiceServer::new(fleet));
        let ends = cancel.clone().cancelled_owned();
        let (accepted, through) = mpsc::channel(1);
        let (accepting, served) = match self.config.tls {
            None => {
                let served = router.serve_with_incoming_shutdown(TcpListenerStream::new(self.listener), ends);
                (None, served.boxed())
            }
            Some(tls) => {
                let accepting = tokio::spawn(tls.accept(self.listener, accepted, cancel.clone()));
                let served = router.serve_with_incoming_shutdown(ReceiverStream::new(through), ends);
                (Some(accepting), served.boxed())
            }
        };
        let served = async {
            tokio::pin!(served);
            tokio::select! {
                ended = &mut served => ended,
                () = cancel.cancelled() => timeout(DRAIN, served).await.unwrap_or(Ok(())),
            }
        };
        let ended = served.await.map_err(|error| internal(format!("the server ended: {error}")));
        cancel.cancel();
        let _only_ticks = clock.await;
        if let Some(accepting) = accepting {
            let _cancelled = accepting.await;
        }
        ended
    }
}

async fn keep_time(engine: Arc<Engine<Embedded>>, every: Duration, cancel: CancellationToken) {
    let mut tick = interval(every);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = cancel.cancelled() => return,
        }
        if let Err(error) = engine.tick().await {
            tracing::error!(%error, "the clock's work failed");
        }
    }
}
