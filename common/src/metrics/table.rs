//! Every metric of ours. Those of the process are Prometheus's own.

/// How a metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows, and begins anew with an epoch or a process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts in buckets.
    Histogram,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As Prometheus knows it.
    pub name: &'static str,
    /// How it counts.
    pub kind: Kind,
    /// What it counts in.
    pub unit: &'static str,
    /// Names of its labels.
    pub labels: &'static str,
    /// What it says.
    pub meaning: &'static str,
}

const fn row(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    labels: &'static str,
    meaning: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, meaning }
}

use Kind::{Counter, Gauge, Histogram};

const SHARD: &str = "task, shard";

/// All of them, in the order in which they are documented.
pub const METRICS: &[Metric] = &[
    row("dts_build_info", Gauge, "1", "version, role", "Always 1: the version of this process, and what it is"),
    row(
        "dts_shard_info",
        Gauge,
        "1",
        "task, shard, agent, source, source_version, target_version, fence",
        "Always 1: who holds the shard, which server is read, and what keeps a replaced writer out",
    ),
    row(
        "dts_shard_phase",
        Gauge,
        "1",
        "task, shard, phase",
        "1 for the phase that the shard is in; the other phases have no series",
    ),
    row("dts_shard_epoch", Gauge, "revision", SHARD, "Epoch of the assignment; grows with every takeover"),
    row(
        "dts_shard_fence_level",
        Gauge,
        "level",
        SHARD,
        "0 to 4: how surely a replaced writer is kept from the target (docs/decisions/0017)",
    ),
    row(
        "dts_shard_report_age_seconds",
        Gauge,
        "seconds",
        SHARD,
        "Coordinator only: age of the agent's last report of this shard",
    ),
    row("dts_shard_source_offset_bytes", Gauge, "bytes", SHARD, "The source's replication offset, asked once a second"),
    row("dts_shard_received_offset_bytes", Gauge, "bytes", SHARD, "Offset up to which the agent has the stream"),
    row(
        "dts_shard_applied_offset_bytes",
        Gauge,
        "bytes",
        SHARD,
        "Offset up to which the target holds everything, by its own record; 0 while it is copied",
    ),
    row(
        "dts_shard_lag_bytes",
        Gauge,
        "bytes",
        "task, shard, hop",
        "What is missing behind a hop: source_to_received, received_to_applied",
    ),
    row(
        "dts_shard_lag_seconds",
        Gauge,
        "seconds",
        "task, shard, hop",
        "Age of the oldest byte that is missing behind a hop; never 0 while one is",
    ),
    row(
        "dts_shard_bytes_per_second",
        Gauge,
        "bytes per second",
        "task, shard, of",
        "Rate of the last seconds: what the source writes (source), what comes (received), what the target confirms (applied)",
    ),
    row("dts_shard_keys_per_second", Gauge, "keys per second", SHARD, "Keys of the snapshot that the target confirms"),
    row(
        "dts_shard_commands_per_second",
        Gauge,
        "commands per second",
        SHARD,
        "Commands of the stream that the target confirms",
    ),
    row(
        "dts_shard_applied_commands_total",
        Counter,
        "commands",
        SHARD,
        "Commands of the stream that the target confirmed in this attempt",
    ),
    row(
        "dts_shard_snapshot_bytes",
        Gauge,
        "bytes",
        "task, shard, of",
        "The snapshot: its size if the source said (total), what came (received), what the target holds (applied)",
    ),
    row("dts_shard_snapshot_keys", Gauge, "keys", SHARD, "Keys of the snapshot that the target holds"),
    row(
        "dts_shard_swept_keys",
        Gauge,
        "keys",
        SHARD,
        "Keys that an earlier copy left on the target and that were removed",
    ),
    row("dts_shard_copies", Gauge, "copies", SHARD, "Full copies of this task so far, by the target's record"),
    row(
        "dts_shard_keys",
        Gauge,
        "keys",
        "task, shard, side",
        "Keys of source and target as their INFO counts them; shards of a task share the target",
    ),
    row("dts_shard_filtered_keys", Gauge, "keys", SHARD, "Keys of the snapshot that the task does not move"),
    row(
        "dts_shard_filtered_commands_total",
        Counter,
        "commands",
        SHARD,
        "Commands of the stream that the task does not move",
    ),
    row(
        "dts_shard_skipped_commands_total",
        Counter,
        "commands",
        SHARD,
        "Commands left out by policy though the task moves their keys: if any, the target differs",
    ),
    row("dts_shard_stray_keys", Gauge, "keys", SHARD, "Keys that the source holds though another shard owns them"),
    row(
        "dts_shard_spool_bytes",
        Gauge,
        "bytes",
        "task, shard, where",
        "What waits between source and target, in memory and on disk",
    ),
    row(
        "dts_shard_replay_bytes",
        Gauge,
        "bytes",
        "task, shard, of",
        "Stream behind the target's position that it can be given once more, from the agent (window) or the source (backlog)",
    ),
    row(
        "dts_shard_replay_seconds",
        Gauge,
        "seconds",
        "task, shard",
        "The larger of the two at the rate at which the source is written; no series: nothing is written",
    ),
    row(
        "dts_shard_replay_short",
        Gauge,
        "1",
        "task, shard",
        "1 if the target may forget more than that when its host crashes: then it is copied anew",
    ),
    row(
        "dts_shard_backlog_bytes",
        Gauge,
        "bytes",
        "task, shard, of",
        "The source's replication backlog: its bound (size), and what it holds (history)",
    ),
    row(
        "dts_shard_backlog_left_seconds",
        Gauge,
        "seconds",
        SHARD,
        "Until the backlog has lost the position that the target holds, at the rate at which the source is written; no series: never at this rate",
    ),
    row(
        "dts_shard_time_left_seconds",
        Gauge,
        "seconds",
        SHARD,
        "Until the copy is there, or the stream caught up with; no series: not known, or caught up",
    ),
    row(
        "dts_shard_throttled",
        Gauge,
        "1",
        "task, shard, by",
        "1 for what holds the shard back now: read_limit, write_limit, source, target; no series: nothing",
    ),
    row("dts_shard_lost_links_total", Counter, "links", SHARD, "Links to the source that were lost in this attempt"),
    row(
        "dts_shard_errors_total",
        Counter,
        "errors",
        "task, shard, code",
        "Errors that were retried or ended the shard under this epoch, by code (no series: none)",
    ),
    row("dts_task_info", Gauge, "1", "task, name, mode", "Coordinator that leads only: always 1, a task's name"),
    row(
        "dts_task_state",
        Gauge,
        "1",
        "task, state",
        "Coordinator that leads only: 1 for the state that the task is in",
    ),
    row(
        "dts_task_ready_to_complete",
        Gauge,
        "1",
        "task",
        "Coordinator that leads only: 1 once the target has caught up",
    ),
    row("dts_tasks", Gauge, "tasks", "state", "Coordinator that leads only: tasks in each state"),
    row("dts_coordinator_leads", Gauge, "1", "", "1 if this coordinator leads, 0 if another does or nobody"),
    row(
        "dts_coordinator_view_complete",
        Gauge,
        "1",
        "",
        "0 if tasks and agents are left out of this page, because they could not be read in time",
    ),
    row("dts_agents", Gauge, "agents", "alive", "Coordinator that leads only: agents that it knows"),
    row("dts_agent_shards", Gauge, "shards", "agent", "Coordinator that leads only: shards that an agent holds"),
    row("dts_agent_sessions", Gauge, "sessions", "", "Coordinator: open sessions of agents"),
    row(
        "dts_store_request_seconds",
        Histogram,
        "seconds",
        "request",
        "Coordinator: time that requests of the store take, failed ones too",
    ),
    row(
        "dts_store_errors_total",
        Counter,
        "requests",
        "request, code",
        "Coordinator: requests of the store that failed (no series: none)",
    ),
    row(
        "dts_alarm_deliveries_total",
        Counter,
        "messages",
        "outcome",
        "Coordinator: attempts to deliver an alarm: delivered, failed (no series: none)",
    ),
    row("dts_agent_session", Gauge, "1", "", "Agent: 1 while it has a session with a coordinator"),
    row("dts_agent_sessions_total", Counter, "sessions", "", "Agent: sessions that were opened"),
    row(
        "dts_agent_session_failures_total",
        Counter,
        "sessions",
        "code",
        "Agent: sessions that ended or were not had, by gRPC code (no series: none)",
    ),
];

/// The rows as `docs/metrics.md` has them.
pub fn markdown() -> String {
    let line = |metric: &Metric| {
        let Metric { name, kind, unit, labels, meaning } = metric;
        format!("| `{name}` | {} | {unit} | {labels} | {meaning} |\n", format!("{kind:?}").to_lowercase())
    };
    METRICS.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_this_table() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
        let text = std::fs::read_to_string(path).unwrap();
        let table = markdown();
        assert!(text.contains(&table), "docs/metrics.md is to have these rows:\n{table}");
    }

    #[test]
    fn names_say_what_they_count() {
        for Metric { name, kind, .. } in METRICS {
            assert_eq!(*kind == Counter, name.ends_with("_total"), "{name}");
            assert!(name.starts_with("dts_"));
        }
    }
}
