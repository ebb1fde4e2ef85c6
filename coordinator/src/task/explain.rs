//! Why a task is where it is, in words.

use dts_proto::v1::{Explanation, Possibility, ShardPhase, Task, TaskAction, TaskState};

use TaskAction as A;
use TaskState as S;

/// Every action that a person may ask for.
const ACTIONS: &[TaskAction] = &[
    A::Update,
    A::Test,
    A::Check,
    A::CancelCheck,
    A::Acknowledge,
    A::Start,
    A::Schedule,
    A::Unschedule,
    A::Pause,
    A::Resume,
    A::Retry,
    A::Resync,
    A::Complete,
    A::Abort,
    A::Cancel,
    A::Clone,
    A::Delete,
];

/// What a state means.
pub fn meaning(state: TaskState) -> &'static str {
    match state {
        S::Unspecified => "unknown",
        S::Created => "it is stored, and its servers have not been reached yet",
        S::Configured => "its servers were reached by the connectivity test",
        S::Checking => "agents check source and target; nothing is written",
        S::CheckPassed => "the check found nothing that blocks",
        S::CheckFailed => "the check found something that blocks; nothing was written",
        S::Scheduled => "it is armed for a time",
        S::Verifying => "it starts: source and target are looked at once more",
        S::Preparing => "its agents raise the fence on the target and ask the source",
        S::FullSync => "the snapshot is being copied",
        S::IncrSync => "the source's changes are being applied",
        S::Paused => "somebody paused it; the position stays on the target",
        S::Interrupted => "something failed, and is tried again by itself",
        S::NeedsDecision => "something failed that does not mend itself; the position stays on the target",
        S::Completing => "the target reaches the source's last offset, then our keys are removed",
        S::Completed => "everything was moved, and nothing of ours is left on source and target",
        S::Cancelling => "it was given up; our keys are being removed from the target",
        S::Cancelled => "it was given up; what was copied stays on the target, nothing of ours does",
        S::Failed => "it ended: the target is somebody else's",
    }
}

/// What an action does.
fn effect(action: TaskAction) -> &'static str {
    match action {
        A::Unspecified => "",
        A::Update => "changes the task; before its start everything, which voids check, acknowledgements and schedule",
        A::Test => "tries every server from the agents",
        A::Check => "runs every check",
        A::CancelCheck => "ends the check that is running",
        A::Acknowledge => "takes the check's warnings upon oneself",
        A::Start => "starts it; if it was not checked, tests and checks it first",
        A::Schedule => "starts it at a time",
        A::Unschedule => "takes the schedule back",
        A::Pause => "stops it, keeping the position",
        A::Resume => "goes on from the position on the target",
        A::Retry => "tries again at once",
        A::Resync => "copies everything again over what the target holds",
        A::Complete => "ends the synchronisation at the source's offset of now",
        A::Abort => "goes on following instead of completing; everything is copied again",
        A::Cancel => "gives it up; what was copied stays",
        A::Clone => "makes a new task of the same spec",
        A::Delete => "forgets it",
    }
}

