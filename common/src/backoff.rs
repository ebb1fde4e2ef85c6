//! Waiting between attempts: doubling, with jitter, never longer than a bound.

use std::time::Duration;

use rand::Rng as _;

/// Delays of a series of attempts.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    attempt: u32,
}

impl Backoff {
    /// Starts at `first`, doubles up to `longest`.
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, attempt: 0 }
    }

    /// The next delay: between a half and the whole of the doubled one, so that many agents do not come back at once.
    pub fn next_delay(&mut self) -> Duration {
        let whole = self.first.saturating_mul(1u32 << self.attempt.min(16)).min(self.longest);
        self.attempt = self.attempt.saturating_add(1);
        whole.mul_f64(rand::rng().random_range(0.5..=1.0))
    }

    /// Starts over, after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_bound_and_jitter_only_downwards() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        for whole in [100, 200, 400, 800, 1000, 1000] {
            let delay = backoff.next_delay();
            assert!(delay <= Duration::from_millis(whole) && delay >= Duration::from_millis(whole / 2), "{delay:?}");
        }
    }
}
