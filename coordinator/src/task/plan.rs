//! What the figures of a check say of the copy to come, and what became of it. Pure.

use std::time::{Duration, SystemTime};

use dts_proto::v1::{CheckRun, Estimate, Figures, Limits, Plan, ShardStatus, TaskState};
use prost_types::Timestamp;

use super::Stored;

/// What one agent copies of one shard in a second at most, whatever the lines carry: as measured in docs/benchmarks.md, with room.
const AGENT_BYTES: u64 = 40 << 20;
const AGENT_KEYS: u64 = 200_000;
/// A fork, a handshake, and the last of the stream.
const LEAST: u64 = 1;
/// A write touches at least a page, which a fork then has twice.
const PAGE: u64 = 4 << 10;

/// Ids of estimates, in their order.
const SNAPSHOT: &str = "snapshot_bytes";
const FORK: &str = "fork_bytes";
const COPY: &str = "copy_ms";
const SPOOL: &str = "spool_bytes";
const CATCH_UP: &str = "catch_up_ms";

/// What is known of one shard.
struct Shard {
    snapshot: u64,
    /// Bytes a second that come from its source, and that go to the target.
    reads: u64,
    writes: u64,
    seconds: u64,
}

/// From the figures of a run, if it has any.
pub fn make(run: &CheckRun, limits: Limits) -> Option<Plan> {
    let figures = run.figures.as_slice();
    if figures.is_empty() {
        return None;
    }
    // The target is shared: each has a part of what it takes.
    let shards = u64::try_from(figures.len()).unwrap_or(1);
    let each: Vec<Shard> = figures.iter().map(|of| shard(of, shards, limits)).collect();
    let seconds = each.iter().map(|shard| shard.seconds).max().unwrap_or(0);
    let snapshot: u64 = each.iter().map(|shard| shard.snapshot).sum();
    let written: u64 = figures.iter().map(|of| of.write_bytes_per_second).sum();
    let takes: u64 = each.iter().map(|shard| shard.writes).sum();
    let keys: u64 = figures.iter().map(|of| of.source_keys).sum();
    let most = if figures.iter().any(|of| of.writes_at_most) { "at most " } else { "" };
    let sampled: u64 = figures.iter().map(|of| of.sampled_keys).sum();
    let fork = figures.iter().map(|of| fork(of, seconds)).sum();
    let spool = each.iter().zip(figures).map(|(shard, of)| spool(shard, of)).sum();
    let behind = written.saturating_mul(seconds);
    let catches_up = figures.iter().zip(&each).all(|(of, shard)| shard.writes > of.write_bytes_per_second);
    let catch_up = catches_up.then(|| behind.saturating_mul(1000) / takes.saturating_sub(written).max(1));
    let measured = figures.iter().all(|of| of.apply_bytes_per_second > 0 && of.read_bytes_per_second > 0);
    let line = if measured { "measured lines" } else { "a line that could not be measured" };
    let estimates = vec![
        estimate(SNAPSHOT, Some(snapshot), format!("{keys} keys, of which {sampled} were sampled")),
        estimate(
            FORK,
            Some(fork),
            format!("{} changes/s for the time of the copy", sum(figures, |of| of.changes_per_second)),
        ),
        estimate(
            COPY,
            Some(seconds * 1000),
            format!("{line}, limits, and {AGENT_BYTES} bytes/s or {AGENT_KEYS} keys/s of an agent a shard"),
        ),
        estimate(
            SPOOL,
            Some(spool),
            format!("what comes faster than the target takes it, and {most}{written} bytes/s written meanwhile"),
        ),
        estimate(CATCH_UP, catch_up, format!("{most}{written} bytes/s are written, {takes} bytes/s can be applied")),
    ];
    Some(Plan { run: run.number, made_at: Some(SystemTime::now().into()), estimates, catches_up })
}

fn sum(figures: &[Figures], of: fn(&Figures) -> u64) -> u64 {
    figures.iter().map(of).sum()
}

fn estimate(id: &str, value: Option<u64>, basis: String) -> Estimate {
    Estimate { id: id.into(), value, basis, actual: None }
}

fn shard(of: &Figures, shards: u64, limits: Limits) -> Shard {
    let bound = |measured: u64, limit: u64| {
        [measured, limit, AGENT_BYTES].into_iter().filter(|speed| *speed > 0).min().unwrap_or(AGENT_BYTES)
    };
    let reads = bound(of.read_bytes_per_second, limits.read_bytes_per_second);
    let writes = bound(of.apply_bytes_per_second / shards, limits.write_bytes_per_second);
    let snapshot = if of.snapshot_bytes > 0 { of.snapshot_bytes } else { of.source_memory_bytes };
    let seconds = (snapshot / reads.min(writes)).max(of.source_keys / AGENT_KEYS) + LEAST;
    Shard { snapshot, reads, writes, seconds }
}

/// Pages that are written while the snapshot is made; never more than all of them.
fn fork(of: &Figures, seconds: u64) -> u64 {
    of.changes_per_second.saturating_mul(seconds).saturating_mul(PAGE).min(of.source_used_bytes)
}

fn spool(shard: &Shard, of: &Figures) -> u64 {
    let arrives = shard.snapshot / shard.reads.max(1);
    let waits = shard.snapshot.saturating_sub(arrives.saturating_mul(shard.writes));
    waits + of.write_bytes_per_second.saturating_mul(shard.seconds)
}

fn actual(plan: &mut Plan, id: &str, value: u64) {
    if let Some(estimate) = plan.estimates.iter_mut().find(|estimate| estimate.id == id) {
        estimate.actual = Some(value);
    }
}

