//! The record on the target that says what the target holds. It is written in the transaction that writes the data.
//!
//! A string key in db 0, format version 1: `1 <epoch> <sequence> <copy> claimed`, `… copying`, `… taken`, or
//! `… streaming <replication id or -> <offset> <previous offset> <db> <field expiry 0|1>`. Format version 2 is that of a record which
//! the shards of a task share: `2 <shard that holds it> <epoch> …`.
//! `sequence` grows with every write of the record, so two records are never equal by chance.

use dts_common::error::{Code, Error, Result};
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
    /// Of a record that the shards of a task share: which of them holds it; [`NOBODY`] if none does.
    pub holder: Option<u32>,
    /// Who wrote it.
    pub epoch: Epoch,
    /// Grows with every write of this record, over all epochs.
    pub sequence: u64,
    /// Which full copy of this task, from 1.
    pub copy: u64,
    /// How far.
    pub phase: Phase,
}

/// Holds a shared record that its shard gave up.
pub const NOBODY: u32 = u32::MAX;

/// What a checkpoint promises.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The fence is raised, nothing is written yet.
    Claimed,
    /// A snapshot is being written: keys may be missing, old, or no longer the source's. Only a new copy mends it.
    Copying,
    /// Another shard of the task took slots of this one over: what is left of it has to be copied anew.
    Taken,
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

impl Checkpoint {
    /// As it stands on the target.
    pub fn encode(&self) -> String {
        let Self { holder, epoch, sequence, copy, phase } = self;
        let version = holder.map_or("1".to_owned(), |holder| format!("2 {holder}"));
        let head = format!("{version} {epoch} {sequence} {copy}");
        match phase {
            Phase::Claimed => format!("{head} claimed"),
            Phase::Copying => format!("{head} copying"),
            Phase::Taken => format!("{head} taken"),
            Phase::Streaming { position: Position { history, offset, db }, previous_offset, holds_field_expiry } => {
                let history = history.map_or("-".to_owned(), |id| id.to_string());
                let fields = u8::from(*holds_field_expiry);
                format!("{head} streaming {history} {offset} {previous_offset} {db} {fields}")
            }
        }
    }

    /// From what stands on the target.
    pub fn decode(text: &[u8]) -> Result<Self> {
        let version = text.split(|byte| *byte == b' ').next().unwrap_or_default();
        if version != b"1" && version != b"2" {
            let message = format!(
                "the record on the target has format {}, this program knows 1 and 2",
                String::from_utf8_lossy(version).escape_debug()
            );
            return Err(Error::new(Code::Fenced, message));
        }
        // Exactly what we write: nothing that merely reads alike.
        parse(text)
            .filter(|record| record.encode().as_bytes() == text)
            .ok_or_else(|| Error::new(Code::Fenced, "the record on the target is not one of ours"))
    }
}

fn parse(text: &[u8]) -> Option<Checkpoint> {
    let words: Vec<&str> = std::str::from_utf8(text).ok()?.split(' ').collect();
    let (holder, words) = match words.as_slice() {
        ["2", holder, words @ ..] => (Some(holder.parse().ok()?), words),
        ["1", words @ ..] => (None, words),
        _ => return None,
    };
    let [epoch, sequence, copy, phase @ ..] = words else { return None };
    let phase = match phase {
        ["claimed"] => Phase::Claimed,
        ["copying"] => Phase::Copying,
        ["taken"] => Phase::Taken,
        ["streaming", history, offset, previous, db, fields] => Phase::Streaming {
            position: Position {
                history: if *history == "-" { None } else { Some(history.parse().ok()?) },
                offset: offset.parse().ok()?,
                db: db.parse().ok()?,
            },
            previous_offset: previous.parse().ok()?,
            holds_field_expiry: *fields == "1",
        },
        _ => return None,
    };
    Some(Checkpoint {
        holder,
        epoch: Epoch(epoch.parse().ok()?),
        sequence: sequence.parse().ok()?,
        copy: copy.parse().ok()?,
        phase,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_comes_back_and_garbage_does_not() {
        let history = "0123456789abcdef0123456789abcdef01234567".parse().ok();
        let position = Position { history, offset: 5, db: 3 };
        for phase in [
            Phase::Claimed,
            Phase::Copying,
            Phase::Taken,
            Phase::Streaming { position, previous_offset: 2, holds_field_expiry: true },
            Phase::Streaming {
                position: Position { history: None, ..position },
                previous_offset: 0,
                holds_field_expiry: false,
            },
        ] {
            for holder in [None, Some(3), Some(NOBODY)] {
                let record = Checkpoint { holder, epoch: Epoch(7), sequence: 9, copy: 1, phase: phase.clone() };
                assert_eq!(Checkpoint::decode(record.encode().as_bytes()).unwrap(), record);
            }
        }
        for garbage in [
            "",
            "1",
            "3 1 1 1 claimed",
            "2 1 1 1 claimed",
            "2 x 1 1 1 claimed",
            "1 x 1 1 claimed",
            "1 1 1 1 streaming",
            "1 1 1 1 claimed more",
            "1 01 1 1 claimed",
            "1 1 +1 1 claimed",
        ] {
            assert!(Checkpoint::decode(garbage.as_bytes()).is_err(), "{garbage}");
        }
    }
}
