//! Writing to the target: fenced transactions that carry the position.

mod applied;
mod checkpoint;

pub use applied::Applied;
pub use checkpoint::{Checkpoint, Phase, RESERVED_PREFIX, reserved_key};
