//! Carries out what placement decides.
//!
//! A shard that leaves an agent which lives is handed over: the agent is told to stop, and once its reports show that it has (or it dies, or
//! stays silent for a lease) the other one begins, under a new epoch. Were it to begin sooner the fence on the target would see to it
//! that nothing is written twice; so this is for order, and for targets with a weaker fence.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use dts_common::error::{Code, Result};
use dts_common::telemetry::{continues, traceparent};
use dts_proto::v1::{self, Assignment, Endpoint, Refusal, Report, Shard, Task, TaskSpec, TaskState};
use futures_util::future::join_all;
use tokio::time::Instant;

use super::fleet::Session;
use super::probe::{cut_off, unmeasured, ways};
use super::ring::Rings;
use super::{Engine, Held, World, lost_race};
use crate::placement::{self, Candidate, Placed, Spot, Wanted};
use crate::store::{MOST_WRITES, Store, Transaction};

/// A shard, by task and number.
pub(super) type Key = (String, u32);

/// A task that starts waits so long for what agents measure, if there is a choice among them.
const MEASURED_WITHIN: Duration = Duration::from_secs(3);
/// Agents that a task's reason names.
const NAMED: usize = 8;
/// Agents that a shard names which nobody takes.
const LISTED: usize = 32;
/// Tasks whose shards are given to agents at a time.
const AT_ONCE: usize = 16;

/// What is under way with the places of shards; a new leader finds it out again.
#[derive(Default)]
pub(super) struct Moves {
    /// Shards whose agent was told to stop.
    leaving: BTreeMap<Key, Leaving>,
    /// Since when a shard waits for its first agent.
    waiting: BTreeMap<Key, Instant>,
    /// Somewhere it matters who reaches what.
    ways_matter: bool,
}

/// A shard that should go somewhere, and does not.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refused {
    /// Nobody runs it.
    pub(super) nowhere: bool,
    /// Why no other agent takes it, of the first of them.
    pub(super) whys: Vec<Refusal>,
    /// So many others neither.
    pub(super) more: usize,
}

struct Leaving {
    since: Instant,
    stopped: bool,
}

/// A shard's new agent.
struct Given {
    index: u32,
    agent_id: String,
    instance_id: String,
}

impl Moves {
    /// What an agent reports that still runs something is no news; what it does not report has stopped. True if something has.
    pub(super) fn reported(&mut self, tasks: &BTreeMap<String, Held>, agent_id: &str, report: &Report) -> bool {
        let mut stopped = false;
        for ((task, index), leaving) in self.leaving.iter_mut().filter(|(_, leaving)| !leaving.stopped) {
            let runs = report.shards.iter().any(|shard| shard.task_id == *task && shard.shard_index == *index);
            let held = tasks.get(task).and_then(|held| held.shard(*index));
            leaving.stopped = !runs && held.is_some_and(|shard| shard.agent_id == agent_id);
            stopped |= leaving.stopped;
        }
        stopped
    }

    /// Time alone may change something.
    pub(super) fn are_open(&self) -> bool {
        !self.leaving.is_empty() || !self.waiting.is_empty()
    }

    /// What agents measure may change something.
    pub(super) fn looks_at_ways(&self) -> bool {
        self.ways_matter || !self.waiting.is_empty()
    }

    pub(super) fn is_leaving(&self, task: &str, index: u32) -> bool {
        !self.leaving.is_empty() && self.leaving.contains_key(&(task.to_owned(), index))
    }

    fn forget(&mut self, task: &str, index: u32) {
        if !self.leaving.is_empty() {
            self.leaving.remove(&(task.to_owned(), index));
        }
    }
}

impl Held {
    /// Its agents have something to do.
    fn is_wanted(&self) -> bool {
        !self.unsure && self.needs_agents()
    }

    /// True if this process holds the shard, and no other under its name.
    pub(super) fn is_with(&self, shard: &Shard, instance_id: &str) -> bool {
        self.stored.instances.get(&shard.index).is_some_and(|of| of == instance_id)
    }
}

