//! The record on the target that says what the target holds. It is written in the transaction that writes the data.
//!
//! A string key in db 0, format version 1: `1 <epoch> <sequence> copying <copy>` or
//! `1 <epoch> <sequence> streaming <copy> <replication id or -> <offset> <previous offset> <db> <field expiry 0|1>`.
//! `sequence` grows with every write of the record, so two records are never equal by chance.

use dts_common::ids::{Epoch, ShardId};
use dts_common::position::Position;

/// All keys of ours on a target begin with this.
pub const RESERVED_PREFIX: &str = "__dts:";

/// A key of ours for this shard, for example `__dts:<task>:<index>:position`.
pub fn reserved_key(shard: &ShardId, name: &str) -> String {
    format!("{RESERVED_PREFIX}{}:{}:{name}", shard.task, shard.index)
}

/// What the target holds, said by the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Who wrote it.
    pub epoch: Epoch,
    /// Grows with every write of this record, over all epochs.
    pub sequence: u64,
    /// Which full copy of this task, from 1.
    pub copy: u64,
    /// How far.
    pub phase: Phase,
}

/// What a checkpoint promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The fence is raised, nothing is written yet.
    Claimed,
    /// A snapshot is being written: keys may be missing, old, or no longer the source's. Only a new copy mends it.
    Copying,
    /// Everything up to the position is here, exactly once.
    Streaming {
        /// How far.
        position: Position,
        /// The offset that the record before this one named.
        previous_offset: u64,
        /// Some hash fields may carry held expiries.
        holds_field_expiry: bool,
    },
}
