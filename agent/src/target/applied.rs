//! What the target has confirmed.

use std::collections::BTreeMap;
use std::sync::Arc;

use dts_common::position::Position;

use crate::route::Commit;
use crate::target::{Checkpoint, Phase};

/// The last commit whose EXEC was answered, every element of the answer read and good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// How many commits of this pipeline are confirmed.
    pub commits: u64,
    /// The last of them.
    pub last: Option<Commit>,
    /// The record that stands on the target now; of a cluster, what its records say together.
    pub checkpoint: Option<Checkpoint>,
    /// How long a chunk should become where more waits; 0: as it likes. A target far away takes longer ones.
    pub piece: usize,
    /// What a cluster could not be given as it was.
    pub notes: Arc<Notes>,
}

/// What is lost on a target that is not one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notes {
    /// Transactions of the source that became one for each slot.
    pub cut_transactions: u64,
    /// Commands that were left out, by name.
    pub skipped: BTreeMap<String, u64>,
    /// Commands that may have been applied twice, by name.
    pub at_risk: BTreeMap<String, u64>,
}

impl Applied {
    /// Up to where the target holds everything: by the last commit, or by the record that stood there before any.
    pub fn position(&self) -> Option<Position> {
        match (&self.last, &self.checkpoint) {
            (Some(commit), _) => commit.position,
            (None, Some(Checkpoint { phase: Phase::Streaming { position, .. }, .. })) => Some(*position),
            _ => None,
        }
    }
}
