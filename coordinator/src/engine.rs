//! Everything that changes a task goes through here, one change at a time: requests, reports, and the clock.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{
    self, Agent, Assignment, DesiredState, Register, Report, Shard, ShardPhase, ShardStatus, Task, TaskAction,
    TaskSpec, TaskState,
};
use prost::Message as _;
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;

use crate::secret::{Sealer, redact};
use crate::store::{Store, Transaction};
use crate::task::{self, Observation, Step, Stored, actions, decide, directive, requested, totals};

/// The coordinator's mind.
pub struct Engine<S> {
    store: S,
    sealer: Sealer,
    lease_ttl: Duration,
    world: Mutex<World>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct World {
    tasks: BTreeMap<String, Held>,
    agents: BTreeMap<String, Session>,
    desired_revision: u64,
}

struct Held {
    stored: Stored,
    revision: u64,
    statuses: HashMap<u32, ShardStatus>,
}

struct Session {
    instance_id: String,
    version: String,
    seen: Instant,
    seen_at: SystemTime,
    connected: bool,
    desired: watch::Sender<DesiredState>,
}

impl Held {
    fn task(&self) -> Task {
        self.stored.task.clone().unwrap_or_default()
    }

    fn task_mut(&mut self) -> &mut Task {
        self.stored.task.get_or_insert_default()
    }

    /// Why the first shard in this phase is in it; of several shards it says which.
    fn reason(&self, phase: ShardPhase) -> Option<v1::Reason> {
        let mut shards: Vec<_> = self.statuses.iter().filter(|(_, status)| status.phase() == phase).collect();
        shards.sort_unstable_by_key(|(index, _)| **index);
        let (index, status) = shards.first()?;
        let mut reason = status.reason.clone()?;
        if self.task().shards.len() > 1 {
            reason.message = format!("shard {index}: {}", reason.message);
        }
        Some(reason)
    }

    /// Where the action leads, if the task is at this revision and its state allows it.
    fn allowed(&self, revision: u64, action: TaskAction) -> Result<TaskState> {
        if revision != 0 && revision != self.revision {
            let message = format!("the task is at revision {}, the request names {revision}", self.revision);
            return Err(Error::new(Code::RevisionConflict, message));
        }
        let Stored { releasing, ran, .. } = self.stored;
        let state = self.task().state();
        requested(state, releasing, ran, action).ok_or_else(|| {
            let allowed: Vec<_> = actions(state, releasing).iter().map(|action| action.as_str_name()).collect();
            let (asked, state) = (action.as_str_name(), state.as_str_name());
            let message = format!("{asked} is not allowed in {state}; allowed: {}", allowed.join(", "));
            Error::new(Code::ActionNotAllowed, message)
        })
    }
}

impl<S: Store> Engine<S> {
    /// Reads what is stored. Nobody holds a shard until an agent registers.
    pub async fn open(store: S, sealer: Sealer, lease_ttl: Duration) -> Result<Self> {
        let mut world = World::default();
        for (key, found) in store.list("task/").await? {
            let mut stored = Stored::decode(found.value.as_slice())
                .map_err(|error| Error::new(Code::Internal, format!("stored task {key}: {error}")))?;
            let task = stored.task.get_or_insert_default();
            task.shards.iter_mut().for_each(|shard| shard.agent_id.clear());
            let id = task.id.clone();
            world.tasks.insert(id, Held { stored, revision: found.revision, statuses: HashMap::new() });
        }
        Ok(Self { store, sealer, lease_ttl, world: Mutex::new(world), changed: watch::Sender::new(0) })
    }

    /// Changes whenever any task does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Stores a new task; the same request again gives the first one.
    pub async fn create(&self, mut spec: TaskSpec, request_id: String) -> Result<Task> {
        let mut world = self.world.lock().await;
        if let Some(held) =
            world.tasks.values().find(|held| !request_id.is_empty() && held.stored.request_id == request_id)
        {
            return Ok(answer(held));
        }
        self.sealer.seal(&mut spec)?;
        let now = Some(SystemTime::now().into());
        let shards = (0..spec.sources.len())
            .map(|index| Shard { index: u32::try_from(index).unwrap_or(u32::MAX), ..Shard::default() });
        let task = Task {
            id: uuid::Uuid::now_v7().to_string(),
            shards: shards.collect(),
            spec: Some(spec),
            state: TaskState::Created.into(),
            generation: 1,
            created_at: now,
            updated_at: now,
            ..Task::default()
        };
        let stored = Stored { task: Some(task), request_id, ..Stored::default() };
        let mut held = Held { stored, revision: 0, statuses: HashMap::new() };
        self.save(&mut held).await?;
        let task = answer(&held);
        world.tasks.insert(task.id.clone(), held);
        Ok(task)
    }

