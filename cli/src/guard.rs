//! How the target is kept from others, as an argument.

use clap::{Args, ValueEnum};
use dts_proto::v1::{GuardStatus, TargetFence, TargetGuard, Task};
use serde_json::{Value, json};

use crate::show::short;

#[derive(Debug, Args)]
pub(crate) struct Guarding {
    /// `watch`: nothing is changed on the target, and writes of others are noticed, counted, and raise an alarm. `acl`: besides, the right to write is
    /// taken from every other user (Redis 6.0 or newer, our user may run ACL), and given back at the end. `off`: nobody looks.
    #[arg(long, value_enum, default_value_t = Level::Watch)]
    target_guard: Level,
    /// How surely an agent that was replaced is kept from the target. `auto`: by what the target has of itself (F3 one server, F1 a cluster). `user`:
    /// besides, the data is written as a user of its own for each agent's turn, which its successor removes (F4: Redis 6.0 or newer, our login may run
    /// ACL, nobody may write without a login; else the check says so and nothing begins).
    #[arg(long, value_enum, default_value_t = Fence::Auto)]
    target_fence: Fence,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Fence {
    Auto,
    User,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Level {
    Acl,
    Watch,
    Off,
}

impl Guarding {
    /// For a spec.
    pub(crate) fn fence(&self) -> i32 {
        match self.target_fence {
            Fence::Auto => TargetFence::Auto,
            Fence::User => TargetFence::User,
        }
        .into()
    }

    /// For a spec.
    pub(crate) fn level(&self) -> i32 {
        match self.target_guard {
            Level::Acl => TargetGuard::Acl,
            Level::Watch => TargetGuard::Watch,
            Level::Off => TargetGuard::Off,
        }
        .into()
    }
}

fn status(task: &Task) -> Option<GuardStatus> {
    task.shards.iter().find_map(|shard| shard.status.as_ref()?.guard.clone())
}

fn word(level: TargetGuard) -> String {
    short(level.as_str_name(), "TARGET_GUARD_").to_lowercase()
}

/// As JSON: docs/json-events.md; null before anybody looked.
pub(crate) fn shown(task: &Task) -> Value {
    let Some(guard) = status(task) else { return Value::Null };
    json!({
        "level": word(guard.level()), "why": guard.why, "read_only_users": guard.read_only_users,
        "foreign_writes": guard.foreign_writes, "recent": guard.recent, "foreign_clients": guard.foreign_clients,
    })
}

/// For people; nothing if there is nothing to say.
pub(crate) fn line(task: &Task) -> Option<String> {
    let guard = status(task)?;
    let mut said = Vec::new();
    if !guard.read_only_users.is_empty() {
        said.push(format!("{} cannot write to the target while this runs", guard.read_only_users.join(", ")));
    }
    if !guard.why.is_empty() {
        said.push(guard.why.clone());
    }
    if guard.foreign_writes > 0 {
        said.push(format!(
            "{} FOREIGN WRITES on the target, by {}",
            guard.foreign_writes,
            guard.foreign_clients.join(", ")
        ));
    }
    (!said.is_empty()).then(|| said.join("; "))
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::{Shard, ShardStatus};

    use super::*;

    #[test]
    fn writes_of_others_are_told_with_their_clients() {
        let guard = GuardStatus {
            level: TargetGuard::Watch.into(),
            foreign_writes: 3,
            foreign_clients: vec!["10.0.0.9:5 (set)".into()],
            ..GuardStatus::default()
        };
        let status = Some(ShardStatus { guard: Some(guard), ..ShardStatus::default() });
        let task = Task { shards: vec![Shard { status, ..Shard::default() }], ..Task::default() };
        assert_eq!(line(&task).as_deref(), Some("3 FOREIGN WRITES on the target, by 10.0.0.9:5 (set)"));
        assert_eq!(shown(&task)["level"], "watch");
        assert!(line(&Task::default()).is_none() && shown(&Task::default()).is_null());
    }
}
