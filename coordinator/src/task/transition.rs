//! The states, what is allowed in each, and the rules that leave them.

use dts_proto::v1::{Directive, Mode, ShardPhase, TaskAction, TaskState};

use TaskAction as A;
use TaskState as S;

/// State, allowed actions, what the task's agents are told (`None`: they hold nothing of it). docs/task-life.md is checked against it.
pub const TABLE: &[(S, &[TaskAction], Option<Directive>)] = &[
    (S::Created, &[A::Update, A::Test, A::Start, A::Clone, A::Delete], None),
    (S::Configured, &[A::Update, A::Test, A::Check, A::Start, A::Clone, A::Delete], None),
    (S::Checking, &[A::CancelCheck], None),
    (S::CheckFailed, &[A::Update, A::Check, A::Start, A::Clone, A::Delete], None),
    (S::CheckPassed, &[A::Update, A::Check, A::Acknowledge, A::Start, A::Schedule, A::Clone, A::Delete], None),
    (S::Scheduled, &[A::Unschedule, A::Update, A::Start, A::Clone, A::Delete], None),
    (S::Verifying, &[A::Cancel], Some(Directive::Verify)),
    (S::Preparing, &[A::Pause, A::Cancel, A::Update], Some(Directive::Run)),
    (S::FullSync, &[A::Pause, A::Cancel, A::Update], Some(Directive::Run)),
    (S::IncrSync, &[A::Pause, A::Complete, A::Cancel, A::Update], Some(Directive::Run)),
    (S::Paused, &[A::Resume, A::Resync, A::Cancel, A::Update], None),
    (S::Interrupted, &[A::Retry, A::Pause, A::Cancel, A::Update], Some(Directive::Run)),
    (S::NeedsDecision, &[A::Resume, A::Resync, A::Cancel, A::Update], None),
    (S::Completing, &[A::Abort, A::Cancel], Some(Directive::Drain)),
    (S::Completed, &[A::Clone, A::Delete], None),
    (S::Cancelling, &[], Some(Directive::Release)),
    (S::Cancelled, &[A::Clone, A::Delete], None),
    (S::Failed, &[A::Start, A::Cancel, A::Update, A::Clone, A::Delete], None),
];

/// What of a task's past decides where an action leads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// COMPLETING: everything is drained, our keys are being removed.
    pub releasing: bool,
    /// An agent was told to run it.
    pub ran: bool,
    /// Completion had begun: expiries on the target may be exact already.
    pub completing: bool,
    /// The connectivity test has passed for these servers.
    pub tested: bool,
}

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
pub fn requested(state: TaskState, past: Past, action: TaskAction) -> Option<TaskState> {
    actions(state, past.releasing).contains(&action).then_some(match action {
        A::Start if !is_checked(state) => S::Checking,
        A::Start => S::Verifying,
        A::Check => S::Checking,
        A::CancelCheck => unchecked(past.tested),
        A::Update if is_before_start(state) => unchecked(past.tested),
        A::Schedule => S::Scheduled,
        A::Unschedule => S::CheckPassed,
        A::Pause => S::Paused,
        A::Resume if past.completing => S::Completing,
        A::Resume | A::Retry | A::Resync | A::Abort => S::Preparing,
        A::Complete => S::Completing,
        A::Cancel if past.ran => S::Cancelling,
        A::Cancel => S::Cancelled,
        A::Delete if state == S::Failed && past.ran => S::Cancelling,
        A::Update | A::Test | A::Acknowledge | A::Clone | A::Delete | A::Unspecified => state,
    })
}

/// Where a task stands whose check does not count.
pub fn unchecked(tested: bool) -> TaskState {
    if tested { S::Configured } else { S::Created }
}

/// Nothing has been started: everything may be edited.
pub fn is_before_start(state: TaskState) -> bool {
    matches!(state, S::Created | S::Configured | S::Checking | S::CheckFailed | S::CheckPassed | S::Scheduled)
}

/// It needs its servers for itself.
pub fn occupies(state: TaskState, ran: bool) -> bool {
    match state {
        S::Failed => ran,
        S::Completed | S::Cancelled | S::Unspecified => false,
        state => !is_before_start(state),
    }
}

