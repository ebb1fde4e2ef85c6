//! The records of a cluster: one for every slot, in that slot, so that a slot's data and what is known of it are lost or kept
//! together. Their form is that of a standalone target's record.
//!
//! A shard whose keys may be in any slot has a record of its own in each. The slots of a source cluster are those of the target: so
//! the shards of one share *one* record a slot, which says whose the slot is.

use dts_common::ids::{Epoch, ShardId};
use dts_common::position::Position;
use dts_common::redis::slot::{SLOTS, SlotSet};
use dts_common::redis::slot_tag::tag;

use crate::target::{Checkpoint, Phase, RESERVED_PREFIX, reserved_key};
use crate::topology::Owner;

/// Which slots a shard has a record in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In every slot one of its own.
    Every,
    /// In these slots, which no other shard of the task has.
    Slots(SlotSet),
}

impl Scope {
    /// From what tells the shard's keys from the others'.
    pub fn of(owner: &Owner) -> Self {
        match owner {
            Owner::Slots(slots) => Self::Slots(slots.clone()),
            Owner::Everything | Owner::Codis(_) | Owner::Ring(..) | Owner::Unnamed => Self::Every,
        }
    }

    pub(super) fn is_shared(&self) -> bool {
        matches!(self, Self::Slots(_))
    }

    pub(super) fn contains(&self, slot: u16) -> bool {
        match self {
            Self::Every => true,
            Self::Slots(slots) => slots.contains(slot),
        }
    }

    /// All of them, in their order.
    pub(super) fn slots(&self) -> Vec<u16> {
        (0..SLOTS).filter(|slot| self.contains(*slot)).collect()
    }
}

/// The key of a slot's record; `shared`: of all shards of the task.
pub(super) fn key(shard: &ShardId, shared: bool, slot: u16) -> String {
    let tag = tag(slot);
    match shared {
        true => format!("{RESERVED_PREFIX}{{{tag}}}:{}:position", shard.task),
        false => format!("{RESERVED_PREFIX}{{{tag}}}:{}:{}:position", shard.task, shard.index),
    }
}

/// The key under which a shard keeps scripts: where it may write.
pub fn scripts_key(shard: &ShardId, scope: &Scope) -> String {
    key_within(shard, scope, "scripts")
}

/// A key of a shard's own in the first of its slots.
pub fn key_within(shard: &ShardId, scope: &Scope, name: &str) -> String {
    match scope {
        Scope::Every => reserved_key(shard, name),
        Scope::Slots(slots) => {
            let tag = tag(slots.first().unwrap_or_default());
            format!("{RESERVED_PREFIX}{{{tag}}}:{}:{}:{name}", shard.task, shard.index)
        }
    }
}

/// What all records together say: a position only if every slot has one of the same copy, and then the smallest.
pub(super) fn summary(epoch: Epoch, records: &[Checkpoint]) -> Checkpoint {
    let copy = records.iter().map(|record| record.copy).max().unwrap_or(0);
    let positions: Option<Vec<(Position, bool)>> = records
        .iter()
        .map(|record| match &record.phase {
            Phase::Streaming { position, holds_field_expiry, .. } if record.copy == copy => {
                Some((*position, *holds_field_expiry))
            }
            _ => None,
        })
        .collect();
    let smallest = positions.iter().flatten().min_by_key(|(position, _)| position.offset);
    let phase = match smallest {
        Some((position, _)) => Phase::Streaming {
            position: *position,
            previous_offset: 0,
            holds_field_expiry: positions.iter().flatten().any(|(_, holds)| *holds),
        },
        None if records.iter().all(|record| record.phase == Phase::Claimed) => Phase::Claimed,
        None if records.iter().any(|record| record.phase == Phase::Taken) => Phase::Taken,
        None => Phase::Copying,
    };
    Checkpoint { holder: None, epoch, sequence: 0, copy, phase }
}

/// Up to where a record says that its slot is applied.
pub(super) fn offset(record: &Checkpoint) -> u64 {
    match &record.phase {
        Phase::Streaming { position, .. } => position.offset,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use dts_common::redis::slot::slot;

    use super::*;

    fn streaming(copy: u64, offset: u64) -> Checkpoint {
        let position = Position { history: None, offset, db: 0 };
        let phase = Phase::Streaming { position, previous_offset: 0, holds_field_expiry: offset == 7 };
        Checkpoint { holder: None, epoch: Epoch(1), sequence: 1, copy, phase }
    }

    #[test]
    fn every_record_stands_in_its_slot() {
        let shard = ShardId { task: "0193-task".into(), index: 3 };
        for shared in [false, true] {
            assert!((0..SLOTS).all(|number| slot(key(&shard, shared, number).as_bytes()) == number));
        }
        let slots = SlotSet::parse("7000-7100").unwrap();
        assert_eq!(slot(scripts_key(&shard, &Scope::Slots(slots)).as_bytes()), 7000);
    }

    #[test]
    fn the_slot_that_is_furthest_behind_says_where_to_go_on() {
        let found = summary(Epoch(2), &[streaming(1, 9), streaming(1, 5), streaming(1, 7)]);
        let Phase::Streaming { position, holds_field_expiry, .. } = found.phase else { panic!("{found:?}") };
        assert!(position.offset == 5 && holds_field_expiry && found.epoch == Epoch(2));
    }

    #[test]
    fn a_slot_without_a_position_means_a_new_copy() {
        let claimed = Checkpoint { phase: Phase::Claimed, copy: 0, ..streaming(0, 0) };
        let copying = Checkpoint { phase: Phase::Copying, ..streaming(1, 0) };
        for records in [
            [streaming(1, 9), copying.clone()],
            [streaming(1, 9), claimed.clone()],
            [claimed.clone(), streaming(1, 9)],
            [streaming(1, 9), streaming(2, 9)],
            [copying.clone(), claimed.clone()],
        ] {
            assert_eq!(summary(Epoch(1), &records).phase, Phase::Copying, "{records:?}");
        }
        let taken = Checkpoint { phase: Phase::Taken, ..streaming(1, 0) };
        assert_eq!(summary(Epoch(1), &[streaming(1, 9), taken, copying]).phase, Phase::Taken);
        assert_eq!(summary(Epoch(1), &[claimed.clone(), claimed]).phase, Phase::Claimed);
    }
}
