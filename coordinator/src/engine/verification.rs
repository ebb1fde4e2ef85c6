//! Verification runs of tasks, and completions that wait for one.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use dts_common::error::{Code, Error, Result};
use dts_common::telemetry::traceparent;
use dts_proto::v1::{
    CompleteTaskRequest, CompletionBarrier, CompletionOutcome, CompletionReport, Difference, ShardReport, Task,
    TaskAction, TaskState, Verification, VerifyMode, VerifyOutcome, VerifySpec, VerifyState,
};
use prost::Message as _;

use super::{Engine, Held, answer, life, lost_race, not_found};
use crate::store::{Store, Transaction};
use crate::verify::{Taken, page, shown};

/// Under it stand the runs: `verify/<task>/<number>`.
const VERIFY: &str = "verify/";
/// How long a verification may hold a completion up, if the request does not say.
const TIME_LIMIT: Duration = Duration::from_secs(3600);

fn key(task: &str, number: u64) -> String {
    format!("{VERIFY}{task}/{number:020}")
}

impl<S: Store> Engine<S> {
    /// Gives the tasks the runs that are stored.
    pub(super) async fn load_runs(&self) -> Result<()> {
        let mut world = self.world.lock().await;
        for (key, found) in self.store.list(VERIFY).await? {
            let run = Verification::decode(found.value.as_slice())
                .map_err(|error| Error::new(Code::Internal, format!("what is stored at {key}: {error}")))?;
            if let Some(held) = world.tasks.get_mut(&run.task_id) {
                held.runs.stored(run);
            }
        }
        Ok(())
    }

    /// Begins a run.
    pub async fn start_verification(&self, id: &str, spec: VerifySpec, requested_by: String) -> Result<Verification> {
        let mut world = self.world.lock().await;
        let held = self.settled(&mut world, id).await?;
        let number = self.begin_run(held, spec, requested_by).await?;
        let run = held.runs.get(number).map(shown).ok_or_else(lost_race)?;
        self.reconcile(&mut world).await?;
        Ok(run)
    }

    /// Has what a run found copied again, and looked at once more.
    pub async fn repair_verification(&self, id: &str, number: u64, requested_by: String) -> Result<Verification> {
        let mut world = self.world.lock().await;
        let held = self.settled(&mut world, id).await?;
        let spec = held.runs.repair(number)?;
        let number = self.begin_run(held, spec, requested_by).await?;
        let run = held.runs.get(number).map(shown).ok_or_else(lost_race)?;
        self.reconcile(&mut world).await?;
        Ok(run)
    }

    pub(super) async fn begin_run(&self, held: &mut Held, spec: VerifySpec, requested_by: String) -> Result<u64> {
        let task = held.task();
        if task.state() != TaskState::IncrSync {
            let message = format!("a task can be verified in INCR_SYNC, this one is {}", task.state().as_str_name());
            return Err(Error::new(Code::ActionNotAllowed, message));
        }
        let indices = task.shards.iter().map(|shard| shard.index);
        let (run, forgotten) = held.runs.start(&task.id, spec, indices, requested_by)?;
        tracing::info!(task = task.id, run = run.number, "verification asked");
        let forgotten = forgotten.into_iter().map(|number| (key(&task.id, number), None));
        let writes = std::iter::once((key(&task.id, run.number), Some(run.encode_to_vec()))).chain(forgotten).collect();
        self.commit_runs(writes).await?;
        Ok(run.number)
    }

    async fn commit_runs(&self, writes: Vec<(String, Option<Vec<u8>>)>) -> Result<()> {
        let write = Transaction { writes, ..Transaction::default() };
        self.store.commit(write).await?.map(drop).ok_or_else(lost_race)
    }

    pub(super) async fn save_run(&self, held: &Held, number: u64) -> Result<()> {
        let Some(run) = held.runs.get(number) else { return Ok(()) };
        self.commit_runs(vec![(key(&run.task_id, number), Some(run.encode_to_vec()))]).await
    }

    /// What is to be deleted with a task.
    pub(super) fn deletes_of_runs(held: &Held) -> Vec<(String, Option<Vec<u8>>)> {
        held.runs.all().iter().map(|run| (key(&run.task_id, run.number), None)).collect()
    }

    /// A run; number 0: the last.
    pub async fn verification(&self, id: &str, number: u64) -> Result<Verification> {
        let world = self.world.lock().await;
        let held = world.tasks.get(id).ok_or_else(|| not_found(id))?;
        held.runs.get(number).map(shown).ok_or_else(|| no_run(number))
    }

    /// The runs that are kept.
    pub async fn verifications(&self, id: &str) -> Result<Vec<Verification>> {
        let world = self.world.lock().await;
        let held = world.tasks.get(id).ok_or_else(|| not_found(id))?;
        Ok(held.runs.all().iter().map(shown).collect())
    }

