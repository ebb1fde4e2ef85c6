//! Carries out what placement decides, and tells every agent all that it shall do.
//!
//! A shard that leaves an agent which lives is handed over: the agent is told to stop, and once its reports show that it has (or it dies, or
//! stays silent for a lease) the other one begins, under a new epoch. Were it to begin sooner the fence on the target would see to it
//! that nothing is written twice; so this is for order, and for targets with a weaker fence.

use std::collections::BTreeMap;
use std::time::Duration;

use dts_common::error::{Code, Result};
use dts_common::telemetry::{continues, traceparent};
use dts_proto::v1::{
    self, Assignment, DesiredState, Endpoint, Probe, Refusal, Report, Shard, Task, TaskSpec, TaskState,
};
use tokio::time::Instant;

use super::fleet::Session;
use super::probe::{cut_off, probes, unmeasured, ways};
use super::{Engine, Held, World, lost_race};
use crate::placement::{self, Candidate, Placed, Spot, Wanted};
use crate::store::{Store, Transaction};
use crate::task::directive;

/// A shard, by task and number.
pub(super) type Key = (String, u32);

/// A task that starts waits so long for what agents measure, if there is a choice among them.
const MEASURED_WITHIN: Duration = Duration::from_secs(3);
/// Agents that a task's reason names.
const NAMED: usize = 8;

/// What is under way with the places of shards; a new leader finds it out again.
#[derive(Default)]
pub(super) struct Moves {
    /// Shards whose agent was told to stop.
    leaving: BTreeMap<Key, Leaving>,
    /// Since when a shard waits for its first agent.
    waiting: BTreeMap<Key, Instant>,
}

/// A shard that should go somewhere, and does not.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Refused {
    /// Nobody runs it.
    nowhere: bool,
    /// Why no other agent takes it.
    pub(super) whys: Vec<Refusal>,
}

struct Leaving {
    since: Instant,
    stopped: bool,
}

impl Moves {
    /// What an agent reports that still runs something is no news; what it does not report has stopped.
    pub(super) fn reported(&mut self, tasks: &BTreeMap<String, Held>, agent_id: &str, report: &Report) {
        for ((task, index), leaving) in &mut self.leaving {
            let runs = report.shards.iter().any(|shard| shard.task_id == *task && shard.shard_index == *index);
            let held = tasks.get(task).and_then(|held| held.shard(*index));
            leaving.stopped |= !runs && held.is_some_and(|shard| shard.agent_id == agent_id);
        }
    }
}

impl Held {
    fn shard(&self, index: u32) -> Option<&Shard> {
        self.stored.task.as_ref()?.shards.iter().find(|shard| shard.index == index)
    }

    /// Its agents have something to do.
    fn is_wanted(&self) -> bool {
        !self.unsure && self.needs_agents()
    }
}

impl<S: Store> Engine<S> {
    /// Gives every shard that has work to an agent, then tells each agent all that it shall do.
    pub(super) async fn reconcile(&self, world: &mut World) -> Result<()> {
        let candidates: Vec<Candidate> =
            world.agents.iter().map(|(id, agent)| self.candidate(world, id, agent)).collect();
        let wanted = self.wanted(world, &candidates);
        let keys: Vec<Key> = wanted.iter().map(|shard| (shard.task.clone(), shard.index)).collect();
        world.moves.leaving.retain(|key, _| keys.contains(key));
        let placed = placement::place(&candidates, &wanted);
        for (shard, placed) in wanted.into_iter().zip(placed) {
            self.carry_out(world, &shard, placed).await?;
        }
        self.tell(world, &candidates)
    }

    pub(super) fn candidate(&self, world: &World, id: &str, session: &Session) -> Candidate {
        let cordon = world.cordons.get(id).copied().unwrap_or_default();
        Candidate {
            connected: session.connected && self.alive(session),
            cordoned: cordon.cordoned,
            draining: cordon.draining,
            ..session.candidate(id)
        }
    }

