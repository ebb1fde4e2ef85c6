//! Switch-overs of tasks.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use dts_common::error::{Code, Error, Result};
use dts_common::telemetry::traceparent;
use dts_proto::v1::{
    CompletionOutcome, CompletionReport, HoldMethod, Mode, ShardPhase, ShardReport, SwitchOver, SwitchOverPhase,
    SwitchOverShard, SwitchOverSpec, Task, TaskAction, TaskSpec, TaskState, VerifyMode, VerifySpec, VerifyState,
};

use super::{Engine, Held, life, not_found, way_back};
use crate::store::Store;
use crate::switch::{self, Next, Seen, goes_on, may_return};

impl<S: Store> Engine<S> {
    /// Begins a switch-over, or its rehearsal.
    pub async fn start_switch_over(&self, id: &str, spec: SwitchOverSpec, requested_by: String) -> Result<SwitchOver> {
        let mut world = self.world.lock().await;
        let task = self.settled(&mut world, id).await?.task();
        let held = world.tasks.get(id).ok_or_else(|| not_found(id))?;
        let not_now = |why: String| Err(Error::new(Code::ActionNotAllowed, why));
        if task.state() != TaskState::IncrSync || task.spec.as_ref().is_none_or(|spec| spec.mode() != Mode::Sync) {
            return not_now(format!(
                "a synchronisation in INCR_SYNC can be switched over, this task is {}",
                task.state().as_str_name()
            ));
        }
        if held.runs.all().iter().any(|run| run.state() == VerifyState::Running) {
            return not_now("a verification of this task goes on: wait for it, or cancel it".into());
        }
        let before = task.switch_over.clone().unwrap_or_default();
        if goes_on(&before) || before.shards.iter().any(|shard| !shard.freed && shard.held_at.is_some()) {
            return not_now(format!("switch-over {} of this task goes on", before.number));
        }
        let spec = switch::checked(spec, task.spec.as_ref().unwrap_or(&TaskSpec::default()))?;
        let opens = world.tasks.get(&task.spec.as_ref().map_or(String::new(), |spec| spec.way_back_of.clone()));
        let opens = opens.map(way_back::closed_by).unwrap_or_default();
        let kept = spec.keep_way_back && task.spec.as_ref().is_some_and(switch::may_keep_way_back);
        let way_back_task_id = match kept && !spec.rehearse {
            true => self.way_back(&mut world, &task).await?.id,
            false => String::new(),
        };
        let part = |index| SwitchOverShard { index, ..SwitchOverShard::default() };
        let begun = SwitchOver {
            number: before.number + 1,
            spec: Some(spec),
            phase: SwitchOverPhase::Looking.into(),
            requested_by,
            started_at: Some(SystemTime::now().into()),
            way_back_task_id,
            shards: task.shards.iter().map(|shard| part(shard.index)).collect(),
            opens,
            ..SwitchOver::default()
        };
        let held = world.tasks.get_mut(id).ok_or_else(|| not_found(id))?;
        held.asked = traceparent();
        held.switched.clear();
        if !spec.rehearse {
            held.stored.note(format!("switch-over {} was asked for", begun.number), None);
        }
        held.task_mut().switch_over = Some(begun.clone());
        self.save(held).await?;
        self.reconcile(&mut world).await?;
        Ok(begun)
    }

    /// The last one.
    pub async fn switch_over(&self, id: &str) -> Result<SwitchOver> {
        let none = || Error::new(Code::InvalidRequest, "nobody has switched this task over yet");
        self.get(id).await?.switch_over.ok_or_else(none)
    }

    /// Sends one back that is not decided.
    pub async fn cancel_switch_over(&self, id: &str) -> Result<SwitchOver> {
        let mut world = self.world.lock().await;
        let held = self.settled(&mut world, id).await?;
        let switch = held.task().switch_over.unwrap_or_default();
        if !goes_on(&switch) {
            return Ok(switch);
        }
        if !may_return(&switch) {
            let message = "the source is closed and the switch-over decided: it goes on to its end by itself";
            return Err(Error::new(Code::ActionNotAllowed, message));
        }
        self.go_back(held, "it was cancelled".into()).await?;
        let switch = held.task().switch_over.unwrap_or_default();
        self.reconcile(&mut world).await?;
        Ok(switch)
    }

