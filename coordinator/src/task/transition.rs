//! The states, what is allowed in each, and the rules that leave them.

use dts_proto::v1::{Directive, Mode, ShardPhase, TaskAction, TaskState};

use TaskState as S;

/// State, allowed actions, what the task's agents are told (`None`: they hold nothing of it).
const TABLE: &[(S, &[TaskAction], Option<Directive>)] = &[
    (S::Created, &[TaskAction::Start, TaskAction::Update, TaskAction::Delete], None),
    (S::Verifying, &[TaskAction::Cancel], Some(Directive::Verify)),
    (S::Preparing, &[TaskAction::Pause, TaskAction::Cancel, TaskAction::Update], Some(Directive::Run)),
    (S::FullSync, &[TaskAction::Pause, TaskAction::Cancel, TaskAction::Update], Some(Directive::Run)),
    (
        S::IncrSync,
        &[TaskAction::Pause, TaskAction::Complete, TaskAction::Cancel, TaskAction::Update],
        Some(Directive::Run),
    ),
    (S::Paused, &[TaskAction::Resume, TaskAction::Cancel, TaskAction::Update], None),
    (S::Interrupted, &[TaskAction::Pause, TaskAction::Cancel, TaskAction::Update], Some(Directive::Run)),
    (S::Completing, &[TaskAction::Cancel], Some(Directive::Drain)),
    (S::Completed, &[TaskAction::Delete], None),
    (S::Cancelling, &[], Some(Directive::Release)),
    (S::Cancelled, &[TaskAction::Delete], None),
    (S::Failed, &[TaskAction::Start, TaskAction::Cancel, TaskAction::Update, TaskAction::Delete], None),
];

/// What may be asked of a task in this state.
pub fn actions(state: TaskState, releasing: bool) -> &'static [TaskAction] {
    if releasing {
        return &[];
    }
    row(state).map_or(&[], |(_, actions, _)| actions)
}

/// What the agents of a task in this state are told.
pub fn directive(state: TaskState, releasing: bool) -> Option<Directive> {
    if releasing { Some(Directive::Release) } else { row(state).and_then(|(.., directive)| *directive) }
}

fn row(state: TaskState) -> Option<&'static (S, &'static [TaskAction], Option<Directive>)> {
    TABLE.iter().find(|(of, ..)| *of == state)
}

/// Where an action leads, if it is allowed.
pub fn requested(state: TaskState, releasing: bool, ran: bool, action: TaskAction) -> Option<TaskState> {
    actions(state, releasing).contains(&action).then_some(match action {
        TaskAction::Start => S::Verifying,
        TaskAction::Pause => S::Paused,
        TaskAction::Resume => S::Preparing,
        TaskAction::Complete => S::Completing,
        TaskAction::Cancel if ran => S::Cancelling,
        TaskAction::Cancel => S::Cancelled,
        TaskAction::Update | TaskAction::Delete | TaskAction::Unspecified => state,
    })
}

/// What is known of a task when its agents have reported.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Its state.
    pub state: TaskState,
    /// See [`super::Stored`].
    pub releasing: bool,
    /// Its mode.
    pub mode: Mode,
    /// Complete as soon as the target has caught up.
    pub complete_when_caught_up: bool,
    /// Of every shard, under the present epoch; unspecified before the first report.
    pub phases: Vec<ShardPhase>,
}

/// What to do with a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Enter a state.
    Enter(TaskState),
    /// Everything is drained: have our keys removed.
    Release,
}

