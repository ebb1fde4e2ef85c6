//! Bounds of a shard that the operator may change while it runs.

use std::time::Duration;

use dts_proto::v1;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

const SPOOL_MEMORY: u64 = 64 << 20;
const SPOOL_DISK: u64 = 16 << 30;
const RETRY_WINDOW: Duration = Duration::from_secs(600);
/// So much may go at once after a pause.
const BURST: Duration = Duration::from_millis(50);

/// The bounds, defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory of the spool.
    pub spool_memory_bytes: u64,
    /// Disk of the spool.
    pub spool_disk_bytes: u64,
    /// How long a fault is retried.
    pub retry_window: Duration,
    /// How fast the source is read; 0: unbounded.
    pub read_bytes_per_second: u64,
    /// How fast the target is written; 0: unbounded.
    pub write_bytes_per_second: u64,
}

impl From<v1::Limits> for Limits {
    fn from(wire: v1::Limits) -> Self {
        let or = |value: u64, default: u64| if value == 0 { default } else { value };
        Self {
            spool_memory_bytes: or(wire.spool_memory_bytes, SPOOL_MEMORY),
            spool_disk_bytes: or(wire.spool_disk_bytes, SPOOL_DISK),
            retry_window: match wire.retry_window_seconds {
                0 => RETRY_WINDOW,
                seconds => Duration::from_secs(seconds.into()),
            },
            read_bytes_per_second: wire.read_bytes_per_second,
            write_bytes_per_second: wire.write_bytes_per_second,
        }
    }
}

/// Keeps one direction under its rate.
#[derive(Debug)]
pub struct Throttle {
    limits: watch::Receiver<Limits>,
    rate: fn(&Limits) -> u64,
    /// When what was spent is paid off.
    free_at: Instant,
}

impl Throttle {
    /// Of the rate that `rate` picks.
    pub fn new(limits: watch::Receiver<Limits>, rate: fn(&Limits) -> u64) -> Self {
        Self { limits, rate, free_at: Instant::now() }
    }

    /// Waits until something may go. Dropping the future changes nothing.
    pub async fn ready(&mut self) {
        while (self.rate)(&self.limits.borrow_and_update()) > 0 && self.free_at > Instant::now() {
            tokio::select! {
                () = sleep_until(self.free_at) => return,
                // A new rate: whoever waited for the old one may go.
                changed = self.limits.changed() => if changed.is_ok() { return } else { sleep_until(self.free_at).await },
            }
        }
    }

    /// So many bytes went.
    pub fn spent(&mut self, bytes: u64) {
        let rate = (self.rate)(&self.limits.borrow());
        let now = Instant::now();
        if rate == 0 {
            self.free_at = now;
            return;
        }
        let micros = u128::from(bytes) * 1_000_000 / u128::from(rate);
        let cost = Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX));
        let from = self.free_at.max(now.checked_sub(BURST).unwrap_or(now));
        self.free_at = from.checked_add(cost).unwrap_or(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_kept_and_a_new_one_holds_at_once() {
        let wire = v1::Limits { write_bytes_per_second: 1000, ..v1::Limits::default() };
        let (sender, limits) = watch::channel(Limits::from(wire));
        let mut throttle = Throttle::new(limits, |limits| limits.write_bytes_per_second);
        let begun = Instant::now();
        for _ in 0..10 {
            throttle.ready().await;
            throttle.spent(500);
        }
        let took = begun.elapsed();
        assert!(took > Duration::from_millis(4300) && took < Duration::from_millis(4700), "{took:?}");
        throttle.spent(1_000_000);
        sender.send_replace(Limits::from(v1::Limits::default()));
        throttle.ready().await;
        assert!(begun.elapsed() < Duration::from_secs(5));
    }
}
