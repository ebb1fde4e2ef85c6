//! How far receiving has come.

use dts_common::position::ReplicationId;

/// How far receiving has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The history that the source sends now; `None`: not known yet, or plain SYNC.
    pub history: Option<ReplicationId>,
    /// Bytes of the history that are in the spool or were; for plain SYNC those after the snapshot.
    pub offset: u64,
    /// Bytes of the latest snapshot.
    pub snapshot_received: u64,
    /// Its size, if the source said; else 0.
    pub snapshot_total: u64,
    /// The source speaks PSYNC, so `offset` means something to it.
    pub speaks_psync: bool,
    /// The source sends us its data now.
    pub connected: bool,
}
