//! How fast the shards of a task go together, and how far the worst of them is behind.

use dts_proto::v1::{Hop, Pace};

/// `None` if nothing is known of any.
pub(super) fn together<'a>(paces: impl Iterator<Item = &'a Pace>) -> Option<Pace> {
    paces.cloned().reduce(|left, right| Pace {
        source_bytes_per_second: left.source_bytes_per_second + right.source_bytes_per_second,
        received_bytes_per_second: left.received_bytes_per_second + right.received_bytes_per_second,
        applied_bytes_per_second: left.applied_bytes_per_second + right.applied_bytes_per_second,
        applied_keys_per_second: left.applied_keys_per_second + right.applied_keys_per_second,
        applied_commands_per_second: left.applied_commands_per_second + right.applied_commands_per_second,
        received: hop(left.received, right.received),
        applied: hop(left.applied, right.applied),
        backlog_size_bytes: left.backlog_size_bytes + right.backlog_size_bytes,
        backlog_history_bytes: left.backlog_history_bytes + right.backlog_history_bytes,
        backlog_left_ms: [left.backlog_left_ms, right.backlog_left_ms].into_iter().flatten().min(),
        time_left_ms: left.time_left_ms.max(right.time_left_ms),
        // Of the one that is further behind.
        throttled_by: if behind(left.received, left.applied) >= behind(right.received, right.applied) {
            left.throttled_by
        } else {
            right.throttled_by
        },
    })
}

fn hop(left: Option<Hop>, right: Option<Hop>) -> Option<Hop> {
    let (left, right) = (left.unwrap_or_default(), right.unwrap_or_default());
    Some(Hop { lag_bytes: left.lag_bytes + right.lag_bytes, lag_ms: left.lag_ms.max(right.lag_ms) })
}

fn behind(received: Option<Hop>, applied: Option<Hop>) -> u64 {
    received.unwrap_or_default().lag_ms.max(applied.unwrap_or_default().lag_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_add_up_and_times_are_those_of_the_worst() {
        let pace = |rate, lag_ms, left: Option<u64>, by: &str| Pace {
            applied_bytes_per_second: rate,
            applied: Some(Hop { lag_bytes: 10, lag_ms }),
            backlog_left_ms: left,
            throttled_by: by.into(),
            ..Pace::default()
        };
        let paces = [pace(1, 5, None, "source"), pace(2, 50, Some(9), "target"), pace(3, 0, Some(70), "")];
        let all = together(paces.iter()).unwrap();
        assert_eq!((all.applied_bytes_per_second, all.applied), (6, Some(Hop { lag_bytes: 30, lag_ms: 50 })));
        assert_eq!((all.backlog_left_ms, all.throttled_by.as_str()), (Some(9), "target"));
        assert_eq!(together(std::iter::empty()), None);
    }
}
