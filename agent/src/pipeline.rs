//! One attempt at a shard: claims the target, then wires the stages, and joins every one of them before it returns.
//!
//! ```text
//! source::run -> spool -> Driver (route) -> Writer::run -> target
//!      ^------------- acknowledged offset ------------------'
//! ```

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_common::ids::{Epoch, ShardId};
use dts_common::position::Position;
use dts_common::selection::Selection;
use dts_proto::v1::{Directive, ShardPhase};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::apply::{Context, Driver, Resume, Start};
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::guard::Guard;
use crate::leash::Leash;
use crate::limits::{Limits, Throttle};
use crate::mend::Mends;
use crate::observe::Observer;
use crate::outlet::Outlet;
use crate::retry::{Retry, Trouble};
use crate::route::{Dialect, Scripts};
use crate::source::{self, Received, SourceConfig};
use crate::spool::{self, Spool};
use crate::status::Board;
use crate::target::cluster::{self, Scope};
use crate::target::{self, Applied, Checkpoint, Destination, EpochUser, Instruction, Phase, routed, territory};
use crate::topology::{self, Kind, Owner, Topology};
use crate::verify::Facts;

/// Batches on their way to the writer; each is at most about a MiB.
const BATCHES: usize = 4;
/// A stage that was told to end and does not is abandoned after this.
const JOIN_WITHIN: Duration = Duration::from_secs(10);

/// What a shard is told to do.
#[derive(Clone, Debug)]
pub struct Job {
    /// The shard.
    pub shard: ShardId,
    /// Our authority over it.
    pub epoch: Epoch,
    /// Where the data comes from.
    pub source: Endpoint,
    /// Where the data goes.
    pub target: Endpoint,
    /// What the task's sources are to each other.
    pub topology: Topology,
    /// The target may be older than the source.
    pub allow_downgrade: bool,
    /// What is moved.
    pub selection: Arc<Selection>,
    /// On a cluster: what cannot be done exactly is left out and counted.
    pub skip_cross_slot: bool,
    /// Begin with a new copy, whatever the record says: the number of the copy that it is to replace, once it is known.
    pub resync: Option<Arc<OnceLock<u64>>>,
    /// Only go on from what the record says: a source that cannot do that, or a record that does not say it, ends the shard.
    pub continue_only: bool,
    /// Its bounds; they may change.
    pub limits: watch::Receiver<Limits>,
    /// A directory of this shard's own.
    pub scratch: PathBuf,
    /// Everything that is logged and traced of the shard lies in it.
    pub span: tracing::Span,
    /// What is to be repaired.
    pub mends: Mends,
    /// Keeps the target to the task.
    pub guard: Guard,
    /// How long may be written where nothing fences us, or begun where nothing says that we may.
    pub leash: Leash,
    /// As whom the data is written, if not as our login: fence F4.
    pub user: Option<Arc<EpochUser>>,
}

impl Job {
    /// How long a fault is retried from now on.
    pub fn retry_window(&self) -> Duration {
        self.limits.borrow().retry_window
    }
}

