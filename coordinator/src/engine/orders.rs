//! What every agent shall do. One pass over all shards decides it; it is written out, with the secrets, when an agent's session sends it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use dts_common::error::Result;
use dts_proto::v1::{
    Assignment, DesiredState, Directive, Endpoint, Probe, Shard, SwitchOverOrder, Task, TaskSources, TaskSpec,
    TaskState, VerifyOrder,
};
use tokio::sync::watch;

use super::assign::{assignment, describe, has_many_sources};
use super::fleet::{Asked, Session};
use super::probe::probe_id;
use super::ring::Rings;
use super::{Engine, Held, World};
use crate::store::Store;
use crate::task::directive;

/// What one agent is asked to measure at most.
const MOST_PROBES: usize = 256;
/// Agents that try a shard in a check without being the one to run it.
const STANDBYS: usize = 3;
/// All agents together report about so often a second.
const REPORTS: u64 = 400;
/// Up to this they report as often as they were told when they came.
const OFTEN: u64 = 250;

/// What an agent shall do: all that tells whether it is something else than before.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Orders {
    runs: Vec<Run>,
    measures: Vec<Measure>,
    looks: Vec<Look>,
    report_interval_ms: u32,
}

#[derive(Debug, PartialEq)]
struct Run {
    task: Arc<str>,
    index: u32,
    epoch: u64,
    generation: u64,
    directive: Directive,
    resync: bool,
    verify: Option<VerifyOrder>,
    switch_over: Option<SwitchOverOrder>,
    /// Sealed, as it is stored.
    guard: String,
}

/// A server: a source, or the target.
#[derive(Debug, PartialEq)]
struct Measure {
    task: Arc<str>,
    generation: u64,
    source: Option<u32>,
}

#[derive(Debug, PartialEq)]
struct Look {
    task: Arc<str>,
    index: u32,
    epoch: u64,
    generation: u64,
    run: u64,
    standby: bool,
    starts: bool,
}

/// Specs whose secrets are open.
type Opened<'a> = BTreeMap<&'a str, TaskSpec>;

impl<S: Store> Engine<S> {
    /// Decides what every agent shall do; those for which it is something new are told.
    pub(super) fn tell(&self, world: &mut World, rings: &mut Rings<'_>) {
        let at: HashMap<&str, usize> =
            rings.agents.iter().enumerate().map(|(at, agent)| (agent.name.as_str(), at)).collect();
        let mut all: Vec<Orders> = rings.agents.iter().map(|_| Orders::default()).collect();
        let connected = rings.agents.iter().filter(|agent| agent.connected).count();
        let World { tasks, agents, moves, .. } = world;
        for held in tasks.values_mut() {
            let task = held.view();
            let order = directive(task.state(), held.stored.releasing);
            for shard in task.shards.iter().filter(|_| order.is_some()) {
                let theirs = |session: &&Session| held.is_with(shard, &session.instance_id);
                let Some(at) = at.get(shard.agent_id.as_str()) else { continue };
                if agents.get(&shard.agent_id).filter(theirs).is_some() && !moves.is_leaving(&held.id, shard.index) {
                    all[*at].runs.push(Run {
                        task: held.id.clone(),
                        index: shard.index,
                        epoch: shard.epoch,
                        generation: task.generation,
                        directive: order.unwrap_or_default(),
                        resync: held.stored.resync.contains(&shard.index),
                        verify: held.runs.order(shard.index, shard.epoch),
                        switch_over: switch_order(task, shard),
                        guard: if shard.index == 0 { held.stored.guard.clone() } else { String::new() },
                    });
                }
            }
            // Where there is no choice nothing has to be measured.
            if connected > 1 && !is_settled(task) {
                measures(held, rings, &at, &mut all);
            }
            held.standbys = looks(held, rings, &at, &mut all);
        }
        let report_interval_ms = interval_ms(connected, self.lease_ttl);
        for (session, mut orders) in agents.values_mut().zip(all) {
            orders.report_interval_ms = report_interval_ms;
            if session.orders != orders || *session.told.borrow() == 0 {
                if session.orders.measures != orders.measures {
                    session.asked = orders.measures.iter().filter_map(|measure| asked(tasks, measure)).collect();
                }
                session.orders = orders;
                session.told.send_modify(|told| *told += 1);
            }
        }
    }

