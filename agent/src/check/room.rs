//! Room: memory of source and target, and the agent's disk.

use std::path::Path;

use dts_common::error::Result;
use dts_common::units::bytes;
use dts_proto::v1::Severity;

use super::found::Found;
use super::look::Shard;
use crate::verify::key_count;

/// Less than this and a spool cannot even begin.
const LEAST_DISK: u64 = 64 << 20;
/// A write touches at least a page, which a fork then has twice.
const PAGE: u64 = 4 << 10;

/// What the source's data takes there.
pub(super) async fn data_bytes(shard: &Shard<'_>) -> Result<u64> {
    let mut from = shard.from().await?;
    let (memory, keyspace) = (from.info("memory").await?, from.info("keyspace").await?);
    let used = memory.number("used_memory").unwrap_or(0);
    let keys = key_count(&keyspace);
    // Before 4.0 there is no such figure; an empty server has some by itself.
    let data = memory.number("used_memory_dataset").unwrap_or(used);
    let data = if keys == 0 { 0 } else { data };
    shard.figure(|figures| {
        (figures.source_memory_bytes, figures.source_keys) = (data, keys);
        figures.source_host_memory_bytes = memory.number("total_system_memory").unwrap_or(0);
        figures.source_used_bytes = used;
    });
    Ok(data)
}

/// Enough memory for what comes. What all shards bring together the coordinator looks at.
pub(super) async fn target(shard: &Shard<'_>) -> Found {
    let look = async {
        let needs = data_bytes(shard).await?;
        let (mut limit, mut used, mut bounded) = (0, 0, true);
        for mut to in shard.to_each().await? {
            let memory = to.info("memory").await?;
            let most = memory.number("maxmemory").unwrap_or(0);
            bounded &= most > 0;
            limit += if most > 0 { most } else { memory.number("total_system_memory").unwrap_or(0) };
            used += memory.number("used_memory").unwrap_or(0);
        }
        if limit == 0 {
            return Ok(Found::unknown("the target tells no limit of its memory"));
        }
        shard.figure(|figures| (figures.target_memory_limit_bytes, figures.target_memory_bytes) = (limit, used));
        let what = if bounded { "maxmemory" } else { "memory of its host" };
        let said = format!("the source's data takes {}, the target has {} ({what})", bytes(needs), bytes(limit));
        // Encodings differ, and growth goes on: half as much again is comfortable, a tenth is the least.
        Ok(match limit {
            limit if limit < needs / 10 * 11 => Found::bad(said),
            limit if limit < needs / 2 * 3 => Found::bad(said).weighing(Severity::Informs),
            _ => Found::noted(said),
        })
    };
    Found::asked(look.await)
}

/// Enough memory for the source to fork, as far as it tells: what else runs on its host nobody knows here.
pub(super) async fn fork(shard: &Shard<'_>) -> Found {
    let look = async {
        let writes = shard.written().await?;
        let memory = shard.from().await?.info("memory").await?;
        let (Some(host), Some(rss)) = (memory.number("total_system_memory"), memory.number("used_memory_rss")) else {
            return Ok(Found::unknown("the source does not tell the memory of its host (before 3.2)"));
        };
        let used = memory.number("used_memory").unwrap_or(rss);
        // Of every page that is written until the copy is done; a minute is short for one.
        let pages = writes.changes_per_second.saturating_mul(60).saturating_mul(PAGE).min(used);
        let (free, needs) = (host.saturating_sub(rss), (used / 10).max(pages));
        let said = format!(
            "the source takes {} of {}; a fork needs {} at {} changes/s, and at most as much again",
            bytes(rss),
            bytes(host),
            bytes(needs),
            writes.changes_per_second
        );
        Ok(if free < needs { Found::bad(said) } else { Found::noted(said) })
    };
    Found::asked(look.await)
}

/// Enough disk for the spool.
pub(super) async fn disk(shard: &Shard<'_>) -> Found {
    let wanted = shard.job.limits.borrow().spool_disk_bytes;
    let Some(free) = free(&shard.job.scratch) else {
        return Found::unknown("the agent's volume cannot be looked at");
    };
    shard.figure(|figures| figures.agent_disk_bytes = free);
    let needs = data_bytes(shard).await.unwrap_or(0);
    let said = format!("{} free for the spool; it may take {}", bytes(free), bytes(wanted));
    match free {
        free if free < LEAST_DISK.max(needs.min(wanted)) => Found::bad(said),
        free if free < wanted => Found::bad(said).weighing(Severity::Informs),
        _ => Found::noted(said),
    }
}

/// Of the volume of what will lie there.
fn free(path: &Path) -> Option<u64> {
    let there = path.ancestors().find(|path| path.exists())?;
    let volume = rustix::fs::statvfs(there).ok()?;
    Some(volume.f_bavail.saturating_mul(volume.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_there_yet_has_the_room_of_its_parent() {
        let dir = tempfile::tempdir().unwrap();
        assert!(free(&dir.path().join("a/b")).is_some_and(|free| free > 0));
    }
}
