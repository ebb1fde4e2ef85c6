//! Pure: what the source sent in, commands for the target out. No sockets, no clocks.

mod chunk;
mod fingerprint;
mod held;
mod large;
mod out;
mod rewrite;
mod script;
mod select;
mod snapshot;
mod split;
mod stream;
mod value;

pub use chunk::{Chunk, Commit, Mark, Progress};
pub use fingerprint::{Fingerprint, Fingerprinter};
pub use held::{Held, HeldKeys};
pub use script::Scripts;
pub use snapshot::{SnapshotEncoder, SnapshotFacts, Strays};
pub use split::{Effect, Split, split};
pub use stream::{Clear, StreamEncoder};

use dts_common::redis::version::ServerVersion;

/// What the target understands, and who speaks.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// Its version.
    pub version: ServerVersion,
    /// The version of what it is told from.
    pub source: ServerVersion,
    /// How many databases it has.
    pub databases: u32,
}
