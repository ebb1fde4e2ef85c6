//! Encoded commands on their way to the target.

use bytes::Bytes;
use dts_common::position::Position;

/// A piece of a transaction. Every transaction begins with db 0 selected and leaves db 0 selected: whoever encodes
/// writes the SELECTs.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// RESP commands; the last may be cut, to go on in the next chunk (that is how a 512 MB value passes).
    pub bytes: Bytes,
    /// Commands that *end* in this chunk: as many replies.
    pub commands: u32,
    /// Ends the transaction. `None`: more chunks of it follow.
    pub commit: Option<Commit>,
    /// Where the commands of the source end, for a target that keeps a position for every slot; else empty.
    pub marks: Vec<Mark>,
}

/// The end of a command of the stream among the commands of a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// So many commands of the chunk are of this command or those before it.
    pub commands: u32,
    /// Offset behind its last byte.
    pub offset: u64,
    /// Offset of the source's MULTI around it; 0: none is.
    pub group: u64,
}

/// What the target will hold once the transaction is executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// `None` while a snapshot is being copied: a broken copy is begun again.
    pub position: Option<Position>,
    /// True from the first field expiry on that was written in held form.
    pub holds_field_expiry: bool,
    /// How far this brings us.
    pub progress: Progress,
}

/// Running totals of one pipeline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the snapshot payload that are encoded.
    pub snapshot_bytes: u64,
    /// Keys of the snapshot that are encoded.
    pub snapshot_keys: u64,
    /// Keys that RESIZEDB announced.
    pub announced_keys: u64,
    /// Commands of the stream that are encoded.
    pub stream_commands: u64,
    /// Receive time of the last stream byte that is encoded, ms since 1970 by the source's clock; 0 before any.
    pub received_ms: u64,
    /// Keys of the snapshot that the task does not move.
    pub filtered_keys: u64,
    /// Commands of the stream that do nothing to what it moves.
    pub filtered_commands: u64,
    /// Commands that do, and were left out by policy.
    pub skipped_commands: u64,
}