/// Starts without another check.
fn is_checked(state: TaskState) -> bool {
    matches!(state, S::CheckPassed | S::Scheduled | S::Failed)
}

/// What is known of a task when its agents have reported.
#[derive(Clone, Debug, Default)]
pub struct Observation {
    /// Its state.
    pub state: TaskState,
    /// Its past.
    pub past: Past,
    /// What failed leaves nothing to decide: the target is somebody else's.
    pub lost: bool,
    /// Completion was aborted: it waits to be asked.
    pub held: bool,
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
    let asked_to_complete = (seen.mode == Mode::Migrate || seen.complete_when_caught_up) && !seen.held;
    let Past { releasing, ran, .. } = seen.past;
    if seen.phases.is_empty() || directive(seen.state, releasing).is_none() {
        return None;
    }
    let next = match seen.state {
        S::Cancelling if all(&[P::Released, P::Failed]) => S::Cancelled,
        S::Cancelling => return None,
        S::Completing if releasing && all(&[P::Released]) => S::Completed,
        S::Verifying if any(&[P::Failed]) && !ran => S::CheckFailed,
        _ if any(&[P::Failed]) && seen.lost => S::Failed,
        _ if any(&[P::Failed]) => S::NeedsDecision,
        S::Completing if !releasing && all(&[P::Drained]) => return Some(Step::Release),
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
        Observation { state, mode: Mode::Sync, phases: vec![phase], ..Observation::default() }
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
            (S::FullSync, P::Failed, Some(Step::Enter(S::NeedsDecision))),
            (S::Verifying, P::Failed, Some(Step::Enter(S::CheckFailed))),
            (S::Completing, P::Failed, Some(Step::Enter(S::NeedsDecision))),
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
        let past = Past { releasing: true, ..Past::default() };
        let releasing = |phase| Observation { past, ..seen(S::Completing, phase) };
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
    fn what_was_started_once_never_becomes_unstarted() {
        let past = Past { ran: true, ..Past::default() };
        let failed = Observation { past, ..seen(S::Verifying, ShardPhase::Failed) };
        assert_eq!(decide(&failed), Some(Step::Enter(S::NeedsDecision)));
        let lost = Observation { past, lost: true, ..seen(S::IncrSync, ShardPhase::Failed) };
        assert_eq!(decide(&lost), Some(Step::Enter(S::Failed)));
    }

    #[test]
    fn a_completion_that_was_aborted_waits_to_be_asked_again() {
        let migrate = Observation { mode: Mode::Migrate, held: true, ..seen(S::IncrSync, ShardPhase::Streaming) };
        assert_eq!(decide(&migrate), None);
    }

    /// Every pair of state and action, with where it leads; what is not here is refused.
    const PAIRS: &[(S, A, S)] = &[
        (S::Created, A::Update, S::Created),
        (S::Created, A::Test, S::Created),
        (S::Created, A::Start, S::Checking),
        (S::Created, A::Clone, S::Created),
        (S::Created, A::Delete, S::Created),
        (S::Configured, A::Update, S::Created),
        (S::Configured, A::Test, S::Configured),
        (S::Configured, A::Check, S::Checking),
        (S::Configured, A::Start, S::Checking),
        (S::Configured, A::Clone, S::Configured),
        (S::Configured, A::Delete, S::Configured),
        (S::Checking, A::CancelCheck, S::Created),
        (S::CheckFailed, A::Update, S::Created),
        (S::CheckFailed, A::Check, S::Checking),
        (S::CheckFailed, A::Start, S::Checking),
        (S::CheckFailed, A::Clone, S::CheckFailed),
        (S::CheckFailed, A::Delete, S::CheckFailed),
        (S::CheckPassed, A::Update, S::Created),
        (S::CheckPassed, A::Check, S::Checking),
        (S::CheckPassed, A::Acknowledge, S::CheckPassed),
        (S::CheckPassed, A::Start, S::Verifying),
        (S::CheckPassed, A::Schedule, S::Scheduled),
        (S::CheckPassed, A::Clone, S::CheckPassed),
        (S::CheckPassed, A::Delete, S::CheckPassed),
        (S::Scheduled, A::Unschedule, S::CheckPassed),
        (S::Scheduled, A::Update, S::Created),
        (S::Scheduled, A::Start, S::Verifying),
        (S::Scheduled, A::Clone, S::Scheduled),
        (S::Scheduled, A::Delete, S::Scheduled),
        (S::Verifying, A::Cancel, S::Cancelled),
        (S::Preparing, A::Pause, S::Paused),
        (S::Preparing, A::Cancel, S::Cancelled),
        (S::Preparing, A::Update, S::Preparing),
        (S::FullSync, A::Pause, S::Paused),
        (S::FullSync, A::Cancel, S::Cancelled),
        (S::FullSync, A::Update, S::FullSync),
        (S::IncrSync, A::Pause, S::Paused),
        (S::IncrSync, A::Complete, S::Completing),
        (S::IncrSync, A::Cancel, S::Cancelled),
        (S::IncrSync, A::Update, S::IncrSync),
        (S::Paused, A::Resume, S::Preparing),
        (S::Paused, A::Resync, S::Preparing),
        (S::Paused, A::Cancel, S::Cancelled),
        (S::Paused, A::Update, S::Paused),
        (S::Interrupted, A::Retry, S::Preparing),
        (S::Interrupted, A::Pause, S::Paused),
        (S::Interrupted, A::Cancel, S::Cancelled),
        (S::Interrupted, A::Update, S::Interrupted),
        (S::NeedsDecision, A::Resume, S::Preparing),
        (S::NeedsDecision, A::Resync, S::Preparing),
        (S::NeedsDecision, A::Cancel, S::Cancelled),
        (S::NeedsDecision, A::Update, S::NeedsDecision),
        (S::Completing, A::Abort, S::Preparing),
        (S::Completing, A::Cancel, S::Cancelled),
        (S::Completed, A::Clone, S::Completed),
        (S::Completed, A::Delete, S::Completed),
        (S::Cancelled, A::Clone, S::Cancelled),
        (S::Cancelled, A::Delete, S::Cancelled),
        (S::Failed, A::Start, S::Verifying),
        (S::Failed, A::Cancel, S::Cancelled),
        (S::Failed, A::Update, S::Failed),
        (S::Failed, A::Clone, S::Failed),
        (S::Failed, A::Delete, S::Failed),
    ];

    fn every<T>(from: impl Fn(i32) -> Option<T>) -> impl Iterator<Item = T> {
        (1..1000).filter_map(from)
    }

    #[test]
    fn every_pair_of_state_and_action_leads_where_it_should_or_is_refused() {
        for state in every(|number| S::try_from(number).ok()) {
            for action in every(|number| A::try_from(number).ok()) {
                let pair = PAIRS.iter().find(|(of, asked, _)| (*of, *asked) == (state, action));
                let leads = pair.map(|(.., to)| *to);
                assert_eq!(requested(state, Past::default(), action), leads, "{state:?} {action:?}");
                let releasing = Past { releasing: true, ..Past::default() };
                assert_eq!(requested(state, releasing, action), None, "releasing: {state:?} {action:?}");
            }
        }
    }

    #[test]
    fn the_past_decides_where_cancel_resume_and_an_edit_lead() {
        let ran = Past { ran: true, ..Past::default() };
        assert_eq!(requested(S::Paused, ran, A::Cancel), Some(S::Cancelling));
        assert_eq!(requested(S::Failed, ran, A::Delete), Some(S::Cancelling));
        assert_eq!(requested(S::Cancelled, ran, A::Delete), Some(S::Cancelled));
        let completing = Past { completing: true, ..ran };
        assert_eq!(requested(S::NeedsDecision, completing, A::Resume), Some(S::Completing));
        let tested = Past { tested: true, ..Past::default() };
        for state in [S::CheckPassed, S::CheckFailed, S::Scheduled, S::Configured] {
            assert_eq!(requested(state, tested, A::Update), Some(S::Configured), "{state:?}");
        }
        assert_eq!(requested(S::Checking, tested, A::CancelCheck), Some(S::Configured));
    }

    #[test]
    fn the_table_names_every_state_once() {
        for state in every(|number| S::try_from(number).ok()) {
            assert_eq!(TABLE.iter().filter(|(of, ..)| *of == state).count(), 1, "{state:?}");
        }
    }
}