    /// What an agent says of its part.
    pub(super) fn take_switch(&self, held: &mut Held, shard: &mut ShardReport) {
        let Some(report) = shard.switch_over.take() else { return };
        let Some(switch) = held.task_mut().switch_over.as_mut() else { return };
        if switch.number == report.number {
            switch::take(switch, shard.shard_index, shard.epoch, &report);
            held.switched.insert(shard.shard_index, report.done());
        }
    }

    /// Every step that is possible now.
    pub(super) async fn settle_switch(&self, held: &mut Held) -> Result<()> {
        while !held.unsure {
            let Some(switch) = held.view().switch_over.clone() else { return Ok(()) };
            note_gaps(held);
            match switch::next(&switch, &seen(held, &switch)) {
                Next::Wait if is_new(held) => return self.save(held).await,
                Next::Wait => return Ok(()),
                Next::Return(why) => self.go_back(held, why).await?,
                Next::Enter(phase) => self.enter_switch(held, phase).await?,
                Next::Verify(mode, phase) => {
                    let spec = VerifySpec { mode: mode.into(), ..VerifySpec::default() };
                    let number = match self.begin_run(held, spec, switch.requested_by).await {
                        Ok(number) => number,
                        // The shard is being taken up again: once it follows, or when the time is over.
                        Err(error) if error.code == Code::ActionNotAllowed => return Ok(()),
                        Err(error) => return Err(error),
                    };
                    held.task_mut().switch_over.get_or_insert_default().verification = number;
                    self.enter_switch(held, phase).await?;
                }
            }
        }
        Ok(())
    }

    /// The same for all tasks; called as the time goes on.
    pub(super) async fn settle_switches(&self, tasks: &mut BTreeMap<String, Held>) -> Result<()> {
        for held in tasks.values_mut() {
            self.settle_switch(held).await?;
        }
        Ok(())
    }

    async fn enter_switch(&self, held: &mut Held, phase: SwitchOverPhase) -> Result<()> {
        let now = SystemTime::now();
        let task = held.task();
        let epochs: BTreeMap<u32, u64> = task.shards.iter().map(|shard| (shard.index, shard.epoch)).collect();
        let switch = held.task_mut().switch_over.get_or_insert_default();
        tracing::info!(task = task.id, number = switch.number, phase = phase.as_str_name(), "switch-over");
        switch.set_phase(phase);
        match phase {
            SwitchOverPhase::Holding => {
                switch.hold_until = Some((now + switch::hold_for(switch)).into());
                let has_no_end = switch.spec.unwrap_or_default().hold_method() == HoldMethod::Acl;
                for shard in &mut switch.shards {
                    shard.epoch = epochs.get(&shard.index).copied().unwrap_or_default();
                    // What an agent may have begun that nobody hears of again has to be given back as well.
                    shard.held_at = has_no_end.then(|| now.into());
                }
                held.stored.note("writes on the source are held", None);
            }
            SwitchOverPhase::Rehearsed => {
                switch.ended_at = Some(now.into());
                let missing = switch.shards.iter().flat_map(|shard| &shard.needs);
                let missing = missing.filter(|need| !need.missing.is_empty()).count();
                switch.summary = match missing {
                    0 => "nothing is missing, and nothing was changed".into(),
                    missing => format!("{missing} things are missing; nothing was changed"),
                };
            }
            SwitchOverPhase::Completing => {
                switch.decided_at = Some(now.into());
                let report = decided(switch);
                held.task_mut().completion = Some(report);
                life::prepare(held, TaskAction::Complete);
                return self.enter(held, TaskState::Completing).await;
            }
            SwitchOverPhase::Done => {
                switch.ended_at = Some(now.into());
                switch.write_gap_ms = gap(switch, now);
                switch.summary =
                    format!("clients may use the target; writes stood still for {} ms", switch.write_gap_ms);
                let turned = switch.turned.iter().map(|turned| ("there is no way back", &turned.failed));
                let opened =
                    switch.opened.iter().map(|opened| ("users of the target are still closed out", &opened.failed));
                for (what, why) in turned.chain(opened).filter(|(_, why)| !why.is_empty()) {
                    switch.summary = format!("{}; {what}: {why}", switch.summary);
                }
                held.stored.note("switched over", None);
            }
            _ => {}
        }
        self.save(held).await
    }

