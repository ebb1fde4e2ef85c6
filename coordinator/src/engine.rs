//! Everything that changes a task goes through here, one change at a time: requests, reports, and the clock.

mod assign;
mod checking;
mod fleet;
mod guard;
mod held;
mod life;
mod locks;
mod mirror;
mod orders;
mod pace;
mod page;
mod probe;
mod report;
mod ring;
mod roll;
mod switching;
mod token;
mod trail;
#[cfg(test)]
mod upgrade;
mod verification;
mod way_back;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dts_common::error::{Code, Error, Result};
use dts_common::telemetry::traceparent;
use dts_proto::v1::{self, Register, Shard, ShardPhase, Task, TaskAction, TaskSpec, TaskState};
use prost::Message as _;
use tokio::sync::{Mutex, Notify, watch};

use self::assign::{Moves, no_agent};
use self::fleet::{Cordon, Session};
use self::held::Held;
use self::pace::Pace;
use self::roll::Roll;
use crate::audit;
use crate::secret::{Sealer, redact};
use crate::store::{Store, Transaction, Versioned};
use crate::task::{self, Stored, actions, totals};

/// Under it stand the instances of living agents, by name.
const AGENT: &str = "agent/";
const SEAL: &str = "seal";

/// The coordinator's mind.
pub struct Engine<S> {
    store: S,
    sealer: Arc<Sealer>,
    lease_ttl: Duration,
    world: Mutex<World>,
    changed: watch::Sender<u64>,
    registered: Notify,
    /// Number of the next entry of the audit trail, if it is known.
    trail: Mutex<Option<u64>>,
    roll: Mutex<Roll>,
}

#[derive(Default)]
struct World {
    tasks: BTreeMap<String, Held>,
    agents: BTreeMap<String, Session>,
    cordons: BTreeMap<String, Cordon>,
    moves: Moves,
    pace: Pace,
}

impl<S: Store> Engine<S> {
    /// Reads what is stored. Agents that lived under the last leader get a whole lease to come back, and keep their shards.
    pub async fn open(store: S, sealer: Arc<Sealer>, lease_ttl: Duration) -> Result<Self> {
        prove(&store, &sealer).await?;
        let mut world = World::default();
        for (key, found) in store.list(AGENT).await? {
            let instance_id = String::from_utf8_lossy(&found.value).into_owned();
            let session = Session::new(instance_id, Register::default());
            world.agents.insert(key[AGENT.len()..].to_owned(), session);
        }
        world.cordons = Self::cordons(&store).await?;
        for (key, found) in store.list("task/").await? {
            let held = Held::new(decode(&key, &found)?, found.revision);
            world.tasks.insert(held.id.to_string(), held);
        }
        let engine = Self {
            store,
            sealer,
            lease_ttl,
            world: Mutex::new(world),
            changed: watch::Sender::new(0),
            registered: Notify::new(),
            trail: Mutex::new(None),
            roll: Mutex::default(),
        };
        engine.load_runs().await?;
        engine.load_positions().await?;
        Ok(engine)
    }

    /// Changes whenever any task does.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Stores a new task; the same request again gives the first one.
    pub async fn create(&self, spec: TaskSpec, request_id: String) -> Result<Task> {
        let mut world = self.world.lock().await;
        self.create_within(&mut world, spec, request_id).await
    }

    async fn create_within(&self, world: &mut World, mut spec: TaskSpec, request_id: String) -> Result<Task> {
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
        let mut stored = Stored { task: Some(task), request_id, ..Stored::default() };
        stored.note("created", None);
        let mut held = Held::new(stored, 0);
        let saved = self.save(&mut held).await;
        let task = answer(&held);
        audit::about(format!("task {}", task.id));
        if saved.is_ok() || held.unsure {
            world.tasks.insert(task.id.clone(), held);
        }
        saved.map(|()| task)
    }

    /// One task.
    pub async fn get(&self, id: &str) -> Result<Task> {
        let world = self.world.lock().await;
        world.tasks.get(id).filter(|held| held.revision > 0).map(answer).ok_or_else(|| not_found(id))
    }

    /// Does what a person asks of a task.
    pub async fn request(&self, id: &str, revision: u64, action: TaskAction) -> Result<Task> {
        let mut world = self.world.lock().await;
        let held = self.settled(&mut world, id).await?;
        let next = held.allowed(revision, action)?;
        if action == TaskAction::Delete && next != TaskState::Cancelling {
            return self.forget(&mut world, id).await;
        }
        held.stored.deleting |= action == TaskAction::Delete;
        tracing::info!(task = id, action = action.as_str_name(), "asked");
        held.asked = traceparent();
        life::prepare(held, action);
        self.enter(held, next).await?;
        self.reconcile(&mut world).await?;
        world.tasks.get(id).map(answer).ok_or_else(|| not_found(id))
    }

