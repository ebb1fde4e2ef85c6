//! What a shard and a task show, drawn for the page.

use dts_proto::v1::{ShardPhase, ShardStatus, Task, TaskState};
use metrics::{Label, counter, gauge};

// Counters of bytes beyond 2^53 lose their last digits: Prometheus has no other numbers.
#[allow(clippy::cast_precision_loss)]
fn number(value: u64) -> f64 {
    value as f64
}

#[allow(clippy::cast_precision_loss)]
fn seconds(millis: u64) -> f64 {
    millis as f64 / 1000.0
}

/// One shard, held by `agent` under `epoch`.
pub fn shard(task: &str, index: u32, agent: &str, epoch: u64, status: &ShardStatus) {
    let own = [Label::new("task", task.to_owned()), Label::new("shard", index.to_string())];
    let with = |more: &[(&'static str, &str)]| -> Vec<Label> {
        own.iter().cloned().chain(more.iter().map(|(name, value)| Label::new(*name, (*value).to_owned()))).collect()
    };
    let plain = |name: &'static str, value: u64| gauge!(name, with(&[])).set(number(value));
    let total = |name: &'static str, value: u64| counter!(name, with(&[])).absolute(value);
    let by = |name: &'static str, label: &'static str, is: &str, value: u64| {
        gauge!(name, with(&[(label, is)])).set(number(value));
    };
    let info = [
        ("agent", agent),
        ("source", &status.reading_from),
        ("source_version", &status.source_version),
        ("target_version", &status.target_version),
        ("fence", &status.fence),
    ];
    gauge!("dts_shard_info", with(&info)).set(1.0);
    by("dts_shard_phase", "phase", short(status.phase().as_str_name(), "SHARD_PHASE_"), 1);
    plain("dts_shard_epoch", epoch);
    let level = status.fence.strip_prefix('F').and_then(|level| level.parse().ok());
    if let Some(level) = level {
        plain("dts_shard_fence_level", level);
    }
    let stream = status.stream.clone().unwrap_or_default();
    plain("dts_shard_source_offset_bytes", stream.source_offset);
    plain("dts_shard_received_offset_bytes", stream.received_offset);
    plain("dts_shard_applied_offset_bytes", stream.applied_offset);
    total("dts_shard_applied_commands_total", stream.applied_commands);
    let snapshot = status.snapshot.unwrap_or_default();
    by("dts_shard_snapshot_bytes", "of", "total", snapshot.total_bytes);
    by("dts_shard_snapshot_bytes", "of", "received", snapshot.received_bytes);
    by("dts_shard_snapshot_bytes", "of", "applied", snapshot.applied_bytes);
    plain("dts_shard_snapshot_keys", snapshot.applied_keys);
    plain("dts_shard_swept_keys", snapshot.swept_keys);
    plain("dts_shard_copies", snapshot.copy_number);
    by("dts_shard_keys", "side", "source", status.source_keys);
    by("dts_shard_keys", "side", "target", status.target_keys);
    plain("dts_shard_filtered_keys", status.filtered_keys);
    total("dts_shard_filtered_commands_total", status.filtered_commands);
    let left_out = status.skipped_commands + status.skipped_cross_slot.values().sum::<u64>();
    total("dts_shard_skipped_commands_total", left_out);
    plain("dts_shard_stray_keys", status.stray_keys);
    let spool = status.spool.unwrap_or_default();
    by("dts_shard_spool_bytes", "where", "memory", spool.memory_bytes);
    by("dts_shard_spool_bytes", "where", "disk", spool.disk_bytes);
    if let Some(replay) = &status.replay {
        by("dts_shard_replay_bytes", "of", "window", replay.window_bytes);
        by("dts_shard_replay_bytes", "of", "backlog", replay.backlog_bytes);
        plain("dts_shard_replay_short", u64::from(replay.short));
        if let Some(lasts) = replay.lasts_ms {
            gauge!("dts_shard_replay_seconds", with(&[])).set(seconds(lasts));
        }
    }
    total("dts_shard_lost_links_total", status.lost_links);
    for (code, count) in &status.errors {
        counter!("dts_shard_errors_total", with(&[("code", code)])).absolute(*count);
    }
    // Nothing is known of its pace before it runs.
    let Some(pace) = &status.pace else { return };
    for (hop, of) in [("source_to_received", pace.received), ("received_to_applied", pace.applied)] {
        let of = of.unwrap_or_default();
        by("dts_shard_lag_bytes", "hop", hop, of.lag_bytes);
        gauge!("dts_shard_lag_seconds", with(&[("hop", hop)])).set(seconds(of.lag_ms));
    }
    by("dts_shard_bytes_per_second", "of", "source", pace.source_bytes_per_second);
    by("dts_shard_bytes_per_second", "of", "received", pace.received_bytes_per_second);
    by("dts_shard_bytes_per_second", "of", "applied", pace.applied_bytes_per_second);
    plain("dts_shard_keys_per_second", pace.applied_keys_per_second);
    plain("dts_shard_commands_per_second", pace.applied_commands_per_second);
    by("dts_shard_backlog_bytes", "of", "size", pace.backlog_size_bytes);
    by("dts_shard_backlog_bytes", "of", "history", pace.backlog_history_bytes);
    for (name, left) in
        [("dts_shard_backlog_left_seconds", pace.backlog_left_ms), ("dts_shard_time_left_seconds", pace.time_left_ms)]
    {
        if let Some(left) = left {
            gauge!(name, with(&[])).set(seconds(left));
        }
    }
    if !pace.throttled_by.is_empty() {
        by("dts_shard_throttled", "by", &pace.throttled_by, 1);
    }
}

/// A task and its shards.
pub fn task(task: &Task) {
    let id = || Label::new("task", task.id.clone());
    let spec = task.spec.clone().unwrap_or_default();
    let state = short(task.state().as_str_name(), "TASK_STATE_");
    let mode = spec.mode().as_str_name().trim_start_matches("MODE_");
    let info = vec![id(), Label::new("name", spec.name), Label::new("mode", mode)];
    gauge!("dts_task_info", info).set(1.0);
    gauge!("dts_task_state", vec![id(), Label::new("state", state)]).set(1.0);
    gauge!("dts_task_ready_to_complete", vec![id()]).set(f64::from(u8::from(task.ready_to_complete)));
    if settled(task.state()) {
        return;
    }
    for held in &task.shards {
        // An agent that lets go of a shard does not report it any more.
        let Some(status) = held.status.as_ref().filter(|status| !ended(status.phase())) else { continue };
        shard(&task.id, held.index, &held.agent_id, held.epoch, status);
        let seen = status.observed_at.and_then(|at| std::time::SystemTime::try_from(at).ok());
        if let Some(age) = seen.and_then(|at| at.elapsed().ok()) {
            let labels = vec![id(), Label::new("shard", held.index.to_string())];
            gauge!("dts_shard_report_age_seconds", labels).set(age.as_secs_f64());
        }
    }
}

fn ended(phase: ShardPhase) -> bool {
    matches!(phase, ShardPhase::Released | ShardPhase::Stopped)
}

fn short(name: &'static str, prefix: &str) -> &'static str {
    name.strip_prefix(prefix).unwrap_or(name)
}

fn settled(state: TaskState) -> bool {
    use TaskState as S;
    matches!(state, S::Created | S::Paused | S::Completed | S::Cancelled | S::Failed)
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::Shard;

    use super::super::draw::tests_page;
    use super::*;

    #[test]
    fn the_series_of_a_shard_end_with_its_task() {
        let status = ShardStatus { fence: "F3".into(), phase: ShardPhase::Streaming.into(), ..ShardStatus::default() };
        let shards = vec![Shard { status: Some(status), epoch: 7, ..Shard::default() }];
        let mut of = Task { id: "t".into(), shards, state: TaskState::IncrSync.into(), ..Task::default() };
        let page = tests_page(|| task(&of));
        for line in [
            "dts_shard_fence_level{task=\"t\",shard=\"0\"} 3",
            "dts_shard_phase{task=\"t\",shard=\"0\",phase=\"STREAMING\"} 1",
            "dts_task_state{task=\"t\",state=\"INCR_SYNC\"} 1",
        ] {
            assert!(page.contains(line), "{page}");
        }
        of.set_state(TaskState::Completed);
        let page = tests_page(|| task(&of));
        assert!(!page.contains("dts_shard_") && page.contains("state=\"COMPLETED\""), "{page}");
    }
}