    /// Tasks that go on though their last verification found differences, and its number.
    pub async fn differing(&self) -> BTreeMap<String, u64> {
        let world = self.world.lock().await;
        let differs = |(id, held): (&String, &Held)| {
            let state = held.stored.task.as_ref().map(Task::state)?;
            let over = matches!(state, TaskState::Completed | TaskState::Cancelled);
            let run = last_ended(held).filter(|run| !over && run.outcome() == VerifyOutcome::Differs)?;
            Some((id.clone(), run.number))
        };
        world.tasks.iter().filter_map(differs).collect()
    }

    /// A page of differences, and where the next begins.
    pub async fn differences(
        &self,
        id: &str,
        number: u64,
        from: usize,
        size: usize,
    ) -> Result<(Vec<Difference>, Option<usize>)> {
        let world = self.world.lock().await;
        let held = world.tasks.get(id).ok_or_else(|| not_found(id))?;
        held.runs.get(number).map(|run| page(run, from, size)).ok_or_else(|| no_run(number))
    }

    /// Ends a run; number 0: the one that goes on.
    pub async fn cancel_verification(&self, id: &str, number: u64) -> Result<Verification> {
        let mut world = self.world.lock().await;
        let held = self.settled(&mut world, id).await?;
        let ended = held.runs.cancel(number);
        if let Some(ended) = ended {
            self.save_run(held, ended).await?;
        }
        let run = held.runs.get(ended.unwrap_or(number)).map(shown).ok_or_else(|| no_run(number))?;
        self.settle_completion(held).await?;
        self.reconcile(&mut world).await?;
        Ok(run)
    }

    /// What an agent says of its part of a run.
    pub(super) async fn take_verification(&self, held: &mut Held, shard: &mut ShardReport) -> Result<()> {
        let Some(report) = shard.verify.take() else { return Ok(()) };
        let number = report.number;
        match held.runs.take(shard.shard_index, shard.epoch, report) {
            Taken::Nothing => Ok(()),
            Taken::Shard => self.save_run(held, number).await,
            Taken::Run => {
                self.save_run(held, number).await?;
                self.settle_completion(held).await
            }
        }
    }

    /// Ends a synchronisation: at once, or when a verification has found both sides equal.
    pub async fn complete(&self, request: CompleteTaskRequest) -> Result<Task> {
        let mut world = self.world.lock().await;
        let id = request.id.as_str();
        let held = self.settled(&mut world, id).await?;
        let next = held.allowed(request.revision, TaskAction::Complete)?;
        held.asked = traceparent();
        let gated = request.verify() != VerifyMode::Unspecified;
        let against = objections(held);
        if gated && request.force {
            let message = "force completes without a verification: ask for one of the two";
            return Err(Error::new(Code::InvalidRequest, message));
        }
        if !gated
            && !request.force
            && let Some(why) = against.first()
        {
            let message = format!("{why}; verify again, or complete by force");
            return Err(Error::new(Code::ActionNotAllowed, message));
        }
        let now = SystemTime::now();
        let mut report = CompletionReport {
            requested_by: request.requested_by.clone(),
            requested_at: Some(now.into()),
            ..CompletionReport::default()
        };
        if gated {
            let spec = VerifySpec { mode: request.verify, ..VerifySpec::default() };
            let limit = match request.verify_time_limit_seconds {
                0 => TIME_LIMIT,
                seconds => Duration::from_secs(seconds.into()),
            };
            report.verification = self.begin_run(held, spec, request.requested_by).await?;
            report.mode = request.verify;
            report.deadline = Some((now + limit).into());
            report.set_outcome(CompletionOutcome::Pending);
            held.task_mut().completion = Some(report);
            self.save(held).await?;
        } else {
            if request.force && !against.is_empty() {
                tracing::warn!(task = id, by = request.requested_by, waived = against.join("; "), "COMPLETED BY FORCE");
                report.set_outcome(CompletionOutcome::Forced);
                report.summary = "completed by force".into();
            } else {
                report.set_outcome(CompletionOutcome::NotVerified);
            }
            report.decided_at = Some(now.into());
            report.waived = against;
            held.runs.cancel(0);
            held.task_mut().completion = Some(report);
            life::prepare(held, TaskAction::Complete);
            self.enter(held, next).await?;
        }
        self.reconcile(&mut world).await?;
        world.tasks.get(id).map(answer).ok_or_else(|| not_found(id))
    }

