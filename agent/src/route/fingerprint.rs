//! Keys as 128 bits, to know later which ones a snapshot had. Randomly keyed, so nobody can choose keys that collide.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

/// Stands for one key of one database.
pub type Fingerprint = u128;

/// Makes fingerprints that can be compared with its own and its clones'.
#[derive(Clone, Debug, Default)]
pub struct Fingerprinter {
    high: RandomState,
    low: RandomState,
}

impl Fingerprinter {
    /// With new random keys.
    pub fn new() -> Self {
        Self::default()
    }

    /// The fingerprint of a key.
    pub fn of(&self, db: u32, key: &[u8]) -> Fingerprint {
        u128::from(self.high.hash_one((db, key))) << 64 | u128::from(self.low.hash_one((db, key)))
    }
}
