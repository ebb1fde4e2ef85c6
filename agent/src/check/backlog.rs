//! How long the source bears that we are slow, or away: its backlog, its output buffer, its patience.

use dts_common::error::Result;
use dts_common::units::bytes;
use dts_proto::v1::Severity;

use super::found::Found;
use super::look::Shard;
use super::room::data_bytes;
use super::words::setting;

/// An interruption that every network has now and then, and one after which an operator looks.
const TOO_SHORT: u64 = 5;
const SHORT: u64 = 60;
/// A faster copy than this nobody promises.
const FASTEST: u64 = 50 << 20;

/// What the source keeps for a replica that comes late, and how long that lasts.
pub(super) async fn lasts(shard: &Shard<'_>) -> Found {
    let look = async {
        let size = setting(&mut shard.from().await?, "repl-backlog-size").await?;
        let Some(size) = size.and_then(|size| size.parse::<u64>().ok()) else {
            return Ok(Found::unknown("the source does not tell its repl-backlog-size"));
        };
        shard.figure(|figures| figures.backlog_bytes = size);
        let writes = shard.written().await?;
        let Some(seconds) = size.checked_div(writes.bytes_per_second) else {
            return Ok(Found::noted(format!("{}; nothing was written while it was watched", bytes(size))));
        };
        let said = format!("the backlog of {} lasts {seconds} s: {}", bytes(size), writes.shown());
        Ok(match seconds {
            seconds if seconds < TOO_SHORT && !writes.at_most => Found::bad(said),
            seconds if seconds < SHORT => Found::bad(said).weighing(Severity::Informs),
            _ => Found::noted(said),
        })
    };
    Found::asked(look.await)
}

/// Seconds that a copy takes at the measured speed.
async fn copy_seconds(shard: &Shard<'_>) -> Result<u64> {
    let ways = shard.ways().await?;
    let limits = *shard.job.limits.borrow();
    let speeds = [ways.source.bytes_per_second, ways.target.bytes_per_second];
    let bounds = [limits.read_bytes_per_second].into_iter().filter(|bound| *bound > 0);
    // A slow target fills our spool, not the source's buffer.
    let speed = speeds[0].into_iter().chain(bounds).chain([FASTEST]).min().unwrap_or(FASTEST);
    Ok(data_bytes(shard).await? / speed.max(1) + 1)
}

/// Whether the source would drop us while it sends its snapshot.
pub(super) async fn output_buffer(shard: &Shard<'_>) -> Found {
    let look = async {
        let Some(limits) = setting(&mut shard.from().await?, "client-output-buffer-limit").await? else {
            return Ok(Found::unknown("the source does not tell its client-output-buffer-limit"));
        };
        let Some((hard, soft, seconds)) = replica_limits(&limits) else {
            return Ok(Found::unknown(format!("client-output-buffer-limit is {limits:?}")));
        };
        shard.figure(|figures| figures.output_buffer_bytes = hard);
        let (writes, lasts) = (shard.written().await?, copy_seconds(shard).await?);
        let gathers = writes.bytes_per_second.saturating_mul(lasts);
        let over = |limit: u64| limit > 0 && gathers > limit / 10 * 8;
        let said = format!("{}: a copy of about {lasts} s gathers {}", writes.shown(), bytes(gathers));
        if over(hard) || (lasts > seconds && over(soft)) {
            let limits = format!("{} ({} for {seconds} s)", bytes(hard), bytes(soft));
            let found = Found::bad(format!("{said}; the source drops a replica beyond {limits}"));
            return Ok(if writes.at_most { found.weighing(Severity::Informs) } else { found });
        }
        Ok(Found::noted(said))
    };
    Found::asked(look.await)
}

/// `normal 0 0 0 slave 268435456 67108864 60 pubsub …`
fn replica_limits(text: &str) -> Option<(u64, u64, u64)> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let at = words.iter().position(|word| matches!(*word, "slave" | "replica"))?;
    let number = |offset: usize| words.get(at + offset)?.parse().ok();
    Some((number(1)?, number(2)?, number(3)?))
}

/// How long the source bears our silence.
pub(super) async fn timeout(shard: &Shard<'_>) -> Found {
    const LEAST: u64 = 15;
    const GOOD: u64 = 60;
    let look = async {
        let Some(seconds) = setting(&mut shard.from().await?, "repl-timeout").await? else {
            return Ok(Found::unknown("the source does not tell its repl-timeout"));
        };
        let said = format!("repl-timeout is {seconds} s");
        Ok(match seconds.parse::<u64>() {
            Ok(seconds) if seconds < LEAST => Found::bad(said),
            Ok(seconds) if seconds < GOOD => Found::bad(said).weighing(Severity::Informs),
            _ => Found::noted(said),
        })
    };
    Found::asked(look.await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_replicas_are_found_under_both_names() {
        let text = "normal 0 0 0 slave 268435456 67108864 60 pubsub 33554432 8388608 60";
        assert_eq!(replica_limits(text), Some((268_435_456, 67_108_864, 60)));
        assert_eq!(replica_limits("replica 0 0 0"), Some((0, 0, 0)));
        assert_eq!(replica_limits("normal 0 0 0"), None);
    }
}
