//! Runs of the connectivity test and of the check: ordered, collected, and what they do to the task.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{
    AcknowledgeRequest, Acknowledgement, Assignment, CheckKind, CheckOrder, CheckReport, CheckResult, CheckRun,
    CheckState, Shard, Task, TaskAction, TaskSpec, TaskState,
};
use prost::Message as _;
use tokio::time::Instant;

use super::assign::{Refused, assignment, no_agent};
use super::{Engine, Held, World, answer, not_found};
use crate::placement;
use crate::store::{Store, Transaction};
use crate::task::{self, Seen, Stored, directive, own, unchecked};

/// An agent that says nothing for so long is not waited for.
const SILENCE: Duration = Duration::from_secs(90);
/// A start that checks first does not dwell on rates.
const SAMPLE: Duration = Duration::from_millis(1000);
const SHORT_SAMPLE: Duration = Duration::from_millis(100);
const DEFAULT_WINDOW: u32 = 600;
const LONGEST_NOTE: usize = 128;

impl Held {
    /// A run that is going on.
    pub(super) fn running(&self) -> Option<&CheckRun> {
        self.stored.run.as_ref().filter(|run| run.state() == CheckState::Running)
    }

    /// Its shards are to be at agents.
    pub(super) fn needs_agents(&self) -> bool {
        directive(self.view().state(), self.stored.releasing).is_some() || self.running().is_some()
    }

    /// The last run, if it is of what the task is now; one that is going on as far as it came.
    fn run(&self) -> Option<CheckRun> {
        let generation = self.task().generation;
        let mut run = self.stored.run.clone().filter(|run| run.generation == generation)?;
        if run.state() == CheckState::Running {
            self.collect(&mut run, Vec::new(), &[]);
        }
        Some(run)
    }

    fn has_standby(&self, index: u32, agent_id: &str) -> bool {
        self.standbys.get(&index).is_some_and(|all| all.iter().any(|id| id == agent_id))
    }

    fn all_have_looked(&self) -> bool {
        let shards = &self.view().shards;
        if self.seen.values().filter(|seen| seen.report.done).count() < shards.len() {
            return false;
        }
        let done =
            |agent: &str, index: u32| self.seen.get(&(agent.to_owned(), index)).is_some_and(|seen| seen.report.done);
        shards.iter().all(|shard| {
            // Who stands by is known once the shard was given to an agent.
            let standbys = self.standbys.get(&shard.index);
            done(&shard.agent_id, shard.index)
                && standbys.is_some_and(|all| all.iter().all(|agent| done(agent, shard.index)))
        })
    }

    /// What an agent shall look at; `spec` is that of the task, its secrets open.
    pub(super) fn order(&self, spec: &TaskSpec, shard: &Shard, standby: bool) -> Option<CheckOrder> {
        let run = self.running()?;
        let starts = self.stored.start_when_passed;
        let window = match spec.limits.unwrap_or_default().retry_window_seconds {
            0 => DEFAULT_WINDOW,
            window => window,
        };
        let sample = if starts { SHORT_SAMPLE } else { SAMPLE };
        let traceparent = self.traces.get(&shard.index).cloned().unwrap_or_default();
        Some(CheckOrder {
            run: run.number,
            kind: if standby { CheckKind::Test.into() } else { run.kind },
            standby,
            assignment: Some(Assignment { traceparent, ..assignment(&self.id, spec, shard) }),
            patience_ms: if starts && !standby { window.saturating_mul(1000) } else { 0 },
            sample_ms: u32::try_from(sample.as_millis()).unwrap_or(u32::MAX),
        })
    }

    fn collect(&self, run: &mut CheckRun, own: Vec<CheckResult>, before: &[dts_proto::v1::CheckItem]) {
        let mut seen: Vec<Seen> = self.seen.values().cloned().collect();
        seen.sort_by_key(|seen| (seen.report.shard_index, seen.agent_id.clone()));
        task::collect(run, &seen, own, before);
    }

