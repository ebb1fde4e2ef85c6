//! AgentService: one session an agent.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dts_common::error::Code;
use dts_proto::PROTOCOL_VERSION;
use dts_proto::v1::agent_service_server::AgentService;
use dts_proto::v1::{
    AgentMessage, CoordinatorMessage, Heard, Register, Welcome, agent_message::Message, coordinator_message,
};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{engine, status};
use crate::access::Caller;
use crate::access::certificate::names;
use crate::election::Seat;
use crate::engine::Engine;
use crate::store::Store;

/// Of reports in a lease.
const ANSWERS: u32 = 8;
const FIRST_MESSAGE: Duration = Duration::from_secs(10);
/// A clock that is set is noticed in this time.
const LOOK: Duration = Duration::from_secs(3600);

/// Serves agents.
pub struct Fleet<S> {
    /// What this coordinator is now.
    pub seat: watch::Receiver<Seat<S>>,
    /// How often agents report.
    pub report_interval: Duration,
    /// How long a silence they may keep.
    pub lease_ttl: Duration,
    /// Ends open sessions.
    pub cancel: CancellationToken,
}

fn millis(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis()).unwrap_or(u32::MAX)
}

#[tonic::async_trait]
impl<S: Store> AgentService for Fleet<S> {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<CoordinatorMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let shown = request.extensions().get::<Caller>().and_then(|caller| caller.certificate.clone());
        let mut incoming = request.into_inner();
        let first = tokio::time::timeout(FIRST_MESSAGE, incoming.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("no register message"))??;
        let Some(Message::Register(register)) = first.and_then(|message| message.message) else {
            return Err(Status::invalid_argument("the first message has to be register"));
        };
        // A client without a certificate is here only where none is asked for.
        if let Some(certificate) = &shown
            && !names(&certificate.der, &register.agent_id)
        {
            let message = format!("the certificate of this client is not for an agent {:?}", register.agent_id);
            return Err(Status::permission_denied(message));
        }
        if register.protocol_version != PROTOCOL_VERSION {
            let message = format!(
                "protocol version {} is not {PROTOCOL_VERSION}: use an agent of this version",
                register.protocol_version
            );
            return Err(Status::failed_precondition(message));
        }
        let (engine, ends) = engine(&self.seat)?;
        if let Some(certificate) = &shown {
            engine.check_barred(&register.agent_id, certificate.issued_ms).await.map_err(status)?;
        }
        let told = engine.register(&register).await.map_err(|error| match error.code {
            Code::InvalidRequest => Status::already_exists(error.message),
            _ => status(error),
        })?;
        let (sender, receiver) = mpsc::channel(4);
        let welcome =
            Welcome { report_interval_ms: millis(self.report_interval), lease_ttl_ms: millis(self.lease_ttl) };
        let welcome = coordinator_message::Message::Welcome(welcome);
        let _the_channel_is_new = sender.send(Ok(CoordinatorMessage { message: Some(welcome) })).await;
        let cancel = [self.cancel.clone(), ends];
        let expires = shown.map(|certificate| certificate.expires);
        tokio::spawn(session(engine, register, incoming, told, sender, (expires, self.lease_ttl), cancel));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

type Outgoing = mpsc::Sender<Result<CoordinatorMessage, Status>>;

/// Until the certificate expires: a session does not outlive it. An agent that has renewed it comes back under the new one.
async fn expiry(at: Option<SystemTime>) {
    let Some(at) = at else { return std::future::pending().await };
    while let Ok(left) = at.duration_since(SystemTime::now()) {
        tokio::time::sleep(left.clamp(Duration::from_millis(10), LOOK)).await;
    }
}

async fn session<S: Store>(
    engine: Arc<Engine<S>>,
    register: Register,
    mut incoming: Streaming<AgentMessage>,
    mut told: watch::Receiver<u64>,
    outgoing: Outgoing,
    (expires, lease_ttl): (Option<SystemTime>, Duration),
    [cancel, deposed]: [CancellationToken; 2],
) {
    let mut answered = Instant::now();
    told.mark_changed();
    let expired = expiry(expires);
    tokio::pin!(expired);
    metrics::gauge!("dts_agent_sessions").increment(1);
    loop {
        tokio::select! {
            message = incoming.message() => match message {
                Ok(Some(AgentMessage { message: Some(Message::Report(report)) })) => {
                    let number = report.number;
                    let taken = engine.report(&register.agent_id, report).await;
                    // Whoever is answered has been told what is its own; a later report is answered.
                    let is_told = !told.has_changed().unwrap_or(true);
                    match taken {
                        Ok(()) if number > 0 && is_told && answered.elapsed() >= lease_ttl / ANSWERS => {
                            answered = Instant::now();
                            let heard = coordinator_message::Message::Heard(Heard { report: number });
                            // With no room the agent has other things to read, and a later report is answered.
                            let _told_or_later = outgoing.try_send(Ok(CoordinatorMessage { message: Some(heard) }));
                        }
                        Ok(()) => {}
                        Err(error) => tracing::error!(%error, "a report could not be taken"),
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            },
            changed = told.changed() => {
                if changed.is_err() {
                    break;
                }
                // An agent that comes back runs on as it does until it is known what it shall do.
                if *told.borrow_and_update() == 0 {
                    continue;
                }
                let desired = match engine.desired(&register.agent_id, &told).await {
                    Ok(desired) => desired,
                    Err(error) => {
                        tracing::error!(agent = register.agent_id, %error, "cannot tell an agent what to do");
                        continue;
                    }
                };
                let Some(desired) = desired else { break };
                let message = CoordinatorMessage { message: Some(coordinator_message::Message::Desired(desired)) };
                if outgoing.send(Ok(message)).await.is_err() {
                    break;
                }
            }
            () = &mut expired => {
                let _told_or_gone = outgoing.send(Err(Status::unauthenticated("the agent's certificate has expired"))).await;
                break;
            }
            () = cancel.cancelled() => break,
            () = deposed.cancelled() => break,
        }
    }
    metrics::gauge!("dts_agent_sessions").decrement(1);
    engine.disconnect(&register.agent_id, &told).await;
}