    /// All that an agent shall do, for the session to which `told` was given; `None`: another has taken its place.
    pub async fn desired(&self, agent_id: &str, told: &watch::Receiver<u64>) -> Result<Option<DesiredState>> {
        let world = self.world.lock().await;
        let Some(session) = world.agents.get(agent_id).filter(|session| session.listens(told)) else {
            return Ok(None);
        };
        let orders = &session.orders;
        let mut opened = Opened::new();
        let mut desired = DesiredState {
            revision: *session.told.borrow(),
            report_interval_ms: orders.report_interval_ms,
            ..DesiredState::default()
        };
        for run in &orders.runs {
            desired.assignments.extend(self.run(&world, &mut opened, run, agent_id)?);
        }
        for measure in &orders.measures {
            desired.probes.extend(self.measure(&world, &mut opened, measure)?);
        }
        for look in &orders.looks {
            let Some(held) = world.tasks.get(&*look.task) else { continue };
            let Some(shard) = held.shard(look.index).filter(|shard| shard.epoch == look.epoch) else { continue };
            let spec = self.opened(&mut opened, held)?;
            desired.checks.extend(held.order(spec, shard, look.standby));
        }
        let told =
            desired.assignments.iter().chain(desired.checks.iter().filter_map(|check| check.assignment.as_ref()));
        let told: BTreeSet<&str> = told.map(|assignment| assignment.task_id.as_str()).collect();
        let many = opened.iter().filter(|(id, spec)| told.contains(*id) && has_many_sources(spec));
        let sources = many.map(|(id, spec)| TaskSources { task_id: (*id).to_owned(), sources: spec.sources.clone() });
        desired.sources = sources.collect();
        Ok(Some(desired))
    }

    fn opened<'a, 'b>(&self, opened: &'b mut Opened<'a>, held: &'a Held) -> Result<&'b TaskSpec> {
        let id: &str = &held.id;
        if !opened.contains_key(id) {
            let mut spec = held.view().spec.clone().unwrap_or_default();
            self.sealer.unseal(&mut spec)?;
            opened.insert(id, spec);
        }
        Ok(&opened[id])
    }

    fn run<'a>(
        &self,
        world: &'a World,
        opened: &mut Opened<'a>,
        run: &Run,
        agent_id: &str,
    ) -> Result<Option<Assignment>> {
        let Some(held) = world.tasks.get(&*run.task) else { return Ok(None) };
        let theirs = |shard: &&Shard| shard.epoch == run.epoch && shard.agent_id == agent_id;
        let Some(shard) = held.shard(run.index).filter(theirs) else { return Ok(None) };
        // It may have been paused since; then there is more to be told soon.
        let Some(directive) = directive(held.view().state(), held.stored.releasing) else { return Ok(None) };
        let spec = self.opened(opened, held)?;
        Ok(Some(Assignment {
            directive: directive.into(),
            traceparent: held.traces.get(&shard.index).cloned().unwrap_or_default(),
            resync: held.stored.resync.contains(&shard.index),
            verify: held.runs.order(shard.index, shard.epoch),
            switch_over: switch_order(held.view(), shard),
            guard_rules: if shard.index == 0 { self.guard_rules(held)? } else { None },
            ..assignment(&held.id, spec, shard)
        }))
    }

    fn measure<'a>(&self, world: &'a World, opened: &mut Opened<'a>, measure: &Measure) -> Result<Option<Probe>> {
        let Some(held) = world.tasks.get(&*measure.task) else { return Ok(None) };
        let id = probe_id(held.view(), measure.source);
        let spec = self.opened(opened, held)?;
        let endpoint = server(spec, measure.source).cloned();
        Ok(endpoint.map(|endpoint| Probe { id, endpoint: Some(endpoint), source: measure.source.is_some() }))
    }
}

fn switch_order(task: &Task, shard: &Shard) -> Option<SwitchOverOrder> {
    task.switch_over.as_ref().and_then(|switch| crate::switch::order(switch, shard.index))
}

