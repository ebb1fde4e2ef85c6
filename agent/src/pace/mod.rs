//! How fast a shard goes, how far each hop is behind, how long the source's backlog lasts, and what holds it back: from figures
//! that are looked at now and then. No I/O.

mod rate;
mod replay;
mod trail;
mod trend;

use std::time::{Duration, Instant};

use dts_proto::v1::{Hop, Pace};

use rate::Rate;
pub use replay::{Keeps, replay};
use trail::Trail;
pub use trend::Trend;

/// So much on its way is no queue.
const IN_FLIGHT: u64 = 256 << 10;
/// A source whose last answer is older may have written meanwhile.
const FRESH: Duration = Duration::from_millis(2500);

/// What the source says of its replication.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Its own offset.
    pub offset: u64,
    /// `repl_backlog_size`; 0: there is none.
    pub size: u64,
    /// `repl_backlog_histlen`.
    pub history: u64,
}

/// The figures at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// The source's last answer, and how old it is.
    pub source: Option<(Backlog, Duration)>,
    /// The source tells offsets.
    pub speaks_psync: bool,
    /// The link to the source is up.
    pub connected: bool,
    /// Bytes of the stream that came.
    pub received_offset: u64,
    /// Up to here the target holds everything; `None` while it is copied.
    pub applied_offset: Option<u64>,
    /// Bytes of the snapshot that came.
    pub snapshot_received: u64,
    /// Its size, if known.
    pub snapshot_total: u64,
    /// Bytes of it that the target holds.
    pub snapshot_applied: u64,
    /// Keys of it that the target holds.
    pub snapshot_keys: u64,
    /// Keys that the source has.
    pub source_keys: u64,
    /// Commands that the target confirmed.
    pub commands: u64,
    /// Bounds of reading and writing, bytes a second; 0: none.
    pub limits: (u64, u64),
}

/// Looks at samples in order.
#[derive(Debug, Default)]
pub struct Meter {
    written: Rate,
    snapshot_received: Rate,
    stream_received: Rate,
    snapshot_applied: Rate,
    stream_applied: Rate,
    keys: Rate,
    commands: Rate,
    source: Trail,
    here: Trail,
    streams: bool,
    in_step: Option<Instant>,
}

impl Meter {
    /// What this sample, after those before it, comes to.
    pub fn see(&mut self, now: Instant, sample: &Sample) -> Pace {
        if let Some((answer, age)) = sample.source
            && let Some(then) = now.checked_sub(age)
        {
            self.written.see(then, answer.offset);
            self.source.mark(then, answer.offset);
        }
        self.snapshot_received.see(now, sample.snapshot_received);
        self.stream_received.see(now, sample.received_offset);
        self.snapshot_applied.see(now, sample.snapshot_applied);
        self.stream_applied.see(now, sample.applied_offset.unwrap_or(0));
        self.keys.see(now, sample.snapshot_keys);
        self.commands.see(now, sample.commands);
        let copying = sample.applied_offset.is_none();
        let per_second = |stream: &Rate, snapshot: &Rate| stream.per_second().max(snapshot.per_second());
        let received = self.received(now, sample);
        let applied = self.applied(now, sample);
        let mut pace = Pace {
            source_bytes_per_second: self.written.per_second(),
            received_bytes_per_second: per_second(&self.stream_received, &self.snapshot_received),
            applied_bytes_per_second: if copying { &self.snapshot_applied } else { &self.stream_applied }.per_second(),
            applied_keys_per_second: if copying { self.keys.per_second() } else { 0 },
            applied_commands_per_second: self.commands.per_second(),
            received: Some(received),
            applied: Some(applied),
            ..Pace::default()
        };
        if let Some((answer, age)) = sample.source {
            (pace.backlog_size_bytes, pace.backlog_history_bytes) = (answer.size, answer.history);
            pace.backlog_left_ms = backlog_left(&answer, age, sample, pace.source_bytes_per_second);
        }
        pace.time_left_ms = time_left(sample, &pace);
        pace.throttled_by = throttled_by(sample, &pace).to_owned();
        pace
    }

