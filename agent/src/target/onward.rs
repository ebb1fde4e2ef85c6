//! The record of a task that goes on where another one ended: as if it had run before. Everything else is what every resumed task does.

use dts_common::error::{Code, Error, Result};
use dts_common::ids::{Epoch, ShardId};
use dts_common::position::Position;

use super::cluster::Scope;
use super::{Destination, Phase, claim, cluster};
use crate::topology::Owner;

/// Leaves what the shard will find, unless a later epoch was there already. Done again it ends the same.
pub async fn leave(
    target: &Destination,
    shard: &ShardId,
    epoch: Epoch,
    owner: &Owner,
    position: Position,
) -> Result<()> {
    let phase = Phase::Streaming { position, previous_offset: position.offset, holds_field_expiry: true };
    match target {
        Destination::Standalone(server) => {
            let slots = match owner {
                Owner::Slots(slots) => Some(slots),
                _ => None,
            };
            claim::leave(server, shard, epoch, &phase, slots).await
        }
        Destination::Cluster(seeds) => cluster::leave(seeds, shard, epoch, &Scope::of(owner), &phase).await,
        Destination::Routed(_) => {
            Err(Error::new(Code::TargetUnsupported, "no task goes on from what an endpoint that routes holds"))
        }
    }
}
