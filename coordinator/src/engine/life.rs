//! A task's life where it is more than a change of state: start, schedule, edit, clone, and what an action leaves behind.

use std::time::SystemTime;

use dts_common::error::{Code, Error, Result};
use dts_common::telemetry::traceparent;
use dts_proto::v1::{
    self, CheckKind, CheckState, Explanation, ListTaskEventsResponse, Plan, Schedule, Shard, ShardPhase, Task,
    TaskAction, TaskSpec, TaskState,
};
use jiff::Timestamp;

use super::checking::take_upon;
use super::{Engine, Held, World, answer, lost_race, mirror, not_found};
use crate::store::{MOST_WRITES, Store, Transaction};
use crate::task::{self, unchecked};

/// An error as a task shows it.
pub(super) fn reason(error: &Error) -> v1::Reason {
    let code = error.code;
    v1::Reason {
        code: code.as_str().into(),
        scope: code.scope().as_str().into(),
        retry: code.retry(),
        message: error.message.clone(),
        fix: code.fix().into(),
    }
}

/// What an action changes besides the state.
pub(super) fn prepare(held: &mut Held, action: TaskAction) {
    use TaskAction as A;
    let name = action.as_str_name().trim_start_matches("TASK_ACTION_").to_lowercase().replace('_', " ");
    held.stored.note(format!("{name} was asked for"), None);
    // What somebody claimed after us is ours to remove only under an epoch after theirs.
    let takes_back = matches!(action, A::Cancel | A::Delete) && held.task().state() == TaskState::Failed;
    if takes_back || matches!(action, A::Start | A::Resume | A::Pause | A::Retry | A::Resync | A::Abort) {
        // A new beginning is a new epoch.
        held.task_mut().shards.iter_mut().for_each(|shard| shard.agent_id.clear());
    }
    match action {
        A::CancelCheck => held.end_run(CheckState::Cancelled),
        A::Unschedule => held.task_mut().schedule = None,
        A::Resync | A::Abort => {
            // Whatever expiries are exact on the target by now: the copy holds them all again.
            held.stored.resync = held.task().shards.iter().map(|shard| shard.index).collect();
            held.stored.held |= held.stored.completing;
            held.stored.completing = false;
        }
        A::Complete => held.stored.held = false,
        _ => {}
    }
}

/// A shard that has begun its new copy is not told to begin another.
pub(super) fn note_copies(held: &mut Held) {
    let copies = |index: &u32| {
        let status = held.statuses.get(index);
        status.is_some_and(|status| status.phase() >= ShardPhase::Copying && status.phase() <= ShardPhase::Streaming)
    };
    let begun: Vec<u32> = held.stored.resync.iter().filter(|index| copies(index)).copied().collect();
    held.stored.resync.retain(|index| !begun.contains(index));
}

impl<S: Store> Engine<S> {
    /// Starts a task; one that was not checked is checked first, and starts by itself if it passes.
    pub async fn start(&self, id: &str, revision: u64, acknowledge: bool) -> Result<Task> {
        let mut world = self.world.lock().await;
        let held = self.settled(&mut world, id).await?;
        let next = held.allowed(revision, TaskAction::Start)?;
        held.asked = traceparent();
        task::check_complete(&held.task().spec.unwrap_or_default())?;
        if next == TaskState::Checking {
            held.stored.note("start was asked for: it is checked first", None);
            self.begin(held, CheckKind::Check, true, acknowledge).await?;
        } else {
            self.go(&mut world, id, acknowledge).await?;
        }
        self.reconcile(&mut world).await?;
        world.tasks.get(id).map(answer).ok_or_else(|| not_found(id))
    }

    /// -> VERIFYING, if nobody is in the way and nothing is left to be acknowledged.
    pub(super) async fn go(&self, world: &mut World, id: &str, acknowledge: bool) -> Result<()> {
        let held = world.tasks.get(id).ok_or_else(|| not_found(id))?;
        let others = world.tasks.iter().filter(|(of, _)| *of != id).map(|(_, held)| &held.stored);
        task::conflict(&held.stored, others)?;
        let held = world.tasks.get_mut(id).ok_or_else(|| not_found(id))?;
        settle_warnings(held, acknowledge)?;
        prepare(held, TaskAction::Start);
        self.enter(held, TaskState::Verifying).await
    }

