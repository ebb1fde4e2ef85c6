//! One running task a server: a second one would write over the first one's target, or burden its source twice.

use std::collections::HashSet;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{Endpoint, TaskSpec};

use super::{Stored, occupies};

const BOTH_WAYS: &str = "the way between source and target, in the other direction,";

/// Keys of the store that a task holds from its start to its end.
pub fn keys(spec: &TaskSpec) -> Vec<String> {
    let key = |side: &str, end: &Endpoint| format!("lock/{side}/{}:{}", end.host.to_lowercase(), end.port);
    let sources = spec.sources.iter().filter(|_| !spec.share_sources).map(|source| key("source", source));
    sources.chain(spec.target.iter().map(|target| key("target", target))).collect()
}

/// Fails if another task that runs has one of the task's servers, by address or by what the last checks saw of them, or goes the other way.
pub fn conflict<'a>(stored: &Stored, others: impl Iterator<Item = &'a Stored>) -> Result<()> {
    let own = spec(stored);
    let shares = own.is_some_and(|own| own.share_sources);
    let wanted: HashSet<String> = own.map(keys).unwrap_or_default().into_iter().collect();
    let [sources, targets] = identities(stored);
    for other in others {
        let Some(task) = &other.task else { continue };
        if !occupies(task.state(), other.ran) || stored.task.as_ref().is_some_and(|own| own.id == task.id) {
            continue;
        }
        let taken = spec(other).map(keys).unwrap_or_default();
        let by_address = taken.iter().find(|key| wanted.contains(*key));
        let [their_sources, their_targets] = identities(other);
        let one_of = |ours: &[String], theirs: &[String]| ours.iter().any(|id| theirs.contains(id));
        let what = match by_address {
            Some(key) => key.trim_start_matches("lock/").replacen('/', " ", 1),
            None if one_of(&targets, &their_targets) => "the target, under another address,".into(),
            None if !shares && one_of(&sources, &their_sources) => "a source, under another address,".into(),
            None if one_of(&targets, &their_sources) && one_of(&sources, &their_targets) => BOTH_WAYS.into(),
            None if own.zip(spec(other)).is_some_and(|(own, other)| go_round(own, other)) => BOTH_WAYS.into(),
            None => continue,
        };
        let message = format!("{what} is in use by task {} ({})", task.id, spec(other).map_or("", |spec| &spec.name));
        return Err(Error::new(Code::InstanceBusy, message));
    }
    Ok(())
}

/// Each goes to where the other one comes from.
fn go_round(one: &TaskSpec, other: &TaskSpec) -> bool {
    let reads = |spec: &TaskSpec, from: &TaskSpec| {
        let same = |source: &Endpoint, target: &Endpoint| {
            source.host.eq_ignore_ascii_case(&target.host) && source.port == target.port
        };
        from.target.iter().any(|target| spec.sources.iter().any(|source| same(source, target)))
    };
    reads(one, other) && reads(other, one)
}

fn spec(stored: &Stored) -> Option<&TaskSpec> {
    stored.task.as_ref()?.spec.as_ref()
}

/// Of sources and targets, as the last run saw them.
fn identities(stored: &Stored) -> [Vec<String>; 2] {
    let generation = stored.task.as_ref().map_or(0, |task| task.generation);
    let run = stored.run.as_ref().filter(|run| run.generation == generation);
    let figures = run.map(|run| run.figures.as_slice()).unwrap_or_default();
    let known = |of: fn(&dts_proto::v1::Figures) -> &String| {
        figures.iter().map(of).filter(|id| !id.is_empty()).cloned().collect()
    };
    [known(|figures| &figures.source_identity), known(|figures| &figures.target_identity)]
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::{CheckRun, Figures, Task, TaskState};

    use super::*;

    fn task(id: &str, state: TaskState, source: u32, target: u32) -> Stored {
        let end = |port| Endpoint { host: "h".into(), port, ..Endpoint::default() };
        let spec = TaskSpec { sources: vec![end(source)], target: Some(end(target)), ..TaskSpec::default() };
        let task = Task { id: id.into(), state: state.into(), spec: Some(spec), ..Task::default() };
        Stored { task: Some(task), ..Stored::default() }
    }

    #[test]
    fn a_server_is_one_running_tasks() {
        let own = task("own", TaskState::CheckPassed, 1, 2);
        let busy = |other: &Stored| conflict(&own, std::iter::once(other)).is_err();
        assert!(busy(&task("x", TaskState::IncrSync, 1, 3)) && busy(&task("x", TaskState::Paused, 3, 2)));
        assert!(!busy(&task("x", TaskState::CheckPassed, 1, 2)) && !busy(&task("x", TaskState::Completed, 1, 2)));
        assert!(!busy(&task("x", TaskState::IncrSync, 2, 3)), "a target may be a source of another");
        assert!(busy(&task("x", TaskState::IncrSync, 2, 1)), "but not both ways");
        assert!(!busy(&task("own", TaskState::IncrSync, 1, 2)), "a task is in its own way");
    }

    #[test]
    fn sources_may_be_shared_if_both_say_so_and_targets_never() {
        let shared = |id: &str, state, target| {
            let mut stored = task(id, state, 1, target);
            stored.task.as_mut().unwrap().spec.as_mut().unwrap().share_sources = true;
            stored
        };
        let own = shared("own", TaskState::CheckPassed, 2);
        assert!(conflict(&own, [shared("x", TaskState::IncrSync, 3)].iter()).is_ok());
        assert!(conflict(&own, [shared("x", TaskState::IncrSync, 2)].iter()).is_err());
    }

    #[test]
    fn another_name_of_the_same_server_is_known_by_what_the_checks_saw() {
        let with = |mut stored: Stored, identity: &str| {
            let figures = Figures { target_identity: identity.into(), ..Figures::default() };
            stored.run = Some(CheckRun { figures: vec![figures], ..CheckRun::default() });
            stored
        };
        let own = with(task("own", TaskState::CheckPassed, 1, 2), "abc");
        assert!(conflict(&own, [with(task("x", TaskState::IncrSync, 3, 4), "abc")].iter()).is_err());
        assert!(conflict(&own, [with(task("x", TaskState::IncrSync, 3, 4), "def")].iter()).is_ok());
    }
}