    /// Source -> here.
    fn received(&mut self, now: Instant, sample: &Sample) -> Hop {
        let Some((answer, age)) = sample.source.filter(|_| sample.speaks_psync) else { return Hop::default() };
        let bytes = answer.offset.saturating_sub(sample.received_offset);
        if bytes == 0 && sample.connected && age < FRESH {
            self.in_step = Some(now);
        }
        let missing = self.source.beyond(now, sample.received_offset);
        match missing {
            Some(since) => Hop { lag_bytes: bytes, lag_ms: at_least_one(since) },
            None if sample.connected && age < FRESH => Hop::default(),
            // What the source has written since is not known; that it goes on as before is the best guess.
            None => {
                let since = self.in_step.map_or(age, |at| now.saturating_duration_since(at));
                Hop { lag_bytes: grown(self.written.per_second(), since), lag_ms: at_least_one(since) }
            }
        }
    }

    /// Here -> target.
    fn applied(&mut self, now: Instant, sample: &Sample) -> Hop {
        let streams = sample.applied_offset.is_some();
        if std::mem::replace(&mut self.streams, streams) != streams {
            self.here.clear();
        }
        let (here, there) = match sample.applied_offset {
            Some(applied) => (sample.received_offset, applied),
            None => (sample.snapshot_received, sample.snapshot_applied),
        };
        self.here.mark(now, here);
        let since = self.here.beyond(now, there);
        Hop { lag_bytes: here.saturating_sub(there), lag_ms: since.map_or(0, at_least_one) }
    }
}

/// What a pace is worth when nobody has looked for so long: nothing moved here, and the source went on.
pub fn aged(mut pace: Pace, silence: Duration) -> Pace {
    let (rate, ms) = (pace.source_bytes_per_second, millis(silence));
    if let Some(hop) = &mut pace.received {
        hop.lag_bytes += grown(rate, silence);
        hop.lag_ms += ms;
    }
    if let Some(hop) = pace.applied.as_mut().filter(|hop| hop.lag_bytes > 0) {
        hop.lag_ms += ms;
    }
    pace.backlog_left_ms = pace.backlog_left_ms.map(|left| left.saturating_sub(ms));
    pace.time_left_ms = None;
    for rate in [
        &mut pace.received_bytes_per_second,
        &mut pace.applied_bytes_per_second,
        &mut pace.applied_keys_per_second,
        &mut pace.applied_commands_per_second,
    ] {
        *rate = 0;
    }
    pace
}

/// If the target stayed where it is.
fn backlog_left(answer: &Backlog, age: Duration, sample: &Sample, rate: u64) -> Option<u64> {
    let held = sample.applied_offset.filter(|_| sample.speaks_psync && answer.size > 0)?;
    let first = answer.offset.saturating_sub(answer.history);
    let room = if held < first { 0 } else { (held - first) + answer.size.saturating_sub(answer.history) };
    if room == 0 {
        return Some(0);
    }
    (room.saturating_mul(1000)).checked_div(rate).map(|left| left.saturating_sub(millis(age)))
}

fn time_left(sample: &Sample, pace: &Pace) -> Option<u64> {
    let (left, rate) = match sample.applied_offset {
        None if sample.snapshot_total > 0 => {
            (sample.snapshot_total.saturating_sub(sample.snapshot_applied), pace.applied_bytes_per_second)
        }
        None => (sample.source_keys.saturating_sub(sample.snapshot_keys), pace.applied_keys_per_second),
        Some(_) => {
            let behind = [pace.received, pace.applied].into_iter().flatten().map(|hop| hop.lag_bytes).sum();
            (behind, pace.applied_bytes_per_second.saturating_sub(pace.source_bytes_per_second))
        }
    };
    left.saturating_mul(1000).checked_div(rate).filter(|_| left > 0)
}

/// The first stage, from the target backwards, with a queue before it.
fn throttled_by(sample: &Sample, pace: &Pace) -> &'static str {
    let (read_limit, write_limit) = sample.limits;
    let at_its_limit = |limit: u64, rate: u64| limit > 0 && rate >= limit / 10 * 8;
    let waiting = |hop: Option<Hop>| hop.is_some_and(|hop| hop.lag_bytes > IN_FLIGHT);
    if waiting(pace.applied) {
        return if at_its_limit(write_limit, pace.applied_bytes_per_second) { "write_limit" } else { "target" };
    }
    let copying = sample.applied_offset.is_none() && sample.snapshot_received > 0;
    if waiting(pace.received) || copying {
        return if at_its_limit(read_limit, pace.received_bytes_per_second) { "read_limit" } else { "source" };
    }
    ""
}

fn grown(per_second: u64, since: Duration) -> u64 {
    per_second.saturating_mul(millis(since)) / 1000
}

fn at_least_one(since: Duration) -> u64 {
    millis(since).max(1)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