    /// Arms a checked task for a time; a time that is past is now.
    pub async fn schedule(&self, id: &str, revision: u64, start_at: &str) -> Result<Task> {
        let mut world = self.world.lock().await;
        let held = self.settled(&mut world, id).await?;
        held.allowed(revision, TaskAction::Schedule)?;
        let at = task::parse_schedule(start_at)?;
        settle_warnings(held, false)?;
        let past = at <= Timestamp::now();
        let note = if past { format!("{start_at} is past: started at once") } else { String::new() };
        held.stored.note(format!("scheduled for {start_at}"), None);
        let at = prost_types::Timestamp { seconds: at.as_second(), nanos: at.subsec_nanosecond() };
        held.task_mut().schedule = Some(Schedule { at: Some(at), start_at: start_at.to_owned(), note });
        if past {
            self.go(&mut world, id, false).await?;
        } else {
            self.enter(held, TaskState::Scheduled).await?;
        }
        self.reconcile(&mut world).await?;
        world.tasks.get(id).map(answer).ok_or_else(|| not_found(id))
    }

    /// Nothing of it is left in the store.
    pub(super) async fn forget(&self, world: &mut World, id: &str) -> Result<Task> {
        let held = world.tasks.get_mut(id).ok_or_else(|| not_found(id))?;
        Box::pin(self.give_back_all(held)).await?;
        let key = format!("task/{id}");
        let mut writes = task::forgotten_runs(id, held.stored.run.as_ref());
        writes.extend([(key.clone(), None), (mirror::key(id), None)]);
        writes.extend(Self::deletes_of_runs(held));
        let epochs: Vec<_> =
            held.view().shards.iter().map(|shard| (format!("epoch/{id}/{}", shard.index), None)).collect();
        let delete = Transaction { compares: vec![(key, held.revision)], writes, ..Transaction::default() };
        held.unsure = true;
        for some in epochs.chunks(MOST_WRITES) {
            let writes = Transaction { writes: some.to_vec(), ..Transaction::default() };
            self.store.commit(writes).await?.ok_or_else(lost_race)?;
        }
        self.store.commit(delete).await?.ok_or_else(lost_race)?;
        let gone = answer(held);
        world.tasks.remove(id);
        self.changed.send_modify(|count| *count += 1);
        Ok(gone)
    }

    /// Tasks that were to be deleted, once nothing of ours is left elsewhere.
    pub(super) async fn forget_deleted(&self, world: &mut World) -> Result<()> {
        let over = |held: &Held| held.stored.deleting && held.task().state() == TaskState::Cancelled && !held.unsure;
        let ids: Vec<String> = world.tasks.iter().filter(|(_, held)| over(held)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            self.forget(world, &id).await?;
        }
        Ok(())
    }

    /// Starts what is due, however late.
    pub(super) async fn start_due(&self, world: &mut World) -> Result<()> {
        let now = prost_types::Timestamp::from(SystemTime::now());
        let due = |held: &Held| {
            let at = held.view().schedule.as_ref().and_then(|schedule| schedule.at);
            held.view().state() == TaskState::Scheduled
                && !held.unsure
                && at.is_some_and(|at| (at.seconds, at.nanos) <= (now.seconds, now.nanos))
        };
        let ids: Vec<String> = world.tasks.iter().filter(|(_, held)| due(held)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            let Some(held) = world.tasks.get_mut(&id) else { continue };
            held.stored.note("its time has come", None);
            if let Err(error) = self.go(world, &id, false).await {
                tracing::warn!(task = id, %error, "a scheduled start was not possible");
                let Some(held) = world.tasks.get_mut(&id) else { continue };
                held.task_mut().schedule = None;
                held.stored.note("the scheduled start was not possible", None);
                self.enter_for(held, TaskState::CheckPassed, Some(reason(&error))).await?;
            }
        }
        Ok(())
    }

