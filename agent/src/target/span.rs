//! How much goes out together: as much as keeps the way to the target busy for its round trip.

use std::time::Duration;

/// So many bytes a second get through …
const PER_SECOND: f64 = 64e6;
/// … unless the way is so long that more than this would be on it.
const LONGEST: usize = 4 << 20;

/// Of one transaction into a server: near, it is worth its round trip from 256 KiB on.
pub(crate) fn transaction(round_trip: Duration) -> usize {
    span(round_trip, 256 << 10)
}

/// Bytes, no fewer than `shortest`.
pub(super) fn span(round_trip: Duration, shortest: usize) -> usize {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "not negative, and bounded behind it")]
    let bytes = (round_trip.as_secs_f64() * PER_SECOND) as usize;
    bytes.clamp(shortest, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_far_target_gets_longer_transactions() {
        let of = |ms| span(Duration::from_millis(ms), 1000);
        assert_eq!((of(0), of(1), of(10), of(1000)), (1000, 64_000, 640_000, LONGEST));
    }
}
