//! What agents measured, and what follows from it for the places of shards.

use std::collections::BTreeMap;

use dts_common::error::Code;
use dts_proto::v1::{self, ShardPhase, Task};

use super::fleet::Session;
use super::ring::Rings;
use crate::placement::{Wanted, Way};

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
    for (name, session) in agents.iter().filter(|(_, session)| !session.reaches.is_empty()) {
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

/// True if several agents could take the shard, and one that measures for it has not told how it reaches its servers.
pub(super) fn unmeasured(wanted: &Wanted, rings: &mut Rings<'_>) -> bool {
    if !wanted.pinned_to.is_empty() {
        return false;
    }
    let agents = rings.agents;
    let able: Vec<_> =
        rings.measurers(wanted).into_iter().map(|at| &agents[at]).filter(|agent| !agent.cordoned).collect();
    able.len() > 1 && able.iter().any(|agent| !wanted.ways.contains_key(&agent.name))
}

pub(super) fn probe_id(task: &Task, source: Option<u32>) -> String {
    let end = source.map_or("target".to_owned(), |index| format!("source {index}"));
    format!("{}/{}/{end}", task.id, task.generation)
}
