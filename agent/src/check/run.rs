//! The runs that a coordinator has ordered: each begins once, and what it found is kept until it is not asked for any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dts_common::backoff::Backoff;
use dts_common::error::Result;
use dts_common::ids::ShardId;
use dts_proto::v1::{CheckKind, CheckOrder, CheckReport};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::found::{Found, may_pass_by_itself};
use super::item::TEST;
use super::look::look;
use crate::pipeline::Job;
use crate::scratch;

/// What this agent looks at.
#[derive(Debug, Default)]
pub struct Checks {
    runs: HashMap<ShardId, Run>,
}

#[derive(Debug)]
struct Run {
    order: CheckOrder,
    shown: Arc<Mutex<CheckReport>>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Checks {
    /// Begins what is ordered, and ends what is not any more. `job` makes what would be run.
    pub async fn reconcile(
        &mut self,
        orders: Vec<CheckOrder>,
        job: impl Fn(&ShardId, &CheckOrder) -> Result<Job>,
        changed: &Arc<Notify>,
    ) {
        let mut old = std::mem::take(&mut self.runs);
        for order in orders {
            let assignment = order.assignment.clone().unwrap_or_default();
            let id = ShardId { task: assignment.task_id, index: assignment.shard_index };
            let run = match old.remove(&id) {
                Some(run) if run.order == order => run,
                before => {
                    old.extend(before.map(|run| (id.clone(), run)));
                    begin(job(&id, &order), order, &id, changed.clone())
                }
            };
            self.runs.insert(id, run);
        }
        end(old).await;
    }

    /// What was found so far.
    pub fn report(&self) -> Vec<CheckReport> {
        self.runs.values().map(|run| read(&run.shown)).collect()
    }

    /// Ends all.
    pub async fn stop(self) {
        end(self.runs).await;
    }
}

async fn end(runs: HashMap<ShardId, Run>) {
    for run in runs.values() {
        run.cancel.cancel();
    }
    for run in runs.into_values() {
        if let Err(error) = run.task.await {
            tracing::error!(%error, "a check broke");
        }
    }
}

fn read(shown: &Mutex<CheckReport>) -> CheckReport {
    shown.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn begin(job: Result<Job>, order: CheckOrder, id: &ShardId, changed: Arc<Notify>) -> Run {
    let report =
        CheckReport { task_id: id.task.clone(), run: order.run, shard_index: id.index, ..CheckReport::default() };
    let (shown, cancel) = (Arc::new(Mutex::new(report)), CancellationToken::new());
    let (show, ends, asked) = (shown.clone(), cancel.clone(), order.clone());
    let scratch = job.as_ref().map(|job| job.scratch.clone()).ok();
    let task = tokio::spawn(async move {
        tokio::select! {
            () = until_told(job, &asked, &show, &changed) => {}
            () = ends.cancelled() => {}
        }
        scratch.iter().for_each(|dir| scratch::remove(dir));
    });
    Run { order, shown, cancel, task }
}

/// Looks, and again while what blocks may pass by itself and there is time.
async fn until_told(job: Result<Job>, order: &CheckOrder, shown: &Mutex<CheckReport>, changed: &Notify) {
    let put = |done: bool, results: Vec<_>, figures: Option<_>| {
        let mut report = shown.lock().unwrap_or_else(PoisonError::into_inner);
        (report.done, report.results) = (done, results);
        report.figures = figures.or(report.figures.take());
        drop(report);
        changed.notify_one();
    };
    let job = match job {
        Ok(job) => job,
        Err(error) => {
            let refused = Found::gate(Err(error)).result(&TEST[0], Duration::ZERO);
            return put(true, vec![refused], None);
        }
    };
    let until = Instant::now() + Duration::from_millis(order.patience_ms.into());
    let sample = Duration::from_millis(order.sample_ms.into());
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
    loop {
        let (results, figures) = look(&job, order.kind() == CheckKind::Test, sample).await;
        let again = may_pass_by_itself(&results) && Instant::now() < until;
        put(!again, results, Some(figures));
        if !again {
            return;
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}
