//! The lines to both servers, and their clocks.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dts_common::error::Result;
use dts_common::units::bytes;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use super::found::Found;
use super::look::Shard;
use super::rates::{Way, Writes};
use crate::client::Client;
use crate::target::{Destination, transaction};

/// Clocks that differ by more make keys expire early or late.
const SKEW_MS: i64 = 2000;
/// A way that is not so many times as fast as what comes is near its end.
const ROOM: u64 = 2;

impl Writes {
    /// For people.
    pub(super) fn shown(self) -> String {
        let most = if self.at_most { "at most " } else { "" };
        format!("the source writes {most}{}/s", bytes(self.bytes_per_second))
    }
}

impl Way {
    /// Bytes a second that transactions of ours can carry.
    pub(super) fn carries(self) -> Option<u64> {
        let batch = u64::try_from(transaction(self.round_trip)).unwrap_or(u64::MAX);
        let by_trips = super::words::per_second(batch, self.round_trip.max(Duration::from_micros(1)));
        self.bytes_per_second.map(|line| line.min(by_trips))
    }

    fn shown(self) -> String {
        let speed = self.bytes_per_second.map_or("speed unknown".into(), |speed| format!("{}/s", bytes(speed)));
        format!("{} us, {speed}", self.round_trip.as_micros())
    }
}

/// Both ways carry what comes, with room.
pub(super) async fn quality(shard: &Shard<'_>) -> Found {
    let look = async {
        let (ways, writes) = (shard.ways().await?, shard.written().await?);
        let (source, target) = (ways.source.shown(), ways.target.shown());
        let said = format!("source: {source}; target: {target}; {}", writes.shown());
        let least = writes.bytes_per_second.saturating_mul(ROOM);
        let speeds = [ways.source.bytes_per_second, ways.target.bytes_per_second];
        Ok(match speeds {
            _ if speeds.iter().flatten().any(|speed| *speed < least) => Found::bad(said),
            [Some(_), Some(_)] => Found::noted(said),
            _ => Found::unknown(said),
        })
    };
    Found::asked(look.await)
}

/// The target can take more than the source writes.
pub(super) async fn catches_up(shard: &Shard<'_>) -> Found {
    let look = async {
        let writes = shard.written().await?;
        if writes.bytes_per_second == 0 {
            return Ok(Found::noted("the source has written nothing while it was watched"));
        }
        let way = shard.ways().await?.target;
        let line = match shard.destination {
            Destination::Standalone(_) => way.carries(),
            // A pipeline a master: the trips of one do not hold up the others.
            Destination::Cluster(_) | Destination::Routed(_) => way.bytes_per_second,
        };
        let limits = *shard.job.limits.borrow();
        let bounds = [limits.read_bytes_per_second, limits.write_bytes_per_second];
        let bound = bounds.into_iter().filter(|bound| *bound > 0).min();
        let Some(most) = line.into_iter().chain(bound).min() else {
            return Ok(Found::unknown("how fast the target takes writes could not be measured"));
        };
        let by = if bound == Some(most) { "the task's limits take" } else { "the way to the target takes" };
        let said = format!("{}, {by} {}/s", writes.shown(), bytes(most));
        Ok(if most <= writes.bytes_per_second { Found::bad(said) } else { Found::noted(said) })
    };
    Found::asked(look.await)
}

/// Clocks of both servers, seen from here.
pub(super) async fn clocks(shard: &Shard<'_>) -> Found {
    let look = async {
        let (source, target) = (ahead(&mut shard.from().await?).await?, ahead(&mut shard.to().await?).await?);
        let (Some(source), Some(target)) = (source, target) else {
            return Ok(Found::unknown("the user may not ask for the time"));
        };
        let said = format!("ahead of the agent: source {source} ms, target {target} ms");
        let apart = [source, target, source - target].into_iter().map(i64::abs).max().unwrap_or(0);
        Ok(if apart > SKEW_MS { Found::bad(said) } else { Found::noted(said) })
    };
    Found::asked(look.await)
}

/// Ms that the server's clock is ahead of ours.
async fn ahead(client: &mut Client) -> Result<Option<i64>> {
    let before = now_ms();
    let reply = client.ask(&[b"TIME"]).await?;
    let middle = before + (now_ms() - before) / 2;
    let BytesFrame::Array(words) = reply else { return Ok(None) };
    let number = |at: usize| words.get(at).and_then(BytesFrame::as_str).and_then(|text| text.parse::<i64>().ok());
    Ok(number(0).zip(number(1)).map(|(seconds, micros)| seconds * 1000 + micros / 1000 - middle))
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_way_carries_less_than_its_line() {
        let way = |ms| Way { round_trip: Duration::from_millis(ms), bytes_per_second: Some(50 << 20) };
        assert_eq!(way(0).carries(), Some(50 << 20));
        // 4 MiB every 100 ms.
        assert_eq!(way(100).carries(), Some(40 << 20));
    }
}
