//! Desired shards -> running shards.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use dts_common::error::{Error, Result};
use dts_common::ids::{Epoch, ShardId};
use dts_common::selection::Selection;
use dts_common::telemetry::continues;
use dts_proto::v1::{
    self, Assignment, Budgets, DesiredState, Directive, GuardRules, ShardReport, ShardStatus, UserRules,
};
use tokio::sync::{Notify, watch};
use tracing::info_span;

use crate::budget::{Claim, divide};
use crate::check::Checks;
use crate::compare::Ordered;
use crate::guard::Guard;
use crate::leash::Leash;
use crate::limits::Limits;
use crate::mend::Mends;
use crate::pipeline::Job;
use crate::scratch;
use crate::secret::Secrets;
use crate::shard::Running;
use crate::status::Board;
use crate::switch::Switch;
use crate::target::EpochUser;
use crate::topology::Topology;

/// The shards of this agent.
#[derive(Debug)]
pub struct Supervisor {
    state_dir: PathBuf,
    secrets: Secrets,
    /// What all shards may use together.
    budgets: Budgets,
    changed: Arc<Notify>,
    shards: HashMap<ShardId, (Epoch, Slot)>,
    /// All sources of tasks that have many.
    sources: HashMap<String, Vec<v1::Endpoint>>,
    /// What each would have alone.
    limits: HashMap<ShardId, Limits>,
    checks: Checks,
    /// Comparisons that were ordered, under the epoch of their shard.
    runs: HashMap<ShardId, (Epoch, Ordered)>,
    /// Switch-overs that go on, the same way.
    switches: HashMap<ShardId, (Epoch, Switch)>,
    shown: Shown,
    leash: Leash,
    /// A target of one of them fences nobody.
    unfenced: bool,
}

/// The boards of the shards that an agent runs now, for whoever wants to look at them.
#[derive(Clone, Debug, Default)]
pub struct Shown(Arc<Mutex<Vec<(ShardId, Epoch, Board)>>>);

impl Shown {
    /// What every shard shows.
    pub fn read(&self) -> Vec<(ShardId, Epoch, ShardStatus)> {
        let boards = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        boards.into_iter().map(|(shard, epoch, board)| (shard, epoch, board.read())).collect()
    }
}

#[derive(Debug)]
enum Slot {
    Running(Running),
    /// It could not even begin; says why.
    Refused(Board),
}

impl Supervisor {
    /// No shards yet; `changed` is notified when one of them has something to report.
    pub fn new(state_dir: &Path, secrets: Secrets, budgets: Budgets, changed: Arc<Notify>, leash: Leash) -> Self {
        let (state_dir, shards, limits) = (state_dir.to_owned(), HashMap::new(), HashMap::new());
        let sources = HashMap::new();
        Self {
            state_dir,
            secrets,
            budgets,
            changed,
            shards,
            sources,
            limits,
            checks: Checks::default(),
            runs: HashMap::new(),
            switches: HashMap::new(),
            shown: Shown::default(),
            leash,
            unfenced: false,
        }
    }

    /// Where its shards are to be seen.
    pub fn shown(&self) -> Shown {
        self.shown.clone()
    }

    /// Makes the running shards those that are desired.
    pub async fn reconcile(&mut self, desired: DesiredState) {
        let mut old = std::mem::take(&mut self.shards);
        self.limits.clear();
        let fences_nobody = |of: &Assignment| of.target.as_ref().is_some_and(|target| target.routes);
        self.unfenced = desired.assignments.iter().any(fences_nobody);
        self.sources = desired.sources.into_iter().map(|task| (task.task_id, task.sources)).collect();
        let orders = desired.assignments.clone();
        for assignment in desired.assignments {
            let id = ShardId { task: assignment.task_id.clone(), index: assignment.shard_index };
            let epoch = Epoch(assignment.epoch);
            self.limits.insert(id.clone(), assignment.limits.unwrap_or_default().into());
            let slot = match old.remove(&id) {
                Some((held, slot)) if held == epoch => {
                    slot.direct(assignment.directive());
                    slot.store(rules_of(&assignment));
                    slot
                }
                before => self.start(&id, &assignment, before.and_then(|(_, slot)| slot.running())),
            };
            self.shards.insert(id, (epoch, slot));
        }
        self.divide();
        let boards = self.shards.iter().map(|(id, (epoch, slot))| (id.clone(), *epoch, slot.board().clone()));
        *self.shown.0.lock().unwrap_or_else(PoisonError::into_inner) = boards.collect();
        let stopped = old.into_values().filter_map(|(_, slot)| slot.running()).map(Running::stop);
        futures_util::future::join_all(stopped).await;
        scratch::tidy(&self.state_dir, self.shards.keys());
        let mut checks = std::mem::take(&mut self.checks);
        let job = |id: &ShardId, order: &v1::CheckOrder| {
            let assignment = order.assignment.clone().unwrap_or_default();
            let (_, limits) = watch::channel(Limits::from(assignment.limits.unwrap_or_default()));
            let scratch = scratch::of_check(&self.state_dir, id);
            Ok(Job { scratch, ..self.job(id, &assignment, limits)? })
        };
        checks.reconcile(desired.checks, job, &self.changed).await;
        self.checks = checks;
        self.compare(&orders).await;
        self.switch(&orders).await;
    }

