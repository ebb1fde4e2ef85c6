//! How a count has changed within the last minute.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const WITHIN: Duration = Duration::from_secs(60);
const APART: Duration = Duration::from_secs(1);

/// Counts of the last minute, a second apart.
#[derive(Debug, Default)]
pub struct Trend(VecDeque<(Instant, u64)>);

impl Trend {
    /// Takes a count; gives its change since a minute ago, or since the first one.
    pub fn see(&mut self, now: Instant, count: u64) -> i64 {
        while self.0.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > WITHIN) {
            self.0.pop_front();
        }
        if self.0.back().is_none_or(|(at, _)| now.saturating_duration_since(*at) >= APART) {
            self.0.push_back((now, count));
        }
        let first = self.0.front().map_or(count, |(_, first)| *first);
        i64::try_from(count).unwrap_or(i64::MAX) - i64::try_from(first).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_that_of_the_last_minute() {
        let (begun, mut trend) = (Instant::now(), Trend::default());
        let mut see = |second, count| trend.see(begun + Duration::from_secs(second), count);
        assert_eq!((see(0, 10), see(1, 15), see(30, 5)), (0, 5, -5));
        assert_eq!(see(61, 5), -10);
        assert_eq!(see(300, 7), 0);
    }
}