impl<S: Store> Engine<S> {
    /// Works out anew where every shard shall be and what every agent shall do: now, or in a large fleet soon.
    pub(super) async fn reconcile(&self, world: &mut World) -> Result<()> {
        if world.pace.may(Instant::now()) {
            return self.place(world).await;
        }
        world.pace.owe();
        Ok(())
    }

    /// Gives every shard that has work to an agent, then tells each agent all that it shall do.
    async fn place(&self, world: &mut World) -> Result<()> {
        let begun = Instant::now();
        let candidates: Vec<Candidate> =
            world.agents.iter().map(|(id, agent)| self.candidate(world, id, agent)).collect();
        for session in world.agents.values_mut() {
            session.counted_as = self.counts_as(session);
        }
        let mut rings = Rings::of(&candidates);
        let wanted = self.wanted(world, &mut rings);
        if !world.moves.leaving.is_empty() {
            let keys: HashSet<(&str, u32)> = wanted.iter().map(|shard| (shard.task.as_str(), shard.index)).collect();
            world.moves.leaving.retain(|(task, index), _| keys.contains(&(task.as_str(), *index)));
        }
        let placed = placement::place(&candidates, &wanted);
        let decided = begun.elapsed();
        world.pace.done(Instant::now(), decided);
        let mut given: BTreeMap<String, Vec<Given>> = BTreeMap::new();
        for (shard, placed) in wanted.into_iter().zip(placed) {
            if let Some(of) = self.carry_out(world, &shard, placed).await? {
                given.entry(shard.task).or_default().push(of);
            }
        }
        let assigned = self.assign_all(world, given).await;
        let begun = Instant::now();
        self.tell(world, &mut rings);
        world.pace.done(Instant::now(), decided + begun.elapsed());
        assigned
    }

    pub(super) fn candidate(&self, world: &World, id: &str, session: &Session) -> Candidate {
        let cordon = world.cordons.get(id).copied().unwrap_or_default();
        Candidate {
            connected: self.usable(session),
            cordoned: cordon.cordoned,
            draining: cordon.draining,
            ..session.candidate(id)
        }
    }

    /// The shards that are to be placed now, and where they are.
    fn wanted(&self, world: &mut World, rings: &mut Rings<'_>) -> Vec<Wanted> {
        let World { tasks, agents, cordons, moves, .. } = world;
        let mut all = Vec::new();
        let mut waiting = BTreeMap::new();
        moves.ways_matter = false;
        for (id, held) in tasks {
            if !held.is_wanted() {
                held.refusals.clear();
                continue;
            }
            let task = held.view();
            let begins = task.state() == TaskState::Verifying || held.running().is_some();
            for shard in &task.shards {
                let session = agents.get(&shard.agent_id).filter(|session| self.alive(session));
                let runs = session.is_some_and(|session| held.is_with(shard, &session.instance_id));
                let stuck = runs && held.statuses.get(&shard.index).is_some_and(cut_off);
                let pinned_elsewhere = !shard.pinned_to.is_empty() && shard.pinned_to != shard.agent_id;
                if runs && !stuck && !pinned_elsewhere && !cordons.get(&shard.agent_id).is_some_and(|of| of.draining) {
                    // It stays; who could take it is nobody's question.
                    let on = shard.agent_id.clone();
                    all.push(Wanted { task: id.clone(), index: shard.index, on, ..Wanted::default() });
                    continue;
                }
                let mut wanted = describe(task, shard);
                if runs {
                    wanted.on.clone_from(&shard.agent_id);
                    wanted.stuck = stuck;
                }
                moves.ways_matter = true;
                ways(&mut wanted, task, agents);
                if !runs && begins && unmeasured(&wanted, rings) {
                    let key = (id.clone(), shard.index);
                    let since = moves.waiting.get(&key).copied().unwrap_or_else(Instant::now);
                    waiting.insert(key, since);
                    if since.elapsed() < MEASURED_WITHIN {
                        continue;
                    }
                }
                all.push(wanted);
            }
        }
        moves.waiting = waiting;
        all
    }

