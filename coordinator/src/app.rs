//! Config -> build (store open, socket bound) -> run -> drain.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_common::metrics::{self, Recorded};
use dts_proto::v1::agent_service_server::AgentServiceServer;
use dts_proto::v1::alarm_service_server::AlarmServiceServer;
use dts_proto::v1::enrolment_service_server::EnrolmentServiceServer;
use dts_proto::v1::fleet_service_server::FleetServiceServer;
use dts_proto::v1::switch_over_service_server::SwitchOverServiceServer;
use dts_proto::v1::task_service_server::TaskServiceServer;
use dts_proto::v1::verify_service_server::VerifyServiceServer;
use futures_util::FutureExt as _;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_util::sync::CancellationToken;

use crate::access::guard::Guard;
use crate::api::agent::Fleet;
use crate::api::enrol::Enrolment;
use crate::api::forward::{Forward, Forwarder};
use crate::api::task::Operator;
use crate::api::trace::Traced;
use crate::election::{Candidate, Guarded, Leading, Opener, Seat, keep_time};
use crate::engine::prove;
use crate::figures;
use crate::secret::Sealer;
use crate::store::{Embedded, Etcd, EtcdConfig, Metered, Store};
use crate::tls::Tls;
use crate::web::Front;
use crate::web::calls::Calls;
use crate::web::origin::Rules;

/// Open connections get this long to end.
const DRAIN: Duration = Duration::from_secs(2);

/// What a coordinator needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the gRPC services listen. Without TLS that asks for certificates anyone who reaches it can command: keep it
    /// on loopback or a trusted network then.
    pub listen: SocketAddr,
    /// Where tasks are kept.
    pub state: State,
    /// An agent that is silent for so long is taken for gone.
    pub lease_ttl: Duration,
    /// How often agents report.
    pub report_interval: Duration,
    /// `None`: not encrypted.
    pub tls: Option<Tls>,
    /// Names under which browsers reach it without TLS, besides addresses and localhost.
    pub console_hosts: Vec<String>,
    /// Where metrics are served, and what was counted of this process.
    pub metrics: Option<(SocketAddr, Recorded)>,
}

/// Where tasks are kept, and so whether there may be other coordinators.
#[derive(Clone, Debug)]
pub enum State {
    /// In a directory, with the key of its secrets; for one coordinator.
    Directory(PathBuf),
    /// In etcd; of any number of coordinators one leads, the others hand their calls on to it.
    Etcd {
        /// How to reach it.
        etcd: EtcdConfig,
        /// Holds the key of the secrets, the same for every coordinator.
        seal_key_file: PathBuf,
        /// `http://host:port`, or `https://` with TLS, at which the other coordinators reach this one; by default where it listens.
        advertise: Option<String>,
        /// A leader that etcd does not hear for so long is deposed.
        leader_ttl: Duration,
    },
}

impl Config {
    /// With the usual lease (10 s) and report interval (250 ms).
    pub fn new(listen: SocketAddr, state: State) -> Self {
        Self {
            listen,
            state,
            lease_ttl: Duration::from_secs(10),
            report_interval: Duration::from_millis(250),
            tls: None,
            console_hosts: Vec::new(),
            metrics: None,
        }
    }
}

/// A coordinator that is ready to run.
pub struct Coordinator {
    config: Config,
    role: Role,
    listener: TcpListener,
    metrics: Option<(TcpListener, Recorded)>,
    local_addr: SocketAddr,
}

enum Role {
    Alone(Metered<Embedded>, Arc<Sealer>),
    OneOfMany(Box<Candidate<Metered<Etcd>>>),
}

