//! For how long something has held, and for how long it has not: an alarm is raised and resolved once, not at every flutter.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::evaluate::{Condition, Key};

/// What is over may come back at once: an alarm is resolved when it has stayed away for this.
pub(super) const CALM: Duration = Duration::from_secs(5);

/// The clock of every condition.
#[derive(Debug, Default)]
pub(super) struct Since {
    holds: HashMap<Key, Instant>,
    calm: HashMap<Key, Instant>,
}

impl Since {
    /// Those of the conditions that have held for as long as they have to.
    pub(super) fn ripe(&mut self, now: Instant, conditions: Vec<Condition>) -> Vec<Condition> {
        let keys: HashSet<&Key> = conditions.iter().map(|condition| &condition.key).collect();
        self.holds.retain(|key, _| keys.contains(key));
        let ripe = |condition: &Condition| {
            let since = *self.holds.entry(condition.key.clone()).or_insert(now);
            now.saturating_duration_since(since) >= condition.hold
        };
        conditions.into_iter().filter(ripe).collect()
    }

    /// True if what an alarm is about has been away for long enough. `holds`: it is there, or nobody knows.
    pub(super) fn is_over(&mut self, now: Instant, key: &Key, holds: bool) -> bool {
        if holds {
            self.calm.remove(key);
            return false;
        }
        let since = *self.calm.entry(key.clone()).or_insert(now);
        let over = now.saturating_duration_since(since) >= CALM;
        if over {
            self.calm.remove(key);
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::{AlarmKind, AlarmNeed};

    use super::*;

    fn condition(hold: u64) -> Condition {
        Condition {
            key: Key { policy: "p".into(), kind: AlarmKind::Lag, task: "t".into(), about: String::new() },
            need: AlarmNeed::WillRetry,
            task_name: String::new(),
            message: String::new(),
            reason: None,
            hold: Duration::from_secs(hold),
        }
    }

    #[test]
    fn a_condition_has_to_hold_without_a_gap() {
        let (begun, mut since) = (Instant::now(), Since::default());
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut ripe =
            |seconds, there: bool| since.ripe(at(seconds), if there { vec![condition(10)] } else { Vec::new() }).len();
        assert_eq!((ripe(0, true), ripe(9, true), ripe(10, true)), (0, 0, 1));
        assert_eq!((ripe(11, false), ripe(12, true), ripe(21, true), ripe(22, true)), (0, 0, 0, 1));
    }

    #[test]
    fn what_comes_back_within_the_calm_was_never_over() {
        let (begun, mut since) = (Instant::now(), Since::default());
        let key = condition(0).key;
        let at = |seconds| begun + Duration::from_secs(seconds);
        assert!(!since.is_over(at(0), &key, false) && !since.is_over(at(4), &key, false));
        assert!(!since.is_over(at(5), &key, true));
        assert!(!since.is_over(at(6), &key, false) && since.is_over(at(11), &key, false));
    }
}