impl Stored {
    /// The task goes to this state: where a copy begins and ends.
    pub fn measure(&mut self, state: TaskState, statuses: &[&ShardStatus]) {
        match state {
            TaskState::Preparing if self.copy_begun.is_none() => self.copy_begun = Some(SystemTime::now().into()),
            TaskState::IncrSync if self.copied.is_none() => self.note_copy(statuses),
            _ => {}
        }
    }

    /// A copy is over. One that was quick may be over before its figures are told.
    fn note_copy(&mut self, statuses: &[&ShardStatus]) {
        let received = |status: &&ShardStatus| status.snapshot.map_or(0, |snapshot| snapshot.received_bytes);
        let snapshot: u64 = statuses.iter().map(received).sum();
        // A task that goes on where it was copies nothing.
        let Some(plan) = self.plan.as_mut().filter(|_| snapshot > 0) else { return };
        let now = SystemTime::now();
        actual(plan, SNAPSHOT, snapshot);
        actual(plan, SPOOL, self.spool_peak);
        actual(plan, COPY, since(self.copy_begun, now));
        self.copied = Some(now.into());
    }

    /// What its shards show; true if something that is to be kept became known.
    pub fn watch_copy(&mut self, statuses: &[&ShardStatus], ready: bool) -> bool {
        if self.plan.is_none() {
            return false;
        }
        if self.copied.is_none() {
            let spool = |status: &&ShardStatus| status.spool.map_or(0, |spool| spool.memory_bytes + spool.disk_bytes);
            self.spool_peak = self.spool_peak.max(statuses.iter().map(spool).sum());
            if ready {
                self.note_copy(statuses);
            }
        }
        let (Some(copied), Some(plan)) = (self.copied, &mut self.plan) else { return false };
        let open = |id: &str| plan.estimates.iter().any(|estimate| estimate.id == id && estimate.actual.is_none());
        if !ready || !open(CATCH_UP) {
            return false;
        }
        let fork: u64 = statuses.iter().map(|status| status.source_fork_bytes).sum();
        if fork > 0 {
            actual(plan, FORK, fork);
        }
        actual(plan, CATCH_UP, since(Some(copied), SystemTime::now()));
        true
    }

    /// Another task, or another check of it.
    pub fn replan(&mut self, plan: Option<Plan>) {
        (self.plan, self.copy_begun, self.copied, self.spool_peak) = (plan, None, None, 0);
    }
}

fn since(begun: Option<Timestamp>, now: SystemTime) -> u64 {
    let begun = begun.and_then(|at| SystemTime::try_from(at).ok()).unwrap_or(now);
    let took = now.duration_since(begun).unwrap_or(Duration::ZERO);
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::{SnapshotProgress, SpoolStatus};

    use super::*;

    fn run(write: u64, apply: u64) -> CheckRun {
        let figures = Figures {
            source_keys: 1000,
            snapshot_bytes: 100 << 20,
            source_used_bytes: 300 << 20,
            read_bytes_per_second: 20 << 20,
            apply_bytes_per_second: apply,
            write_bytes_per_second: write,
            changes_per_second: 100,
            ..Figures::default()
        };
        CheckRun { number: 3, figures: vec![figures], ..CheckRun::default() }
    }

    fn value(plan: &Plan, id: &str) -> Option<u64> {
        plan.estimates.iter().find(|estimate| estimate.id == id).and_then(|estimate| estimate.value)
    }

    #[test]
    fn the_slower_line_decides_how_long_it_takes_and_what_waits_in_the_spool() {
        let plan = make(&run(1 << 20, 10 << 20), Limits::default()).unwrap();
        assert_eq!((plan.run, plan.catches_up), (3, true));
        assert_eq!(value(&plan, COPY), Some(11_000));
        assert_eq!(value(&plan, SNAPSHOT), Some(100 << 20));
        // It comes in 5 s, of which the target takes half; 11 s of writes come on top.
        assert_eq!(value(&plan, SPOOL), Some((50 << 20) + (11 << 20)));
        assert_eq!(value(&plan, FORK), Some(100 * 11 * PAGE));
        assert_eq!(value(&plan, CATCH_UP), Some(11_000 / 9));
        let bounded = Limits { write_bytes_per_second: 1 << 20, ..Limits::default() };
        let plan = make(&run(2 << 20, 10 << 20), bounded).unwrap();
        assert_eq!((plan.catches_up, value(&plan, CATCH_UP)), (false, None));
        assert!(make(&CheckRun::default(), Limits::default()).is_none());
    }

    #[test]
    fn after_the_copy_it_is_told_how_right_it_was_and_later_copies_change_nothing() {
        let mut stored = Stored { plan: make(&run(1, 10 << 20), Limits::default()), ..Stored::default() };
        let status = |received_bytes, disk_bytes| ShardStatus {
            snapshot: Some(SnapshotProgress { received_bytes, ..SnapshotProgress::default() }),
            spool: Some(SpoolStatus { memory_bytes: 1, disk_bytes }),
            source_fork_bytes: 77,
            ..ShardStatus::default()
        };
        stored.measure(TaskState::Preparing, &[]);
        assert!(!stored.watch_copy(&[&status(50, 9)], false));
        stored.measure(TaskState::IncrSync, &[&status(90, 2)]);
        assert!(stored.watch_copy(&[&status(90, 500)], true) && !stored.watch_copy(&[&status(90, 2)], true));
        stored.measure(TaskState::IncrSync, &[&status(5000, 2)]);
        let actual = |id: &str| stored.plan.as_ref()?.estimates.iter().find(|estimate| estimate.id == id)?.actual;
        assert_eq!((actual(SNAPSHOT), actual(SPOOL), actual(FORK)), (Some(90), Some(10), Some(77)));
        assert!(actual(COPY).is_some() && actual(CATCH_UP).is_some());
    }
}
