//! A Redis Cluster as the target. See `docs/cluster-targets.md` and `docs/decisions/0004-cluster-targets.md`.

mod claim;
mod effect;
mod ledger;
mod lines;
mod link;
mod links;
mod record;
mod slot;
pub mod territory;
mod topology;
mod writer;

use std::sync::Arc;

use dts_common::ids::{Epoch, ShardId};

pub use claim::{claim, leave, release};
pub use record::{Scope, key_within, scripts_key};
pub use territory::SlotRecords;
pub use topology::Topology;
pub use writer::Writer;

use crate::endpoint::Endpoint;
use crate::leash::Leash;
use crate::limits::Throttle;
use crate::target::EpochUser;

/// What a shard writes to a cluster with.
#[derive(Debug)]
pub struct Job {
    /// Whose.
    pub shard: ShardId,
    /// Our authority over it.
    pub epoch: Epoch,
    /// As whom it writes, if not as our login.
    pub user: Option<Arc<EpochUser>>,
    /// Nodes to ask for the others.
    pub seed: Vec<Endpoint>,
    /// Keeps the rate.
    pub pace: Throttle,
    /// The slots that it writes.
    pub scope: Scope,
    /// Begins nothing when it is over.
    pub leash: Leash,
    /// What cannot be done exactly is left out and counted, instead of stopping the shard.
    pub skip: bool,
}