    /// One task.
    pub async fn get(&self, id: &str) -> Result<Task> {
        let world = self.world.lock().await;
        world.tasks.get(id).map(answer).ok_or_else(|| not_found(id))
    }

    /// All tasks after this id, oldest first.
    pub async fn list(&self, after: &str) -> Vec<Task> {
        let world = self.world.lock().await;
        world
            .tasks
            .range::<str, _>((std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded))
            .map(|(_, held)| answer(held))
            .collect()
    }

    /// Does what a person asks of a task.
    pub async fn request(&self, id: &str, revision: u64, action: TaskAction) -> Result<Task> {
        let mut world = self.world.lock().await;
        let held = world.tasks.get_mut(id).ok_or_else(|| not_found(id))?;
        let next = held.allowed(revision, action)?;
        if action == TaskAction::Delete {
            let key = format!("task/{id}");
            let delete = Transaction {
                compares: vec![(key.clone(), held.revision)],
                writes: vec![(key, None)],
                ..Transaction::default()
            };
            self.store.commit(delete).await?.ok_or_else(lost_race)?;
            let gone = answer(held);
            world.tasks.remove(id);
            self.changed.send_modify(|count| *count += 1);
            return Ok(gone);
        }
        tracing::info!(task = id, action = action.as_str_name(), "asked");
        if matches!(action, TaskAction::Start | TaskAction::Resume | TaskAction::Pause) {
            // A new beginning is a new epoch.
            held.task_mut().shards.iter_mut().for_each(|shard| shard.agent_id.clear());
        }
        self.enter(held, next).await?;
        self.reconcile(&mut world).await?;
        world.tasks.get(id).map(answer).ok_or_else(|| not_found(id))
    }

    /// Changes what of the spec may be changed; agents that run it are told at once.
    pub async fn update(&self, id: &str, revision: u64, from: &TaskSpec, paths: &[String]) -> Result<Task> {
        let mut world = self.world.lock().await;
        let held = world.tasks.get_mut(id).ok_or_else(|| not_found(id))?;
        held.allowed(revision, TaskAction::Update)?;
        let task = held.task_mut();
        task::update(task.spec.get_or_insert_default(), from, paths)?;
        task.generation += 1;
        self.save(held).await?;
        self.advance(held).await?;
        self.reconcile(&mut world).await?;
        world.tasks.get(id).map(answer).ok_or_else(|| not_found(id))
    }

    /// Takes an agent in; gives what it shall do, now and later.
    pub async fn register(&self, register: &Register) -> Result<watch::Receiver<DesiredState>> {
        let mut world = self.world.lock().await;
        let known = world.agents.get(&register.agent_id);
        if let Some(session) = known.filter(|session| session.instance_id != register.instance_id) {
            if session.connected && session.seen.elapsed() < self.lease_ttl {
                let message = format!("agent id {} is in use by another process", register.agent_id);
                return Err(Error::new(Code::InvalidRequest, message));
            }
            // Another process under this name: what the old one held has to be claimed anew.
            for held in world.tasks.values_mut() {
                for shard in held.task_mut().shards.iter_mut().filter(|shard| shard.agent_id == register.agent_id) {
                    shard.agent_id.clear();
                }
            }
        }
        let (desired, receiver) = watch::channel(DesiredState::default());
        let session = Session {
            instance_id: register.instance_id.clone(),
            version: register.version.clone(),
            seen: Instant::now(),
            seen_at: SystemTime::now(),
            connected: true,
            desired,
        };
        tracing::info!(agent = register.agent_id, "agent registered");
        world.agents.insert(register.agent_id.clone(), session);
        self.reconcile(&mut world).await?;
        Ok(receiver)
    }

    /// The agent's stream ended; its lease runs on.
    pub async fn disconnect(&self, agent_id: &str, instance_id: &str) {
        let mut world = self.world.lock().await;
        if let Some(session) = world.agents.get_mut(agent_id).filter(|session| session.instance_id == instance_id) {
            session.connected = false;
        }
    }