    /// Changes what of the spec may be changed; agents that run it are told at once.
    pub async fn update(&self, id: &str, revision: u64, from: &TaskSpec, paths: &[String]) -> Result<Task> {
        let mut world = self.world.lock().await;
        let held = self.settled(&mut world, id).await?;
        held.allowed(revision, TaskAction::Update)?;
        if task::is_before_start(held.view().state()) {
            self.edit(held, from, paths).await?;
        } else {
            let task = held.task_mut();
            task::update(task.spec.get_or_insert_default(), from, paths)?;
            task.generation += 1;
            held.stored.note(format!("{} changed", paths.join(", ")), None);
            self.save(held).await?;
            self.advance(held).await?;
        }
        self.reconcile(&mut world).await?;
        world.tasks.get(id).map(answer).ok_or_else(|| not_found(id))
    }

    /// Takes an agent in; what is given counts what it was told ([`Engine::desired`]), and is 0 until it was told anything.
    pub async fn register(&self, register: &Register) -> Result<watch::Receiver<u64>> {
        let mut world = self.world.lock().await;
        let known = world.agents.get(&register.agent_id);
        let same = known.is_some_and(|session| session.instance_id == register.instance_id);
        // What another process under this name held is claimed anew, by its instance.
        if known.is_some_and(|session| !same && session.connected && session.seen.elapsed() < self.lease_ttl) {
            let message = format!("agent id {} is in use by another process", register.agent_id);
            return Err(Error::new(Code::InvalidRequest, message));
        }
        let new = Session::new(register.instance_id.clone(), register.clone());
        let session = Session { connected: true, ..new };
        let receiver = session.told.subscribe();
        tracing::info!(agent = register.agent_id, "agent registered");
        world.agents.insert(register.agent_id.clone(), session);
        self.registered.notify_one();
        self.reconcile(&mut world).await?;
        Ok(receiver)
    }

    /// The agent's stream, for which `told` was given, ended; its lease runs on.
    pub async fn disconnect(&self, agent_id: &str, told: &watch::Receiver<u64>) {
        let mut world = self.world.lock().await;
        // The agent may have come back on another stream already.
        if let Some(session) = world.agents.get_mut(agent_id).filter(|session| session.listens(told)) {
            session.connected = false;
        }
    }

    /// An agent came: time to tick.
    pub async fn registered(&self) {
        self.registered.notified().await;
    }

    /// What does not wait for a tick: agents that came, went or fell silent, shards that wait, places that are owed. Cheap; to be called often.
    pub async fn look(&self) -> Result<()> {
        let mut world = self.world.lock().await;
        let turned = |session: &Session| session.counted_as != self.counts_as(session);
        let due = world.pace.owed() || world.moves.are_open() || world.agents.values().any(turned);
        if due { self.reconcile(&mut world).await } else { Ok(()) }
    }

    /// Keeps the roll of agents, and finds out what became of changes that had no answer; to be called about every lease / 4.
    pub async fn tick(&self) -> Result<()> {
        self.keep_roll().await;
        let mut world = self.world.lock().await;
        let unsure = world.tasks.iter().filter(|(_, held)| held.unsure).map(|(id, _)| id.clone());
        for id in unsure.collect::<Vec<_>>() {
            match self.settled(&mut world, &id).await {
                Ok(held) => self.advance(held).await?,
                Err(error) if error.code == Code::TaskNotFound => {}
                Err(error) => return Err(error),
            }
        }
        Box::pin(self.give_back_owed(&mut world)).await;
        self.forget_deleted(&mut world).await?;
        self.start_due(&mut world).await?;
        self.end_checks(&mut world).await?;
        self.settle_completions(&mut world.tasks).await?;
        self.settle_switches(&mut world.tasks).await?;
        self.mirror_positions(&mut world).await?;
        self.reconcile(&mut world).await?;
        let ways_back = way_back::to_start(&world.tasks);
        drop(world);
        self.start_ways_back(ways_back).await;
        Ok(())
    }

