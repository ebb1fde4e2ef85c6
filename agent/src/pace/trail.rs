//! When a counter reached which value: tells how old the oldest byte is that the other side does not have.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

const FINEST: Duration = Duration::from_millis(50);
/// More marks than these are drawn together.
const MOST: usize = 1024;

/// Marks, each at least `step` after the one before: an age is up to a step longer than it is, and never shorter.
#[derive(Debug)]
pub(super) struct Trail {
    marks: VecDeque<(Instant, u64)>,
    step: Duration,
}

impl Default for Trail {
    fn default() -> Self {
        Self { marks: VecDeque::new(), step: FINEST }
    }
}

impl Trail {
    /// The counter stands at `value` now; one that fell begins anew.
    pub(super) fn mark(&mut self, now: Instant, value: u64) {
        if self.marks.back().is_some_and(|(_, last)| value < *last) {
            self.clear();
        }
        while self.marks.len() >= MOST {
            self.step *= 2;
            for (at, value) in std::mem::take(&mut self.marks) {
                self.push(at, value);
            }
        }
        self.push(now, value);
    }

    fn push(&mut self, at: Instant, value: u64) {
        match self.marks.back_mut() {
            Some((_, last)) if value == *last => {}
            Some((before, last)) if at.saturating_duration_since(*before) < self.step => *last = value,
            _ => self.marks.push_back((at, value)),
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// For how long there has been something beyond `reached`. What is reached by both sides is forgotten.
    pub(super) fn beyond(&mut self, now: Instant, reached: u64) -> Option<Duration> {
        while self.marks.front().is_some_and(|(_, value)| *value <= reached) && self.marks.len() > 1 {
            self.marks.pop_front();
        }
        let (at, _) = self.marks.front().filter(|(_, value)| *value > reached)?;
        Some(now.saturating_duration_since(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_as_old_as_its_mark() {
        let (begun, mut trail) = (Instant::now(), Trail::default());
        for second in 0..10u32 {
            trail.mark(begun + Duration::from_secs(second.into()), u64::from(second) * 100);
        }
        let now = begun + Duration::from_secs(10);
        assert_eq!(trail.beyond(now, 250), Some(Duration::from_secs(7)));
        assert_eq!(trail.beyond(now, 899), Some(Duration::from_secs(1)));
        assert_eq!(trail.beyond(now, 900), None);
        trail.mark(now, 50);
        assert_eq!(trail.beyond(now, 40), Some(Duration::ZERO), "a counter that fell began anew");
    }

    #[test]
    fn a_long_trail_stays_short_and_never_makes_a_lag_younger() {
        let (begun, mut trail) = (Instant::now(), Trail::default());
        for tick in 1..20_000u32 {
            trail.mark(begun + Duration::from_secs(tick.into()), tick.into());
            assert!(trail.marks.len() <= MOST);
        }
        let now = begun + Duration::from_secs(20_000);
        assert!(trail.beyond(now, 0) >= Some(Duration::from_secs(19_999)));
        let lag = trail.beyond(now, 10_000).unwrap();
        assert!(lag >= Duration::from_secs(9_999) && lag < Duration::from_secs(10_060), "{lag:?}");
    }
}