/// Opens the store and binds the socket.
pub async fn bind(config: Config) -> Result<Coordinator> {
    if let Some(tls) = &config.tls {
        // Said now, and not to the first who connects.
        let one_of_many = matches!(config.state, State::Etcd { .. });
        tls.check(one_of_many).map_err(|why| Error::new(Code::InvalidRequest, why))?;
    }
    let cannot_listen =
        |at, error: std::io::Error| Error::new(Code::InvalidRequest, format!("cannot listen on {at}: {error}"));
    let listen = |error| cannot_listen(config.listen, error);
    let metrics = match &config.metrics {
        None => None,
        Some((at, recorded)) => {
            Some((TcpListener::bind(at).await.map_err(|error| cannot_listen(*at, error))?, recorded.clone()))
        }
    };
    let (role, listener) = match &config.state {
        State::Directory(dir) => {
            std::fs::create_dir_all(dir)
                .map_err(|error| Error::new(Code::AgentDisk, format!("{}: {error}", dir.display())))?;
            let store = Metered(Embedded::open(&dir.join("store.redb"))?);
            let sealer = Sealer::open(&dir.join("secret.key"))?;
            prove(&store, &sealer).await?;
            (Role::Alone(store, Arc::new(sealer)), TcpListener::bind(config.listen).await.map_err(listen)?)
        }
        State::Etcd { etcd, seal_key_file, advertise, leader_ttl } => {
            let sealer = Arc::new(Sealer::read(seal_key_file)?);
            let store = Metered(Etcd::new(etcd.clone())?);
            match prove(&store, &sealer).await {
                // A key that does not fit is found out as soon as etcd answers.
                Err(error) if error.code.retry() => tracing::warn!(%error, "etcd does not answer yet"),
                proved => proved?,
            }
            let listener = TcpListener::bind(config.listen).await.map_err(listen)?;
            let address = match advertise {
                Some(address) => address.clone(),
                None => of_listener(listener.local_addr().map_err(listen)?, config.tls.is_some())?,
            };
            let candidate = Candidate {
                store,
                id: uuid::Uuid::new_v4().to_string(),
                address,
                ttl: *leader_ttl,
                opener: Opener { sealer, agent_ttl: config.lease_ttl, certificates: certificates(&config) },
                seat: watch::Sender::new(Seat::Following(None)),
            };
            (Role::OneOfMany(Box::new(candidate)), listener)
        }
    };
    let local_addr = listener.local_addr().map_err(listen)?;
    Ok(Coordinator { config, role, listener, metrics, local_addr })
}

/// What it shows to those who connect, and what it believes of them.
fn certificates(config: &Config) -> Vec<PathBuf> {
    let files = config.tls.iter().flat_map(|tls| std::iter::once(&tls.certificate).chain(&tls.client_ca));
    files.cloned().collect()
}

fn of_listener(address: SocketAddr, tls: bool) -> Result<String> {
    if address.ip().is_unspecified() {
        let message = "a coordinator that listens on every address needs --advertise: where the others reach it";
        return Err(Error::new(Code::InvalidRequest, message));
    }
    Ok(format!("{}://{address}", if tls { "https" } else { "http" }))
}

impl Coordinator {
    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until cancelled.
    pub async fn run(self, cancel: CancellationToken) -> Result<()> {
        let Self { config, role, listener, metrics, .. } = self;
        match role {
            Role::Alone(store, sealer) => {
                let opener = Opener { sealer, agent_ttl: config.lease_ttl, certificates: certificates(&config) };
                let (engine, alarms) = Box::pin(opener.open(Guarded::alone(store))).await?;
                let leading = Leading::alone(engine, alarms, cancel.child_token());
                let (engine, alarms) = (leading.engine.clone(), leading.alarms.clone());
                let seat = watch::Sender::new(Seat::Leading(leading));
                let clock = async {
                    tokio::select! {
                        () = keep_time(&engine, config.lease_ttl) => {}
                        () = alarms.run(&engine) => {}
                        () = cancel.cancelled() => {}
                    }
                    Ok(())
                };
                let measured = measured(metrics, seat.subscribe(), &cancel);
                let served = serve(&config, listener, seat.subscribe(), cancel.clone());
                let ended = both(Box::pin(served), clock, &cancel).await;
                measured.await;
                ended
            }
            Role::OneOfMany(candidate) => {
                let measured = measured(metrics, candidate.seat.subscribe(), &cancel);
                let served = serve(&config, listener, candidate.seat.subscribe(), cancel.clone());
                let ended = both(Box::pin(served), Box::pin(candidate.run(cancel.clone())), &cancel).await;
                measured.await;
                ended
            }
        }
    }
}

