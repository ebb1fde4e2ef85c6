//! When a key dies: read from both servers, compared as points in time, with held expiries understood.

use std::time::Duration;

use dts_common::redis::expiry::restore;

/// Expiry of a key as one server tells it, in ms since 1970 by that server's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expiry {
    /// Lives until it is deleted.
    Never,
    /// Within these ms: before 7.0 a server tells how long is left, and the answer takes a moment.
    At { first: i64, last: i64 },
}

impl Expiry {
    /// From `PEXPIRETIME`.
    pub(super) fn at(ms: i64) -> Self {
        if ms < 0 { Self::Never } else { Self::At { first: ms, last: ms } }
    }

    /// From `PTTL`, asked between two `TIME`s.
    pub(super) fn left(ms: i64, before: i64, after: i64) -> Self {
        if ms < 0 { Self::Never } else { Self::At { first: before.saturating_add(ms), last: after.saturating_add(ms) } }
    }

    /// The real one of an expiry that a running task holds back; false: it is not held.
    pub(super) fn released(self) -> (Self, bool) {
        match self {
            Self::At { first, last } => match (restore(first), restore(last)) {
                (Some(first), Some(last)) => (Self::At { first, last }, true),
                _ => (self, false),
            },
            Self::Never => (self, false),
        }
    }

    /// True if the key is dead at that moment.
    pub(super) fn is_over(self, now: i64) -> bool {
        matches!(self, Self::At { last, .. } if last <= now)
    }

    /// True if both say the same moment, within the tolerance. Living for ever and dying some day are never the same.
    pub(super) fn agrees(self, other: Self, tolerance: Duration) -> bool {
        match (self, other) {
            (Self::Never, Self::Never) => true,
            (Self::At { first, last }, Self::At { first: other_first, last: other_last }) => {
                let apart = (first - other_last).max(other_first - last).max(0);
                u128::try_from(apart).is_ok_and(|apart| apart <= tolerance.as_millis())
            }
            _ => false,
        }
    }

    /// For people.
    pub(super) fn describe(self) -> String {
        match self {
            Self::Never => "no expiry".into(),
            Self::At { first, .. } => format!("expires at {first} ms"),
        }
    }
}

#[cfg(test)]
mod tests {
    use dts_common::redis::expiry::hold;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_moment_told_in_two_ways_is_one_moment() {
        let exact = Expiry::at(1_790_000_005_000);
        assert!(exact.agrees(Expiry::left(4990, 1_790_000_000_000, 1_790_000_000_020), Duration::ZERO));
        assert!(
            exact.agrees(Expiry::at(1_790_000_006_000), SECOND) && Expiry::at(1_790_000_006_000).agrees(exact, SECOND)
        );
        assert!(!exact.agrees(Expiry::at(1_790_000_006_001), SECOND));
        assert!(!exact.agrees(Expiry::Never, Duration::from_secs(1 << 40)));
    }

    #[test]
    fn a_held_expiry_is_the_real_one_and_may_be_over() {
        let (real, held) = Expiry::at(hold(1_790_000_000_000)).released();
        assert!(held && real == Expiry::at(1_790_000_000_000) && real.is_over(1_790_000_000_000));
        assert_eq!(Expiry::at(1_790_000_000_000).released(), (Expiry::at(1_790_000_000_000), false));
    }
}
