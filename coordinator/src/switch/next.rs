//! The next step of a switch-over.

use dts_proto::v1::{SwitchOver, SwitchOverPhase, SwitchOverStep, TaskState, VerifyMode, VerifyOutcome, VerifyState};

/// What is known when agents have reported, or time has passed.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Of the task.
    pub state: TaskState,
    /// The time for the hold is over.
    pub late: bool,
    /// Of each shard: the last step that its agent has done, and the epoch of that agent.
    pub shards: Vec<(SwitchOverStep, u64)>,
    /// Of the run that is waited for.
    pub run: Option<(VerifyState, VerifyOutcome)>,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing yet.
    Wait,
    /// Enter a phase.
    Enter(SwitchOverPhase),
    /// Begin a verification of this mode, and enter the phase that waits for it.
    Verify(VerifyMode, SwitchOverPhase),
    /// Everything goes back: why.
    Return(String),
}

/// Decides.
pub fn next(switch: &SwitchOver, seen: &Seen) -> Next {
    use SwitchOverPhase as P;
    use SwitchOverStep as S;
    let spec = switch.spec.unwrap_or_default();
    let phase = switch.phase();
    if !super::goes_on(switch) {
        return Next::Wait;
    }
    if phase == P::Completing {
        return if seen.state == TaskState::Completed { Next::Enter(P::Done) } else { Next::Wait };
    }
    if let Some(why) = stands_against(switch, seen) {
        return Next::Return(why);
    }
    let all = |step: S| seen.shards.iter().all(|(done, _)| *done == step);
    let hold = || if seen.state == TaskState::IncrSync { Next::Enter(P::Holding) } else { Next::Wait };
    match phase {
        P::Looking if !all(S::Look) => Next::Wait,
        P::Looking if spec.rehearse => Next::Enter(P::Rehearsed),
        P::Looking => match missing(switch) {
            Some(missing) => Next::Return(missing),
            None if spec.verify_before() != VerifyMode::Unspecified => Next::Verify(spec.verify_before(), P::Comparing),
            None => hold(),
        },
        P::Comparing => match verified(switch, seen) {
            Some(Ok(())) => hold(),
            Some(Err(why)) => Next::Return(why),
            None => Next::Wait,
        },
        P::Holding if !all(S::Hold) => Next::Wait,
        P::Holding if spec.verify() != VerifyMode::Unspecified => Next::Verify(spec.verify(), P::Verifying),
        P::Holding => Next::Enter(P::Closing),
        P::Verifying => match verified(switch, seen) {
            Some(Ok(())) => Next::Enter(P::Closing),
            Some(Err(why)) => Next::Return(why),
            None => Next::Wait,
        },
        P::Closing if all(S::Close) && seen.state == TaskState::IncrSync => Next::Enter(P::Completing),
        _ => Next::Wait,
    }
}

/// Why it cannot go on.
fn stands_against(switch: &SwitchOver, seen: &Seen) -> Option<String> {
    use SwitchOverPhase as P;
    if !matches!(seen.state, TaskState::IncrSync | TaskState::FullSync | TaskState::Interrupted) {
        return Some(format!("the task became {} meanwhile", seen.state.as_str_name()));
    }
    if let Some(failed) = switch.shards.iter().find(|shard| shard.failed) {
        return Some(format!("shard {}: {}", failed.index, failed.error));
    }
    let holds = matches!(switch.phase(), P::Holding | P::Verifying | P::Closing);
    if holds && seen.late {
        return Some("it was not decided within the time for which writes may be held".to_owned());
    }
    // Who holds knows since when; whoever comes later does not. Closing tells by the source's own count.
    let lost = switch.shards.iter().zip(&seen.shards).find(|(shard, (_, epoch))| shard.epoch != *epoch);
    match lost {
        Some((shard, _)) if matches!(switch.phase(), P::Holding | P::Verifying) => {
            Some(format!("the agent of shard {} was lost while writes were held", shard.index))
        }
        _ => None,
    }
}

fn missing(switch: &SwitchOver) -> Option<String> {
    let needs = switch.shards.iter().flat_map(|shard| &shard.needs);
    needs.map(|need| need.missing.clone()).find(|missing| !missing.is_empty())
}

