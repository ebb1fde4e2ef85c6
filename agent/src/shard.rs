//! The life of one shard on this agent, under one epoch, top to bottom: verify, run, release.

use std::sync::Arc;
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{Directive, ShardPhase};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::client::Client;
use crate::endpoint::Side;
use crate::guard::{self, Guard};
use crate::limits::Limits;
use crate::mend::Mends;
use crate::pipeline::{self, Failure, Job};
use crate::retry::Retry;
use crate::scratch;
use crate::source;
use crate::spool::{Spool, SpoolConfig};
use crate::status::Board;
use crate::target::{self, Destination, territory};
use crate::topology::{self, Kind, Owner, Topology};
use crate::verify::{Facts, destination, verify};

/// Whoever stops a shard waits for no server that is silent.
const RETIRE_WITHIN: Duration = Duration::from_secs(5);

/// Runs the shard until it is released, fails, or is cancelled. What became of it stands on the board.
pub async fn run(job: Job, mut directive: watch::Receiver<Directive>, board: Board, cancel: CancellationToken) {
    let ended = tokio::select! {
        ended = live(&job, &mut directive, &board, &cancel) => ended,
        () = cancel.cancelled() => Ok(()),
    };
    if cancel.is_cancelled() || ended.is_err() {
        retire(&job).await;
    }
    match ended {
        _ if cancel.is_cancelled() => board.phase(ShardPhase::Stopped),
        Ok(()) => {
            scratch::remove(&job.scratch);
            board.phase(ShardPhase::Released);
        }
        Err(error) => {
            tracing::error!(shard = %job.shard, %error, "shard failed");
            board.failed(&error);
        }
    }
}

async fn live(
    job: &Job,
    directive: &mut watch::Receiver<Directive>,
    board: &Board,
    cancel: &CancellationToken,
) -> Result<()> {
    let (trouble, _) = watch::channel(None);
    let mut retry = Retry::new(job.retry_window(), trouble.clone(), cancel.clone());
    if *directive.borrow() != Directive::Release {
        board.phase(ShardPhase::Verifying);
        let facts = loop {
            match checked(job).await {
                Ok(facts) => break facts,
                // Nothing runs yet and the operator waits: wrong certificates are wrong at once. Under a task that runs
                // they are being replaced, perhaps one after the other.
                Err(error) if is_tls(&error) && *directive.borrow() == Directive::Verify => return Err(error),
                Err(error) => retry_on(board, &mut retry, error).await?,
            }
        };
        retry.succeeded();
        show(board, job, &facts);
        if *directive.borrow() == Directive::Verify {
            board.phase(ShardPhase::Verified);
        }
        if directive.wait_for(|directive| *directive > Directive::Verify).await.is_err() {
            return std::future::pending().await;
        }
        let destination = facts.destination.clone();
        tokio::select! {
            ended = attempts(job, facts, directive, board, &mut retry, cancel) => ended?,
            () = guard::keep(job, &destination, board) => {}
        }
    }
    loop {
        match release(job).await {
            Ok(()) => return Ok(()),
            Err(error) => retry_on(board, &mut retry, error).await?,
        }
    }
}

/// Gives others their rights back, and removes our keys from whatever the target is.
async fn release(job: &Job) -> Result<()> {
    guard::restore(job).await?;
    let destination = destination(job).await?;
    match &destination {
        Destination::Standalone(target) => target::release(target, &job.shard, job.epoch).await?,
        Destination::Routed(target) => target::routed::release(target, &job.shard, job.epoch).await?,
        Destination::Cluster(seeds) => {
            let shared = matches!(job.topology.kind, Kind::Cluster);
            target::cluster::release(seeds, &job.shard, job.epoch, shared).await?;
        }
    }
    match &job.user {
        Some(user) => user.remove_all(&destination.servers().await?, &destination.nodes().await?).await,
        None => Ok(()),
    }
}

