//! The session with the coordinator: registers, reports, and takes desired state. Losing it changes nothing in a
//! running shard.

use std::sync::Arc;
use std::time::Duration;

use dts_common::backoff::Backoff;
use dts_common::error::{Code, Error, Result};
use dts_proto::v1::agent_service_client::AgentServiceClient;
use dts_proto::v1::{AgentMessage, CoordinatorMessage, Register, Report, agent_message, coordinator_message};
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code as GrpcCode, Status, Streaming};

use crate::coordinator::{Coordinator, reasons};
use crate::supervisor::Supervisor;

const PROTOCOL_VERSION: u32 = 1;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Unread reports; a coordinator that does not read is gone.
const REPORTS_AHEAD: usize = 8;

/// Who we are to the coordinator.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Stable name.
    pub agent_id: String,
    /// This process.
    pub instance_id: String,
}

/// Sessions, one after the other, at one coordinator after the other, until cancelled or refused for good.
pub async fn run(
    coordinators: &[Coordinator],
    identity: Identity,
    supervisor: &mut Supervisor,
    changed: Arc<Notify>,
    cancel: CancellationToken,
) -> Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    for coordinator in coordinators.iter().cycle() {
        let ended = tokio::select! {
            ended = session(coordinator, &identity, supervisor, &changed, &mut backoff) => ended,
            () = cancel.cancelled() => return Ok(()),
        };
        let refused = match ended.code() {
            GrpcCode::FailedPrecondition => true,
            // A certificate for another name: under shards that run it may be replaced once more.
            GrpcCode::PermissionDenied => supervisor.report().is_empty(),
            _ => false,
        };
        if refused {
            return Err(Error::new(
                Code::InvalidRequest,
                format!("the coordinator refuses this agent: {}", ended.message()),
            ));
        }
        let delay = backoff.next_delay();
        tracing::warn!(code = %ended.code(), reason = ended.message(), retry_in_ms = delay.as_millis(), "no session with the coordinator");
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            () = cancel.cancelled() => return Ok(()),
        }
    }
    Ok(())
}

/// One session; gives why it ended.
async fn session(
    coordinator: &Coordinator,
    identity: &Identity,
    supervisor: &mut Supervisor,
    changed: &Notify,
    backoff: &mut Backoff,
) -> Status {
    match try_session(coordinator, identity, supervisor, changed, backoff).await {
        Ok(()) => Status::unavailable("the coordinator ended the session"),
        Err(status) => status,
    }
}

async fn try_session(
    coordinator: &Coordinator,
    identity: &Identity,
    supervisor: &mut Supervisor,
    changed: &Notify,
    backoff: &mut Backoff,
) -> std::result::Result<(), Status> {
    let late = |_| Status::deadline_exceeded("no answer");
    let endpoint = coordinator.endpoint().map_err(|error| Status::unavailable(error.message))?;
    let channel = timeout(CONNECT_TIMEOUT, endpoint.connect())
        .await
        .map_err(late)?
        .map_err(|error| Status::unavailable(reasons(&error)))?;
    let (reports, outgoing) = mpsc::channel(REPORTS_AHEAD);
    let register = Register {
        agent_id: identity.agent_id.clone(),
        instance_id: identity.instance_id.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        protocol_version: PROTOCOL_VERSION,
    };
    let register = AgentMessage { message: Some(agent_message::Message::Register(register)) };
    reports.try_send(register).map_err(|_| Status::internal("no room for the first message"))?;
    let mut client = AgentServiceClient::new(channel);
    let opened = Box::pin(client.session(ReceiverStream::new(outgoing)));
    let mut incoming = timeout(CONNECT_TIMEOUT, opened).await.map_err(late)??.into_inner();
    let welcome = match timeout(CONNECT_TIMEOUT, next(&mut incoming)).await.map_err(late)?? {
        Some(coordinator_message::Message::Welcome(welcome)) => welcome,
        _ => return Err(Status::internal("the coordinator did not say welcome")),
    };
    tracing::info!(agent = identity.agent_id, "registered");
    backoff.reset();
    let mut beat = interval(Duration::from_millis(u64::from(welcome.report_interval_ms).clamp(50, 60_000)));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut newest = 0;
    loop {
        tokio::select! {
            message = next(&mut incoming) => match message? {
                Some(coordinator_message::Message::Desired(desired)) if desired.revision >= newest => {
                    newest = desired.revision;
                    supervisor.reconcile(desired).await;
                }
                Some(_) => {}
                None => return Ok(()),
            },
            _ = beat.tick() => report(supervisor, &reports).await?,
            () = changed.notified() => report(supervisor, &reports).await?,
        }
    }
}

async fn next(
    incoming: &mut Streaming<CoordinatorMessage>,
) -> std::result::Result<Option<coordinator_message::Message>, Status> {
    Ok(incoming.message().await?.and_then(|message| message.message))
}

async fn report(supervisor: &Supervisor, reports: &mpsc::Sender<AgentMessage>) -> std::result::Result<(), Status> {
    let report = Report { shards: supervisor.report() };
    let message = AgentMessage { message: Some(agent_message::Message::Report(report)) };
    let sent = timeout(CONNECT_TIMEOUT, reports.send(message)).await;
    matches!(sent, Ok(Ok(()))).then_some(()).ok_or_else(|| Status::unavailable("the coordinator takes no reports"))
}
