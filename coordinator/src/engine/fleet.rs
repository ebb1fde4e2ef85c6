//! Agents: their sessions, and what operators say about them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{Agent, Reach, Register, Report, Shard, Stays, Task, Way};
use prost::Message as _;
use tokio::sync::watch;
use tokio::time::Instant;

use super::orders::Orders;
use super::{Engine, Held, World, answer, lost_race, not_found};
use crate::access::authority::millis;
use crate::audit;
use crate::placement::{Candidate, has_room};
use crate::store::{Store, Transaction};
use crate::task::directive;

/// Under it stand the agents that shall get no shards, by name.
pub(super) const CORDON: &str = "cordon/";

/// What an operator said about an agent, as it is stored.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub(super) struct Cordon {
    /// It shall get no shards.
    #[prost(bool, tag = "1")]
    pub(super) cordoned: bool,
    /// It shall lose those that it has.
    #[prost(bool, tag = "2")]
    pub(super) draining: bool,
    /// Certificates older than this are refused, in milliseconds since 1970.
    #[prost(uint64, tag = "3")]
    pub(super) barred_ms: u64,
}

/// An agent that registered, or lived under the last leader.
pub(super) struct Session {
    pub(super) instance_id: String,
    /// As it registered.
    pub(super) register: Register,
    pub(super) seen: Instant,
    pub(super) seen_at: SystemTime,
    pub(super) connected: bool,
    /// Whether it lived, and could be given shards, when these were placed last.
    pub(super) counted_as: (bool, bool),
    pub(super) free_disk: u64,
    /// What it was asked to measure.
    pub(super) asked: Vec<Asked>,
    /// What it found, by probe, and when we heard of it.
    pub(super) reaches: HashMap<String, (Reach, Instant)>,
    /// What it shall do.
    pub(super) orders: Orders,
    /// Counts what it was told; 0: nothing yet. Its stream ends with the sender.
    pub(super) told: watch::Sender<u64>,
}

/// A server that an agent was asked to measure the way to.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) probe_id: String,
    pub(super) task_id: String,
    pub(super) end: String,
    pub(super) address: String,
}

impl Session {
    /// Of a process that is known by its id alone, or better.
    pub(super) fn new(instance_id: String, register: Register) -> Self {
        Self {
            instance_id,
            seen: Instant::now(),
            seen_at: SystemTime::now(),
            connected: false,
            counted_as: (false, false),
            free_disk: register.free_disk_bytes,
            register,
            asked: Vec::new(),
            reaches: HashMap::new(),
            orders: Orders::default(),
            told: watch::Sender::new(0),
        }
    }

    /// By its labels and its room.
    pub(super) fn candidate(&self, id: &str) -> Candidate {
        Candidate { name: id.to_owned(), free_disk: self.free_disk, ..Candidate::new(&self.register) }
    }

    /// True if this receiver is the session's.
    pub(super) fn listens(&self, told: &watch::Receiver<u64>) -> bool {
        self.told.subscribe().same_channel(told)
    }

    /// Takes what a report says about the agent itself; true if that may move shards. `ways`: what it measured may.
    pub(super) fn report(&mut self, report: &Report, ways: bool) -> bool {
        (self.seen, self.seen_at) = (Instant::now(), SystemTime::now());
        let had_room = has_room(self.free_disk);
        if report.free_disk_bytes > 0 {
            self.free_disk = report.free_disk_bytes;
        }
        let mut news = had_room != has_room(self.free_disk);
        for reach in &report.reaches {
            let before = self.reaches.insert(reach.probe_id.clone(), (reach.clone(), self.seen));
            news |= ways || before.is_none_or(|(before, _)| before.reached != reach.reached);
        }
        if self.reaches.len() > self.asked.len() {
            let asked: BTreeSet<&str> = self.asked.iter().map(|asked| asked.probe_id.as_str()).collect();
            self.reaches.retain(|id, _| asked.contains(id.as_str()));
        }
        news
    }
}

impl<S: Store> Engine<S> {
    /// What operators said about agents.
    pub(super) async fn cordons(store: &S) -> Result<BTreeMap<String, Cordon>> {
        let mut cordons = BTreeMap::new();
        for (key, found) in store.list(CORDON).await? {
            let cordon = Cordon::decode(found.value.as_slice())
                .map_err(|error| Error::new(Code::Internal, format!("what is stored at {key}: {error}")))?;
            cordons.insert(key[CORDON.len()..].to_owned(), cordon);
        }
        Ok(cordons)
    }

    /// The agents, by name; those that something was said about too, though they are gone.
    pub async fn agents(&self) -> Vec<Agent> {
        let world = self.world.lock().await;
        let names: BTreeSet<&String> = world.agents.keys().chain(world.cordons.keys()).collect();
        let held = held_by(&world);
        let of = |name: &String| held.get(name.as_str()).map(Vec::as_slice).unwrap_or_default();
        names.into_iter().map(|name| self.agent(&world, name, of(name))).collect()
    }

    fn one_agent(&self, world: &World, id: &str) -> Agent {
        self.agent(world, id, held_by(world).get(id).map(Vec::as_slice).unwrap_or_default())
    }

