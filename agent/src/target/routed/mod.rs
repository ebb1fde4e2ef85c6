//! An endpoint that routes by itself: a proxy, or the one address of a managed cluster. It takes commands of one key and tells nothing of
//! what stands behind it: no transaction, no list of keys, no other database. See `docs/routing-endpoints.md`.

mod claim;
mod inspect;
mod plan;
mod waves;
mod writer;

use dts_common::ids::{Epoch, ShardId};

pub use claim::{claim, release};
pub use inspect::inspect;
pub use writer::Writer;

use super::reserved_key;
use crate::endpoint::Endpoint;
use crate::leash::Leash;
use crate::limits::Throttle;

/// What a shard writes to an endpoint with.
#[derive(Debug)]
pub struct Job {
    /// Whose.
    pub shard: ShardId,
    /// Our authority over it.
    pub epoch: Epoch,
    /// The endpoint.
    pub endpoint: Endpoint,
    /// Keeps the rate.
    pub pace: Throttle,
    /// What cannot be done exactly is left out and counted, instead of stopping the shard.
    pub skip: bool,
    /// Nothing is written when it is over.
    pub leash: Leash,
}

/// The key of the offset that the target may have been brought to, beyond its position.
fn ahead_key(shard: &ShardId) -> String {
    reserved_key(shard, "ahead")
}
