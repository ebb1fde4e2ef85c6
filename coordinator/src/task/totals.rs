//! What the shards of a task come to together.

use dts_proto::v1::{ShardPhase, Task, Totals};

use super::pace::together;

/// Sums, and the worst lag.
pub fn totals(task: &Task) -> Totals {
    let mut sums = Totals { shards: u32::try_from(task.shards.len()).unwrap_or(u32::MAX), ..Totals::default() };
    sums.pace = together(task.shards.iter().filter_map(|shard| shard.status.as_ref()?.pace.as_ref()));
    for status in task.shards.iter().filter_map(|shard| shard.status.as_ref()) {
        let snapshot = status.snapshot.unwrap_or_default();
        let stream = status.stream.clone().unwrap_or_default();
        let spool = status.spool.unwrap_or_default();
        sums.source_keys += status.source_keys;
        sums.source_keys_change += status.source_keys_change;
        if status.target_keys >= sums.target_keys {
            (sums.target_keys, sums.target_keys_change) = (status.target_keys, status.target_keys_change);
        }
        sums.snapshot_received_bytes += snapshot.received_bytes;
        sums.snapshot_total_bytes += snapshot.total_bytes;
        sums.snapshot_applied_bytes += snapshot.applied_bytes;
        sums.snapshot_applied_keys += snapshot.applied_keys;
        sums.swept_keys += snapshot.swept_keys;
        sums.applied_commands += stream.applied_commands;
        sums.lag_bytes += stream.lag_bytes;
        sums.lag_ms = sums.lag_ms.max(stream.lag_ms);
        sums.spool_memory_bytes += spool.memory_bytes;
        sums.spool_disk_bytes += spool.disk_bytes;
        sums.shards_streaming += u32::from(status.phase() == ShardPhase::Streaming);
        sums.stray_keys += status.stray_keys;
    }
    sums
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::{Shard, ShardStatus, StreamProgress};

    use super::*;

    #[test]
    fn what_is_shared_is_not_added_and_lag_is_that_of_the_last() {
        let shard = |source_keys, lag_ms| {
            let stream = StreamProgress { lag_bytes: 5, lag_ms, ..StreamProgress::default() };
            let status = ShardStatus { source_keys, target_keys: 30, stream: Some(stream), ..ShardStatus::default() };
            Shard { status: Some(status), ..Shard::default() }
        };
        let task = Task { shards: vec![shard(10, 7), shard(20, 3), Shard::default()], ..Task::default() };
        let sums = totals(&task);
        assert_eq!((sums.source_keys, sums.target_keys, sums.lag_bytes, sums.lag_ms), (30, 30, 10, 7));
        assert_eq!(sums.shards, 3);
    }
}
