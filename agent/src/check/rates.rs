//! How fast the source is written, and how fast the ways to both servers are. Measured once a look, by what every user may ask.

use std::time::Duration;

use dts_common::error::Result;
use redis_protocol::resp2::types::BytesFrame;
use tokio::time::{Instant, sleep};

use super::look::Shard;
use super::words::per_second;
use crate::client::Client;

/// Questions whose answers are timed; the median counts.
const PINGS: usize = 7;
/// Of one ECHO, and how many there are at most.
const ECHO: usize = 64 << 10;
const ECHOES: u32 = 16;
/// A slow line is not burdened for longer.
const LONGEST: Duration = Duration::from_secs(1);

/// What the source's clients write.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Writes {
    pub(super) bytes_per_second: u64,
    /// The source keeps no stream yet, so this is all that its clients send.
    pub(super) at_most: bool,
    /// Changes of keys.
    pub(super) changes_per_second: u64,
}

/// From here to a server and back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Way {
    pub(super) round_trip: Duration,
    /// `None`: the user may not ECHO.
    pub(super) bytes_per_second: Option<u64>,
}

/// Both ways.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ways {
    pub(super) source: Way,
    pub(super) target: Way,
}

impl Shard<'_> {
    /// What the source's clients write; nothing if it does not tell.
    pub(super) async fn written(&self) -> Result<Writes> {
        self.writes.get_or_try_init(|| self.measure_writes()).await.copied()
    }

    async fn measure_writes(&self) -> Result<Writes> {
        let mut from = self.from().await?;
        let (before, begun) = (Counters::ask(&mut from).await?, Instant::now());
        sleep(self.sample).await;
        let (after, took) = (Counters::ask(&mut from).await?, begun.elapsed());
        let writes = before.until(&after, took);
        self.figure(|figures| {
            figures.write_bytes_per_second = writes.bytes_per_second;
            figures.writes_at_most = writes.at_most;
            figures.changes_per_second = writes.changes_per_second;
        });
        Ok(writes)
    }

    /// Round trips and throughput, once nobody counts what the source gets any more.
    pub(super) async fn ways(&self) -> Result<Ways> {
        self.ways.get_or_try_init(|| self.measure_ways()).await.copied()
    }

    async fn measure_ways(&self) -> Result<Ways> {
        self.written().await?;
        let ways = Ways { source: way(&mut self.from().await?).await?, target: way(&mut self.to().await?).await? };
        self.figure(|figures| {
            let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
            figures.source_round_trip_us = micros(ways.source.round_trip);
            figures.target_round_trip_us = micros(ways.target.round_trip);
            figures.read_bytes_per_second = ways.source.bytes_per_second.unwrap_or(0);
            figures.apply_bytes_per_second = ways.target.bytes_per_second.unwrap_or(0);
        });
        Ok(ways)
    }
}

/// What the source counts.
#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    /// Of its stream, if it keeps one.
    offset: Option<u64>,
    changes: u64,
    input: u64,
}

impl Counters {
    async fn ask(from: &mut Client) -> Result<Self> {
        let info = from.info("default").await?;
        let offset = match info.get("role") {
            Some("slave") => info.number("slave_repl_offset"),
            // Without a backlog nothing is counted, or every command as one byte.
            _ if info.number("repl_backlog_active") == Some(1) => info.number("master_repl_offset"),
            _ => None,
        };
        let changes = info.number("rdb_changes_since_last_save").unwrap_or(0);
        Ok(Self { offset, changes, input: info.number("total_net_input_bytes").unwrap_or(0) })
    }

    fn until(&self, after: &Self, took: Duration) -> Writes {
        // A save that ended meanwhile has set the count back.
        let changes = after.changes.checked_sub(self.changes).unwrap_or(after.changes);
        let changes_per_second = per_second(changes, took);
        let (bytes, at_most) = match (self.offset, after.offset) {
            (Some(before), Some(after)) => (after.saturating_sub(before), false),
            _ if changes == 0 => (0, false),
            _ => (after.input.saturating_sub(self.input), true),
        };
        Writes { bytes_per_second: per_second(bytes, took), at_most, changes_per_second }
    }
}

async fn way(client: &mut Client) -> Result<Way> {
    let mut times = Vec::new();
    for _ in 0..PINGS {
        let begun = Instant::now();
        client.ask(&[b"PING"]).await?;
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    Ok(Way { round_trip: times[PINGS / 2], bytes_per_second: throughput(client).await? })
}

/// There and back, so the slower of the two directions counts.
async fn throughput(client: &mut Client) -> Result<Option<u64>> {
    let text = vec![b'x'; ECHO];
    let (begun, mut sent) = (Instant::now(), 0);
    for _ in 0..ECHOES {
        if matches!(client.ask(&[b"ECHO", &text]).await?, BytesFrame::Error(_)) {
            return Ok(None);
        }
        sent += ECHO as u64;
        if begun.elapsed() > LONGEST {
            break;
        }
    }
    Ok(Some(per_second(sent, begun.elapsed())))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_stream_is_measured_by_its_offset_and_without_one_by_what_comes_in_if_anything_changes() {
        let before = Counters { offset: Some(100), changes: 5, input: 1000 };
        let writes = before.until(&Counters { offset: Some(600), changes: 8, input: 9000 }, SECOND);
        assert_eq!((writes.bytes_per_second, writes.at_most, writes.changes_per_second), (500, false, 3));
        let before = Counters { offset: None, ..before };
        let reads = before.until(&Counters { offset: None, changes: 5, input: 9000 }, SECOND);
        assert_eq!((reads.bytes_per_second, reads.at_most), (0, false));
        let writes = before.until(&Counters { offset: None, changes: 6, input: 9000 }, SECOND);
        assert_eq!((writes.bytes_per_second, writes.at_most), (8000, true));
    }

    #[test]
    fn a_save_between_two_looks_does_not_hide_changes() {
        let before = Counters { offset: Some(1), changes: 500, input: 0 };
        let writes = before.until(&Counters { offset: Some(2), changes: 20, input: 0 }, SECOND);
        assert_eq!(writes.changes_per_second, 20);
    }
}
