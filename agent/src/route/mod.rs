//! Pure: what the source sent in, commands for the target out. No sockets, no clocks.

mod chunk;

pub use chunk::{Chunk, Commit, Progress};
