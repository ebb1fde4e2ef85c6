//! What `dts migrate` tells, as JSON lines or for people. The JSON is a contract: `docs/json-events.md`.

use dts_proto::v1::{Reason, ShardStatus, Task};
use serde_json::{Value, json};

use crate::show::{bytes, short};

/// Name of a state: `FULL_SYNC`.
pub(crate) fn phase(task: &Task) -> String {
    short(task.state().as_str_name(), "TASK_STATE_")
}

pub(crate) fn status(task: &Task) -> ShardStatus {
    task.shards.first().and_then(|shard| shard.status.clone()).unwrap_or_default()
}

pub(crate) fn progress(task: &Task) -> Value {
    let status = status(task);
    let snapshot = status.snapshot.unwrap_or_default();
    let stream = status.stream.clone().unwrap_or_default();
    let spool = status.spool.unwrap_or_default();
    json!({
        "event": "progress",
        "phase": phase(task),
        "shard_phase": short(status.phase().as_str_name(), "SHARD_PHASE_"),
        "snapshot_received_bytes": snapshot.received_bytes,
        "snapshot_total_bytes": snapshot.total_bytes,
        "snapshot_applied_bytes": snapshot.applied_bytes,
        "snapshot_applied_keys": snapshot.applied_keys,
        "snapshot_announced_keys": snapshot.announced_keys,
        "swept_keys": snapshot.swept_keys,
        "copy_number": snapshot.copy_number,
        "replication_id": stream.replication_id,
        "source_offset": stream.source_offset,
        "received_offset": stream.received_offset,
        "applied_offset": stream.applied_offset,
        "applied_commands": stream.applied_commands,
        "lag_bytes": stream.lag_bytes,
        "lag_ms": stream.lag_ms,
        "spool_memory_bytes": spool.memory_bytes,
        "spool_disk_bytes": spool.disk_bytes,
        "source_keys": status.source_keys,
        "target_keys": status.target_keys,
        "ready_to_complete": task.ready_to_complete,
    })
}

pub(crate) fn reason(event: &str, reason: &Reason) -> Value {
    json!({
        "event": event, "code": reason.code, "scope": reason.scope, "retry": reason.retry,
        "message": reason.message, "fix": reason.fix,
    })
}

/// How fast things go, a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    pub(crate) bytes: u64,
    pub(crate) keys: u64,
    pub(crate) commands: u64,
}

/// One line for people.
pub(crate) fn line(task: &Task, rates: Rates) -> String {
    let status = status(task);
    let snapshot = status.snapshot.unwrap_or_default();
    let stream = status.stream.clone().unwrap_or_default();
    let mut line = format!("{:<11}", phase(task));
    if stream.applied_offset == 0 {
        let total = if snapshot.total_bytes > 0 { bytes(snapshot.total_bytes) } else { "?".to_owned() };
        line += &format!(" {} of {total}, {}/s", bytes(snapshot.applied_bytes), bytes(rates.bytes));
        line += &format!(", {} of {} keys, {}/s", snapshot.applied_keys, status.source_keys, rates.keys);
        if let Some(left) = status.source_keys.saturating_sub(snapshot.applied_keys).checked_div(rates.keys) {
            line += &format!(", {left} s left");
        }
    } else {
        line += &format!(" source offset {}, applied {}", stream.source_offset, stream.applied_offset);
        line += &format!(", lag {} / {} ms", bytes(stream.lag_bytes), stream.lag_ms);
        line += &format!(", {} commands/s", rates.commands);
    }
    line + &format!(", keys {} -> {}", status.source_keys, status.target_keys)
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::{Shard, SnapshotProgress, StreamProgress, TaskState};

    use super::*;

    fn task(status: ShardStatus) -> Task {
        let shards = vec![Shard { status: Some(status), ..Shard::default() }];
        Task { shards, state: TaskState::FullSync.into(), ..Task::default() }
    }

    #[test]
    fn a_copy_shows_bytes_keys_rates_and_the_time_left() {
        let snapshot = SnapshotProgress { applied_bytes: 2048, applied_keys: 100, ..SnapshotProgress::default() };
        let status =
            ShardStatus { snapshot: Some(snapshot), source_keys: 1000, target_keys: 90, ..ShardStatus::default() };
        let line = line(&task(status), Rates { bytes: 1024, keys: 100, commands: 0 });
        let expected = "FULL_SYNC   2.0 KiB of ?, 1.0 KiB/s, 100 of 1000 keys, 100/s, 9 s left, keys 1000 -> 90";
        assert_eq!(line, expected);
    }

    #[test]
    fn a_stream_shows_offsets_and_lag() {
        let stream = StreamProgress {
            source_offset: 9,
            applied_offset: 5,
            lag_bytes: 4,
            lag_ms: 7,
            ..StreamProgress::default()
        };
        let status = ShardStatus { stream: Some(stream), ..ShardStatus::default() };
        let line = line(&task(status), Rates::default());
        assert!(line.contains("source offset 9, applied 5, lag 4 B / 7 ms"), "{line}");
    }
}