    /// The shards that are to be placed now, and where they are.
    fn wanted(&self, world: &mut World, candidates: &[Candidate]) -> Vec<Wanted> {
        let World { tasks, agents, moves, .. } = world;
        tasks.values_mut().filter(|held| !held.is_wanted()).for_each(|held| held.refusals.clear());
        let mut all = Vec::new();
        let mut waiting = BTreeMap::new();
        for (id, held) in tasks.iter().filter(|(_, held)| held.is_wanted()) {
            let Some(task) = &held.stored.task else { continue };
            for shard in &task.shards {
                let session = agents.get(&shard.agent_id).filter(|session| self.alive(session));
                let same = |session: &&Session| held.stored.instances.get(&shard.index) == Some(&session.instance_id);
                let runs = session.is_some_and(|session| same(&session));
                let mut wanted = describe(task, shard);
                if runs {
                    wanted.on.clone_from(&shard.agent_id);
                    wanted.stuck = held.statuses.get(&shard.index).is_some_and(cut_off);
                }
                ways(&mut wanted, task, agents);
                let key = (id.clone(), shard.index);
                let begins = task.state() == TaskState::Verifying || held.running().is_some();
                if !runs && begins && unmeasured(&wanted, candidates) {
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

    async fn carry_out(&self, world: &mut World, shard: &Wanted, placed: Placed) -> Result<()> {
        let key = (shard.task.clone(), shard.index);
        let Some(held) = world.tasks.get_mut(&shard.task).filter(|held| !held.unsure) else { return Ok(()) };
        let refusal = |(agent_id, why): (String, placement::Why)| Refusal { agent_id, why: why.to_string() };
        let whys: Vec<Refusal> = placed.refusals.into_iter().map(refusal).collect();
        let nowhere = placed.agent.is_none();
        let refused = (nowhere || !whys.is_empty()).then_some(Refused { nowhere, whys });
        if held.refusals.get(&shard.index) != refused.as_ref() {
            if let Some(refused) = &refused {
                tracing::warn!(task = shard.task, shard = shard.index, "{}", why(&refused.whys));
            }
            self.changed.send_modify(|count| *count += 1);
            match refused {
                Some(refused) => held.refusals.insert(shard.index, refused),
                None => held.refusals.remove(&shard.index),
            };
        }
        let Some(to) = placed.agent else {
            world.moves.leaving.remove(&key);
            return self.interrupted_without_agent(world, &shard.task).await;
        };
        if shard.on == to && !world.moves.leaving.contains_key(&key) {
            return Ok(());
        }
        if !shard.on.is_empty() && shard.on != to {
            let begins = || {
                tracing::info!(task = shard.task, shard = shard.index, from = shard.on, to, "handing over");
                Leaving { since: Instant::now(), stopped: false }
            };
            let leaving = world.moves.leaving.entry(key).or_insert_with(begins);
            if !leaving.stopped && leaving.since.elapsed() < self.lease_ttl {
                return Ok(());
            }
        }
        self.assign(world, &shard.task, shard.index, to).await
    }

    async fn assign(&self, world: &mut World, id: &str, index: u32, agent_id: String) -> Result<()> {
        let write = Transaction {
            writes: vec![(format!("epoch/{id}/{index}"), Some(agent_id.clone().into_bytes()))],
            ..Transaction::default()
        };
        let epoch = self.store.commit(write).await?.ok_or_else(lost_race)?;
        let instance_id = world.agents.get(&agent_id).map(|session| session.instance_id.clone()).unwrap_or_default();
        let Some(held) = world.tasks.get_mut(id) else { return Ok(()) };
        tracing::info!(task = id, shard = index, agent = agent_id, epoch, "assigned");
        // Whoever made us look again: it is what the operator asked for that is carried out.
        let span = tracing::info_span!(parent: None, "assign", task = id, shard = index, agent = agent_id, epoch);
        continues(&span, &held.asked);
        held.traces.insert(index, span.in_scope(traceparent));
        held.statuses.remove(&index);
        held.refusals.remove(&index);
        held.stored.instances.insert(index, instance_id);
        if let Some(shard) = held.task_mut().shards.iter_mut().find(|shard| shard.index == index) {
            shard.last_agent_id.clone_from(&agent_id);
            (shard.agent_id, shard.epoch) = (agent_id, epoch);
        }
        self.save(held).await?;
        world.moves.leaving.remove(&(id.to_owned(), index));
        Ok(())
    }

    /// A task that ran, and that nobody runs any more.
    async fn interrupted_without_agent(&self, world: &mut World, id: &str) -> Result<()> {
        let Some(held) = world.tasks.get_mut(id) else { return Ok(()) };
        let running = matches!(held.task().state(), TaskState::Preparing | TaskState::FullSync | TaskState::IncrSync);
        if running && held.task().shards.iter().any(|shard| !shard.agent_id.is_empty()) {
            self.enter(held, TaskState::Interrupted).await?;
        }
        Ok(())
    }

    fn tell(&self, world: &mut World, candidates: &[Candidate]) -> Result<()> {
        let mut opened: Vec<(&Held, TaskSpec)> = Vec::new();
        for held in world.tasks.values() {
            let Some(task) = held.stored.task.as_ref().filter(|task| !is_settled(task)) else { continue };
            let mut spec = task.spec.clone().unwrap_or_default();
            self.sealer.unseal(&mut spec)?;
            opened.push((held, spec));
        }
        world.desired_revision += 1;
        let mut checks = BTreeMap::new();
        for agent_id in world.agents.keys() {
            checks.insert(agent_id.clone(), self.orders(world, agent_id)?);
        }
        // Where there is no choice nothing has to be measured.
        let choice = candidates.iter().filter(|agent| agent.connected).count() > 1;
        for (agent_id, session) in &mut world.agents {
            let mut assignments = Vec::new();
            for (held, spec) in &opened {
                assign_to(held, spec, agent_id, &session.instance_id, &world.moves, &mut assignments);
            }
            let candidate = candidates.iter().find(|agent| agent.name == *agent_id);
            let asked = candidate.filter(|_| choice).map(|agent| probes(agent, &opened)).unwrap_or_default();
            let probes: Vec<Probe> = asked.iter().map(|(probe, _)| probe.clone()).collect();
            session.asked = asked.into_iter().map(|(_, asked)| asked).collect();
            let checks = checks.remove(agent_id).unwrap_or_default();
            let revision = world.desired_revision;
            session.desired.send_if_modified(|desired| {
                let told = (&desired.assignments, &desired.probes, &desired.checks);
                let changed = told != (&assignments, &probes, &checks) || desired.revision == 0;
                if changed {
                    *desired = DesiredState { revision, assignments, probes, checks };
                }
                changed
            });
        }
        Ok(())
    }
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
        message: format!("{shard}{lost}{}", why(&refused.whys)),
        fix: code.fix().into(),
    })
}

fn why(refusals: &[Refusal]) -> String {
    if refusals.is_empty() {
        return "no agent is connected".into();
    }
    let named: Vec<String> =
        refusals.iter().take(NAMED).map(|refusal| format!("{}: {}", refusal.agent_id, refusal.why)).collect();
    let more = match refusals.len().saturating_sub(NAMED) {
        0 => String::new(),
        more => format!("; and {more} more"),
    };
    format!("no agent can take it: {}{more}", named.join("; "))
}

fn is_settled(task: &Task) -> bool {
    matches!(task.state(), TaskState::Completed | TaskState::Cancelled | TaskState::Failed)
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

fn assign_to(
    held: &Held,
    spec: &TaskSpec,
    agent_id: &str,
    instance_id: &str,
    moves: &Moves,
    out: &mut Vec<Assignment>,
) {
    let Some(task) = &held.stored.task else { return };
    let Some(directive) = directive(task.state(), held.stored.releasing) else { return };
    let instance = |shard: &Shard| held.stored.instances.get(&shard.index).map(String::as_str);
    let theirs = |shard: &&Shard| shard.agent_id == agent_id && instance(shard) == Some(instance_id);
    let stays = |shard: &&Shard| !moves.leaving.contains_key(&(task.id.clone(), shard.index));
    for shard in task.shards.iter().filter(theirs).filter(stays) {
        let assignment = Assignment { directive: directive.into(), ..assignment(&task.id, spec, shard) };
        let traceparent = held.traces.get(&shard.index).cloned().unwrap_or_default();
        let resync = held.stored.resync.contains(&shard.index);
        let verify = held.runs.order(shard.index);
        out.push(Assignment { traceparent, resync, verify, ..assignment });
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
        siblings: spec.sources.clone(),
        topology: spec.topology.clone(),
        filter: spec.filter.clone(),
        db_map: spec.db_map.clone(),
        on_flush: spec.on_flush,
        ..Assignment::default()
    }
}
