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

/// One line for people.
pub(crate) fn line(task: &Task, rate: u64) -> String {
    let status = status(task);
    let snapshot = status.snapshot.unwrap_or_default();
    let stream = status.stream.clone().unwrap_or_default();
    let mut line = format!("{:<11}", phase(task));
    if stream.applied_offset == 0 {
        line += &format!(" {} of ", bytes(snapshot.applied_bytes));
        line += &if snapshot.total_bytes > 0 { bytes(snapshot.total_bytes) } else { "?".to_owned() };
        line += &format!(", {} keys, {}/s", snapshot.applied_keys, bytes(rate));
        if let Some(left) = snapshot.total_bytes.saturating_sub(snapshot.applied_bytes).checked_div(rate)
            && snapshot.total_bytes > 0
        {
            line += &format!(", {left} s left");
        }
    } else {
        line += &format!(
            " source offset {}, applied {}, lag {} / {} ms",
            stream.source_offset,
            stream.applied_offset,
            bytes(stream.lag_bytes),
            stream.lag_ms
        );
    }
    line + &format!(", keys {} -> {}", status.source_keys, status.target_keys)
}