    /// Makes the switch-overs that go on those that are ordered.
    async fn switch(&mut self, orders: &[Assignment]) {
        let mut old = std::mem::take(&mut self.switches);
        for assignment in orders {
            let Some(order) = assignment.switch_over.clone() else { continue };
            let id = ShardId { task: assignment.task_id.clone(), index: assignment.shard_index };
            let epoch = Epoch(assignment.epoch);
            if let Some((held, part)) = old.remove(&id) {
                if held == epoch && part.number == order.number {
                    part.direct(order);
                    self.switches.insert(id, (held, part));
                    continue;
                }
                part.stop().await;
            }
            let (_, limits) = watch::channel(Limits::from(assignment.limits.unwrap_or_default()));
            if let (Ok(job), Some((_, slot))) = (self.job(&id, assignment, limits), self.shards.get(&id)) {
                let part = Switch::start(order, job, slot.board().clone(), self.changed.clone());
                self.switches.insert(id, (epoch, part));
            }
        }
        futures_util::future::join_all(old.into_values().map(|(_, part)| part.stop())).await;
    }

    /// Makes the comparisons that go on those that are ordered.
    async fn compare(&mut self, orders: &[Assignment]) {
        let mut old = std::mem::take(&mut self.runs);
        for assignment in orders {
            let Some(order) = assignment.verify.clone() else { continue };
            let id = ShardId { task: assignment.task_id.clone(), index: assignment.shard_index };
            let epoch = Epoch(assignment.epoch);
            if let Some((held, run)) = old.remove(&id) {
                if held == epoch && run.number == order.number {
                    self.runs.insert(id, (held, run));
                    continue;
                }
                run.stop().await;
            }
            let (_, limits) = watch::channel(Limits::from(assignment.limits.unwrap_or_default()));
            // What cannot be made a job of has failed as a shard already.
            if let (Ok(job), Some((_, slot))) = (self.job(&id, assignment, limits), self.shards.get(&id)) {
                let job = Job { mends: slot.mends(), ..job };
                let run = Ordered::start(order, job, slot.board().clone(), self.changed.clone());
                self.runs.insert(id, (epoch, run));
            }
        }
        futures_util::future::join_all(old.into_values().map(|(_, run)| run.stop())).await;
    }

    /// Gives every shard its share of the budgets.
    fn divide(&self) {
        let all: Vec<_> = self.shards.iter().filter_map(|(id, slot)| Some((slot, *self.limits.get(id)?))).collect();
        let held = |slot: &Slot| slot.board().read().spool.unwrap_or_default();
        let claims: Vec<_> =
            all.iter().map(|((_, slot), limits)| Claim { limits: *limits, held: held(slot) }).collect();
        for (((_, slot), _), limits) in all.iter().zip(divide(&self.budgets, &claims)) {
            slot.limit(limits);
        }
    }

    fn start(&self, id: &ShardId, assignment: &Assignment, before: Option<Running>) -> Slot {
        let (limit, limits) = watch::channel(Limits::from(assignment.limits.unwrap_or_default()));
        match self.job(id, assignment, limits) {
            Ok(job) => Slot::Running(Running::start(job, assignment.directive(), limit, before, self.changed.clone())),
            Err(error) => {
                let board = Board::new(self.changed.clone());
                board.failed(&error);
                Slot::Refused(board)
            }
        }
    }

    fn job(&self, id: &ShardId, assignment: &Assignment, limits: watch::Receiver<Limits>) -> Result<Job> {
        let endpoint = |side: &Option<v1::Endpoint>| match side {
            Some(endpoint) => self.secrets.resolve(endpoint),
            None => Err(Error::new(dts_common::error::Code::InvalidRequest, "an assignment without source or target")),
        };
        let span = info_span!("shard", task = id.task, shard = id.index, epoch = assignment.epoch);
        continues(&span, &assignment.traceparent);
        Ok(Job {
            shard: id.clone(),
            epoch: Epoch(assignment.epoch),
            source: endpoint(&assignment.source)?,
            target: endpoint(&assignment.target)?,
            topology: self.topology(assignment)?,
            allow_downgrade: assignment.allow_downgrade,
            selection: Arc::new(Selection::new(assignment.filter.as_ref(), &assignment.db_map, assignment.on_flush)?),
            continue_only: assignment.continue_only,
            skip_cross_slot: assignment.cross_slot() == v1::CrossSlot::Skip,
            limits,
            resync: assignment.resync.then(Arc::default),
            scratch: scratch::of_shard(&self.state_dir, id),
            span,
            mends: Mends::default(),
            leash: self.leash.clone(),
            user: (assignment.target_fence() == v1::TargetFence::User)
                .then(|| Arc::new(EpochUser::new(id, Epoch(assignment.epoch)))),
            guard: Guard::new(id, assignment.target_guard(), rules_of(assignment), self.changed.clone()),
        })
    }

