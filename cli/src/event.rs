//! What `dts migrate` tells, as JSON lines or for people. The JSON is a contract: `docs/json-events.md`.

use std::collections::HashMap;

use dts_proto::v1::{Hop, Pace, Reason, Replay, ShardStatus, SnapshotProgress, SpoolStatus, StreamProgress, Task};
use serde_json::{Value, json};

use crate::guard;
use crate::show::{bytes, period, short};

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
            exactly_once: all.iter().filter_map(|status| status.stream.as_ref()).all(|stream| stream.exactly_once),
        }),
        spool: Some(SpoolStatus { memory_bytes: totals.spool_memory_bytes, disk_bytes: totals.spool_disk_bytes }),
        source_keys: totals.source_keys,
        target_keys: totals.target_keys,
        source_keys_change: totals.source_keys_change,
        target_keys_change: totals.target_keys_change,
        warnings: warnings.collect(),
        stray_keys: totals.stray_keys,
        filtered_keys: all.iter().map(|status| status.filtered_keys).sum(),
        filtered_commands: all.iter().map(|status| status.filtered_commands).sum(),
        skipped_commands: all.iter().map(|status| status.skipped_commands).sum(),
        pace: totals.pace.clone(),
        at_risk_commands: all.iter().flat_map(|status| &status.at_risk_commands).fold(
            HashMap::new(),
            |mut sums, (name, count)| {
                *sums.entry(name.clone()).or_default() += count;
                sums
            },
        ),
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
            "pace": pace(status.pace.as_ref()),
            "replay": replay(status.replay.as_ref()),
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
        "exactly_once": stream.exactly_once,
        "fence": status.fence,
        "at_risk_commands": status.at_risk_commands,
        "source_keys": status.source_keys,
        "target_keys": status.target_keys,
        "stray_keys": status.stray_keys,
        "ready_to_complete": task.ready_to_complete,
        "guard": guard::shown(task),
        "source_keys_change": status.source_keys_change,
        "target_keys_change": status.target_keys_change,
        "pace": pace(status.pace.as_ref()),
        "shards": shards(task),
    })
}

pub(crate) fn reason(event: &str, reason: &Reason) -> Value {
    json!({
        "event": event, "code": reason.code, "scope": reason.scope, "retry": reason.retry,
        "message": reason.message, "fix": reason.fix,
    })
}

/// How fast it goes, as JSON; null before anything is known.
fn pace(pace: Option<&Pace>) -> Value {
    let Some(pace) = pace else { return Value::Null };
    let hop = |hop: Option<Hop>| {
        let Hop { lag_bytes, lag_ms } = hop.unwrap_or_default();
        json!({"lag_bytes": lag_bytes, "lag_ms": lag_ms})
    };
    json!({
        "source_bytes_per_second": pace.source_bytes_per_second,
        "received_bytes_per_second": pace.received_bytes_per_second,
        "applied_bytes_per_second": pace.applied_bytes_per_second,
        "applied_keys_per_second": pace.applied_keys_per_second,
        "applied_commands_per_second": pace.applied_commands_per_second,
        "source_to_received": hop(pace.received),
        "received_to_applied": hop(pace.applied),
        "backlog_size_bytes": pace.backlog_size_bytes,
        "backlog_history_bytes": pace.backlog_history_bytes,
        "backlog_left_ms": pace.backlog_left_ms,
        "time_left_ms": pace.time_left_ms,
        "throttled_by": pace.throttled_by,
    })
}

/// How far the target may step back; null before it has a position.
fn replay(replay: Option<&Replay>) -> Value {
    let Some(replay) = replay else { return Value::Null };
    json!({
        "window_bytes": replay.window_bytes,
        "backlog_bytes": replay.backlog_bytes,
        "lasts_ms": replay.lasts_ms,
        "target_keeps": replay.target_keeps,
        "loss_ms": replay.loss_ms,
        "short": replay.short,
    })
}

/// One line for people.
pub(crate) fn line(task: &Task) -> String {
    let status = status(task);
    let snapshot = status.snapshot.unwrap_or_default();
    let stream = status.stream.clone().unwrap_or_default();
    let pace = status.pace.unwrap_or_default();
    let mut line = format!("{:<11}", phase(task));
    if stream.applied_offset == 0 {
        let total = if snapshot.total_bytes > 0 { bytes(snapshot.total_bytes) } else { "?".to_owned() };
        line += &format!(" {} of {total}, {}/s", bytes(snapshot.applied_bytes), bytes(pace.applied_bytes_per_second));
        line +=
            &format!(", {} of {} keys, {}/s", snapshot.applied_keys, status.source_keys, pace.applied_keys_per_second);
    } else {
        let (from, to) = (pace.received.unwrap_or_default(), pace.applied.unwrap_or_default());
        line += &format!(" source offset {}, applied {}", stream.source_offset, stream.applied_offset);
        line += &format!(", lag {} / {} ms", bytes(stream.lag_bytes), stream.lag_ms);
        if from.lag_ms + to.lag_ms > 0 {
            line += &format!(" (source to agent {} ms, agent to target {} ms)", from.lag_ms, to.lag_ms);
        }
        line += &format!(", {}/s", bytes(pace.applied_bytes_per_second));
        line += &format!(", {} commands/s", pace.applied_commands_per_second);
        if let Some(left) = pace.backlog_left_ms {
            line += &format!(", backlog lasts {}", period(left));
        }
    }
    if let Some(left) = pace.time_left_ms {
        line += &format!(", {} left", period(left));
    }
    if !pace.throttled_by.is_empty() {
        line += &format!(", held back by {}", pace.throttled_by.replace('_', " "));
    }
    let changed = |change: i64| if change == 0 { String::new() } else { format!(" ({change:+} a minute)") };
    let (source, target) = (changed(status.source_keys_change), changed(status.target_keys_change));
    line + &format!(", keys {}{source} -> {}{target}", status.source_keys, status.target_keys)
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
        let pace = Pace {
            applied_bytes_per_second: 1024,
            applied_keys_per_second: 100,
            time_left_ms: Some(9000),
            throttled_by: "target".into(),
            ..Pace::default()
        };
        let status = ShardStatus {
            snapshot: Some(snapshot),
            pace: Some(pace),
            source_keys: 1000,
            target_keys: 90,
            ..ShardStatus::default()
        };
        let line = line(&task(status));
        let expected = "FULL_SYNC   2.0 KiB of ?, 1.0 KiB/s, 100 of 1000 keys, 100/s, 9 s left, held back by target, keys 1000 -> 90";
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
        let pace = Pace {
            applied: Some(Hop { lag_bytes: 4, lag_ms: 7 }),
            backlog_left_ms: Some(7_200_000),
            ..Pace::default()
        };
        let status = ShardStatus { stream: Some(stream), pace: Some(pace), ..ShardStatus::default() };
        let line = line(&task(status));
        let offsets = "source offset 9, applied 5, lag 4 B / 7 ms (source to agent 0 ms, agent to target 7 ms)";
        assert!(line.contains(offsets) && line.contains("backlog lasts 2 h"), "{line}");
    }
}
