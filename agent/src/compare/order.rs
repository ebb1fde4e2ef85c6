//! A comparison that the coordinator ordered of a shard that runs here.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{self, ShardPhase, VerifyOrder, VerifyOutcome, VerifyReport, VerifyShard, VerifySpec, VerifyState};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    Backward, Difference, Follow, Keeper, Kept, Mode, Outcome, Part, Plan, Progress, Rate, Report, parts, recheck, run,
};
use crate::mend::AT_ONCE;
use crate::pipeline::Job;
use crate::status::Board;
use crate::target::{Destination, reserved_key};
use crate::topology::Owner;
use crate::verify::destination;

/// Picks of each side, if the order does not say.
const PICKS: u64 = 10_000;
const ROUNDS: u32 = 5;
/// What an agent and a coordinator cannot reach is tried again so often.
const TRIES: u32 = 30;
const BEFORE_THE_NEXT: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What the names of listed keys may come to: they are stored.
const MOST_BYTES: usize = 256 << 10;

/// A comparison that goes on, or has ended and waits to be taken note of.
#[derive(Debug)]
pub struct Ordered {
    /// Of the run.
    pub number: u64,
    shown: Arc<Mutex<VerifyShard>>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Ordered {
    /// Begins once the shard on the board follows its source.
    pub fn start(order: VerifyOrder, job: Job, board: Board, changed: Arc<Notify>) -> Self {
        let number = order.number;
        // What another agent has found stays found.
        let found = order.resume.clone().unwrap_or_default();
        let begun = VerifyShard { index: job.shard.index, state: VerifyState::Running.into(), ..found };
        let shown = Arc::new(Mutex::new(begun));
        let cancel = CancellationToken::new();
        let (ends, show) = (cancel.clone(), Shown(shown.clone()));
        let task = tokio::spawn(async move {
            tokio::select! {
                () = Box::pin(until_done(&order, &job, &board, &show)) => changed.notify_one(),
                () = ends.cancelled() => {}
            }
        });
        Self { number, shown, cancel, task }
    }

    /// How far it is, or what it found.
    pub fn report(&self) -> VerifyReport {
        let shard = self.shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
        VerifyReport { number: self.number, shard: Some(shard) }
    }

    /// Cancels and joins.
    pub async fn stop(self) {
        self.cancel.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a comparison broke");
        }
    }
}

struct Shown(Arc<Mutex<VerifyShard>>);