/// The next step, if there is one.
pub fn decide(seen: &Observation) -> Option<Step> {
    use ShardPhase as P;
    let all = |phases: &[P]| seen.phases.iter().all(|phase| phases.contains(phase));
    let any = |phases: &[P]| seen.phases.iter().any(|phase| phases.contains(phase));
    let asked_to_complete = seen.mode == Mode::Migrate || seen.complete_when_caught_up;
    if seen.phases.is_empty() || directive(seen.state, seen.releasing).is_none() {
        return None;
    }
    let next = match seen.state {
        S::Cancelling if all(&[P::Released, P::Failed]) => S::Cancelled,
        S::Cancelling => return None,
        S::Completing if seen.releasing && all(&[P::Released]) => S::Completed,
        _ if any(&[P::Failed]) => S::Failed,
        S::Completing if !seen.releasing && all(&[P::Drained]) => return Some(Step::Release),
        S::Completing => return None,
        S::Verifying if all(&[P::Verified]) => S::Preparing,
        S::Verifying => return None,
        _ if any(&[P::Retrying]) => S::Interrupted,
        _ if any(&[P::Copying, P::Sweeping]) => S::FullSync,
        _ if asked_to_complete && all(&[P::Streaming]) => S::Completing,
        _ if all(&[P::CatchingUp, P::Streaming]) => S::IncrSync,
        _ => return None,
    };
    (next != seen.state).then_some(Step::Enter(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(state: TaskState, phase: ShardPhase) -> Observation {
        Observation { state, releasing: false, mode: Mode::Sync, complete_when_caught_up: false, phases: vec![phase] }
    }

    #[test]
    fn a_synchronisation_goes_its_way() {
        use ShardPhase as P;
        for (state, phase, next) in [
            (S::Verifying, P::Verifying, None),
            (S::Verifying, P::Verified, Some(Step::Enter(S::Preparing))),
            (S::Preparing, P::Copying, Some(Step::Enter(S::FullSync))),
            (S::Preparing, P::CatchingUp, Some(Step::Enter(S::IncrSync))),
            (S::FullSync, P::Copying, None),
            (S::FullSync, P::CatchingUp, Some(Step::Enter(S::IncrSync))),
            (S::IncrSync, P::Streaming, None),
            (S::IncrSync, P::Retrying, Some(Step::Enter(S::Interrupted))),
            (S::IncrSync, P::Copying, Some(Step::Enter(S::FullSync))),
            (S::Interrupted, P::Streaming, Some(Step::Enter(S::IncrSync))),
            (S::FullSync, P::Failed, Some(Step::Enter(S::Failed))),
            (S::Completing, P::Draining, None),
            (S::Completing, P::Drained, Some(Step::Release)),
            (S::Completing, P::Retrying, None),
            (S::Cancelling, P::Released, Some(Step::Enter(S::Cancelled))),
            (S::Paused, P::Streaming, None),
            (S::Completed, P::Failed, None),
        ] {
            assert_eq!(decide(&seen(state, phase)), next, "{state:?} {phase:?}");
        }
    }

    #[test]
    fn it_is_completed_only_when_our_keys_are_gone() {
        let releasing = |phase| Observation { releasing: true, ..seen(S::Completing, phase) };
        assert_eq!(decide(&releasing(ShardPhase::Drained)), None);
        assert_eq!(decide(&releasing(ShardPhase::Released)), Some(Step::Enter(S::Completed)));
        assert_eq!(decide(&seen(S::Completing, ShardPhase::Released)), None);
    }

    #[test]
    fn a_migration_completes_by_itself_once_it_has_caught_up() {
        let migrate = |phase| Observation { mode: Mode::Migrate, ..seen(S::IncrSync, phase) };
        assert_eq!(decide(&migrate(ShardPhase::CatchingUp)), None);
        assert_eq!(decide(&migrate(ShardPhase::Streaming)), Some(Step::Enter(S::Completing)));
    }

    #[test]
    fn every_shard_has_to_be_there() {
        let two = Observation {
            phases: vec![ShardPhase::Streaming, ShardPhase::Copying],
            ..seen(S::FullSync, ShardPhase::Streaming)
        };
        assert_eq!(decide(&two), None);
    }

    #[test]
    fn what_is_not_allowed_leads_nowhere() {
        assert_eq!(requested(S::Created, false, false, TaskAction::Complete), None);
        assert_eq!(requested(S::FullSync, false, true, TaskAction::Complete), None);
        assert_eq!(requested(S::IncrSync, false, true, TaskAction::Complete), Some(S::Completing));
        assert_eq!(requested(S::Completing, true, true, TaskAction::Cancel), None);
        assert_eq!(requested(S::Verifying, false, false, TaskAction::Cancel), Some(S::Cancelled));
        assert_eq!(requested(S::Paused, false, true, TaskAction::Cancel), Some(S::Cancelling));
    }

    #[test]
    fn the_table_names_every_state_once() {
        for number in 1..=12 {
            let state = TaskState::try_from(number).unwrap();
            assert_eq!(TABLE.iter().filter(|(of, ..)| *of == state).count(), 1, "{state:?}");
        }
    }
}