    /// Gives its agents back; a run that is going on ends.
    pub(super) fn end_run(&mut self, state: CheckState) {
        self.seen.clear();
        self.standbys.clear();
        self.deadline = None;
        (self.stored.start_when_passed, self.stored.acknowledge_all) = (false, false);
        if let Some(run) = self.stored.run.as_mut().filter(|run| run.state() == CheckState::Running) {
            run.set_state(state);
            run.ended_at = Some(SystemTime::now().into());
            self.task_mut().shards.iter_mut().for_each(|shard| shard.agent_id.clear());
        }
    }
}

/// What a task shows of its run.
pub(super) fn show(held: &Held, task: &mut Task) {
    let Some(run) = held.run() else { return };
    // What is being waited for.
    if task.state() == TaskState::Checking && task.reason.is_none() {
        task.reason = task::failure(&run);
    }
    task.check = Some(task::summary(&run));
}

impl<S: Store> Engine<S> {
    /// Begins a run.
    pub async fn begin_check(&self, id: &str, revision: u64, kind: CheckKind) -> Result<CheckRun> {
        let mut world = self.world.lock().await;
        let somebody = world.agents.values().any(|session| self.usable(session));
        let held = self.settled(&mut world, id).await?;
        let action = if kind == CheckKind::Test { TaskAction::Test } else { TaskAction::Check };
        held.allowed(revision, action)?;
        task::check_complete(&held.task().spec.unwrap_or_default())?;
        if !somebody {
            return Err(Error::new(Code::NoAgent, "no agent is connected that could look"));
        }
        self.begin(held, kind, false, false).await?;
        self.reconcile(&mut world).await?;
        world.tasks.get(id).and_then(Held::run).ok_or_else(|| not_found(id))
    }

    /// Begins a run, which ends one that is going on.
    pub(super) async fn begin(
        &self,
        held: &mut Held,
        kind: CheckKind,
        start_when_passed: bool,
        acknowledge_all: bool,
    ) -> Result<()> {
        held.end_run(CheckState::Cancelled);
        let task = held.task();
        let last = held.stored.run.take();
        let run = CheckRun {
            number: last.as_ref().map_or(0, |run| run.number) + 1,
            kind: kind.into(),
            state: CheckState::Running.into(),
            generation: task.generation,
            started_at: Some(SystemTime::now().into()),
            // Acknowledgements outlive a second look at the same thing.
            items: last
                .iter()
                .filter(|run| run.generation == task.generation)
                .flat_map(|run| run.items.clone())
                .collect(),
            ..CheckRun::default()
        };
        (held.stored.run, held.stored.start_when_passed, held.stored.acknowledge_all) =
            (Some(run), start_when_passed, acknowledge_all);
        held.task_mut().shards.iter_mut().for_each(|shard| shard.agent_id.clear());
        let archive = Transaction { writes: task::kept_runs(&task.id, last.as_ref()), ..Transaction::default() };
        if kind == CheckKind::Check {
            held.task_mut().set_state(TaskState::Checking);
            held.task_mut().reason = None;
            held.stored.note(task::meaning(TaskState::Checking), None);
        } else {
            held.stored.note("the connectivity test begins", None);
        }
        self.save_with(held, archive).await
    }

    /// What an agent found; true if that ended a run.
    pub(super) async fn take_checks(
        &self,
        world: &mut World,
        agent_id: &str,
        reports: Vec<CheckReport>,
    ) -> Result<bool> {
        let mut done = BTreeSet::new();
        for report in reports {
            let (id, index) = (report.task_id.clone(), report.shard_index);
            let Some(held) = world.tasks.get_mut(&id) else { continue };
            if held.running().is_none_or(|run| run.number != report.run) {
                continue;
            }
            let Some(shard) = held.shard(index) else { continue };
            let standby = shard.agent_id != agent_id;
            if standby && !held.has_standby(index, agent_id) {
                continue;
            }
            let agent_id = agent_id.to_owned();
            let ends = report.done;
            let last = held.seen.insert((agent_id.clone(), index), Seen { agent_id, standby, report });
            if ends && !last.is_some_and(|last| last.report.done) {
                done.insert(id);
            }
        }
        let mut ended = false;
        for id in done {
            ended |= self.end_check(world, &id).await?;
        }
        Ok(ended)
    }

