//! What agents are asked to measure, and what follows from it for the places of shards.

use std::collections::BTreeMap;

use dts_common::error::Code;
use dts_proto::v1::{self, Endpoint, Probe, ShardPhase, Task, TaskSpec};

use super::Held;
use super::assign::describe;
use super::fleet::{Asked, Session};
use crate::placement::{self, Candidate, Wanted, Way};

/// What one agent is asked to measure at most.
const MOST_PROBES: usize = 256;

/// A connection is missing, and that is what is being retried.
pub(super) fn cut_off(status: &v1::ShardStatus) -> bool {
    let source = [Code::SourceUnreachable, Code::SourceLost, Code::SourceTls];
    let codes = [&source[..], &[Code::TargetUnreachable, Code::TargetLost, Code::TargetTls]].concat();
    let reason = status.reason.as_ref().map(|reason| reason.code.as_str()).unwrap_or_default();
    status.phase() == ShardPhase::Retrying && codes.iter().any(|code| code.as_str() == reason)
}

/// What agents found out about the servers of this shard.
pub(super) fn ways(wanted: &mut Wanted, task: &Task, agents: &BTreeMap<String, Session>) {
    let ends = [probe_id(task, Some(wanted.index)), probe_id(task, None)];
    let both = |session: &Session| {
        let [source, target] = ends.each_ref().map(|id| session.reaches.get(id).cloned());
        (source, target)
    };
    let mut cut_since = None;
    let mut open = Vec::new();
    for (name, session) in agents {
        let (source, target) = both(session);
        let cut = [("source", &source), ("target", &target)].into_iter().find_map(|(what, found)| {
            let (reach, at) = found.as_ref().filter(|(reach, _)| !reach.reached)?;
            let why = reach.reason.clone().unwrap_or_default();
            Some((format!("it does not reach the {what}: {} ({})", why.message, why.code), *at))
        });
        if let Some((why, at)) = cut {
            if *name == wanted.on {
                cut_since = Some(at);
            }
            wanted.ways.insert(name.clone(), Way::Cut(why));
        } else if let (Some((source, source_at)), Some((target, target_at))) = (source, target) {
            let both = source.round_trip_us.saturating_add(target.round_trip_us);
            open.push((name.clone(), both, source_at.min(target_at)));
        }
    }
    wanted.stuck &= cut_since.is_some();
    // A server that went down was reachable before, for others too: only what was found since tells the two apart.
    open.retain(|(_, _, at)| !wanted.stuck || cut_since.is_none_or(|since| *at > since));
    wanted.ways.extend(open.into_iter().map(|(name, both, _)| (name, Way::Open(both))));
}

/// True if several agents could take the shard, and one of them has not told how it reaches its servers.
pub(super) fn unmeasured(wanted: &Wanted, candidates: &[Candidate]) -> bool {
    let able = |agent: &&Candidate| agent.connected && !agent.cordoned && placement::admits(agent, wanted);
    let able: Vec<&Candidate> = candidates.iter().filter(able).collect();
    able.len() > 1 && wanted.pinned_to.is_empty() && able.iter().any(|agent| !wanted.ways.contains_key(&agent.name))
}

fn probe_id(task: &Task, source: Option<u32>) -> String {
    let end = source.map_or("target".to_owned(), |index| format!("source {index}"));
    format!("{}/{}/{end}", task.id, task.generation)
}

/// What this agent shall measure: the servers of every shard that its labels allow it to run. Others it does not get to know.
pub(super) fn probes(agent: &Candidate, opened: &[(&Held, TaskSpec)]) -> Vec<(Probe, Asked)> {
    let mut all = Vec::new();
    for (held, spec) in opened {
        let Some(task) = &held.stored.task else { continue };
        let mut target_too = false;
        let mut ask = |source: Option<u32>, endpoint: Option<&Endpoint>| {
            let Some(endpoint) = endpoint else { return };
            let end = source.map_or("target".to_owned(), |index| format!("source {index}"));
            let address = format!("{}:{}", endpoint.host, endpoint.port);
            let id = probe_id(task, source);
            let asked = Asked { probe_id: id.clone(), task_id: task.id.clone(), end, address };
            all.push((Probe { id, endpoint: Some(endpoint.clone()), source: source.is_some() }, asked));
        };
        for shard in &task.shards {
            let fits = shard.pinned_to.is_empty() || shard.pinned_to == agent.name;
            if fits && placement::admits(agent, &describe(task, shard)) {
                ask(Some(shard.index), usize::try_from(shard.index).ok().and_then(|index| spec.sources.get(index)));
                target_too = true;
            }
        }
        if target_too {
            ask(None, spec.target.as_ref());
        }
    }
    all.truncate(MOST_PROBES);
    all
}