/// A source, or the target.
fn server(spec: &TaskSpec, source: Option<u32>) -> Option<&Endpoint> {
    match source {
        Some(index) => usize::try_from(index).ok().and_then(|index| spec.sources.get(index)),
        None => spec.target.as_ref(),
    }
}

fn asked(tasks: &BTreeMap<String, Held>, measure: &Measure) -> Option<Asked> {
    let task = tasks.get(&*measure.task)?.view();
    let endpoint = server(task.spec.as_ref()?, measure.source)?;
    Some(Asked {
        probe_id: probe_id(task, measure.source),
        task_id: task.id.clone(),
        end: measure.source.map_or("target".to_owned(), |index| format!("source {index}")),
        address: format!("{}:{}", endpoint.host, endpoint.port),
    })
}

/// The servers of shards that an agent's labels allow it to run. Others it does not get to know.
fn measures(held: &Held, rings: &mut Rings<'_>, at: &HashMap<&str, usize>, all: &mut [Orders]) {
    let task = held.view();
    let measure = |source| Measure { task: held.id.clone(), generation: task.generation, source };
    let mut ask = |at: usize, source| {
        if all[at].measures.len() < MOST_PROBES {
            all[at].measures.push(measure(source));
        }
    };
    let mut target_too = BTreeSet::new();
    for shard in &task.shards {
        let mut wanted = describe(task, shard);
        wanted.on.clone_from(&shard.agent_id);
        let chosen = match at.get(shard.pinned_to.as_str()) {
            _ if shard.pinned_to.is_empty() => rings.measurers(&wanted),
            Some(at) if crate::placement::admits(&rings.agents[*at], &wanted) => vec![*at],
            _ => Vec::new(),
        };
        for at in chosen {
            ask(at, Some(shard.index));
            target_too.insert(at);
        }
    }
    target_too.into_iter().for_each(|at| ask(at, None));
}

/// Who looks at which shard in a run that is going on; gives those that do so without being the one to run it.
fn looks(
    held: &Held,
    rings: &mut Rings<'_>,
    at: &HashMap<&str, usize>,
    all: &mut [Orders],
) -> HashMap<u32, Vec<String>> {
    let Some(run) = held.running().filter(|_| !held.unsure) else { return HashMap::new() };
    let task = held.view();
    let mut standbys = HashMap::new();
    for shard in task.shards.iter().filter(|shard| !shard.agent_id.is_empty()) {
        let free =
            |agent: &crate::placement::Candidate| !agent.cordoned && !agent.draining && agent.name != shard.agent_id;
        let others = rings.some(&describe(task, shard), STANDBYS, free);
        let look = |standby| Look {
            task: held.id.clone(),
            index: shard.index,
            epoch: shard.epoch,
            generation: task.generation,
            run: run.number,
            standby,
            starts: held.stored.start_when_passed,
        };
        if let Some(at) = at.get(shard.agent_id.as_str()) {
            all[*at].looks.push(look(false));
        }
        others.iter().for_each(|at| all[*at].looks.push(look(true)));
        standbys.insert(shard.index, others.into_iter().map(|at| rings.agents[at].name.clone()).collect());
    }
    standbys
}

/// How often each of so many agents reports; 0: as it was told when it came. In steps, so that an agent more is no news to the others.
fn interval_ms(agents: usize, lease: Duration) -> u32 {
    let wanted = u64::try_from(agents).unwrap_or(u64::MAX).saturating_mul(1000) / REPORTS;
    if wanted <= OFTEN {
        return 0;
    }
    let most = u64::try_from(lease.as_millis()).unwrap_or(u64::MAX) / 4;
    u32::try_from(wanted.next_power_of_two().min(most)).unwrap_or(u32::MAX)
}

fn is_settled(task: &Task) -> bool {
    matches!(task.state(), TaskState::Completed | TaskState::Cancelled | TaskState::Failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_fleet_reports_less_often_but_well_within_the_lease() {
        let lease = Duration::from_secs(10);
        assert_eq!(
            [1, 100, 101, 300, 1000, 100_000].map(|agents| interval_ms(agents, lease)),
            [0, 0, 256, 1024, 2500, 2500]
        );
        assert_eq!(interval_ms(1000, Duration::from_secs(2)), 500);
    }
}