/// Runs until released (Ok) or an error; cancelling it loses nothing.
pub async fn attempt(
    job: &Job,
    facts: &Facts,
    spool: &Spool,
    directive: watch::Receiver<Directive>,
    board: &Board,
    troubles: [Trouble; 2],
    cancel: &CancellationToken,
) -> Result<(), Failure> {
    let [source_trouble, target_trouble] = troubles;
    let stop = cancel.child_token();
    board.phase(ShardPhase::Fencing);
    let retry = Retry::new(job.retry_window(), target_trouble, stop.clone());
    let pace = Throttle::new(job.limits.clone(), |limits| limits.write_bytes_per_second);
    let (writer, record) = claim(job, facts, retry, pace).await?;
    if let Owner::Slots(slots) = &facts.owner {
        territory::still_ours(&facts.destination, &job.shard, slots).await?;
    }
    let start = start(job, facts, record).await?;
    board.phase(ShardPhase::Handshake);

    let resume = start.resume.as_ref().map(|resume| resume.position);
    let (spool_in, spool_out, goes_on) = begin(job, spool, resume).await?;
    let (instructions, to_write) = mpsc::channel(BATCHES);
    let (confirm, applied) = watch::channel(Applied::default());
    let (acknowledge, acknowledged) = watch::channel(resume.map_or(0, |position| position.offset));
    let (receive, received) = watch::channel(Received::default());

    let observer = Observer {
        source: job.source.clone(),
        target: facts.destination.clone(),
        records: facts.destination.records(&job.topology),
        received,
        applied: applied.clone(),
        acknowledged: acknowledge,
        usage: spool_out.usage(),
        limits: job.limits.clone(),
        board: board.clone(),
    };
    let continue_only = job.continue_only && job.resync.is_none();
    let config = SourceConfig { endpoint: job.source.clone(), limits: job.limits.clone(), continue_only };
    let mut source = tokio::spawn(
        source::run(config, goes_on, spool_in, receive, acknowledged, source_trouble, stop.clone()).in_current_span(),
    );
    let mut target = tokio::spawn(writer.run(to_write, confirm).in_current_span());
    let observer = tokio::spawn(observer.run(stop.clone()).in_current_span());

    let context = Context {
        shard: job.shard.clone(),
        epoch: job.epoch,
        source: job.source.clone(),
        target: job.target.clone(),
        destination: facts.destination.clone(),
        topology: job.topology.clone(),
        owner: facts.owner.clone(),
        proof: facts.proof.clone(),
        dialect: Dialect { version: facts.target, source: facts.source, databases: facts.target_databases },
        selection: job.selection.clone(),
        holds_first: job.continue_only && start.copy == 0,
        target_histories: facts.target_histories.clone(),
        mends: job.mends.clone(),
        board: board.clone(),
        scratch: job.scratch.clone(),
    };
    let mut driver = Driver::new(context, start, directive, spool_out, Outlet::new(instructions, applied));
    // The first stage to end decides: a driver that finds its neighbour gone leaves the word to that neighbour.
    let ended = tokio::select! {
        driven = driver.run() => Ended::Driver(driven),
        source = &mut source => Ended::Source(flatten(source)),
        target = &mut target => Ended::Target(flatten(target)),
        moved = topology_changes(job, facts) => Ended::Driver(Err(moved)),
        () = cancel.cancelled() => Ended::Driver(Ok(())),
    };
    drop(driver);
    let mut spent = false;
    let result = match ended {
        Ended::Driver(Err(_)) if target.is_finished() => join(target).await.unwrap_or(Ok(())),
        Ended::Driver(driven) => {
            stop.cancel();
            let said = [join(target).await, join(source).await];
            match driven {
                Err(error) if matches!(error.code, Code::SourceLost | Code::TargetLost) => {
                    said.into_iter().flatten().find(Result::is_err).unwrap_or(Err(error))
                }
                driven => driven,
            }
        }
        Ended::Source(read) => {
            stop.cancel();
            let _the_source_has_the_word = join(target).await;
            spent = matches!(&read, Err(error) if error.code.retry());
            read
        }
        Ended::Target(written) => {
            stop.cancel();
            let _the_target_has_the_word = join(source).await;
            written
        }
    };
    stop.cancel();
    let _figures_only = timeout(JOIN_WITHIN, observer).await;
    result.map_err(|error| Failure { error, spent })
}

/// Gives the stream from a position on: the source does, as long as it can; what it has forgotten comes out of the spool. Gives too where the
/// source goes on.
async fn begin(
    job: &Job,
    spool: &Spool,
    resume: Option<Position>,
) -> Result<(spool::Writer, spool::Reader, Option<Position>)> {
    if let Some(position) = &resume
        && spool.covers(position)
        && !source::holds(&job.source, position).await
    {
        let (writer, reader, end) = spool.rewind(position)?;
        tracing::info!(from = position.offset, to = end.offset, "the target is brought up from the spool");
        return Ok((writer, reader, Some(end)));
    }
    let (writer, reader) = spool.begin(resume.as_ref())?;
    Ok((writer, reader, resume))
}

/// What ended an attempt.
#[derive(Debug)]
pub struct Failure {
    /// What happened.
    pub error: Error,
    /// True if the stage that it happened to has tried again for a whole window already.
    pub spent: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, spent: false }
    }
}

/// Never ends where nothing can move.
async fn topology_changes(job: &Job, facts: &Facts) -> Error {
    if let Some(proof) = &facts.proof {
        return topology::watch(proof.clone(), job.topology.siblings.clone()).await;
    }
    match &job.topology.kind {
        Kind::Sentinel(sentinels, names) => {
            let name = usize::try_from(job.shard.index).ok().and_then(|index| names.get(index)).cloned();
            topology::sentinel::watch(job.source.clone(), sentinels.clone(), name.unwrap_or_default()).await
        }
        _ => std::future::pending().await,
    }
}

enum Ended {
    Driver(Result<()>),
    Source(Result<()>),
    Target(Result<()>),
}