/// Nobody writes as our user any more.
async fn retire(job: &Job) {
    let Some(user) = job.user.as_ref().filter(|user| user.is_used()) else { return };
    let retired = timeout(RETIRE_WITHIN, async {
        let servers = destination(job).await?.nodes().await?;
        user.retire(&servers).await;
        Ok::<_, Error>(())
    });
    if !matches!(retired.await, Ok(Ok(()))) {
        tracing::warn!(shard = %job.shard, "a user of ours may be left on the target");
    }
}

/// The fence that is asked for can be had.
async fn can_fence(job: &Job, facts: &Facts) -> Result<()> {
    if job.user.is_none() {
        return Ok(());
    }
    if matches!(facts.destination, Destination::Routed(_)) {
        return Err(Error::new(Code::TargetUnsupported, target::BEHIND_A_ROUTER));
    }
    for server in facts.destination.servers().await? {
        if let Some(why) = target::lacks(&mut Client::connect(&server, Side::Target).await?).await? {
            return Err(why);
        }
    }
    Ok(())
}

/// Everything that is checked before the first attempt.
async fn checked(job: &Job) -> Result<Facts> {
    let facts = verify(job).await?;
    can_fence(job, &facts).await?;
    if facts.owner == Owner::Unnamed && facts.untouched {
        let siblings = Topology { siblings: facts.siblings.clone(), ..job.topology.clone() };
        topology::no_duplicates(&facts.read_from, siblings.later(job.shard.index)).await?;
    }
    Ok(facts)
}

/// Attempt after attempt, until the directive is to release.
async fn attempts(
    job: &Job,
    mut facts: Facts,
    directive: &watch::Receiver<Directive>,
    board: &Board,
    retry: &mut Retry,
    cancel: &CancellationToken,
) -> Result<()> {
    let spool = Spool::open(SpoolConfig { dir: job.scratch.join("spool"), limits: job.limits.clone() })?;
    let mut first = true;
    let mut copies = source::pause_between_copies();
    // True once slots were seen to move: what was copied while they did is worth nothing.
    let mut afresh = false;
    while *directive.borrow() != Directive::Release {
        // Whatever ended the attempt before may have taken our record with it: what the target holds is checked again.
        if !std::mem::take(&mut first) {
            match verify(job).await {
                Ok(found) => facts = found,
                Err(error) => {
                    retry_on(board, retry, error).await?;
                    continue;
                }
            }
            show(board, job, &facts);
        }
        if let Owner::Slots(slots) = &facts.owner {
            let (shards, epoch) = (job.topology.shards(), job.epoch);
            if let Err(error) = territory::take(&facts.destination, &job.shard, shards, epoch, slots, afresh).await {
                retry_on(board, retry, error).await?;
                continue;
            }
            afresh = false;
        }
        // A source that failed over is read where its data is now.
        let topology = Topology { siblings: facts.siblings.clone(), ..job.topology.clone() };
        let job = &Job { source: facts.read_from.clone(), topology, ..job.clone() };
        let (source_trouble, seen_at_source) = watch::channel(None);
        let (target_trouble, seen_at_target) = watch::channel(None);
        let troubles = [source_trouble, target_trouble];
        let watching = CancellationToken::new();
        let watcher = tokio::spawn(
            show_trouble(board.clone(), [seen_at_source, seen_at_target], watching.clone()).in_current_span(),
        );
        let applied = || board.read().stream.map_or(0, |stream| stream.applied_offset);
        let before = applied();
        // Not dropped when cancelled: it ends by itself then, having joined its stages.
        let ended = Box::pin(pipeline::attempt(job, &facts, &spool, directive.clone(), board, troubles, cancel)).await;
        watching.cancel();
        let _shows_only = watcher.await;
        match ended {
            Ok(()) if cancel.is_cancelled() => std::future::pending().await,
            Ok(()) => {}
            // The stages have used their own windows up; what is left are faults that a new attempt mends.
            Err(Failure { error, spent }) if !spent && mended_by_a_new_attempt(error.code) => {
                afresh |= error.code == Code::SourceResharded;
                if applied() > before {
                    retry.succeeded();
                }
                // A copy that came to nothing is not begun again at once.
                let copying = error.code == Code::SnapshotCorrupt || applied() == 0;
                let least = if copying { copies.next_delay() } else { Duration::ZERO };
                board.retrying(&error);
                retry.wait_at_least(least, error).await?;
            }
            Err(Failure { error, .. }) => return Err(error),
        }
    }
    Ok(())
}

