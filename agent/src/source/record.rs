//! What a replica receives, in order. This is what the spool keeps and what route decodes.

use bytes::Bytes;
use dts_common::position::ReplicationId;

/// One piece of what the source sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// A full copy begins; whatever came before is history, also when the last snapshot or command was cut off.
    SnapshotBegin {
        /// `None`: plain SYNC.
        history: Option<ReplicationId>,
        /// The stream after this snapshot begins after this many bytes of the history; 0 for plain SYNC.
        offset: u64,
        /// Payload bytes, if the source said.
        size: Option<u64>,
    },
    /// Bytes of the RDB payload.
    Snapshot(Bytes),
    /// The payload is complete (its length was reached, or its mark found). The checksum is the decoder's matter.
    SnapshotEnd,
    /// `+CONTINUE` gave the history a new name; the stream goes on without a gap.
    Renamed(ReplicationId),
    /// Bytes of the command stream.
    Stream {
        /// Bytes of the history before the first of `bytes`.
        offset: u64,
        /// When it was received, by the source's clock, ms since 1970. Relative expiries count from here, so that
        /// a replay of the spool gives the same absolute ones.
        received_ms: u64,
        /// Any cut of the stream: commands may begin and end anywhere.
        bytes: Bytes,
    },
}

impl Record {
    /// What it weighs in the spool.
    pub fn weight(&self) -> usize {
        const FIXED: usize = 64;
        FIXED
            + match self {
                Self::Snapshot(bytes) | Self::Stream { bytes, .. } => bytes.len(),
                _ => 0,
            }
    }
}
