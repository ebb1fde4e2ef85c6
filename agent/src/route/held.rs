//! Which keys may carry a held expiry (`dts_common::redis::expiry`), as long as they are few enough to name.

use std::collections::HashSet;

/// What naming keys may cost.
const BUDGET: usize = 24 << 20;
/// Of one key beside its bytes.
const OVERHEAD: usize = 56;

/// Keys, or all keys.
#[derive(Clone, Debug, Default)]
pub struct Held {
    keys: HashSet<(u32, Box<[u8]>)>,
    cost: usize,
    everything: bool,
}

impl Held {
    /// Any key may.
    pub fn everything() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// This one may.
    pub(super) fn add(&mut self, db: u32, key: &[u8]) {
        if self.everything {
            return;
        }
        if self.keys.insert((db, key.into())) {
            self.cost += key.len() + OVERHEAD;
        }
        if self.cost > BUDGET {
            *self = Self::everything();
        }
    }

    /// Nobody knows which.
    pub(super) fn add_everything(&mut self) {
        if !self.everything {
            *self = Self::everything();
        }
    }

    /// The keys by database, or `None` if it may be any key.
    pub fn into_keys(self) -> Option<Vec<(u32, Box<[u8]>)>> {
        if self.everything {
            return None;
        }
        let mut keys: Vec<_> = self.keys.into_iter().collect();
        keys.sort_unstable();
        Some(keys)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_named_once_and_too_many_are_all() {
        let mut held = Held::default();
        held.add(0, b"a");
        held.add(1, b"a");
        held.add(0, b"a");
        assert_eq!(held.clone().into_keys().unwrap().len(), 2);
        for i in 0..1_000_000u32 {
            held.add(0, &i.to_le_bytes());
        }
        assert!(held.into_keys().is_none());
    }
}