    /// What an agent sees of its shards.
    pub async fn report(&self, agent_id: &str, report: Report) -> Result<()> {
        let mut world = self.world.lock().await;
        if let Some(session) = world.agents.get_mut(agent_id) {
            (session.seen, session.seen_at) = (Instant::now(), SystemTime::now());
        }
        for shard in report.shards {
            let Some(held) = world.tasks.get_mut(&shard.task_id) else { continue };
            let ours =
                |of: &&Shard| of.index == shard.shard_index && of.epoch == shard.epoch && of.agent_id == agent_id;
            if held.task().shards.iter().any(|of| ours(&of)) {
                held.statuses.insert(shard.shard_index, shard.status.unwrap_or_default());
                self.advance(held).await?;
            }
        }
        self.changed.send_modify(|count| *count += 1);
        self.reconcile(&mut world).await
    }

    /// Notices agents whose lease ran out; to be called about every lease / 4.
    pub async fn tick(&self) -> Result<()> {
        let mut world = self.world.lock().await;
        self.reconcile(&mut world).await
    }

    /// The agents.
    pub async fn agents(&self) -> Vec<Agent> {
        let world = self.world.lock().await;
        let agent = |(id, session): (&String, &Session)| Agent {
            id: id.clone(),
            version: session.version.clone(),
            alive: self.alive(session),
            last_seen_at: Some(session.seen_at.into()),
            shards: u32::try_from(load(&world.tasks, id)).unwrap_or(u32::MAX),
        };
        world.agents.iter().map(agent).collect()
    }

    fn alive(&self, session: &Session) -> bool {
        session.seen.elapsed() < self.lease_ttl
    }

    /// Every step that the shards' phases allow.
    async fn advance(&self, held: &mut Held) -> Result<()> {
        loop {
            let task = held.task();
            let spec = task.spec.clone().unwrap_or_default();
            let phase =
                |shard: &Shard| held.statuses.get(&shard.index).map_or(ShardPhase::Unspecified, ShardStatus::phase);
            let observation = Observation {
                state: task.state(),
                releasing: held.stored.releasing,
                mode: spec.mode(),
                complete_when_caught_up: spec.complete_when_caught_up,
                phases: task.shards.iter().map(phase).collect(),
            };
            match decide(&observation) {
                None => return Ok(()),
                Some(Step::Enter(state)) => self.enter(held, state).await?,
                Some(Step::Release) => {
                    held.stored.releasing = true;
                    self.save(held).await?;
                }
            }
        }
    }

    async fn enter(&self, held: &mut Held, state: TaskState) -> Result<()> {
        let reason = match state {
            TaskState::Failed => held.reason(ShardPhase::Failed),
            TaskState::Interrupted => held.reason(ShardPhase::Retrying),
            _ => None,
        };
        held.stored.ran |= state == TaskState::Preparing;
        held.stored.releasing &= state == TaskState::Completing;
        let task = held.task_mut();
        tracing::info!(
            task = task.id,
            state = state.as_str_name(),
            reason = reason.as_ref().map(|reason| reason.code.as_str()),
            "task"
        );
        task.set_state(state);
        task.reason = reason;
        self.save(held).await
    }