    /// Ends every run that has all its findings, or waited long enough.
    pub(super) async fn end_checks(&self, world: &mut World) -> Result<()> {
        let running = world.tasks.iter().filter(|(_, held)| held.running().is_some());
        let ids: Vec<String> = running.map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.end_check(world, &id).await?;
        }
        Ok(())
    }

    async fn end_check(&self, world: &mut World, id: &str) -> Result<bool> {
        let Some(held) = world.tasks.get_mut(id).filter(|held| held.running().is_some() && !held.unsure) else {
            return Ok(false);
        };
        // Who starts waits for an agent to come, as a start always did.
        let waits = held.stored.start_when_passed;
        let now = Instant::now();
        let late = !waits && (is_barred(held) || *held.deadline.get_or_insert(now + SILENCE) <= now);
        if !late && !held.all_have_looked() {
            return Ok(false);
        }
        self.finish(world, id).await?;
        Ok(true)
    }

    async fn finish(&self, world: &mut World, id: &str) -> Result<()> {
        let Some(held) = world.tasks.get(id) else { return Ok(()) };
        let Some(mut run) = held.running().cloned() else { return Ok(()) };
        let before = std::mem::take(&mut run.items);
        // Only those of the agents that hold the shards count.
        run.set_state(CheckState::Passed);
        let spec = held.task().spec.unwrap_or_default();
        let refused = no_agent(&held.task(), &held.refusals).map(|reason| reason.message);
        let mut own: Vec<CheckResult> = own::answers(&silent(held)).into_iter().collect();
        own.push(own::region(&spec, refused));
        held.collect(&mut run, Vec::new(), &[]);
        let checks = run.kind() == CheckKind::Check;
        if checks {
            let others = world.tasks.iter().filter(|(of, _)| *of != id).map(|(_, held)| &held.stored);
            let stored = Stored { run: Some(run.clone()), ..held.stored.clone() };
            own.push(own::alone(task::conflict(&stored, others)));
            own.extend(own::memory(&run.figures));
        }
        held.collect(&mut run, own, &before);
        let failure = task::failure(&run);
        run.set_state(if failure.is_some() { CheckState::Failed } else { CheckState::Passed });
        run.ended_at = Some(SystemTime::now().into());
        let (kind, passed) = (run.kind(), failure.is_none());
        let (starts, all) = (held.stored.start_when_passed, held.stored.acknowledge_all);
        let Some(held) = world.tasks.get_mut(id) else { return Ok(()) };
        held.end_run(run.state());
        if checks {
            held.stored.replan(task::make_plan(&run, spec.limits.unwrap_or_default()));
        }
        held.stored.run = Some(run);
        held.stored.tested |= passed;
        let state = held.task().state();
        let note = format!(
            "run {} {}",
            held.stored.run.as_ref().map_or(0, |run| run.number),
            if passed { "passed" } else { "failed" }
        );
        held.stored.note(note, failure.clone());
        let next = match (kind, passed) {
            (CheckKind::Check, false) => TaskState::CheckFailed,
            (CheckKind::Check, true) => TaskState::CheckPassed,
            (_, true) if state == TaskState::Created => unchecked(true),
            _ => state,
        };
        if next == state {
            self.save(held).await?;
        } else {
            self.enter_for(held, next, failure).await?;
        }
        if next == TaskState::CheckPassed
            && starts
            && let Err(error) = self.go(world, id, all).await
        {
            let Some(held) = world.tasks.get_mut(id) else { return Ok(()) };
            held.task_mut().reason = Some(super::life::reason(&error));
            self.save(held).await?;
        }
        Ok(())
    }

    /// A run; 0 is the last one.
    pub async fn check_run(&self, id: &str, number: u64) -> Result<CheckRun> {
        let last = {
            let world = self.world.lock().await;
            let held = world.tasks.get(id).filter(|held| held.revision > 0).ok_or_else(|| not_found(id))?;
            held.run().or_else(|| held.stored.run.clone())
        };
        let none = || Error::new(Code::InvalidRequest, format!("the task has no run {number}"));
        let last = last.ok_or_else(none)?;
        if number == 0 || number == last.number {
            return Ok(last);
        }
        let key = task::run_key(id, number);
        let found = self.store.get(&key).await?.ok_or_else(none)?;
        CheckRun::decode(found.value.as_slice())
            .map_err(|error| Error::new(Code::Internal, format!("what is stored at {key}: {error}")))
    }

    /// The runs that are kept, newest first, without items.
    pub async fn check_runs(&self, id: &str) -> Result<Vec<CheckRun>> {
        let last = match self.check_run(id, 0).await {
            Err(error) if error.code == Code::InvalidRequest => return Ok(Vec::new()),
            last => last?,
        };
        let mut runs = vec![last];
        for (_, found) in self.store.list(&task::runs(id)).await?.into_iter().rev() {
            runs.extend(CheckRun::decode(found.value.as_slice()).ok());
        }
        runs.iter_mut().for_each(|run| run.items.clear());
        Ok(runs)
    }

    /// Takes warnings upon the caller.
    pub async fn acknowledge(&self, request: AcknowledgeRequest) -> Result<Task> {
        let AcknowledgeRequest { id, revision, items, by, reason } = request;
        let too_long = [&by, &reason].iter().any(|text| text.len() > LONGEST_NOTE);
        if too_long {
            return Err(Error::new(Code::InvalidRequest, format!("by and reason have at most {LONGEST_NOTE} bytes")));
        }
        let mut world = self.world.lock().await;
        let held = self.settled(&mut world, &id).await?;
        held.allowed(revision, TaskAction::Acknowledge)?;
        take_upon(held, &items, &by, &reason)?;
        self.save(held).await?;
        Ok(answer(held))
    }
}