    fn agent(&self, world: &World, id: &str, held: &[(&Held, &Shard)]) -> Agent {
        let cordon = world.cordons.get(id).copied().unwrap_or_default();
        let stays = |(held, shard): &(&Held, &Shard)| {
            let refusals = held.refusals.get(&shard.index).filter(|_| cordon.draining)?.whys.clone();
            Some(Stays { task_id: held.id.to_string(), shard_index: shard.index, refusals })
        };
        let (shards, stays) = (u32::try_from(held.len()).unwrap_or(u32::MAX), held.iter().filter_map(stays).collect());
        let mut agent = Agent {
            id: id.to_owned(),
            shards,
            cordoned: cordon.cordoned,
            draining: cordon.draining,
            stays,
            barred_at: (cordon.barred_ms > 0).then(|| (UNIX_EPOCH + Duration::from_millis(cordon.barred_ms)).into()),
            ..Agent::default()
        };
        if let Some(session) = world.agents.get(id) {
            let way = |asked: &Asked| Way {
                task_id: asked.task_id.clone(),
                end: asked.end.clone(),
                address: asked.address.clone(),
                reach: session.reaches.get(&asked.probe_id).map(|(reach, _)| reach.clone()),
            };
            let register = session.register.clone();
            agent.version = register.version;
            agent.labels = register.labels;
            agent.max_shards = register.max_shards;
            agent.budgets = register.budgets;
            agent.alive = self.alive(session);
            agent.connected = self.usable(session);
            agent.last_seen_at = Some(session.seen_at.into());
            agent.free_disk_bytes = session.free_disk;
            agent.ways = session.asked.iter().map(way).collect();
        }
        agent
    }

    pub(super) fn alive(&self, session: &Session) -> bool {
        session.seen.elapsed() < self.lease_ttl
    }

    /// Alive, and usable.
    pub(super) fn counts_as(&self, session: &Session) -> (bool, bool) {
        (self.alive(session), self.usable(session))
    }

    /// Shards can be given to it.
    pub(super) fn usable(&self, session: &Session) -> bool {
        session.connected && self.alive(session)
    }

    /// Lets an agent get shards, keeps it from getting more, or takes those away that it has.
    pub async fn cordon(&self, id: &str, cordoned: bool, draining: bool) -> Result<Agent> {
        self.say(id, |said| (said.cordoned, said.draining) = (cordoned, draining)).await
    }

    /// Makes the certificates that an agent has worthless. Others take its shards at once; the fence keeps it off the targets.
    pub async fn bar(&self, id: &str) -> Result<Agent> {
        self.say(id, |said| said.barred_ms = millis(SystemTime::now())).await?;
        let mut world = self.world.lock().await;
        if let Some(session) = world.agents.get_mut(id) {
            // Its stream ends with the sender.
            session.told = watch::Sender::new(0);
            session.connected = false;
            session.seen = session.seen.checked_sub(self.lease_ttl).unwrap_or(session.seen);
        }
        self.reconcile(&mut world).await?;
        Ok(self.one_agent(&world, id))
    }

    /// Refuses an agent whose certificate was made worthless.
    pub async fn check_barred(&self, id: &str, issued_ms: u64) -> Result<()> {
        let barred_ms = self.world.lock().await.cordons.get(id).map_or(0, |said| said.barred_ms);
        if issued_ms > barred_ms {
            return Ok(());
        }
        let message = format!(
            "agent {id} was barred after its certificate was made: remove identity.pem from its state directory, and start it with a new token"
        );
        Err(Error::new(Code::PermissionDenied, message))
    }

    async fn say(&self, id: &str, change: impl FnOnce(&mut Cordon)) -> Result<Agent> {
        audit::about(format!("agent {id}"));
        let mut world = self.world.lock().await;
        if !world.agents.contains_key(id) && !world.cordons.contains_key(id) {
            return Err(no_such_agent(id));
        }
        let mut said = world.cordons.get(id).copied().unwrap_or_default();
        change(&mut said);
        let value = (said != Cordon::default()).then(|| said.encode_to_vec());
        let writes = vec![(format!("{CORDON}{id}"), value)];
        self.store.commit(Transaction { writes, ..Transaction::default() }).await?.ok_or_else(lost_race)?;
        tracing::info!(agent = id, ?said, "an operator says");
        if said == Cordon::default() {
            world.cordons.remove(id);
        } else {
            world.cordons.insert(id.to_owned(), said);
        }
        self.reconcile(&mut world).await?;
        Ok(self.one_agent(&world, id))
    }

    /// Ties shards of a task to an agent, or with an empty name unties them.
    pub async fn pin(&self, id: &str, index: Option<u32>, agent_id: &str, revision: u64) -> Result<Task> {
        let mut world = self.world.lock().await;
        if !agent_id.is_empty() && !world.agents.contains_key(agent_id) {
            return Err(no_such_agent(agent_id));
        }
        let held = self.settled(&mut world, id).await?;
        held.at_revision(revision)?;
        let chosen = |of: u32| index.is_none_or(|index| index == of);
        let shards = &mut held.task_mut().shards;
        if !shards.iter().any(|shard| chosen(shard.index)) {
            let message = format!("the task has no shard {}", index.unwrap_or_default());
            return Err(Error::new(Code::InvalidRequest, message));
        }
        for shard in shards.iter_mut().filter(|shard| chosen(shard.index)) {
            agent_id.clone_into(&mut shard.pinned_to);
        }
        self.save(held).await?;
        self.reconcile(&mut world).await?;
        world.tasks.get(id).map(answer).ok_or_else(|| not_found(id))
    }
}

/// The shards that agents have to do with, by agent.
fn held_by(world: &World) -> HashMap<&str, Vec<(&Held, &Shard)>> {
    let mut all: HashMap<&str, Vec<_>> = HashMap::new();
    for held in world.tasks.values() {
        let task = held.view();
        if directive(task.state(), held.stored.releasing).is_some() {
            for shard in task.shards.iter().filter(|shard| !shard.agent_id.is_empty()) {
                all.entry(shard.agent_id.as_str()).or_default().push((held, shard));
            }
        }
    }
    all
}

fn no_such_agent(id: &str) -> Error {
    Error::new(Code::AgentNotFound, format!("there is no agent {id:?}"))
}