fn verified(switch: &SwitchOver, seen: &Seen) -> Option<Result<(), String>> {
    let number = switch.verification;
    match seen.run {
        Some((VerifyState::Running, _)) => None,
        Some((VerifyState::Done, VerifyOutcome::Equal)) => Some(Ok(())),
        Some((VerifyState::Done, VerifyOutcome::Differs)) => {
            Some(Err(format!("verification {number} found differences")))
        }
        Some((VerifyState::Done, _)) => Some(Err(format!("verification {number} could not tell of some keys"))),
        _ => Some(Err(format!("verification {number} did not come to its end"))),
    }
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::{SwitchOverNeed, SwitchOverShard, SwitchOverSpec};

    use super::SwitchOverPhase as P;
    use super::SwitchOverStep as S;
    use super::*;

    fn at(phase: P, spec: SwitchOverSpec) -> SwitchOver {
        let shard = SwitchOverShard { epoch: 7, ..SwitchOverShard::default() };
        SwitchOver { phase: phase.into(), spec: Some(spec), shards: vec![shard], ..SwitchOver::default() }
    }

    fn seen(done: S) -> Seen {
        Seen { state: TaskState::IncrSync, shards: vec![(done, 7)], ..Seen::default() }
    }

    #[test]
    fn it_goes_its_way_step_by_step() {
        let plain = SwitchOverSpec::default();
        let gated = SwitchOverSpec { verify: VerifyMode::Keys.into(), verify_before: VerifyMode::Full.into(), ..plain };
        let run = |outcome| Seen { run: Some((VerifyState::Done, outcome)), ..seen(S::Hold) };
        for (phase, spec, seen, expected) in [
            (P::Looking, plain, seen(S::Unspecified), Next::Wait),
            (P::Looking, plain, seen(S::Look), Next::Enter(P::Holding)),
            (P::Looking, SwitchOverSpec { rehearse: true, ..gated }, seen(S::Look), Next::Enter(P::Rehearsed)),
            (P::Looking, gated, seen(S::Look), Next::Verify(VerifyMode::Full, P::Comparing)),
            (P::Comparing, gated, run(VerifyOutcome::Equal), Next::Enter(P::Holding)),
            (P::Holding, plain, seen(S::Look), Next::Wait),
            (P::Holding, plain, seen(S::Hold), Next::Enter(P::Closing)),
            (P::Holding, gated, seen(S::Hold), Next::Verify(VerifyMode::Keys, P::Verifying)),
            (P::Verifying, gated, run(VerifyOutcome::Equal), Next::Enter(P::Closing)),
            (P::Closing, plain, seen(S::Hold), Next::Wait),
            (P::Closing, plain, seen(S::Close), Next::Enter(P::Completing)),
            (P::Completing, plain, seen(S::Close), Next::Wait),
            (P::Completing, plain, Seen { state: TaskState::Completed, ..seen(S::Finish) }, Next::Enter(P::Done)),
        ] {
            assert_eq!(next(&at(phase, spec), &seen), expected, "{phase:?}");
        }
    }

    #[test]
    fn until_it_is_closed_whatever_goes_wrong_sends_everything_back() {
        let returns = |switch: &SwitchOver, seen: &Seen| matches!(next(switch, seen), Next::Return(_));
        let spec = SwitchOverSpec { verify: VerifyMode::Full.into(), ..SwitchOverSpec::default() };
        for phase in [P::Holding, P::Verifying, P::Closing] {
            let running = Seen { run: Some((VerifyState::Running, VerifyOutcome::Unspecified)), ..seen(S::Hold) };
            assert!(returns(&at(phase, spec), &Seen { late: true, ..running.clone() }), "{phase:?}: late");
            assert!(returns(&at(phase, spec), &Seen { state: TaskState::Paused, ..running.clone() }), "{phase:?}");
            let mut failed = at(phase, spec);
            failed.shards[0].failed = true;
            assert!(returns(&failed, &running), "{phase:?}: failed");
            let lost = Seen { shards: vec![(S::Unspecified, 8)], ..running };
            assert_eq!(returns(&at(phase, spec), &lost), phase != P::Closing, "{phase:?}: another agent");
        }
        for outcome in [VerifyOutcome::Differs, VerifyOutcome::Undecided] {
            let found = Seen { run: Some((VerifyState::Done, outcome)), ..seen(S::Hold) };
            assert!(returns(&at(P::Verifying, spec), &found));
        }
        let mut unmet = at(P::Looking, spec);
        unmet.shards[0].needs = vec![SwitchOverNeed { missing: "+acl".into(), ..SwitchOverNeed::default() }];
        assert!(returns(&unmet, &seen(S::Look)));
        let decided = Seen { late: true, shards: vec![(S::Unspecified, 9)], ..seen(S::Close) };
        assert_eq!(next(&at(P::Completing, spec), &decided), Next::Wait, "decided is decided");
    }
}
