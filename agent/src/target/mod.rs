//! Writing to the target: fenced transactions that carry the position.

mod applied;
mod checkpoint;
mod claim;
pub mod cluster;
mod connection;
mod destination;
mod fence;
mod may_fence;
mod onward;
mod refusal;
mod reply;
pub mod routed;
mod session;
mod span;
pub mod territory;
mod user;
mod writer;

pub use applied::{Applied, Notes};
pub use checkpoint::{Checkpoint, NOBODY, Phase, RESERVED_PREFIX, reserved_key};
pub use claim::{claim, release};
pub use destination::{Destination, NODES_FILE, Parts, remember, seeds};
pub use may_fence::{BEHIND_A_ROUTER, lacks};
pub use onward::leave;
pub(crate) use span::transaction;
pub use user::{EpochUser, is_of};
pub use writer::Writer;

use crate::route::Chunk;

/// What a writer is told.
#[derive(Debug)]
pub enum Instruction {
    /// A full copy begins: recorded before anything of it is written.
    BeginCopy {
        /// Its number.
        copy: u64,
    },
    /// A transaction, or a part of one.
    Chunk(Chunk),
}