    /// Changes a task that was not started: whatever was found out about it counts no more.
    pub(super) async fn edit(&self, held: &mut Held, from: &TaskSpec, paths: &[String]) -> Result<()> {
        let task = held.task();
        let before = task.spec.clone().unwrap_or_default();
        let mut spec = before.clone();
        self.sealer.unseal(&mut spec)?;
        let open = spec.clone();
        task::edit(&mut spec, from, paths)?;
        task::check_spec(&spec, "")?;
        let servers = |spec: &TaskSpec| (spec.sources.clone(), spec.target.clone(), spec.topology.clone());
        held.end_run(CheckState::Cancelled);
        held.stored.tested &= servers(&open) == servers(&spec);
        self.sealer.seal(&mut spec)?;
        let shards = (0..spec.sources.len())
            .map(|index| Shard { index: u32::try_from(index).unwrap_or(u32::MAX), ..Shard::default() });
        held.statuses.clear();
        held.stored.replan(None);
        let tested = held.stored.tested;
        let changed = held.task_mut();
        changed.shards = shards.collect();
        changed.spec = Some(spec);
        changed.generation += 1;
        changed.schedule = None;
        changed.reason = None;
        held.stored.note(
            format!("{} changed: test, check, acknowledgements and schedule count no more", paths.join(", ")),
            None,
        );
        self.enter(held, unchecked(tested)).await
    }

    /// A new task of the same spec.
    pub async fn clone_task(&self, id: &str, name: String, request_id: String) -> Result<Task> {
        let mut spec = {
            let mut world = self.world.lock().await;
            let held = self.settled(&mut world, id).await?;
            held.allowed(0, TaskAction::Clone)?;
            held.task().spec.unwrap_or_default()
        };
        self.sealer.unseal(&mut spec)?;
        spec.name = if name.is_empty() { format!("{} (clone)", spec.name) } else { name };
        task::check_spec(&spec, &request_id)?;
        self.create(spec, request_id).await
    }

    /// Why a task is where it is.
    pub async fn explain(&self, id: &str) -> Result<Explanation> {
        Ok(task::explain(&self.get(id).await?))
    }

    /// What the last check says of the copy.
    pub async fn plan(&self, id: &str) -> Result<Plan> {
        let unchecked = "no check of this task has come to an end yet: check it first";
        self.get(id).await?.plan.ok_or_else(|| Error::new(Code::ActionNotAllowed, unchecked))
    }

    /// Keeps what becomes known of the copy.
    pub(super) async fn watch_copy(&self, held: &mut Held) -> Result<()> {
        let streams = |shard: &Shard| {
            held.statuses.get(&shard.index).is_some_and(|status| status.phase() == ShardPhase::Streaming)
        };
        let ready = held
            .stored
            .task
            .as_ref()
            .is_some_and(|task| task.state() == TaskState::IncrSync && task.shards.iter().all(streams));
        let statuses: Vec<&v1::ShardStatus> = held.statuses.values().collect();
        if held.stored.watch_copy(&statuses, ready) && !held.unsure {
            self.save(held).await?;
        }
        Ok(())
    }

    /// What happened to it.
    pub async fn events(&self, id: &str) -> Result<ListTaskEventsResponse> {
        let world = self.world.lock().await;
        let held = world.tasks.get(id).filter(|held| held.revision > 0).ok_or_else(|| not_found(id))?;
        Ok(ListTaskEventsResponse { events: held.stored.events.clone(), forgotten: held.stored.forgotten })
    }
}

/// Fails if warnings of the check are left, unless the caller takes them all.
fn settle_warnings(held: &mut Held, acknowledge: bool) -> Result<()> {
    let open = match &held.stored.run {
        Some(run) if run.kind() == CheckKind::Check => task::unacknowledged(run),
        _ => Vec::new(),
    };
    if open.is_empty() {
        return Ok(());
    }
    if acknowledge {
        return take_upon(held, &[], "the caller of start", "acknowledge_warnings");
    }
    Err(Error::new(Code::AcknowledgementNeeded, format!("the check warns of {}", open.join(", "))))
}
