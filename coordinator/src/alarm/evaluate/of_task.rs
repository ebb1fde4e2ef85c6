//! What holds of a task and its shards.

use std::time::Duration;

use dts_proto::v1::{AlarmKind, AlarmNeed, AlarmPolicy, AlarmTrigger, Pace, Reason, ShardPhase, Task, TaskState};

use super::{Condition, Key, World, runs, selects};

/// A shard that has just been given to an agent has not reported yet: no trouble before this.
pub(super) const FIRST_REPORT: Duration = Duration::from_secs(5);
/// How long a window lasts moves with every burst of writes: what holds for less is no news.
const OUTLASTS_A_BURST: Duration = Duration::from_secs(30);

pub(super) fn tasks<'a>(
    policy: &'a AlarmPolicy,
    trigger: &'a AlarmTrigger,
    world: World<'a>,
) -> impl Iterator<Item = Condition> + 'a {
    world.tasks.iter().filter(|task| selects(policy.tasks.as_ref(), task)).filter_map(move |task| {
        let (need, message) = of_task(trigger, task, world)?;
        let hold = Duration::from_secs(trigger.for_seconds.into());
        let least = match trigger.kind() {
            AlarmKind::Degraded => FIRST_REPORT,
            AlarmKind::ReplayShort => OUTLASTS_A_BURST,
            _ => Duration::ZERO,
        };
        Some(Condition {
            key: Key { policy: policy.id.clone(), kind: trigger.kind(), task: task.id.clone(), about: String::new() },
            need,
            task_name: task.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default(),
            message,
            reason: task.reason.clone().map(without_detail),
            hold: hold.max(least),
        })
    })
}

/// The words of a reason may name a user's key, and alarms leave the house.
fn without_detail(reason: Reason) -> Reason {
    Reason { message: String::new(), ..reason }
}

fn of_task(trigger: &AlarmTrigger, task: &Task, world: World<'_>) -> Option<(AlarmNeed, String)> {
    let code = task.reason.as_ref().map(|reason| format!(": {}", reason.code)).unwrap_or_default();
    let (need, message) = match trigger.kind() {
        AlarmKind::Interrupted if task.state() == TaskState::Interrupted => {
            (AlarmNeed::WillRetry, format!("the task is interrupted and retries{code}"))
        }
        AlarmKind::Failed if matches!(task.state(), TaskState::Failed | TaskState::CheckFailed) => {
            (AlarmNeed::NeedsYou, format!("the task failed{code}"))
        }
        AlarmKind::NeedsDecision if task.state() == TaskState::NeedsDecision => {
            (AlarmNeed::NeedsYou, format!("the task waits for a decision{code}"))
        }
        AlarmKind::Lag if runs(task) => (AlarmNeed::WillRetry, lag(trigger, task)?),
        AlarmKind::Backlog if runs(task) => (AlarmNeed::NeedsYou, backlog(trigger, task)?),
        AlarmKind::Degraded if runs(task) => (AlarmNeed::WillRetry, degraded(task)?),
        AlarmKind::ForeignWrites if runs(task) => (AlarmNeed::NeedsYou, foreign_writes(task)?),
        AlarmKind::ReplayShort if runs(task) => (AlarmNeed::NeedsYou, replay_short(task)?),
        AlarmKind::VerificationMismatch => {
            let number = world.differing.get(&task.id)?;
            (AlarmNeed::NeedsYou, format!("verification {number} found that source and target differ"))
        }
        _ => return None,
    };
    Some((need, message))
}

/// The paces of its shards, with their indices.
fn paces(task: &Task) -> impl Iterator<Item = (u32, &Pace)> {
    task.shards.iter().filter_map(|shard| Some((shard.index, shard.status.as_ref()?.pace.as_ref()?)))
}

fn lag(trigger: &AlarmTrigger, task: &Task) -> Option<String> {
    let (ms, bytes) = (u64::from(trigger.threshold_seconds) * 1000, trigger.threshold_bytes);
    let mut worst: Option<(u64, u64, u32)> = None;
    for (index, pace) in paces(task) {
        let hops = [pace.received, pace.applied].map(Option::unwrap_or_default);
        let (lag_ms, lag_bytes) = (hops[0].lag_ms.max(hops[1].lag_ms), hops[0].lag_bytes + hops[1].lag_bytes);
        if (ms > 0 && lag_ms > ms) || (bytes > 0 && lag_bytes > bytes) {
            worst = worst.max(Some((lag_ms, lag_bytes, index)));
        }
    }
    let (lag_ms, lag_bytes, index) = worst?;
    Some(format!("shard {index} is {} s and {lag_bytes} bytes behind", lag_ms / 1000))
}