    /// Writes on the source go on, and so does the synchronisation.
    async fn go_back(&self, held: &mut Held, why: String) -> Result<()> {
        let number = held.task().switch_over.unwrap_or_default().verification;
        if number > 0
            && let Some(ended) = held.runs.cancel(number)
        {
            self.save_run(held, ended).await?;
        }
        tracing::warn!(task = held.task().id, why, "switch-over goes back");
        held.stored.note(format!("not switched over: {why}"), None);
        let switch = held.task_mut().switch_over.get_or_insert_default();
        switch.set_phase(SwitchOverPhase::Returned);
        switch.ended_at = Some(SystemTime::now().into());
        switch.summary = why;
        self.save(held).await
    }
}

/// Agents have said what the store does not know yet.
fn is_new(held: &Held) -> bool {
    let of = |task: &Option<Task>| task.as_ref().and_then(|task| task.switch_over.clone());
    of(&held.stored.task) != of(&held.saved.task)
}

fn seen(held: &Held, switch: &SwitchOver) -> Seen {
    let task = held.task();
    let late = switch.hold_until.and_then(|at| SystemTime::try_from(at).ok()).is_some_and(|at| SystemTime::now() > at);
    let of = |shard: &SwitchOverShard| {
        let epoch = task.shards.iter().find(|of| of.index == shard.index).map_or(0, |of| of.epoch);
        (held.switched.get(&shard.index).copied().unwrap_or_default(), epoch)
    };
    let run = held.runs.all().iter().find(|run| run.number == switch.verification && run.number > 0);
    Seen {
        state: task.state(),
        late,
        shards: switch.shards.iter().map(of).collect(),
        run: run.map(|run| (run.state(), run.outcome())),
    }
}

fn since(at: Option<prost_types::Timestamp>, now: SystemTime) -> Option<u64> {
    let passed: Duration = now.duration_since(SystemTime::try_from(at?).ok()?).unwrap_or_default();
    u64::try_from(passed.as_millis()).ok().map(|passed| passed.max(1))
}

/// Of the shard that was held first.
fn gap(switch: &SwitchOver, now: SystemTime) -> u64 {
    switch.shards.iter().filter_map(|shard| since(shard.held_at, now)).max().unwrap_or(0)
}

/// How long writes stood still, once they do no more.
fn note_gaps(held: &mut Held) {
    let now = SystemTime::now();
    let released = |held: &Held, index: u32| {
        held.statuses.get(&index).is_some_and(|status| status.phase() == ShardPhase::Released)
    };
    let mut switch = held.task().switch_over.unwrap_or_default();
    let returned = switch.phase() == SwitchOverPhase::Returned;
    for shard in switch.shards.iter_mut().filter(|shard| shard.write_gap_ms == 0) {
        if shard.freed || released(held, shard.index) {
            shard.write_gap_ms = since(shard.held_at, now).unwrap_or(0);
        }
    }
    if returned && switch.write_gap_ms == 0 && switch.shards.iter().all(|shard| shard.freed) {
        switch.write_gap_ms = switch.shards.iter().map(|shard| shard.write_gap_ms).max().unwrap_or(0);
    }
    if held.task().switch_over.as_ref() != Some(&switch) && switch.number > 0 {
        held.task_mut().switch_over = Some(switch);
    }
}

fn decided(switch: &SwitchOver) -> CompletionReport {
    let spec = switch.spec.unwrap_or_default();
    let gated = spec.verify() != VerifyMode::Unspecified || spec.verify_before() != VerifyMode::Unspecified;
    let mode = if spec.verify() == VerifyMode::Unspecified { spec.verify_before } else { spec.verify };
    let outcome = if gated { CompletionOutcome::Verified } else { CompletionOutcome::NotVerified };
    let found = match switch.verification {
        0 => String::new(),
        number => format!(": verification {number} found both sides equal"),
    };
    CompletionReport {
        outcome: outcome.into(),
        requested_by: switch.requested_by.clone(),
        requested_at: switch.started_at,
        verification: switch.verification,
        mode,
        decided_at: switch.decided_at,
        summary: format!("switch-over {}{found}", switch.number),
        ..CompletionReport::default()
    }
}