fn is_tls(error: &Error) -> bool {
    matches!(error.code, Code::SourceTls | Code::TargetTls)
}

fn mended_by_a_new_attempt(code: Code) -> bool {
    matches!(
        code,
        Code::TargetRewound
            | Code::TargetBusy
            | Code::SnapshotCorrupt
            | Code::SourceProtocol
            | Code::SourceBusy
            | Code::SourceResharded
            | Code::SourceFailedOver
    )
}

async fn retry_on(board: &Board, retry: &mut Retry, error: Error) -> Result<()> {
    if error.code.retry() {
        board.retrying(&error);
    }
    retry.wait(error).await
}

/// Puts what the stages retry on the board, and the phase back when they have mended it.
async fn show_trouble(board: Board, mut seen: [watch::Receiver<Option<Error>>; 2], cancel: CancellationToken) {
    let mut before = None;
    loop {
        let [source, target] = &mut seen;
        tokio::select! {
            changed = source.changed() => if changed.is_err() { return },
            changed = target.changed() => if changed.is_err() { return },
            () = cancel.cancelled() => return,
        }
        let trouble = source.borrow_and_update().clone().or_else(|| target.borrow_and_update().clone());
        let phase = board.read().phase();
        match trouble {
            // The source has not begun: nothing was interrupted.
            Some(error) if phase == ShardPhase::Handshake && error.code == Code::SourceBusy => board.waiting(&error),
            Some(error) => {
                if phase != ShardPhase::Retrying {
                    before = Some(phase);
                }
                board.retrying(&error);
            }
            None if phase == ShardPhase::Handshake => board.phase(phase),
            None if phase == ShardPhase::Retrying => board.phase(before.unwrap_or(ShardPhase::Handshake)),
            None => {}
        }
    }
}

fn show(board: &Board, job: &Job, facts: &Facts) {
    board.update(|status| {
        status.source_version = facts.source.to_string();
        status.target_version = facts.target.to_string();
        status.fence = if job.user.is_some() { "F4" } else { facts.destination.fence() }.to_owned();
        status.warnings.clone_from(&facts.warnings);
        status.reading_from = facts.read_from.to_string();
        status.owns = facts.owner.describe();
    });
}

/// A shard that runs: what the supervisor holds of it.
#[derive(Debug)]
pub struct Running {
    /// Raised by the coordinator, step by step.
    pub directive: watch::Sender<Directive>,
    /// Its bounds.
    pub limit: watch::Sender<Limits>,
    /// What is to be repaired.
    pub mends: Mends,
    /// Keeps the target to the task.
    pub guard: Guard,
    /// What it shows.
    pub board: Board,
    /// Ends it.
    pub cancel: CancellationToken,
    /// Its task.
    pub task: tokio::task::JoinHandle<()>,
}

impl Running {
    /// Starts a shard, once `before` (the same shard under an older epoch) has ended.
    pub fn start(
        job: Job,
        directive: Directive,
        limit: watch::Sender<Limits>,
        before: Option<Running>,
        changed: Arc<Notify>,
    ) -> Self {
        let (sender, receiver) = watch::channel(directive);
        let board = Board::new(changed).within(job.span.clone());
        let span = job.span.clone();
        let (cancel, mends, guard) = (CancellationToken::new(), job.mends.clone(), job.guard.clone());
        let (shown, ends) = (board.clone(), cancel.clone());
        let task = tokio::spawn(async move {
            if let Some(before) = before {
                before.stop().await;
            }
            run(job, receiver, shown, ends).instrument(span).await;
        });
        Self { directive: sender, limit, mends, guard, board, cancel, task }
    }

    /// Cancels and joins.
    pub async fn stop(self) {
        self.cancel.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a shard's task broke");
        }
    }
}