fn backlog(trigger: &AlarmTrigger, task: &Task) -> Option<String> {
    let least = paces(task).filter_map(|(index, pace)| Some((pace.backlog_left_ms?, index))).min();
    let (left, index) = least.filter(|(left, _)| *left < u64::from(trigger.threshold_seconds) * 1000)?;
    Some(format!(
        "the source's backlog of shard {index} loses the position in {} s: raise repl-backlog-size on the source, or make the target faster",
        left / 1000
    ))
}

/// The addresses of clients are not secrets; their keys are, and no one sees those here.
fn foreign_writes(task: &Task) -> Option<String> {
    let guard = task.shards.iter().find_map(|shard| shard.status.as_ref()?.guard.as_ref())?;
    let by = guard.foreign_clients.join(", ");
    guard.recent.then(|| format!("somebody else writes to the target ({} writes so far; {by})", guard.foreign_writes))
}

/// The shard that can be given least.
fn replay_short(task: &Task) -> Option<String> {
    let replays = task.shards.iter().filter_map(|shard| Some((shard.index, shard.status.as_ref()?.replay.as_ref()?)));
    let (index, replay) = replays.filter(|(_, replay)| replay.short).min_by_key(|(_, replay)| replay.lasts_ms)?;
    let loses = match replay.loss_ms {
        Some(ms) => format!("its last {} s (appendfsync {})", ms / 1000, replay.target_keeps),
        None => "all since its last snapshot (it has no append-only file)".to_owned(),
    };
    let has = match replay.lasts_ms {
        Some(ms) => format!("the last {}.{} s", ms / 1000, ms % 1000 / 100),
        None => format!("{} bytes", replay.window_bytes.max(replay.backlog_bytes)),
    };
    Some(format!(
        "if its host crashes the target of shard {index} forgets {loses}, and {has} can be given again: it would be copied anew. \
         Let the target fsync more often, give the spool more disk, or raise repl-backlog-size on the source"
    ))
}