    /// The task, read again if it is not sure what the store holds.
    async fn settled<'a>(&self, world: &'a mut World, id: &str) -> Result<&'a mut Held> {
        audit::about(format!("task {id}"));
        if world.tasks.get(id).ok_or_else(|| not_found(id))?.unsure {
            let key = format!("task/{id}");
            match self.store.get(&key).await? {
                None => drop(world.tasks.remove(id)),
                Some(found) => {
                    let stored = decode(&key, &found)?;
                    if let Some(held) = world.tasks.get_mut(id) {
                        let (statuses, seen) = (std::mem::take(&mut held.statuses), std::mem::take(&mut held.seen));
                        let (runs, mirror) = (std::mem::take(&mut held.runs), std::mem::take(&mut held.mirror));
                        let switched = std::mem::take(&mut held.switched);
                        *held = Held { statuses, seen, runs, mirror, switched, ..Held::new(stored, found.revision) };
                    }
                }
            }
            self.changed.send_modify(|count| *count += 1);
        }
        world.tasks.get_mut(id).ok_or_else(|| not_found(id))
    }

    async fn enter(&self, held: &mut Held, state: TaskState) -> Result<()> {
        let reason = match state {
            TaskState::Failed | TaskState::NeedsDecision | TaskState::CheckFailed => held.reason(ShardPhase::Failed),
            TaskState::Interrupted => held.reason(ShardPhase::Retrying),
            _ => None,
        };
        self.enter_for(held, state, reason).await
    }

    async fn enter_for(&self, held: &mut Held, state: TaskState, reason: Option<v1::Reason>) -> Result<()> {
        held.stored.ran |= state == TaskState::Preparing;
        held.stored.releasing &= state == TaskState::Completing;
        held.stored.completing |= state == TaskState::Completing;
        if state == TaskState::Completed {
            verification::note_completed(held);
        }
        if matches!(state, TaskState::Completed | TaskState::Cancelled) {
            guard::settle(held);
        }
        let task = held.task_mut();
        tracing::info!(
            task = task.id,
            state = state.as_str_name(),
            reason = reason.as_ref().map(|reason| reason.code.as_str()),
            "task"
        );
        task.set_state(state);
        task.reason.clone_from(&reason);
        held.stored.measure(state, &held.statuses.values().collect::<Vec<_>>());
        held.stored.note(task::meaning(state), reason);
        Box::pin(self.save_with_locks(held)).await
    }

    async fn save(&self, held: &mut Held) -> Result<()> {
        self.save_with(held, Transaction::default()).await
    }

    /// Together with other changes.
    async fn save_with(&self, held: &mut Held, mut write: Transaction) -> Result<()> {
        let task = held.task_mut();
        task.updated_at = Some(SystemTime::now().into());
        let key = held.key();
        write.compares.push((key.clone(), held.revision));
        write.writes.push((key, Some(held.stored.encode_to_vec())));
        match self.store.commit(write).await.and_then(|committed| committed.ok_or_else(lost_race)) {
            Ok(revision) => {
                (held.revision, held.saved) = (revision, held.stored.clone());
                self.changed.send_modify(|count| *count += 1);
                Ok(())
            }
            Err(error) => {
                (held.unsure, held.stored) = (true, held.saved.clone());
                Err(error)
            }
        }
    }
}

/// A task as people see it.
fn answer(held: &Held) -> Task {
    let mut task = held.task();
    if let Some(spec) = &mut task.spec {
        redact(spec);
    }
    for shard in &mut task.shards {
        shard.status = held.statuses.get(&shard.index).cloned();
        shard.known_position = shard.status.is_none().then(|| held.mirror.position(shard.index)).flatten();
        shard.refusals = held.refusals.get(&shard.index).map(|refused| refused.whys.clone()).unwrap_or_default();
    }
    task.plan = held.stored.plan.clone();
    task.reason = no_agent(&task, &held.refusals).or(task.reason);
    task.revision = held.revision;
    task.totals = Some(totals(&task));
    task.allowed_actions =
        actions(task.state(), held.stored.releasing).iter().map(|action| i32::from(*action)).collect();
    let streaming = |shard: &Shard| shard.status.as_ref().is_some_and(|status| status.phase() == ShardPhase::Streaming);
    task.ready_to_complete = task.state() == TaskState::IncrSync && task.shards.iter().all(streaming);
    checking::show(held, &mut task);
    task
}

fn not_found(id: &str) -> Error {
    Error::new(Code::TaskNotFound, format!("there is no task {id:?}"))
}

fn lost_race() -> Error {
    Error::new(Code::RevisionConflict, "the store holds a newer state than this coordinator knew of")
}

fn decode(key: &str, found: &Versioned) -> Result<Stored> {
    Stored::decode(found.value.as_slice())
        .map_err(|error| Error::new(Code::Internal, format!("what is stored at {key}: {error}")))
}

/// Fails if the key does not open what is sealed in the store; the first coordinator leaves a proof there for the others.
pub async fn prove<S: Store>(store: &S, sealer: &Sealer) -> Result<()> {
    if let Some(found) = store.get(SEAL).await? {
        return sealer.proves(&found.value);
    }
    for (key, found) in store.list("task/").await? {
        sealer.unseal(&mut decode(&key, &found)?.task.unwrap_or_default().spec.unwrap_or_default())?;
    }
    let proof = Transaction {
        compares: vec![(SEAL.to_owned(), 0)],
        writes: vec![(SEAL.to_owned(), Some(sealer.proof()?))],
        ..Transaction::default()
    };
    match store.commit(proof).await? {
        Some(_) => Ok(()),
        None => sealer.proves(&store.get(SEAL).await?.map(|found| found.value).unwrap_or_default()),
    }
}
