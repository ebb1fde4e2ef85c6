//! How fast both servers are read.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// Bounds; 0: none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rate {
    /// Keys that are looked at.
    pub keys_per_second: u64,
    /// Bytes that are read from both servers together.
    pub bytes_per_second: u64,
}

/// Keeps a rate.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Rate,
    free_at: Instant,
}

impl Pace {
    pub(super) fn new(rate: Rate) -> Self {
        Self { rate, free_at: Instant::now() }
    }

    /// Waits until more may be read.
    pub(super) async fn ready(&self) {
        if self.free_at > Instant::now() {
            sleep_until(self.free_at).await;
        }
    }

    /// So much was read.
    pub(super) fn spent(&mut self, keys: u64, bytes: u64) {
        let cost = |count: u64, rate: u64| match rate {
            0 => Duration::ZERO,
            rate => {
                let micros = u128::from(count) * 1_000_000 / u128::from(rate);
                Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
            }
        };
        let cost = cost(keys, self.rate.keys_per_second).max(cost(bytes, self.rate.bytes_per_second));
        let from = self.free_at.max(Instant::now());
        self.free_at = from.checked_add(cost).unwrap_or(from);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_stricter_of_two_rates_is_kept() {
        let mut pace = Pace::new(Rate { keys_per_second: 100, bytes_per_second: 1000 });
        let begun = Instant::now();
        for _ in 0..10 {
            pace.ready().await;
            pace.spent(10, 500);
        }
        pace.ready().await;
        assert_eq!(begun.elapsed().as_millis(), 5000);
    }
}