fn degraded(task: &Task) -> Option<String> {
    let gone = |phase: ShardPhase| matches!(phase, ShardPhase::Unspecified | ShardPhase::Stopped);
    let silent = task.shards.iter().filter(|shard| shard.status.as_ref().is_none_or(|status| gone(status.phase())));
    let silent: Vec<_> = silent.map(|shard| shard.index.to_string()).collect();
    (!silent.is_empty()).then(|| format!("no agent reports shard {}", silent.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use dts_proto::v1::{Alarm, GuardStatus, Hop, Replay};

    use super::*;
    use crate::alarm::evaluate::tests::{NONE, holds, nothing, policy, task};
    use crate::alarm::evaluate::{conditions, is_unknown};

    #[test]
    fn what_will_retry_and_what_needs_somebody_are_told_apart() {
        for (kind, state, need) in [
            (AlarmKind::Interrupted, TaskState::Interrupted, Some(AlarmNeed::WillRetry)),
            (AlarmKind::Failed, TaskState::Failed, Some(AlarmNeed::NeedsYou)),
            (AlarmKind::Failed, TaskState::CheckFailed, Some(AlarmNeed::NeedsYou)),
            (AlarmKind::Failed, TaskState::NeedsDecision, None),
            (AlarmKind::NeedsDecision, TaskState::NeedsDecision, Some(AlarmNeed::NeedsYou)),
            (AlarmKind::Failed, TaskState::Interrupted, None),
            (AlarmKind::Interrupted, TaskState::IncrSync, None),
        ] {
            let found = holds(&policy(kind, 0), &task(state, None));
            assert_eq!(found.first().map(|condition| condition.need), need, "{kind:?} {state:?}");
        }
    }

    #[test]
    fn a_key_of_the_user_stays_in_the_house() {
        let mut of = task(TaskState::Failed, None);
        let reason = Reason { code: "TARGET_FULL".into(), message: "key \"iban:4711\"".into(), ..Reason::default() };
        of.reason = Some(reason);
        let found = holds(&policy(AlarmKind::Failed, 0), &of);
        assert!(format!("{found:?}").contains("TARGET_FULL") && !format!("{found:?}").contains("iban"), "{found:?}");
    }

    #[test]
    fn lag_and_backlog_have_thresholds() {
        let pace = Pace {
            applied: Some(Hop { lag_bytes: 500, lag_ms: 31_000 }),
            backlog_left_ms: Some(500_000),
            ..Pace::default()
        };
        let of = task(TaskState::IncrSync, Some(pace));
        assert_eq!(holds(&policy(AlarmKind::Lag, 30), &of).len(), 1);
        assert_eq!(holds(&policy(AlarmKind::Lag, 31), &of).len(), 0);
        assert_eq!(holds(&policy(AlarmKind::Backlog, 600), &of).len(), 1);
        assert_eq!(holds(&policy(AlarmKind::Backlog, 500), &of).len(), 0);
        let mut bytes = policy(AlarmKind::Lag, 0);
        bytes.triggers[0].threshold_bytes = 499;
        assert_eq!(holds(&bytes, &of).len(), 1);
        let paused = Task { state: TaskState::Paused.into(), ..of };
        assert_eq!(holds(&policy(AlarmKind::Lag, 30), &paused).len(), 0);
    }

    #[test]
    fn writes_of_others_are_told_while_they_are_news_and_differences_until_another_verification() {
        let mut of = task(TaskState::IncrSync, Some(Pace::default()));
        let policy_of = |kind| policy(kind, 0);
        assert!(holds(&policy_of(AlarmKind::ForeignWrites), &of).is_empty());
        let guard = GuardStatus {
            foreign_writes: 3,
            recent: true,
            foreign_clients: vec!["10.0.0.9:5 (set)".into()],
            ..GuardStatus::default()
        };
        of.shards[0].status.as_mut().unwrap().guard = Some(guard.clone());
        let found = holds(&policy_of(AlarmKind::ForeignWrites), &of);
        assert!(found[0].message.contains("3 writes") && found[0].message.contains("10.0.0.9:5"), "{found:?}");
        of.shards[0].status.as_mut().unwrap().guard = Some(GuardStatus { recent: false, ..guard });
        assert!(holds(&policy_of(AlarmKind::ForeignWrites), &of).is_empty());
        let (tasks, differing) = ([of], BTreeMap::from([("t".to_owned(), 4)]));
        let world = World { tasks: &tasks, differing: &differing, ..nothing() };
        let found = conditions(&[policy_of(AlarmKind::VerificationMismatch)], world);
        assert!(found[0].message.contains("verification 4") && found[0].need == AlarmNeed::NeedsYou, "{found:?}");
        let equal = World { differing: &NONE, ..world };
        assert!(conditions(&[policy_of(AlarmKind::VerificationMismatch)], equal).is_empty());
    }

    #[test]
    fn a_target_that_may_forget_more_than_it_can_be_given_is_told_once_that_has_lasted() {
        let mut of = task(TaskState::IncrSync, Some(Pace::default()));
        let watching = policy(AlarmKind::ReplayShort, 0);
        assert!(holds(&watching, &of).is_empty(), "without a position nobody can tell");
        let with = |of: &mut Task, replay: Replay| of.shards[0].status.as_mut().unwrap().replay = Some(replay);
        let enough = Replay { lasts_ms: Some(60_000), loss_ms: Some(2000), ..Replay::default() };
        with(&mut of, enough.clone());
        assert!(holds(&watching, &of).is_empty());
        with(&mut of, Replay { lasts_ms: Some(1700), short: true, target_keeps: "everysec".into(), ..enough });
        let found = holds(&watching, &of);
        assert!(found[0].need == AlarmNeed::NeedsYou && found[0].hold == OUTLASTS_A_BURST, "{found:?}");
        let said = &found[0].message;
        assert!(said.contains("its last 2 s (appendfsync everysec)") && said.contains("the last 1.7 s"), "{said}");
        let mut patient = watching.clone();
        patient.triggers[0].for_seconds = 300;
        assert_eq!(holds(&patient, &of)[0].hold, Duration::from_secs(300));
        with(&mut of, Replay { short: true, window_bytes: 7, target_keeps: "nothing".into(), ..Replay::default() });
        let said = &holds(&watching, &of)[0].message;
        assert!(said.contains("no append-only file") && said.contains("7 bytes"), "{said}");
        let paused = [Task { state: TaskState::Paused.into(), ..of.clone() }];
        assert!(holds(&watching, &paused[0]).is_empty());
        // A new leader that has not heard the shard yet ends nothing.
        of.shards[0].status = None;
        let (tasks, alarm) =
            ([of], Alarm { kind: AlarmKind::ReplayShort.into(), task_id: "t".into(), ..Alarm::default() });
        assert!(is_unknown(&alarm, World { tasks: &tasks, ..nothing() }));
    }
}
