//! Writing to the target: fenced transactions that carry the position.

mod checkpoint;

pub use checkpoint::{Checkpoint, Phase, RESERVED_PREFIX, reserved_key};
