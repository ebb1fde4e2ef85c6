//! What a snapshot said beside its keys, and of those that are another shard's.

use crate::route::{Held, Scripts};

/// What a snapshot said beside its keys.
#[derive(Debug)]
pub struct SnapshotFacts {
    /// The db that the stream behind it has selected.
    pub stream_db: u32,
    /// The scripts that the source knew.
    pub scripts: Scripts,
    /// The keys that were given a held expiry, or have such fields.
    pub held: Held,
    /// True if a hash field has an expiry.
    pub holds_field_expiry: bool,
    /// What it held of other shards.
    pub strays: Strays,
}

/// Keys that a source holds though another shard owns them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strays {
    /// How many.
    pub count: u64,
    /// Database and name of the first of them.
    pub first: Vec<(u32, Vec<u8>)>,
}

impl Strays {
    const LISTED: usize = 20;

    pub(super) fn add(&mut self, db: u32, key: &[u8]) {
        self.count += 1;
        if self.first.len() < Self::LISTED {
            self.first.push((db, key.to_vec()));
        }
    }
}

impl SnapshotFacts {
    pub(super) fn none() -> Self {
        Self {
            stream_db: 0,
            scripts: Scripts::default(),
            held: Held::default(),
            holds_field_expiry: false,
            strays: Strays::default(),
        }
    }
}
