//! The task that goes back after a switch-over: made when the switch is asked for, aimed at the servers that were found at its end, and then started.

use std::collections::BTreeMap;

use dts_common::error::Result;
use dts_proto::v1::{ClosedUser, Endpoint, Mode, SourceKind, SwitchOver, SwitchOverPhase, Task, TaskSpec, TaskState};
use dts_proto::v1::{Topology, Turned};

use super::{Engine, Held, World};
use crate::store::Store;
use crate::switch::left_to_do;

/// Of the name of a task.
const LONGEST_NAME: usize = 128;
const WAY_BACK: &str = " (way back)";

impl<S: Store> Engine<S> {
    /// The task that goes the other way; it is started when the switch is done.
    pub(super) async fn way_back(&self, world: &mut World, task: &Task) -> Result<Task> {
        let mut spec = task.spec.clone().unwrap_or_default();
        self.sealer.unseal(&mut spec)?;
        let (source, target) = (spec.sources.first().cloned(), spec.target.clone());
        let name: String = spec.name.trim_end_matches(WAY_BACK).chars().take(LONGEST_NAME / 2).collect();
        let back = TaskSpec {
            name: format!("{name}{WAY_BACK}"),
            sources: target.into_iter().collect(),
            target: source,
            mode: Mode::Sync.into(),
            limits: spec.limits,
            // The old side is as old as it is.
            allow_downgrade: true,
            way_back_of: task.id.clone(),
            ..TaskSpec::default()
        };
        self.create_within(world, back, format!("way back of {}", task.id)).await
    }

    /// Ways back whose switch is done.
    pub(super) async fn start_ways_back(&self, ids: Vec<String>) {
        for id in ids {
            let started = match Box::pin(self.aim(&id)).await {
                Ok(()) => Box::pin(self.start(&id, 0, true)).await.map(drop),
                Err(error) => Err(error),
            };
            if let Err(error) = started {
                tracing::warn!(task = id, %error, "the way back was not started");
            }
        }
    }

    /// Names the servers whose places were taken, in their order: each is a shard.
    async fn aim(&self, id: &str) -> Result<()> {
        let mut world = self.world.lock().await;
        let open = |of: &str| -> Result<TaskSpec> {
            let mut spec = world.tasks.get(of).and_then(|held| held.view().spec.clone()).unwrap_or_default();
            self.sealer.unseal(&mut spec)?;
            Ok(spec)
        };
        let now = open(id)?;
        let before = open(&now.way_back_of)?;
        let switch = world.tasks.get(&now.way_back_of).and_then(|held| held.view().switch_over.clone());
        let Some(turned) = switch.and_then(|switch| switch.turned) else { return Ok(()) };
        let (sources, target, topology) = aimed(&before, &turned);
        if (&sources, &target, &topology) == (&now.sources, &now.target, &now.topology) {
            return Ok(());
        }
        let from = TaskSpec { sources, target, topology, ..TaskSpec::default() };
        let held = self.settled(&mut world, id).await?;
        self.edit(held, &from, &["sources", "target", "topology"].map(str::to_owned)).await
    }
}

/// Where the way back of this task goes from and to: with the logins that it has there.
fn aimed(task: &TaskSpec, turned: &Turned) -> (Vec<Endpoint>, Option<Endpoint>, Option<Topology>) {
    let at = |end: Option<&Endpoint>, host: &str, port: u32| {
        let end = end.cloned().unwrap_or_default();
        Endpoint { host: host.to_owned(), port, ..end }
    };
    let sources = turned.sources.iter().map(|source| at(task.target.as_ref(), &source.host, source.port)).collect();
    let target = at(task.sources.first(), &turned.target_host, turned.target_port);
    let cluster = turned.sources.iter().any(|source| !source.slots.is_empty());
    let topology = cluster.then(|| Topology { kind: SourceKind::Cluster.into(), ..Topology::default() });
    (sources, Some(target), topology)
}

/// False while a switch-over has still to finish what belongs to it.
pub(super) fn is_finished(held: &Held) -> bool {
    let switch = held.task().switch_over.unwrap_or_default();
    switch.phase() != SwitchOverPhase::Completing || left_to_do(&switch).is_none()
}

/// Tasks of ways back that were never begun, and whose time has come.
pub(super) fn to_start(tasks: &BTreeMap<String, Held>) -> Vec<String> {
    let switched = tasks.values().filter_map(|held| held.view().switch_over.as_ref());
    let done = |switch: &&SwitchOver| {
        switch.phase() == SwitchOverPhase::Done
            && !switch.way_back_task_id.is_empty()
            && switch.turned.as_ref().is_none_or(|turned| !turned.sources.is_empty())
    };
    let back = |switch: &SwitchOver| tasks.get(&switch.way_back_task_id);
    let waits = |held: &&Held| held.view().state() == TaskState::Created && held.stored.run.is_none() && !held.unsure;
    switched.filter(done).filter_map(back).filter(waits).map(|held| held.view().id.clone()).collect()
}

/// Whom a switch-over has closed out, and of which server.
pub(super) fn closed_by(held: &Held) -> Vec<ClosedUser> {
    let switch = held.task().switch_over.unwrap_or_default();
    let closed = switch.shards.into_iter().filter(|shard| shard.closed);
    let of = |shard: dts_proto::v1::SwitchOverShard| {
        let server = shard.master;
        shard.closed_users.into_iter().map(move |user| ClosedUser { server: server.clone(), ..user })
    };
    closed.flat_map(of).collect()
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::{Credential, WayBackSource};

    use super::*;

    #[test]
    fn every_master_of_the_new_side_is_read_with_the_login_of_the_target() {
        let end = |host: &str, user: &str| Endpoint {
            host: host.into(),
            port: 1,
            credential: Some(Credential { username: user.into(), ..Credential::default() }),
            ..Endpoint::default()
        };
        let task = TaskSpec {
            sources: vec![end("old", "reads"), end("older", "reads")],
            target: Some(end("new", "writes")),
            ..TaskSpec::default()
        };
        let source = |host: &str, slots: &str| WayBackSource {
            host: host.into(),
            port: 1,
            slots: slots.into(),
            ..WayBackSource::default()
        };
        let sources = vec![source("a", "0-99"), source("b", "100-16383")];
        let turned = Turned { sources, target_host: "master".into(), target_port: 1, ..Turned::default() };
        let (sources, target, topology) = aimed(&task, &turned);
        assert_eq!(sources, [end("a", "writes"), end("b", "writes")]);
        assert_eq!(target, Some(end("master", "reads")));
        assert_eq!(topology.map(|topology| topology.kind()), Some(SourceKind::Cluster));
        let alone = Turned { sources: vec![source("a", "")], ..turned };
        assert_eq!(aimed(&task, &alone).2, None);
    }
}