/// Acknowledges, and says so in the history.
pub(super) fn take_upon(held: &mut Held, items: &[String], by: &str, reason: &str) -> Result<()> {
    let note = Acknowledgement { by: by.to_owned(), reason: reason.to_owned(), at: Some(SystemTime::now().into()) };
    let Some(run) = &mut held.stored.run else { return Ok(()) };
    let taken = task::acknowledge(run, items, &note).map_err(|wrong| {
        Error::new(Code::InvalidRequest, format!("the check has no item {wrong:?} that needs an acknowledgement"))
    })?;
    held.task_mut().reason = None;
    if !taken.is_empty() {
        held.stored.note(format!("{} acknowledged by {by:?}: {reason}", taken.join(", ")), None);
    }
    Ok(())
}

/// Agents are there, and none of them may take a shard: waiting for one helps nobody who asked for a check.
fn is_barred(held: &Held) -> bool {
    // One that is gone may come back.
    let gone = placement::Why::Gone.to_string();
    let for_good = |refused: &Refused| {
        refused.more == 0 && !refused.whys.is_empty() && refused.whys.iter().all(|found| found.why != gone)
    };
    held.refusals.values().any(|refused| refused.nowhere && for_good(refused))
}

/// Shards whose agents never said that they were done.
fn silent(held: &Held) -> Vec<u32> {
    let done =
        |shard: &Shard| held.seen.get(&(shard.agent_id.clone(), shard.index)).is_some_and(|seen| seen.report.done);
    held.task().shards.iter().filter(|shard| !done(shard)).map(|shard| shard.index).collect()
}