    /// Notes why a shard goes nowhere; gives its new agent, if it is to begin there now.
    async fn carry_out(&self, world: &mut World, shard: &Wanted, placed: Placed) -> Result<Option<Given>> {
        let Some(held) = world.tasks.get_mut(&shard.task).filter(|held| !held.unsure) else { return Ok(None) };
        let refusal = |(agent_id, why): (String, placement::Why)| Refusal { agent_id, why: why.to_string() };
        let (nowhere, more) = (placed.agent.is_none(), placed.refusals.len().saturating_sub(LISTED));
        let whys: Vec<Refusal> = placed.refusals.into_iter().take(LISTED).map(refusal).collect();
        let refused = (nowhere || !whys.is_empty()).then_some(Refused { nowhere, whys, more });
        if held.refusals.get(&shard.index) != refused.as_ref() {
            if let Some(refused) = &refused {
                tracing::warn!(task = shard.task, shard = shard.index, "{}", why(refused));
            }
            self.changed.send_modify(|count| *count += 1);
            match refused {
                Some(refused) => held.refusals.insert(shard.index, refused),
                None => held.refusals.remove(&shard.index),
            };
        }
        let Some(to) = placed.agent else {
            world.moves.forget(&shard.task, shard.index);
            self.interrupted_without_agent(world, &shard.task).await?;
            return Ok(None);
        };
        if shard.on == to && !world.moves.is_leaving(&shard.task, shard.index) {
            return Ok(None);
        }
        if !shard.on.is_empty() && shard.on != to {
            let begins = || {
                tracing::info!(task = shard.task, shard = shard.index, from = shard.on, to, "handing over");
                Leaving { since: Instant::now(), stopped: false }
            };
            let leaving = world.moves.leaving.entry((shard.task.clone(), shard.index)).or_insert_with(begins);
            if !leaving.stopped && leaving.since.elapsed() < self.lease_ttl {
                return Ok(None);
            }
        }
        let instance_id = world.agents.get(&to).map(|session| session.instance_id.clone()).unwrap_or_default();
        Ok(Some(Given { index: shard.index, agent_id: to, instance_id }))
    }