    async fn save(&self, held: &mut Held) -> Result<()> {
        let task = held.task_mut();
        task.updated_at = Some(SystemTime::now().into());
        let key = format!("task/{}", task.id);
        let write = Transaction {
            compares: vec![(key.clone(), held.revision)],
            writes: vec![(key, Some(held.stored.encode_to_vec()))],
            ..Transaction::default()
        };
        held.revision = self.store.commit(write).await?.ok_or_else(lost_race)?;
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Gives every shard that has work to a living agent, then tells each agent all that it shall do.
    async fn reconcile(&self, world: &mut World) -> Result<()> {
        let ids: Vec<String> = world.tasks.keys().cloned().collect();
        for id in ids {
            self.place(world, &id).await?;
        }
        world.desired_revision += 1;
        for (agent_id, session) in &world.agents {
            let mut assignments = Vec::new();
            for held in world.tasks.values() {
                self.assignments(held, agent_id, &mut assignments)?;
            }
            let revision = world.desired_revision;
            session.desired.send_if_modified(|desired| {
                let changed = desired.assignments != assignments || desired.revision == 0;
                if changed {
                    *desired = DesiredState { revision, assignments };
                }
                changed
            });
        }
        Ok(())
    }

    async fn place(&self, world: &mut World, id: &str) -> Result<()> {
        let World { tasks, agents, .. } = world;
        let alive = |agent: &str| agents.get(agent).is_some_and(|session| self.alive(session));
        let orphans: Vec<u32> = match tasks.get(id) {
            Some(held) if directive(held.task().state(), held.stored.releasing).is_some() => {
                held.task().shards.iter().filter(|shard| !alive(&shard.agent_id)).map(|shard| shard.index).collect()
            }
            _ => return Ok(()),
        };
        for index in orphans {
            let ready =
                agents.iter().filter(|(_, session)| session.connected && self.alive(session)).map(|(agent, _)| agent);
            let Some(agent_id) = ready.min_by_key(|agent| load(tasks, agent)).cloned() else {
                return self.without_agent(tasks, id).await;
            };
            let epoch_key = format!("epoch/{id}/{index}");
            let write = Transaction {
                writes: vec![(epoch_key, Some(agent_id.clone().into_bytes()))],
                ..Transaction::default()
            };
            let epoch = self.store.commit(write).await?.ok_or_else(lost_race)?;
            let Some(held) = tasks.get_mut(id) else { return Ok(()) };
            tracing::info!(task = id, shard = index, agent = agent_id, epoch, "assigned");
            held.statuses.remove(&index);
            if let Some(shard) = held.task_mut().shards.iter_mut().find(|shard| shard.index == index) {
                (shard.agent_id, shard.epoch) = (agent_id, epoch);
            }
            self.save(held).await?;
        }
        Ok(())
    }

    async fn without_agent(&self, tasks: &mut BTreeMap<String, Held>, id: &str) -> Result<()> {
        let Some(held) = tasks.get_mut(id) else { return Ok(()) };
        let code = Code::NoAgent;
        let running = matches!(held.task().state(), TaskState::Preparing | TaskState::FullSync | TaskState::IncrSync);
        let lost = held.task().shards.iter().any(|shard| !shard.agent_id.is_empty());
        if running && lost {
            self.enter(held, TaskState::Interrupted).await?;
            held.task_mut().reason = Some(v1::Reason {
                code: code.as_str().into(),
                scope: code.scope().as_str().into(),
                retry: code.retry(),
                message: "the agent that held the task is gone, and no other is connected".into(),
                fix: code.fix().into(),
            });
        }
        Ok(())
    }

    fn assignments(&self, held: &Held, agent_id: &str, out: &mut Vec<Assignment>) -> Result<()> {
        let task = held.task();
        let Some(directive) = directive(task.state(), held.stored.releasing) else { return Ok(()) };
        let mut spec = task.spec.unwrap_or_default();
        self.sealer.unseal(&mut spec)?;
        for shard in task.shards.iter().filter(|shard| shard.agent_id == agent_id) {
            let source = usize::try_from(shard.index).ok().and_then(|index| spec.sources.get(index)).cloned();
            out.push(Assignment {
                task_id: task.id.clone(),
                shard_index: shard.index,
                epoch: shard.epoch,
                source,
                target: spec.target.clone(),
                mode: spec.mode,
                limits: spec.limits,
                directive: directive.into(),
                allow_downgrade: spec.allow_downgrade,
                siblings: spec.sources.clone(),
                topology: spec.topology.clone(),
                filter: spec.filter.clone(),
                db_map: spec.db_map.clone(),
                on_flush: spec.on_flush,
            });
        }
        Ok(())
    }
}

/// How many shards an agent holds.
fn load(tasks: &BTreeMap<String, Held>, agent_id: &str) -> usize {
    let shards = |held: &Held| held.task().shards.iter().filter(|shard| shard.agent_id == agent_id).count();
    tasks.values().map(shards).sum()
}

/// A task as people see it.
fn answer(held: &Held) -> Task {
    let mut task = held.task();
    if let Some(spec) = &mut task.spec {
        redact(spec);
    }
    for shard in &mut task.shards {
        shard.status = held.statuses.get(&shard.index).cloned();
    }
    task.revision = held.revision;
    task.totals = Some(totals(&task));
    task.allowed_actions =
        actions(task.state(), held.stored.releasing).iter().map(|action| i32::from(*action)).collect();
    let streaming = |shard: &Shard| shard.status.as_ref().is_some_and(|status| status.phase() == ShardPhase::Streaming);
    task.ready_to_complete = task.state() == TaskState::IncrSync && task.shards.iter().all(streaming);
    task
}

fn not_found(id: &str) -> Error {
    Error::new(Code::TaskNotFound, format!("there is no task {id:?}"))
}

fn lost_race() -> Error {
    Error::new(Code::Internal, "somebody else writes this store")
}
