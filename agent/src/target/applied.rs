//! What the target has confirmed.

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
    /// The record that stands on the target now.
    pub checkpoint: Option<Checkpoint>,
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