    /// Task by task, several at a time: a fleet that loses many agents has many tasks to see to. After a failure no further one is begun.
    async fn assign_all(&self, world: &mut World, mut given: BTreeMap<String, Vec<Given>>) -> Result<()> {
        let World { tasks, moves, .. } = world;
        let with_work = tasks.iter_mut().filter_map(|(id, held)| Some((held, given.remove(id)?)));
        let mut work: Vec<_> = with_work.map(|(held, given)| self.assign(held, given)).collect();
        while !work.is_empty() {
            let now: Vec<_> = work.drain(..work.len().min(AT_ONCE)).collect();
            let mut failed = None;
            for ended in join_all(now).await {
                match ended {
                    Ok((id, indices)) => indices.iter().for_each(|index| moves.forget(&id, *index)),
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Shards of one task, to their new agents: the epochs in one transaction, the task in another. Gives what was done.
    async fn assign(&self, held: &mut Held, given: Vec<Given>) -> Result<(Arc<str>, Vec<u32>)> {
        let id = held.id.clone();
        let mut epochs = Vec::new();
        for part in given.chunks(MOST_WRITES) {
            let key = |of: &Given| (format!("epoch/{id}/{}", of.index), Some(of.agent_id.clone().into_bytes()));
            let write = Transaction { writes: part.iter().map(key).collect(), ..Transaction::default() };
            let epoch = self.store.commit(write).await?.ok_or_else(lost_race)?;
            epochs.resize(epochs.len() + part.len(), epoch);
        }
        let indices = given.iter().map(|given| given.index).collect();
        for (given, epoch) in given.into_iter().zip(epochs) {
            held.give(given, epoch);
        }
        self.save(held).await?;
        Ok((id, indices))
    }

    /// A task that ran, and that nobody runs any more.
    async fn interrupted_without_agent(&self, world: &mut World, id: &str) -> Result<()> {
        let Some(held) = world.tasks.get_mut(id) else { return Ok(()) };
        let task = held.view();
        let running = matches!(task.state(), TaskState::Preparing | TaskState::FullSync | TaskState::IncrSync);
        if running && task.shards.iter().any(|shard| !shard.agent_id.is_empty()) {
            self.enter(held, TaskState::Interrupted).await?;
        }
        Ok(())
    }
}

impl Held {
    fn give(&mut self, given: Given, epoch: u64) {
        let Given { index, agent_id, instance_id } = given;
        let task = &*self.id;
        tracing::info!(task, shard = index, agent = agent_id, epoch, "assigned");
        // Whoever made us look again: it is what the operator asked for that is carried out.
        let span = tracing::info_span!(parent: None, "assign", task, shard = index, agent = agent_id, epoch);
        continues(&span, &self.asked);
        self.traces.insert(index, span.in_scope(traceparent));
        self.statuses.remove(&index);
        self.refusals.remove(&index);
        self.stored.instances.insert(index, instance_id);
        if let Some(shard) = self.task_mut().shards.iter_mut().find(|shard| shard.index == index) {
            shard.last_agent_id.clone_from(&agent_id);
            (shard.agent_id, shard.epoch) = (agent_id, epoch);
        }
    }
}

/// So many that they are not told with each of its shards: that would grow with their square.
pub(super) fn has_many_sources(spec: &TaskSpec) -> bool {
    spec.sources.len() > MOST_WRITES
}

/// Why nobody takes a shard, as the reason of its task.
pub(super) fn no_agent(task: &Task, refusals: &BTreeMap<u32, Refused>) -> Option<v1::Reason> {
    let code = Code::NoAgent;
    let (index, refused) = refusals.iter().find(|(_, refused)| refused.nowhere)?;
    let had_one = task.shards.iter().any(|shard| shard.index == *index && !shard.agent_id.is_empty());
    let shard = if task.shards.len() > 1 { format!("shard {index}: ") } else { String::new() };
    let lost = if had_one { "the agent that held it is gone, and " } else { "" };
    Some(v1::Reason {
        code: code.as_str().into(),
        scope: code.scope().as_str().into(),
        retry: code.retry(),
        message: format!("{shard}{lost}{}", why(refused)),
        fix: code.fix().into(),
    })
}

fn why(refused: &Refused) -> String {
    if refused.whys.is_empty() {
        return "no agent is connected".into();
    }
    let named: Vec<String> =
        refused.whys.iter().take(NAMED).map(|refusal| format!("{}: {}", refusal.agent_id, refusal.why)).collect();
    let more = match refused.whys.len().saturating_sub(NAMED) + refused.more {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!("no agent can take it: {}{more}", named.join("; "))
}

fn spot(endpoint: Option<&Endpoint>) -> Spot {
    endpoint.map(|end| Spot { region: end.region.clone(), network: end.network() }).unwrap_or_default()
}

pub(super) fn describe(task: &Task, shard: &Shard) -> Wanted {
    let spec = task.spec.as_ref();
    let source = spec.and_then(|spec| spec.sources.get(usize::try_from(shard.index).ok()?));
    Wanted {
        task: task.id.clone(),
        index: shard.index,
        source: spot(source),
        target: spot(spec.and_then(|spec| spec.target.as_ref())),
        pinned_to: shard.pinned_to.clone(),
        last: shard.last_agent_id.clone(),
        ..Wanted::default()
    }
}

/// A shard of this spec, whose secrets are open.
pub(super) fn assignment(task_id: &str, spec: &TaskSpec, shard: &Shard) -> Assignment {
    let source = usize::try_from(shard.index).ok().and_then(|index| spec.sources.get(index)).cloned();
    Assignment {
        task_id: task_id.to_owned(),
        shard_index: shard.index,
        epoch: shard.epoch,
        source,
        target: spec.target.clone(),
        mode: spec.mode,
        limits: spec.limits,
        allow_downgrade: spec.allow_downgrade,
        cross_slot: spec.cross_slot,
        siblings: if has_many_sources(spec) { Vec::new() } else { spec.sources.clone() },
        topology: spec.topology.clone(),
        filter: spec.filter.clone(),
        db_map: spec.db_map.clone(),
        on_flush: spec.on_flush,
        continue_only: !spec.way_back_of.is_empty(),
        target_guard: spec.target_guard,
        target_fence: spec.target_fence,
        ..Assignment::default()
    }
}