/// Serves metrics in a task of its own, which ends with `cancel`; the future given back joins it.
fn measured<S: Store>(
    metrics: Option<(TcpListener, Recorded)>,
    seat: watch::Receiver<Seat<S>>,
    cancel: &CancellationToken,
) -> impl Future<Output = ()> + use<S> {
    let task = metrics.map(|(listener, recorded)| {
        let page = move || figures::page(recorded.clone(), seat.clone());
        tokio::spawn(metrics::serve(listener, page, cancel.clone()))
    });
    async {
        if let Some(Err(error)) = futures_util::future::OptionFuture::from(task).await {
            tracing::error!(%error, "the server of metrics broke");
        }
    }
}

/// Whichever ends first ends the other.
async fn both(
    served: impl Future<Output = Result<()>>,
    ruled: impl Future<Output = Result<()>>,
    cancel: &CancellationToken,
) -> Result<()> {
    let ending = |ended: Result<()>| {
        cancel.cancel();
        ended
    };
    let (served, ruled) = tokio::join!(async { ending(served.await) }, async { ending(ruled.await) });
    ruled.and(served)
}

async fn serve<S: Store>(
    config: &Config,
    listener: TcpListener,
    seat: watch::Receiver<Seat<S>>,
    cancel: CancellationToken,
) -> Result<()> {
    let internal = |what: String| Error::new(Code::Internal, what);
    let operator = || Operator { seat: seat.clone(), cancel: cancel.clone() };
    let fleet = Fleet {
        seat: seat.clone(),
        report_interval: config.report_interval,
        lease_ttl: config.lease_ttl,
        cancel: cancel.clone(),
    };
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<TaskServiceServer<Operator<S>>>().await;
    let descriptors = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(dts_proto::DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let reflection = descriptors().build_v1().map_err(|error| internal(error.to_string()))?;
    let reflection_alpha = descriptors().build_v1alpha().map_err(|error| internal(error.to_string()))?;
    let forwarder = Forwarder::new(seat.clone(), config.tls.as_ref().map(Tls::peer));
    let access = config.tls.as_ref().map(Tls::access).unwrap_or_default();
    let authority = config.tls.as_ref().and_then(|tls| tls.authority.clone());
    let enrolment = Enrolment { seat: seat.clone(), authority };
    let noted = seat.clone();
    let rules = Arc::new(Rules { tls: config.tls.is_some(), hosts: config.console_hosts.clone() });
    let calls = Arc::new(Calls::new()?);
    let door = move |inner| {
        let inner = Guard { inner, access: access.clone(), seat: noted.clone() };
        let inner = Traced(Forward { inner, access: access.clone(), forwarder: forwarder.clone() });
        Front { inner, rules: rules.clone(), calls: calls.clone() }
    };
    let router = tonic::transport::Server::builder()
        .accept_http1(true)
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .layer(tower_layer::layer_fn(door))
        .add_service(health_service)
        .add_service(reflection)
        .add_service(reflection_alpha)
        .add_service(AlarmServiceServer::new(operator()))
        .add_service(TaskServiceServer::new(operator()))
        .add_service(VerifyServiceServer::new(operator()))
        .add_service(SwitchOverServiceServer::new(operator()))
        .add_service(FleetServiceServer::new(operator()))
        .add_service(EnrolmentServiceServer::new(enrolment))
        .add_service(AgentServiceServer::new(fleet));
    let ends = cancel.clone().cancelled_owned();
    let (accepted, through) = mpsc::channel(1);
    let (accepting, mut served) = match config.tls.clone() {
        None => (None, router.serve_with_incoming_shutdown(TcpListenerStream::new(listener), ends).boxed()),
        Some(tls) => {
            let accepting = tokio::spawn(tls.accept(listener, accepted, cancel.clone()));
            (Some(accepting), router.serve_with_incoming_shutdown(ReceiverStream::new(through), ends).boxed())
        }
    };
    let ended = tokio::select! {
        ended = &mut served => ended,
        () = cancel.cancelled() => timeout(DRAIN, served).await.unwrap_or(Ok(())),
    };
    cancel.cancel();
    if let Some(accepting) = accepting {
        let _cancelled = accepting.await;
    }
    ended.map_err(|error| internal(format!("the server ended: {error}")))
}
