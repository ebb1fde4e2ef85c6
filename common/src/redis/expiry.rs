//! Holding expiries: a target that is written by commands expires keys by its own clock, while our commands arrive
//! late, so a key whose TTL the source refreshes would die on the target (and later changes to it be lost). While a
//! task runs every expiry is written [`HOLD_MS`] later; the source's own DELs do the expiring, as they do on a replica.
//! Completion brings every held expiry back.

/// How far expiries are moved: 2^42 ms, about 139 years. Any expiry at or above it is a held one.
pub const HOLD_MS: i64 = 1 << 42;

/// The form in which an absolute expiry in ms is written while the task runs.
pub fn hold(at_ms: i64) -> i64 {
    at_ms.max(1).saturating_add(HOLD_MS)
}

/// The exact expiry of a held one; `None` if `at_ms` is not held.
pub fn restore(at_ms: i64) -> Option<i64> {
    (at_ms >= HOLD_MS).then(|| at_ms - HOLD_MS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_expiry_comes_back_exactly() {
        for at in [1, 1_790_000_000_000, HOLD_MS - 1, HOLD_MS, HOLD_MS * 3] {
            assert_eq!(restore(hold(at)), Some(at));
        }
    }

    #[test]
    fn an_ordinary_expiry_is_not_taken_for_a_held_one() {
        assert_eq!(restore(1_790_000_000_000), None);
    }

    #[test]
    fn a_past_or_negative_expiry_is_held_as_long_past() {
        assert_eq!(restore(hold(-5)), Some(1));
    }
}