/// Claims the shard on whatever its target is.
async fn claim(job: &Job, facts: &Facts, retry: Retry, pace: Throttle) -> Result<(Writer, Option<Checkpoint>)> {
    match &facts.destination {
        Destination::Standalone(target) => {
            let (writer, record) =
                target::claim(target.clone(), job.user.clone(), &job.shard, job.epoch, &job.leash, retry, pace).await?;
            Ok((Writer::Standalone(Box::new(writer)), record))
        }
        Destination::Routed(endpoint) => {
            let (shard, epoch, endpoint) = (job.shard.clone(), job.epoch, endpoint.clone());
            let leash = job.leash.clone();
            let to = routed::Job { shard, epoch, endpoint, pace, skip: job.skip_cross_slot, leash };
            let (writer, record) = routed::claim(to, retry).await?;
            Ok((Writer::Routed(Box::new(writer)), record))
        }
        Destination::Cluster(seed) => {
            let (shard, epoch, user, seed) = (job.shard.clone(), job.epoch, job.user.clone(), seed.clone());
            let (scope, leash) = (Scope::of(&facts.owner), job.leash.clone());
            let to = cluster::Job { shard, epoch, user, seed, pace, scope, leash, skip: job.skip_cross_slot };
            let (writer, record) = cluster::claim(to, retry).await?;
            Ok((Writer::Cluster(Box::new(writer)), record))
        }
    }
}

/// The stage that writes.
enum Writer {
    Standalone(Box<target::Writer>),
    Cluster(Box<cluster::Writer>),
    Routed(Box<routed::Writer>),
}

impl Writer {
    async fn run(self, instructions: mpsc::Receiver<Instruction>, confirm: watch::Sender<Applied>) -> Result<()> {
        match self {
            Self::Standalone(writer) => writer.run(instructions, confirm).await,
            Self::Cluster(writer) => writer.run(instructions, confirm).await,
            Self::Routed(writer) => writer.run(instructions, confirm).await,
        }
    }
}

/// What the target's record means for this attempt.
async fn start(job: &Job, facts: &Facts, record: Option<Checkpoint>) -> Result<Start> {
    let begun = record.as_ref().is_some_and(|record| record.copy > 0 && record.phase != Phase::Taken);
    let streams = matches!(record, Some(Checkpoint { phase: Phase::Streaming { .. }, .. }));
    if job.continue_only && job.resync.is_none() && !begun && !streams {
        let message = "slots of the new side were moved, or a record of the way back is gone from the old side";
        return Err(Error::new(Code::WayBackLost, message));
    }
    let Some(record) = record else { return Ok(Start { resume: None, copy: 0, dirty: false }) };
    let (resume, dirty) = match record.phase {
        // Once the new copy has begun, the record itself says that it has to be ended.
        _ if job.resync.as_ref().is_some_and(|from| *from.get_or_init(|| record.copy) == record.copy) => {
            if matches!(facts.destination, Destination::Routed(_)) {
                let message =
                    "a target that routes by itself cannot be copied to again: what is left there is not found";
                return Err(Error::new(Code::TargetUnsupported, message));
            }
            (None, true)
        }
        // Where a copy cannot be repeated nothing is there to be swept.
        Phase::Claimed | Phase::Copying | Phase::Taken => (None, !matches!(facts.destination, Destination::Routed(_))),
        Phase::Streaming { position, .. } if position.history.is_none() => (None, true),
        Phase::Streaming { position, holds_field_expiry, .. } => {
            let scripts = kept_scripts(job, facts).await?;
            (Some(Resume { position, scripts, holds_field_expiry }), true)
        }
    };
    Ok(Start { resume, copy: record.copy, dirty })
}

/// The script bodies that earlier attempts kept on the target: a source up to 4.0 sends a body once, then its hash only.
async fn kept_scripts(job: &Job, facts: &Facts) -> Result<Scripts> {
    let key = facts.destination.scripts_key(&job.shard, &facts.owner);
    let mut client = Client::connect(&facts.destination.holder(key.as_bytes()).await?, Side::Target).await?;
    let reply = client.call(&[b"HGETALL", key.as_bytes()]).await?;
    Scripts::from_reply(&reply)
        .ok_or_else(|| Error::new(Code::Fenced, "the record of scripts on the target is not ours"))
}

/// What a stage has to say; nothing if it waits for a server that is silent: it is ended then, and knows no more than the others do.
async fn join(mut stage: JoinHandle<Result<()>>) -> Option<Result<()>> {
    match timeout(JOIN_WITHIN, &mut stage).await {
        Ok(ended) => Some(flatten(ended)),
        Err(_) => {
            stage.abort();
            None
        }
    }
}

fn flatten(ended: std::result::Result<Result<()>, tokio::task::JoinError>) -> Result<()> {
    ended.unwrap_or_else(|panic| Err(Error::new(Code::Internal, format!("a stage broke: {panic}"))))
}
