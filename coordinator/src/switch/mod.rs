//! Switch-overs of tasks: what comes next, and what the holder of a shard is told. Pure.

mod next;
mod order;

pub use next::{Next, Seen, next};
pub use order::{order, take};

use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{
    HoldMethod, SourceKind, SwitchOver, SwitchOverPhase, SwitchOverSpec, SwitchOverStep, TaskSpec, Topology, VerifyMode,
};

/// If the request does not say.
const HOLD_FOR_MS: u32 = 30_000;
const SHORTEST_MS: u32 = 1000;
const LONGEST_MS: u32 = 600_000;

/// With its defaults, if it can be done.
pub fn checked(spec: SwitchOverSpec, task: &TaskSpec) -> Result<SwitchOverSpec> {
    let wrong = |what: &str| Err(Error::new(Code::InvalidRequest, what));
    let hold_for_ms = if spec.hold_for_ms == 0 { HOLD_FOR_MS } else { spec.hold_for_ms };
    if !(SHORTEST_MS..=LONGEST_MS).contains(&hold_for_ms) {
        return wrong("spec.hold_for_ms has to be 1000 to 600000");
    }
    if spec.hold_method() == HoldMethod::Acl && (spec.writers_stopped || spec.leave_open) {
        return wrong("spec.hold_method ACL closes the source: not with writers_stopped or leave_open");
    }
    let counts = [spec.verify(), spec.verify_before()].contains(&VerifyMode::Count);
    if counts && task.sources.len() > 1 {
        return wrong("mode count compares a target with its only source");
    }
    Ok(SwitchOverSpec { hold_for_ms, ..spec })
}

/// True if one task can go the other way: into one server or one cluster. What stands against it besides is found by the agents, who look.
pub fn may_keep_way_back(task: &TaskSpec) -> bool {
    match task.topology.as_ref().map(Topology::kind).unwrap_or_default() {
        SourceKind::Cluster => true,
        SourceKind::Codis | SourceKind::Twemproxy => false,
        _ => task.sources.len() == 1,
    }
}

/// What is still to be done, by one shard for all, between the release of the last one and the moment at which clients may come.
pub fn left_to_do(switch: &SwitchOver) -> Option<SwitchOverStep> {
    if !switch.shards.iter().all(|shard| shard.finished) {
        return Some(SwitchOverStep::Finish);
    }
    if !switch.way_back_task_id.is_empty() && switch.turned.is_none() {
        return Some(SwitchOverStep::Turn);
    }
    (!switch.opens.is_empty() && switch.opened.is_none()).then_some(SwitchOverStep::Open)
}

/// How long writes may be held.
pub fn hold_for(switch: &SwitchOver) -> Duration {
    Duration::from_millis(switch.spec.unwrap_or_default().hold_for_ms.into())
}

/// True until it is done, rehearsed or returned.
pub fn goes_on(switch: &SwitchOver) -> bool {
    use SwitchOverPhase as P;
    !matches!(switch.phase(), P::Unspecified | P::Done | P::Rehearsed | P::Returned)
}

/// True as long as everything can still go back by itself.
pub fn may_return(switch: &SwitchOver) -> bool {
    goes_on(switch) && switch.phase() != SwitchOverPhase::Completing
}
