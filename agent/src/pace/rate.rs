//! How fast a counter grows, as of the last seconds.

use std::time::{Duration, Instant};

/// What is older than a few of these counts for little.
const MEMORY: Duration = Duration::from_secs(5);

/// An average that forgets.
#[derive(Debug, Default)]
pub(super) struct Rate {
    last: Option<(Instant, u64)>,
    average: f64,
    /// How much of the memory is filled: a young average is not pulled towards zero.
    weight: f64,
}

impl Rate {
    /// The counter stands at `value`; zero says that it is not known yet, and one that fell begins anew.
    pub(super) fn see(&mut self, now: Instant, value: u64) {
        let Some((then, before)) = self.last.filter(|(_, before)| *before > 0 && value >= *before) else {
            self.last = Some((now, value));
            return;
        };
        let took = now.saturating_duration_since(then).as_secs_f64();
        if took <= 0.0 {
            return;
        }
        self.last = Some((now, value));
        let share = 1.0 - (-took / MEMORY.as_secs_f64()).exp();
        // A counter that grows past 2^53 in one step loses its last digits, no more.
        #[allow(clippy::cast_precision_loss)]
        let grown = (value - before) as f64;
        self.average += share * (grown / took - self.average);
        self.weight += share * (1.0 - self.weight);
    }

    /// A second.
    pub(super) fn per_second(&self) -> u64 {
        if self.weight <= 0.0 {
            return 0;
        }
        // Not negative, and `as` stops at the largest number.
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let rounded = (self.average / self.weight).round() as u64;
        rounded
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_steady_counter_has_its_rate_from_the_second_look_on() {
        let (begun, mut rate) = (Instant::now(), Rate::default());
        rate.see(begun, 1_000_000);
        assert_eq!(rate.per_second(), 0, "where it began is not growth");
        for tick in 1..100u32 {
            rate.see(begun + tick * Duration::from_millis(100), 1_000_000 + u64::from(tick) * 50);
            assert_eq!(rate.per_second(), 500);
        }
    }

    #[test]
    fn a_counter_that_stands_still_is_forgotten_and_one_that_fell_begins_anew() {
        let (begun, mut rate) = (Instant::now(), Rate::default());
        rate.see(begun, 1);
        rate.see(begun + Duration::from_secs(1), 1001);
        rate.see(begun + Duration::from_secs(61), 1001);
        assert_eq!(rate.per_second(), 0);
        rate.see(begun + Duration::from_secs(62), 5);
        rate.see(begun + Duration::from_secs(67), 505);
        assert!((60..=100).contains(&rate.per_second()), "{}", rate.per_second());
    }
}