    fn topology(&self, assignment: &Assignment) -> Result<Topology> {
        let listed = self.sources.get(&assignment.task_id).unwrap_or(&assignment.siblings);
        let siblings = listed.iter().map(|source| self.secrets.resolve(source)).collect::<Result<_>>()?;
        let spec = assignment.topology.clone().unwrap_or_default();
        let sentinels = spec.sentinels.iter().map(|sentinel| self.secrets.resolve(sentinel)).collect::<Result<_>>()?;
        Topology::new(&spec, siblings, sentinels)
    }

    /// True if something must not go on for longer than a coordinator hears of us.
    pub fn is_on_a_leash(&self) -> bool {
        self.unfenced
    }

    /// What the checks found so far.
    pub fn checks(&self) -> Vec<v1::CheckReport> {
        self.checks.report()
    }

    /// What every shard shows.
    pub fn report(&self) -> Vec<ShardReport> {
        let report = |(id, (epoch, slot)): (&ShardId, &(Epoch, Slot))| ShardReport {
            task_id: id.task.clone(),
            shard_index: id.index,
            epoch: epoch.0,
            status: Some(slot.board().read()),
            verify: self.runs.get(id).filter(|(of, _)| of == epoch).map(|(_, run)| run.report()),
            switch_over: self.switches.get(id).filter(|(of, _)| of == epoch).map(|(_, part)| part.report()),
            guard_rules: slot.found(),
        };
        self.shards.iter().map(report).collect()
    }

    /// Ends every shard; the positions are on the targets.
    pub async fn stop(self) {
        futures_util::future::join_all(self.runs.into_values().map(|(_, run)| run.stop())).await;
        futures_util::future::join_all(self.switches.into_values().map(|(_, part)| part.stop())).await;
        let stopped = self.shards.into_values().filter_map(|(_, slot)| slot.running()).map(Running::stop);
        futures_util::future::join_all(stopped).await;
        self.checks.stop().await;
    }
}

fn rules_of(assignment: &Assignment) -> Vec<UserRules> {
    assignment.guard_rules.clone().unwrap_or_default().users
}

impl Slot {
    fn running(self) -> Option<Running> {
        match self {
            Self::Running(running) => Some(running),
            Self::Refused(_) => None,
        }
    }

    fn board(&self) -> &Board {
        match self {
            Self::Running(running) => &running.board,
            Self::Refused(board) => board,
        }
    }

    fn mends(&self) -> Mends {
        match self {
            Self::Running(running) => running.mends.clone(),
            Self::Refused(_) => Mends::default(),
        }
    }

    fn store(&self, rules: Vec<UserRules>) {
        if let Self::Running(running) = self {
            running.guard.store(rules);
        }
    }

    fn found(&self) -> Option<GuardRules> {
        match self {
            Self::Running(running) => running.guard.found(),
            Self::Refused(_) => None,
        }
    }

    fn limit(&self, limits: Limits) {
        if let Self::Running(running) = self {
            running.limit.send_if_modified(|held| std::mem::replace(held, limits) != limits);
        }
    }

    fn direct(&self, directive: Directive) {
        if let Self::Running(running) = self {
            running.directive.send_if_modified(|held| std::mem::replace(held, directive) != directive);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_shard_knows_all_sources_of_its_task_however_they_were_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut of = Supervisor::new(
            dir.path(),
            Secrets::default(),
            Budgets::default(),
            Arc::default(),
            crate::leash::Holder::new(Arc::default()).leash(),
        );
        let end = |port| v1::Endpoint { host: "h".into(), port, ..v1::Endpoint::default() };
        let all: Vec<_> = (1..=3).map(end).collect();
        let many =
            Assignment { task_id: "many".into(), source: Some(end(1)), target: Some(end(9)), ..Assignment::default() };
        let few = Assignment { task_id: "few".into(), siblings: all.clone(), ..many.clone() };
        let sources = vec![v1::TaskSources { task_id: "many".into(), sources: all }];
        of.reconcile(DesiredState { sources, ..DesiredState::default() }).await;
        for assignment in [many, few] {
            let id = ShardId { task: assignment.task_id.clone(), index: 0 };
            let job = of.job(&id, &assignment, watch::channel(Limits::from(v1::Limits::default())).1).unwrap();
            assert_eq!(job.topology.siblings.len(), 3, "{}", id.task);
        }
    }
}
