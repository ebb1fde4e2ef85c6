//! The session with the coordinator: registers, reports, and takes desired state. Losing it changes nothing in a
//! running shard, where something fences it.

use std::sync::Arc;
use std::time::Duration;

use dts_common::backoff::Backoff;
use dts_common::error::{Code, Error, Result};
use dts_proto::v1::agent_service_client::AgentServiceClient;
use dts_proto::v1::{AgentMessage, CoordinatorMessage, Report, agent_message, coordinator_message};
use metrics::{counter, gauge};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Code as GrpcCode, Status, Streaming};

use crate::coordinator::{Coordinator, reasons};
use crate::leash::Holder;
use crate::profile::Identity;
use crate::reach::Prober;
use crate::supervisor::Supervisor;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Unread reports; a coordinator that does not read is gone.
const REPORTS_AHEAD: usize = 8;

/// What every session is held with.
#[derive(Debug)]
pub struct Us<'a> {
    /// Who we are.
    pub identity: Identity,
    /// Measures the way to servers.
    pub prober: &'a Prober,
    /// Notified when there is something to report.
    pub changed: Arc<Notify>,
}

/// Sessions, one after the other, at one coordinator after the other, until cancelled or refused for good.
pub async fn run(
    coordinators: &[Coordinator],
    us: &Us<'_>,
    supervisor: &mut Supervisor,
    holder: &mut Holder,
    cancel: CancellationToken,
) -> Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    for coordinator in coordinators.iter().cycle() {
        let ended = tokio::select! {
            ended = session(coordinator, us, supervisor, holder, &mut backoff) => ended,
            () = cancel.cancelled() => return Ok(()),
        };
        gauge!("dts_agent_session").set(0.0);
        counter!("dts_agent_session_failures_total", "code" => format!("{:?}", ended.code())).increment(1);
        let refused = match ended.code() {
            // A coordinator of another version, or a certificate for another name: under shards that run it may be replaced once more.
            GrpcCode::FailedPrecondition | GrpcCode::PermissionDenied => supervisor.report().is_empty(),
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
    us: &Us<'_>,
    supervisor: &mut Supervisor,
    holder: &mut Holder,
    backoff: &mut Backoff,
) -> Status {
    match try_session(coordinator, us, supervisor, holder, backoff).await {
        Ok(()) => Status::unavailable("the coordinator ended the session"),
        Err(status) => status,
    }
}

async fn try_session(
    coordinator: &Coordinator,
    us: &Us<'_>,
    supervisor: &mut Supervisor,
    holder: &mut Holder,
    backoff: &mut Backoff,
) -> std::result::Result<(), Status> {
    let late = |_| Status::deadline_exceeded("no answer");
    let endpoint = coordinator.endpoint().map_err(|error| Status::unavailable(error.message))?;
    let channel = timeout(CONNECT_TIMEOUT, endpoint.connect())
        .await
        .map_err(late)?
        .map_err(|error| Status::unavailable(reasons(&error)))?;
    let (reports, outgoing) = mpsc::channel(REPORTS_AHEAD);
    let asked = Instant::now();
    let register = AgentMessage { message: Some(agent_message::Message::Register(us.identity.register())) };
    reports.try_send(register).map_err(|_| Status::internal("no room for the first message"))?;
    let mut client = AgentServiceClient::new(channel);
    let opened = Box::pin(client.session(ReceiverStream::new(outgoing)));
    let mut incoming = timeout(CONNECT_TIMEOUT, opened).await.map_err(late)??.into_inner();
    let welcome = match timeout(CONNECT_TIMEOUT, next(&mut incoming)).await.map_err(late)?? {
        Some(coordinator_message::Message::Welcome(welcome)) => welcome,
        _ => return Err(Status::internal("the coordinator did not say welcome")),
    };
    tracing::info!(agent = us.identity.agent_id, "registered");
    gauge!("dts_agent_session").set(1.0);
    counter!("dts_agent_sessions_total").increment(1);
    backoff.reset();
    let (mut every, mut beat) = (welcome.report_interval_ms, beat(welcome.report_interval_ms));
    let (mut newest, mut told) = (0, 0);
    let lease = Duration::from_millis(welcome.lease_ttl_ms.into());
    // Who welcomes us may not know yet what is ours.
    let mut is_told = false;
    loop {
        tokio::select! {
            message = next(&mut incoming) => match message? {
                Some(coordinator_message::Message::Desired(desired)) if desired.revision >= newest => {
                    newest = desired.revision;
                    let wanted = match desired.report_interval_ms {
                        0 => welcome.report_interval_ms,
                        wanted => wanted,
                    };
                    if wanted != every {
                        (every, beat) = (wanted, self::beat(wanted));
                    }
                    us.prober.ask(desired.probes.clone());
                    supervisor.reconcile(desired).await;
                    if !is_told {
                        holder.told(lease, asked);
                        is_told = true;
                    }
                }
                Some(coordinator_message::Message::Heard(heard)) if is_told => holder.heard(heard.report),
                Some(_) => {}
                None => return Ok(()),
            },
            _ = beat.tick() => report(us, supervisor, holder, &mut told, &reports).await?,
            () = us.changed.notified() => report(us, supervisor, holder, &mut told, &reports).await?,
        }
    }
}

fn beat(millis: u32) -> Interval {
    let mut beat = interval(Duration::from_millis(u64::from(millis).clamp(50, 60_000)));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

async fn next(
    incoming: &mut Streaming<CoordinatorMessage>,
) -> std::result::Result<Option<coordinator_message::Message>, Status> {
    Ok(incoming.message().await?.and_then(|message| message.message))
}

async fn report(
    us: &Us<'_>,
    supervisor: &Supervisor,
    holder: &mut Holder,
    told: &mut u64,
    reports: &mpsc::Sender<AgentMessage>,
) -> std::result::Result<(), Status> {
    let free_disk_bytes = us.identity.free_disk();
    let (shards, checks) = (supervisor.report(), supervisor.checks());
    let number = if supervisor.is_on_a_leash() || holder.is_wanted() { holder.number() } else { 0 };
    let report = Report { shards, checks, free_disk_bytes, reaches: us.prober.news(told), number };
    let message = AgentMessage { message: Some(agent_message::Message::Report(report)) };
    let sent = timeout(CONNECT_TIMEOUT, reports.send(message)).await;
    matches!(sent, Ok(Ok(()))).then_some(()).ok_or_else(|| Status::unavailable("the coordinator takes no reports"))
}
