//! What a group has pending, in a few bytes an entry: consumers name entries by their id only, and come after all of them.

use super::StreamId;
use super::cursor::{Fault, Read};

/// Entries between two that can be jumped to.
const BLOCK: usize = 64;

/// When an entry was delivered last, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Delivery {
    pub(super) at_ms: u64,
    pub(super) count: u64,
}

/// Deliveries by ascending id, each as differences to the one before it.
#[derive(Clone, Debug, Default)]
pub(super) struct Deliveries {
    bytes: Vec<u8>,
    /// The first id of every block, and where its bytes begin.
    blocks: Vec<(StreamId, usize)>,
    entries: usize,
    last: Entry,
}

#[derive(Clone, Copy, Debug, Default)]
struct Entry {
    id: StreamId,
    at_ms: u64,
}

impl Deliveries {
    pub(super) fn push(&mut self, id: StreamId, delivery: Delivery) -> Read<()> {
        if self.entries > 0 && id <= self.last.id {
            return Err(Fault::Bad("order of pending entries"));
        }
        if self.entries.is_multiple_of(BLOCK) {
            self.blocks.push((id, self.bytes.len()));
            self.last = Entry { id, at_ms: 0 };
        }
        let Entry { id: before, at_ms } = self.last;
        let ms = id.ms - before.ms;
        put(&mut self.bytes, ms);
        put(&mut self.bytes, if ms == 0 { id.seq - before.seq } else { id.seq });
        let later = delivery.at_ms.wrapping_sub(at_ms).cast_signed();
        put(&mut self.bytes, (later << 1 ^ later >> 63).cast_unsigned());
        put(&mut self.bytes, delivery.count);
        self.last = Entry { id, at_ms: delivery.at_ms };
        self.entries += 1;
        Ok(())
    }

    pub(super) fn get(&self, wanted: StreamId) -> Option<Delivery> {
        let block = self.blocks.partition_point(|(first, _)| *first <= wanted).checked_sub(1)?;
        let (mut id, begin) = *self.blocks.get(block)?;
        let end = self.blocks.get(block + 1).map_or(self.bytes.len(), |(_, begin)| *begin);
        let mut bytes = self.bytes.get(begin..end)?;
        let mut at_ms = 0u64;
        while !bytes.is_empty() {
            let (ms, seq) = (take(&mut bytes)?, take(&mut bytes)?);
            id = StreamId { ms: id.ms + ms, seq: if ms == 0 { id.seq + seq } else { seq } };
            let zigzag = take(&mut bytes)?;
            at_ms = at_ms.wrapping_add(zigzag >> 1 ^ (zigzag & 1).wrapping_neg());
            let count = take(&mut bytes)?;
            if id >= wanted {
                return (id == wanted).then_some(Delivery { at_ms, count });
            }
        }
        None
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Seven bits a byte, the lowest first.
fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(0x80 | u8::try_from(value & 0x7f).unwrap_or(0));
        value >>= 7;
    }
    out.push(u8::try_from(value).unwrap_or(0));
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    Some(value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_a_map(
            entries in prop::collection::btree_map((0u64..40, any::<u64>()), (any::<u64>(), any::<u64>()), 0..400),
            others in prop::collection::vec((0u64..40, any::<u64>()), 20),
        ) {
            let model: BTreeMap<StreamId, Delivery> = entries
                .into_iter()
                .map(|((ms, seq), (at_ms, count))| (StreamId { ms: ms << 50 | ms, seq }, Delivery { at_ms, count }))
                .collect();
            let mut deliveries = Deliveries::default();
            for (id, delivery) in &model {
                deliveries.push(*id, *delivery).unwrap();
            }
            for (id, delivery) in &model {
                prop_assert_eq!(deliveries.get(*id), Some(*delivery));
            }
            for (ms, seq) in others {
                let id = StreamId { ms, seq };
                prop_assert_eq!(deliveries.get(id), model.get(&id).copied());
            }
        }
    }

    #[test]
    fn an_entry_of_usual_size_costs_a_few_bytes_and_order_is_asked_for() {
        let mut deliveries = Deliveries::default();
        let delivery = Delivery { at_ms: 1_790_000_000_000, count: 1 };
        for ms in 0..10_000 {
            deliveries.push(StreamId { ms: 1_790_000_000_000 + ms, seq: 0 }, delivery).unwrap();
        }
        assert!(deliveries.bytes.len() < 60_000, "{}", deliveries.bytes.len());
        assert!(deliveries.push(StreamId { ms: 1, seq: 0 }, delivery).is_err());
    }
}