/// What the task waits for.
fn waits_for(task: &Task) -> String {
    let shards = task.shards.len();
    let count = |phases: &[ShardPhase]| {
        let there = |shard: &&dts_proto::v1::Shard| {
            shard.status.as_ref().is_some_and(|status| phases.contains(&status.phase()))
        };
        task.shards.iter().filter(there).count()
    };
    let unplaced = task.shards.iter().filter(|shard| shard.agent_id.is_empty()).count();
    let check = task.check.clone().unwrap_or_default();
    match task.state() {
        S::Created if task.spec.as_ref().is_none_or(|spec| spec.target.is_none()) => {
            "sources and target to be named".into()
        }
        S::Created => "a connectivity test that passes, or a start".into(),
        S::Configured => "a check, or a start".into(),
        S::CheckPassed if !check.unacknowledged.is_empty() => {
            format!("somebody to acknowledge {}", check.unacknowledged.join(", "))
        }
        S::CheckPassed => "a start, or a schedule".into(),
        S::CheckFailed => "what the reason names to be mended, then another check".into(),
        S::Scheduled => format!("its time, {}", task.schedule.clone().unwrap_or_default().start_at),
        S::Checking | S::Verifying | S::Preparing | S::FullSync | S::IncrSync | S::Completing | S::Cancelling
            if unplaced > 0 =>
        {
            format!("an agent to take {unplaced} of {shards} shards")
        }
        S::Checking => "the agents' findings".into(),
        S::Verifying => format!("{} of {shards} shards to be looked at", shards - count(&[ShardPhase::Verified])),
        S::Preparing => "the sources' answers".into(),
        S::FullSync => {
            let done = count(&[ShardPhase::CatchingUp, ShardPhase::Streaming]);
            format!("the copies of {} of {shards} shards", shards - done)
        }
        S::IncrSync if task.ready_to_complete => "a completion, whenever it suits".into(),
        S::IncrSync => format!("{} of {shards} shards to catch up", shards - count(&[ShardPhase::Streaming])),
        S::Paused => "to be resumed, before the source's backlog runs out".into(),
        S::Interrupted => "the next attempt, which comes by itself".into(),
        S::NeedsDecision => "a person: resume when it is mended, resync to copy again, or cancel".into(),
        S::Completing => format!("{} of {shards} shards to drain", shards - count(&[ShardPhase::Drained])),
        S::Cancelling => "our keys to be removed".into(),
        S::Completed | S::Cancelled | S::Failed | S::Unspecified => String::new(),
    }
}

/// All of it, of a task as it is shown.
pub fn explain(task: &Task) -> Explanation {
    let state = task.state();
    let mut why = meaning(state).to_owned();
    if let Some(reason) = &task.reason {
        why += &format!(": {} ({}): {}", reason.message, reason.code, reason.fix);
    }
    let allowed: Vec<TaskAction> = task.allowed_actions().collect();
    let possibility = |action: &TaskAction| {
        let may = allowed.contains(action);
        let message = if may { effect(*action).to_owned() } else { refusal(state, *action) };
        Possibility { action: (*action).into(), allowed: may, message }
    };
    let actions = ACTIONS.iter().map(possibility).collect();
    Explanation { state: state.into(), why, waits_for: waits_for(task), actions }
}

/// Why not.
fn refusal(state: TaskState, action: TaskAction) -> String {
    let within: Vec<&str> = super::TABLE
        .iter()
        .filter(|(_, actions, _)| actions.contains(&action))
        .map(|(state, ..)| state.as_str_name().trim_start_matches("TASK_STATE_"))
        .collect();
    let now = state.as_str_name().trim_start_matches("TASK_STATE_");
    format!("not in {now}: only in {}", within.join(", "))
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::{CheckSummary, Shard};

    use super::*;
    use crate::task::{TABLE, actions};

    #[test]
    fn every_action_of_the_table_is_explained_and_none_else() {
        for (_, allowed, _) in TABLE {
            assert!(allowed.iter().all(|action| ACTIONS.contains(action)));
        }
        for action in ACTIONS {
            assert!(TABLE.iter().any(|(_, allowed, _)| allowed.contains(action)), "{action:?} is never allowed");
        }
    }

    #[test]
    fn it_says_what_is_missing() {
        let mut task = Task { state: S::CheckPassed.into(), ..Task::default() };
        let check = CheckSummary { unacknowledged: vec!["dst.eviction".into()], ..CheckSummary::default() };
        task.check = Some(check);
        assert!(explain(&task).waits_for.contains("dst.eviction"));
        let running = Task { state: S::FullSync.into(), shards: vec![Shard::default()], ..Task::default() };
        assert!(explain(&running).waits_for.contains("an agent"));
    }

    #[test]
    fn the_documented_table_is_the_one_in_force() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/task-life.md");
        let text = std::fs::read_to_string(path).unwrap();
        for (state, allowed, _) in TABLE {
            let name = state.as_str_name().trim_start_matches("TASK_STATE_");
            let actions: Vec<String> = allowed
                .iter()
                .map(|action| action.as_str_name().trim_start_matches("TASK_ACTION_").to_lowercase().replace('_', " "))
                .collect();
            let row = format!("| {name} | {} | {} |", meaning(*state), actions.join(", "));
            assert!(text.lines().any(|line| line.starts_with(&row)), "docs/task-life.md lacks: {row}");
        }
        assert!(actions(S::Verifying, false) == [A::Cancel]);
    }
}
