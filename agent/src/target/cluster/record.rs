//! The records of a cluster: one for every slot, in that slot, so that a slot's data and what is known of it are lost or kept
//! together. Their form is that of a standalone target's record.

use dts_common::ids::{Epoch, ShardId};
use dts_common::position::Position;
use dts_common::redis::resp;
use dts_common::redis::slot_tag::tag;

use crate::target::{Checkpoint, Phase, RESERVED_PREFIX};

/// The key of a slot's record.
pub(super) fn key(shard: &ShardId, slot: u16) -> String {
    format!("{RESERVED_PREFIX}{{{}}}:{}:{}:position", tag(slot), shard.task, shard.index)
}

/// The command that writes it.
pub(super) fn set(shard: &ShardId, slot: u16, record: &Checkpoint, out: &mut Vec<u8>) {
    resp::command(out, &[b"SET", key(shard, slot).as_bytes(), record.encode().as_bytes()]);
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
        None => Phase::Copying,
    };
    Checkpoint { epoch, sequence: 0, copy, phase }
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
    use dts_common::redis::slot::{SLOTS, slot};

    use super::*;

    fn streaming(copy: u64, offset: u64) -> Checkpoint {
        let position = Position { history: None, offset, db: 0 };
        let phase = Phase::Streaming { position, previous_offset: 0, holds_field_expiry: offset == 7 };
        Checkpoint { epoch: Epoch(1), sequence: 1, copy, phase }
    }

    #[test]
    fn every_record_stands_in_its_slot() {
        let shard = ShardId { task: "0193-task".into(), index: 3 };
        assert!((0..SLOTS).all(|number| slot(key(&shard, number).as_bytes()) == number));
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
        assert_eq!(summary(Epoch(1), &[claimed.clone(), claimed]).phase, Phase::Claimed);
    }
}
