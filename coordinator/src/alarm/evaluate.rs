//! What holds now, of all that the policies name.

mod elsewhere;
mod of_task;

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use dts_common::selection::glob;
use dts_proto::v1::{Agent, Alarm, AlarmKind, AlarmNeed, AlarmPolicy, Reason, Task, TaskSelector, TaskState};

use self::elsewhere::{certificates, lost_agents};
use self::of_task::tasks;

/// What there is to look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct World<'a> {
    pub(super) tasks: &'a [Task],
    pub(super) agents: &'a [Agent],
    /// Tasks whose last verification found differences, and its number.
    pub(super) differing: &'a BTreeMap<String, u64>,
    /// Files and until when they are good.
    pub(super) certificates: &'a [(String, SystemTime)],
    pub(super) now: SystemTime,
}

/// Tells one alarm from another.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) policy: String,
    pub(super) kind: AlarmKind,
    pub(super) task: String,
    pub(super) about: String,
}

impl Key {
    /// Of an alarm.
    pub(super) fn of(alarm: &Alarm) -> Self {
        Self {
            policy: alarm.policy_id.clone(),
            kind: alarm.kind(),
            task: alarm.task_id.clone(),
            about: alarm.about.clone(),
        }
    }
}

/// Something that holds.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Condition {
    pub(super) key: Key,
    pub(super) need: AlarmNeed,
    pub(super) task_name: String,
    pub(super) message: String,
    pub(super) reason: Option<Reason>,
    /// How long it has to hold.
    pub(super) hold: Duration,
}

/// Everything that holds.
pub(super) fn conditions(policies: &[AlarmPolicy], world: World<'_>) -> Vec<Condition> {
    let mut found = Vec::new();
    for policy in policies.iter().filter(|policy| !policy.disabled) {
        for trigger in &policy.triggers {
            match trigger.kind() {
                AlarmKind::AgentLost => found.extend(lost_agents(policy, trigger, world)),
                AlarmKind::Certificate => found.extend(certificates(policy, trigger, world)),
                _ => found.extend(tasks(policy, trigger, world)),
            }
        }
    }
    found
}

/// True if an alarm that is on can neither be confirmed nor resolved now: the shards that it is about have not been heard yet.
pub(super) fn is_unknown(alarm: &Alarm, world: World<'_>) -> bool {
    let heard_only =
        matches!(alarm.kind(), AlarmKind::Lag | AlarmKind::Backlog | AlarmKind::ForeignWrites | AlarmKind::ReplayShort);
    let task = world.tasks.iter().find(|task| task.id == alarm.task_id);
    heard_only && task.is_some_and(|task| runs(task) && task.shards.iter().any(|shard| shard.status.is_none()))
}

fn selects(selector: Option<&TaskSelector>, task: &Task) -> bool {
    let Some(TaskSelector { ids, names }) = selector.filter(|all| !all.ids.is_empty() || !all.names.is_empty()) else {
        return true;
    };
    let name = task.spec.as_ref().map(|spec| spec.name.as_str()).unwrap_or_default();
    ids.contains(&task.id) || names.iter().any(|pattern| glob::fits(pattern.as_bytes(), name.as_bytes()))
}

/// In a state in which its shards are to report.
fn runs(task: &Task) -> bool {
    use TaskState as S;
    matches!(task.state(), S::Preparing | S::FullSync | S::IncrSync | S::Interrupted | S::Completing)
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::{AlarmTrigger, Pace, Shard, ShardPhase, ShardStatus, TaskSpec};

    use super::*;

    pub(super) static NONE: BTreeMap<String, u64> = BTreeMap::new();

    pub(super) fn nothing() -> World<'static> {
        World { tasks: &[], agents: &[], differing: &NONE, certificates: &[], now: SystemTime::now() }
    }

    pub(super) fn policy(kind: AlarmKind, threshold_seconds: u32) -> AlarmPolicy {
        let trigger = AlarmTrigger { kind: kind.into(), threshold_seconds, ..AlarmTrigger::default() };
        AlarmPolicy { id: "p".into(), triggers: vec![trigger], ..AlarmPolicy::default() }
    }

    pub(super) fn task(state: TaskState, pace: Option<Pace>) -> Task {
        let status = pace.map(|pace| ShardStatus {
            pace: Some(pace),
            phase: ShardPhase::Streaming.into(),
            ..ShardStatus::default()
        });
        Task {
            id: "t".into(),
            spec: Some(TaskSpec { name: "orders-eu".into(), ..TaskSpec::default() }),
            state: state.into(),
            shards: vec![Shard { status, ..Shard::default() }],
            ..Task::default()
        }
    }

    pub(super) fn holds(policy: &AlarmPolicy, task: &Task) -> Vec<Condition> {
        let tasks = [task.clone()];
        let world = World { tasks: &tasks, ..nothing() };
        conditions(std::slice::from_ref(policy), world)
    }

    #[test]
    fn a_policy_is_for_the_tasks_that_it_selects() {
        for (ids, names, selected) in [
            (vec![], vec![], true),
            (vec!["t"], vec![], true),
            (vec![], vec!["orders-*"], true),
            (vec!["u"], vec!["x*"], false),
        ] {
            let own = |texts: Vec<&str>| texts.into_iter().map(str::to_owned).collect();
            let tasks = Some(TaskSelector { ids: own(ids), names: own(names) });
            let of = AlarmPolicy { tasks, ..policy(AlarmKind::Failed, 0) };
            assert_eq!(holds(&of, &task(TaskState::Failed, None)).len() == 1, selected, "{of:?}");
            assert!(holds(&AlarmPolicy { disabled: true, ..of }, &task(TaskState::Failed, None)).is_empty());
        }
    }

    #[test]
    fn a_shard_that_nobody_has_heard_yet_neither_raises_a_lag_nor_ends_one() {
        let silent = [task(TaskState::IncrSync, None)];
        let world = World { tasks: &silent, ..nothing() };
        let alarm = Alarm { kind: AlarmKind::Lag.into(), task_id: "t".into(), ..Alarm::default() };
        assert!(is_unknown(&alarm, world));
        assert!(conditions(&[policy(AlarmKind::Lag, 1)], world).is_empty());
        let degraded = conditions(&[policy(AlarmKind::Degraded, 0)], world);
        assert_eq!(degraded.first().map(|found| found.hold), Some(of_task::FIRST_REPORT));
        let paused = [task(TaskState::Paused, None)];
        assert!(!is_unknown(&alarm, World { tasks: &paused, ..world }));
    }
}
