//! What the sources of one task are to each other: which keys are this shard's, whether the list of them is whole, and where a
//! source is after it moved.

mod cluster;
mod coverage;
mod nodes;
mod owner;
mod siblings;

pub(crate) use cluster::unchanged;
pub use cluster::{prove, watch};
pub use coverage::Proof;
pub use owner::Owner;
pub use siblings::{are_apart, delete_unclaimed};

use dts_proto::v1::SourceKind;

use crate::endpoint::Endpoint;

/// The sources of a task, as one of its shards sees them.
#[derive(Clone, Debug)]
pub struct Topology {
    /// What they are to each other.
    pub kind: SourceKind,
    /// All of them, this one too, in the order of their shards.
    pub siblings: Vec<Endpoint>,
}

impl Topology {
    /// True if other shards write to the same target.
    pub fn is_shared(&self) -> bool {
        self.siblings.len() > 1
    }

    /// How many shards the task has.
    pub fn shards(&self) -> u32 {
        u32::try_from(self.siblings.len()).unwrap_or(u32::MAX)
    }

    /// The others.
    pub fn others(&self, index: u32) -> impl Iterator<Item = &Endpoint> {
        self.siblings
            .iter()
            .enumerate()
            .filter(move |(at, _)| u32::try_from(*at) != Ok(index))
            .map(|(_, source)| source)
    }
}
