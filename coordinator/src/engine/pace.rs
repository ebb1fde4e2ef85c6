//! How often places and orders are worked out anew: at once where that is cheap; in a large fleet for a tenth of the time, or after a rest of 2 s.

use std::time::Duration;

use tokio::time::Instant;

/// Below this it is done at every occasion.
const CHEAP: Duration = Duration::from_millis(5);
/// One part of so many.
const SHARE: u32 = 10;
/// But nobody waits longer than this for what happened.
const LONGEST_REST: Duration = Duration::from_secs(2);

/// What it took last time, and whether it is to be done again.
#[derive(Debug, Default)]
pub(super) struct Pace {
    cost: Duration,
    ended: Option<Instant>,
    owed: bool,
}

impl Pace {
    /// True if it may be done now.
    pub(super) fn may(&self, now: Instant) -> bool {
        let rest = (self.cost * (SHARE - 1)).min(LONGEST_REST);
        let rested = |at: Instant| now.saturating_duration_since(at) >= rest;
        self.cost < CHEAP || self.ended.is_none_or(rested)
    }

    /// It was not, and there was an occasion.
    pub(super) fn owe(&mut self) {
        self.owed = true;
    }

    pub(super) fn owed(&self) -> bool {
        self.owed
    }

    /// It was done, and took so long; waiting for the store does not count.
    pub(super) fn done(&mut self, now: Instant, cost: Duration) {
        *self = Self { cost, ended: Some(now), owed: false };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cheap_is_always_done_and_what_is_not_for_a_tenth_of_the_time() {
        let (now, ms) = (Instant::now(), Duration::from_millis);
        let mut pace = Pace::default();
        assert!(pace.may(now));
        pace.done(now, ms(4));
        assert!(pace.may(now));
        pace.done(now, ms(20));
        assert!(!pace.may(now + ms(179)) && pace.may(now + ms(180)));
        pace.done(now, ms(3000));
        assert!(!pace.may(now + ms(1999)) && pace.may(now + ms(2000)));
        pace.owe();
        assert!(pace.owed());
        pace.done(now, ms(20));
        assert!(!pace.owed());
    }
}