impl Shown {
    fn read(&self) -> VerifyShard {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn update(&self, change: impl FnOnce(&mut VerifyShard)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

async fn until_done(order: &VerifyOrder, job: &Job, board: &Board, show: &Shown) {
    let mut tries = 0;
    loop {
        while !follows(board) {
            sleep(LOOK_EVERY).await;
        }
        let error = match Box::pin(compare(order, job, show)).await {
            Ok(report) => {
                tracing::info!(shard = %job.shard, run = order.number, outcome = report.outcome.as_str(), "compared");
                return show.update(|shown| put_report(shown, job.shard.index, &report));
            }
            Err(error) => error,
        };
        tries += 1;
        let passes = error.code.retry() || error.code == Code::TargetRole;
        tracing::warn!(shard = %job.shard, run = order.number, %error, again = passes && tries < TRIES, "comparing failed");
        show.update(|shown| shown.error = format!("{}: {}", error.code.as_str(), error.for_operator()));
        if !passes || tries >= TRIES {
            return show.update(|shown| shown.set_state(VerifyState::Failed));
        }
        sleep(BEFORE_THE_NEXT).await;
    }
}

fn follows(board: &Board) -> bool {
    use ShardPhase as P;
    matches!(board.read().phase(), P::CatchingUp | P::Streaming | P::Draining | P::Drained)
}

async fn compare(order: &VerifyOrder, job: &Job, show: &Shown) -> Result<Report> {
    let spec = order.spec.unwrap_or_default();
    let (plan, follow) = plan(&spec, order, job).await?;
    let (sender, mut seen) = watch::channel(Progress::default());
    let (told, mut kept) = watch::channel(None);
    // Of an agent before this one, or of a try before this one.
    let before = show.read();
    let keeper = Keeper { resume: before.cursor.is_some().then_some(before), kept: Some(told) };
    let repairs = spec.repair_of > 0;
    if repairs {
        Box::pin(repair(order, job)).await?;
    }
    let mut running = Box::pin(async {
        if repairs {
            let keys = order.repair.iter().map(|found| (found.db, found.key.clone())).collect();
            return recheck(&plan, follow, sender, keys).await;
        }
        run(&plan, follow, sender, keeper).await
    });
    loop {
        tokio::select! {
            ended = &mut running => return ended,
            changed = seen.changed() => match changed {
                Ok(()) => {
                    let now = seen.borrow_and_update().clone();
                    show.update(|shown| {
                        shown.error.clear();
                        if kept.has_changed().unwrap_or(false)
                            && let Some(kept) = kept.borrow_and_update().as_ref()
                        {
                            put_kept(shown, job.shard.index, kept);
                        }
                        shown.progress = Some(progress(&now));
                    });
                }
                // It is about to end.
                Err(_) => return running.await,
            },
        }
        // Not more often than anybody looks.
        tokio::select! {
            ended = &mut running => return ended,
            () = sleep(LOOK_EVERY) => {}
        }
    }
}

/// Has the listed keys written anew.
async fn repair(order: &VerifyOrder, job: &Job) -> Result<()> {
    let mut by_db = std::collections::BTreeMap::<u32, std::collections::BTreeSet<Vec<u8>>>::new();
    for found in &order.repair {
        by_db.entry(found.db).or_default().insert(found.key.clone());
    }
    for (db, keys) in by_db {
        let keys: Vec<Vec<u8>> = keys.into_iter().collect();
        for keys in keys.chunks(AT_ONCE) {
            job.mends.mend(db, keys.to_vec()).await?;
        }
    }
    tracing::info!(shard = %job.shard, run = order.number, keys = order.repair.len(), "repaired");
    Ok(())
}

/// This shard's part. Where names do not tell whose a key is, the first shard looks for strangers on the target, on behalf of all.
async fn plan(spec: &VerifySpec, order: &VerifyOrder, job: &Job) -> Result<(Plan, Follow)> {
    let index = usize::try_from(job.shard.index).unwrap_or(usize::MAX);
    let all = parts(&job.topology).await?;
    let own = all.get(index).cloned().ok_or_else(|| Error::new(Code::Internal, "a shard without a source"))?;
    let target = destination(job).await?;
    let for_all = own.owner == Owner::Unnamed && index == 0;
    let mode = match spec.mode() {
        v1::VerifyMode::Count => Mode::Count,
        v1::VerifyMode::Keys => Mode::Keys,
        v1::VerifyMode::Sample => Mode::Sample,
        v1::VerifyMode::Unspecified | v1::VerifyMode::Full => Mode::Full,
    };
    if mode == Mode::Count && all.len() > 1 {
        return Err(Error::new(Code::InvalidRequest, "mode count compares a target with its only source"));
    }
    let shards = if for_all { (0..all.len()).collect() } else { vec![index] };
    let backward = match own.owner {
        Owner::Unnamed if for_all => Backward::All,
        Owner::Unnamed => Backward::None,
        _ => Backward::Of(0),
    };
    let sources: Vec<Part> = if for_all { all } else { vec![own] };
    let nonzero = |value: u64, default: u64| if value == 0 { default } else { value };
    let plan = Plan {
        sources,
        forward: vec![0],
        backward,
        selection: job.selection.clone(),
        mode,
        sample: nonzero(spec.sample, PICKS),
        rate: Rate { keys_per_second: spec.keys_per_second, bytes_per_second: spec.bytes_per_second },
        tolerance: (spec.ttl_tolerance_ms > 0).then(|| Duration::from_millis(spec.ttl_tolerance_ms.into())),
        rounds: ROUNDS,
        most_listed: usize::try_from(order.most_listed).unwrap_or(usize::MAX),
        task_runs: true,
        faces: (shards.as_slice() == [index]).then(|| job.mends.clone()),
        scratch: job.scratch.join("verify"),
        target,
    };
    let follow = follow(&plan.target, job, &shards);
    Ok((plan, follow))
}

/// A standalone target tells how far each shard is. Of a cluster, where every slot has its own record, the shard's writer does; of
/// other shards nothing is known there.
fn follow(target: &Destination, job: &Job, shards: &[usize]) -> Follow {
    if let Destination::Standalone(_) = target {
        let record = |index: &usize| {
            let index = u32::try_from(*index).unwrap_or(u32::MAX);
            let shard = dts_common::ids::ShardId { task: job.shard.task.clone(), index };
            Some(reserved_key(&shard, "position").into_bytes())
        };
        return Follow::Records(shards.iter().map(record).collect());
    }
    match shards {
        [_] => {
            let mends = job.mends.clone();
            Follow::Applied(Arc::new(move || mends.applied()))
        }
        _ => Follow::Unknown,
    }
}

fn progress(now: &Progress) -> v1::VerifyProgress {
    v1::VerifyProgress {
        source_keys: now.source_keys,
        expected_keys: now.expected_keys,
        target_keys: now.target_keys,
        compared_keys: now.compared_keys,
        bytes: now.bytes,
        suspects: now.suspects,
        differences: now.differences,
        ..v1::VerifyProgress::default()
    }
}

/// What stands there when the run ends here: all that was found up to the cursor.
fn put_kept(shown: &mut VerifyShard, index: u32, kept: &Kept) {
    put_report(shown, index, &kept.report);
    shown.set_state(VerifyState::Running);
    shown.set_outcome(VerifyOutcome::Unspecified);
    shown.cursor = Some(v1::VerifyCursor { progress: shown.progress, ..kept.cursor.clone() });
}

fn put_report(shown: &mut VerifyShard, index: u32, report: &Report) {
    shown.set_state(VerifyState::Done);
    shown.cursor = None;
    shown.set_outcome(match report.outcome {
        Outcome::Equal => VerifyOutcome::Equal,
        Outcome::Differs => VerifyOutcome::Differs,
        Outcome::Undecided => VerifyOutcome::Undecided,
    });
    shown.error.clear();
    shown.progress = Some(v1::VerifyProgress {
        suspects: 0,
        unsettled_keys: report.unsettled_keys,
        incomparable_keys: report.incomparable_keys,
        held_keys: report.held_keys,
        ..progress(&report.progress)
    });
    shown.counts = report.counts.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect();
    shown.notes.clone_from(&report.notes);
    let different = report.differences.iter().map(|found| difference(index, found, found.finding.kind.as_str()));
    let unsettled = report.unsettled.iter().map(|found| difference(index, found, "unsettled"));
    let mut room = MOST_BYTES;
    let fits = |found: &v1::Difference| {
        let left = room.checked_sub(found.key.len() + found.source.len() + found.target.len());
        room = left.unwrap_or(0);
        left.is_some()
    };
    shown.differences = different.chain(unsettled).take_while(fits).collect();
}

fn difference(shard_index: u32, found: &Difference, kind: &str) -> v1::Difference {
    v1::Difference {
        shard_index,
        db: found.db,
        target_db: found.target_db,
        key: found.key.clone(),
        kind: kind.to_owned(),
        source: found.finding.source.clone(),
        target: found.finding.target.clone(),
    }
}