    /// Decides a completion that waits, if its verification has ended, its time is over, or the task went elsewhere.
    pub(super) async fn settle_completion(&self, held: &mut Held) -> Result<()> {
        let Some(mut report) = held.view().completion.clone() else { return Ok(()) };
        if report.outcome() != CompletionOutcome::Pending || held.unsure {
            return Ok(());
        }
        let task = held.task();
        let number = report.verification;
        let found = held.runs.get(number).map(|run| (run.state(), run.outcome()));
        let late =
            report.deadline.and_then(|at| SystemTime::try_from(at).ok()).is_some_and(|at| SystemTime::now() > at);
        let stays = matches!(task.state(), TaskState::IncrSync | TaskState::FullSync | TaskState::Interrupted);
        let (outcome, summary) = match found {
            _ if !stays => {
                (CompletionOutcome::Refused, format!("the task became {} meanwhile", task.state().as_str_name()))
            }
            Some((VerifyState::Running, _)) if late => {
                (CompletionOutcome::TimedOut, "the verification did not end in time".to_owned())
            }
            Some((VerifyState::Running, _)) => return Ok(()),
            Some((VerifyState::Done, VerifyOutcome::Equal)) if task.state() == TaskState::IncrSync => {
                (CompletionOutcome::Verified, format!("verification {number} found both sides equal"))
            }
            Some((VerifyState::Done, VerifyOutcome::Equal)) => (
                CompletionOutcome::Refused,
                "both sides were equal, but the task has been interrupted since".to_owned(),
            ),
            Some((VerifyState::Done, VerifyOutcome::Differs)) => {
                (CompletionOutcome::Refused, format!("verification {number} found differences"))
            }
            Some((VerifyState::Done, _)) => {
                (CompletionOutcome::Refused, format!("verification {number} could not tell of some keys"))
            }
            Some((VerifyState::Cancelled, _)) => {
                (CompletionOutcome::Refused, format!("verification {number} was cancelled"))
            }
            _ => (CompletionOutcome::Refused, format!("verification {number} failed")),
        };
        if let Some(ended) = held.runs.cancel(number) {
            self.save_run(held, ended).await?;
        }
        tracing::info!(task = task.id, run = number, outcome = outcome.as_str_name(), "completion decided");
        report.set_outcome(outcome);
        report.summary = summary;
        report.decided_at = Some(SystemTime::now().into());
        held.task_mut().completion = Some(report);
        if outcome == CompletionOutcome::Verified {
            life::prepare(held, TaskAction::Complete);
            return self.enter(held, TaskState::Completing).await;
        }
        self.save(held).await
    }

    /// The same for all tasks; called as the time goes on.
    pub(super) async fn settle_completions(&self, tasks: &mut BTreeMap<String, Held>) -> Result<()> {
        for held in tasks.values_mut() {
            self.settle_completion(held).await?;
        }
        Ok(())
    }
}

/// The last run that looked at everything.
fn last_ended(held: &Held) -> Option<&Verification> {
    // A repair looks at what it repaired only.
    let ended = |run: &&Verification| run.state() == VerifyState::Done && run.spec.unwrap_or_default().repair_of == 0;
    held.runs.all().iter().rev().find(ended)
}

/// What stands against a completion without a verification.
fn objections(held: &Held) -> Vec<String> {
    match last_ended(held) {
        Some(run) if run.outcome() == VerifyOutcome::Differs => {
            vec![format!("verification {} found differences", run.number)]
        }
        Some(run) if run.outcome() == VerifyOutcome::Undecided => {
            vec![format!("verification {} could not tell of some keys", run.number)]
        }
        _ => Vec::new(),
    }
}

/// Everything is drained: what the target has reached, and what was passed over.
pub(super) fn note_barriers(held: &mut Held) {
    let task = held.task();
    let barriers = task.shards.iter().map(|shard| {
        let stream = held.statuses.get(&shard.index).and_then(|status| status.stream.clone()).unwrap_or_default();
        CompletionBarrier {
            shard_index: shard.index,
            replication_id: stream.replication_id,
            offset: stream.completion_offset,
        }
    });
    let barriers = barriers.collect();
    let mut warnings: Vec<String> = held.statuses.values().flat_map(|status| status.warnings.clone()).collect();
    warnings.sort();
    warnings.dedup();
    let report = held.task_mut().completion.get_or_insert_with(|| CompletionReport {
        outcome: CompletionOutcome::NotVerified.into(),
        summary: "completed by itself".into(),
        ..CompletionReport::default()
    });
    report.barriers = barriers;
    report.waived.extend(warnings);
}

/// The task is completed.
pub(super) fn note_completed(held: &mut Held) {
    held.task_mut().completion.get_or_insert_default().completed_at = Some(SystemTime::now().into());
}

fn no_run(number: u64) -> Error {
    let which = if number == 0 { "none".to_owned() } else { format!("no verification {number}") };
    Error::new(Code::TaskNotFound, format!("the task has {which} that is kept: list its verifications"))
}
