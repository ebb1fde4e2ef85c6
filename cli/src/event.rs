//! What `dts migrate` tells, as JSON lines or for people. The JSON is a contract: `docs/json-events.md`.

use dts_proto::v1::{Reason, ShardStatus, SnapshotProgress, SpoolStatus, StreamProgress, Task};
use serde_json::{Value, json};

use crate::show::{bytes, short};

/// Name of a state: `FULL_SYNC`.
pub(crate) fn phase(task: &Task) -> String {
    short(task.state().as_str_name(), "TASK_STATE_")
}

/// Of the only shard, or of all of them together: offsets of several histories are added up too, so that what is left adds up.
pub(crate) fn status(task: &Task) -> ShardStatus {
    let all: Vec<ShardStatus> = task.shards.iter().filter_map(|shard| shard.status.clone()).collect();
    let ([_, _, ..], Some(totals)) = (task.shards.as_slice(), &task.totals) else {
        return all.into_iter().next().unwrap_or_default();
    };
    let offsets = |of: fn(&StreamProgress) -> u64| all.iter().filter_map(|status| status.stream.as_ref()).map(of).sum();
    let least = all.iter().map(ShardStatus::phase).min().unwrap_or_default();
    let warnings = task.shards.iter().flat_map(|shard| {
        let warnings = shard.status.iter().flat_map(|status| &status.warnings);
        warnings.map(|warning| format!("shard {}: {warning}", shard.index)).collect::<Vec<_>>()
    });
    ShardStatus {
        phase: least.into(),
        reason: all.iter().find_map(|status| status.reason.clone()),
        snapshot: Some(SnapshotProgress {
            received_bytes: totals.snapshot_received_bytes,
            total_bytes: totals.snapshot_total_bytes,
            applied_bytes: totals.snapshot_applied_bytes,
            applied_keys: totals.snapshot_applied_keys,
            announced_keys: 0,
            swept_keys: totals.swept_keys,
            copy_number: all.iter().filter_map(|status| Some(status.snapshot?.copy_number)).max().unwrap_or(0),
        }),
        stream: Some(StreamProgress {
            replication_id: String::new(),
            source_offset: offsets(|stream| stream.source_offset),
            received_offset: offsets(|stream| stream.received_offset),
            applied_offset: offsets(|stream| stream.applied_offset),
            lag_bytes: totals.lag_bytes,
            lag_ms: totals.lag_ms,
            applied_commands: totals.applied_commands,
            completion_offset: offsets(|stream| stream.completion_offset),
            exactly_once: true,
        }),
        spool: Some(SpoolStatus { memory_bytes: totals.spool_memory_bytes, disk_bytes: totals.spool_disk_bytes }),
        source_keys: totals.source_keys,
        target_keys: totals.target_keys,
        warnings: warnings.collect(),
        stray_keys: totals.stray_keys,
        filtered_keys: all.iter().map(|status| status.filtered_keys).sum(),
        filtered_commands: all.iter().map(|status| status.filtered_commands).sum(),
        skipped_commands: all.iter().map(|status| status.skipped_commands).sum(),
        ..ShardStatus::default()
    }
}

/// One object a shard.
fn shards(task: &Task) -> Vec<Value> {
    let shard = |shard: &dts_proto::v1::Shard| {
        let status = shard.status.clone().unwrap_or_default();
        let (snapshot, stream) = (status.snapshot.unwrap_or_default(), status.stream.clone().unwrap_or_default());
        json!({
            "index": shard.index,
            "agent": shard.agent_id,
            "reading_from": status.reading_from,
            "owns": status.owns,
            "phase": short(status.phase().as_str_name(), "SHARD_PHASE_"),
            "reason": status.reason.as_ref().map(|found| reason("reason", found)),
            "copy_number": snapshot.copy_number,
            "snapshot_applied_bytes": snapshot.applied_bytes,
            "snapshot_applied_keys": snapshot.applied_keys,
            "swept_keys": snapshot.swept_keys,
            "stray_keys": status.stray_keys,
            "source_offset": stream.source_offset,
            "applied_offset": stream.applied_offset,
            "applied_commands": stream.applied_commands,
            "lag_bytes": stream.lag_bytes,
            "lag_ms": stream.lag_ms,
            "source_keys": status.source_keys,
        })
    };
    task.shards.iter().map(shard).collect()
}

/// One line a shard, for people; none if there is only one.
pub(crate) fn shard_lines(task: &Task) -> Vec<String> {
    let line = |shard: &dts_proto::v1::Shard| {
        let status = shard.status.clone().unwrap_or_default();
        let (snapshot, stream) = (status.snapshot.unwrap_or_default(), status.stream.clone().unwrap_or_default());
        let mut line = format!(
            "  shard {} {:<21} {:<11} offset {} -> {}, lag {} / {} ms, {} keys",
            shard.index,
            status.reading_from,
            short(status.phase().as_str_name(), "SHARD_PHASE_"),
            stream.source_offset,
            stream.applied_offset,
            bytes(stream.lag_bytes),
            stream.lag_ms,
            status.source_keys
        );
        if stream.applied_offset == 0 {
            line += &format!(", copied {} ({})", snapshot.applied_keys, bytes(snapshot.applied_bytes));
        }
        if !status.owns.is_empty() {
            line += &format!(", {}", status.owns);
        }
        line
    };
    if task.shards.len() > 1 { task.shards.iter().map(line).collect() } else { Vec::new() }
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
        "filtered_keys": status.filtered_keys,
        "filtered_commands": status.filtered_commands,
        "skipped_commands": status.skipped_commands,
        "source_keys": status.source_keys,
        "target_keys": status.target_keys,
        "stray_keys": status.stray_keys,
        "ready_to_complete": task.ready_to_complete,
        "shards": shards(task),
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
    use dts_proto::v1::{Shard, TaskState};

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
