//! The slots that this shard writes: where each of them stands, and when those that wait are tried again.

use std::collections::BTreeSet;

use dts_common::redis::slot::SLOTS;
use tokio::time::Instant;

use crate::target::Checkpoint;
use crate::target::cluster::slot::{Place, Slot};

/// All of them.
#[derive(Debug)]
pub(super) struct Slots {
    /// By number; those of other shards are missing.
    all: Vec<Option<Box<Slot>>>,
    /// Those that wait, by when they are tried again.
    held: BTreeSet<(Instant, u16)>,
    /// Those that are not at rest.
    busy: usize,
}

impl Slots {
    /// As their records say.
    pub(super) fn new(records: Vec<(u16, Checkpoint)>) -> Self {
        let mut all: Vec<Option<Box<Slot>>> = (0..SLOTS).map(|_| None).collect();
        for (number, record) in records {
            if let Some(slot) = all.get_mut(usize::from(number)) {
                *slot = Some(Box::new(Slot::new(number, record)));
            }
        }
        Self { all, held: BTreeSet::new(), busy: 0 }
    }

    pub(super) fn get(&self, number: u16) -> Option<&Slot> {
        self.all.get(usize::from(number))?.as_deref()
    }

    pub(super) fn get_mut(&mut self, number: u16) -> Option<&mut Slot> {
        self.all.get_mut(usize::from(number))?.as_deref_mut()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Slot> {
        self.all.iter().flatten().map(Box::as_ref)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Slot> {
        self.all.iter_mut().flatten().map(Box::as_mut)
    }

    /// The numbers of those that fit.
    pub(super) fn numbers(&self, fits: impl Fn(&Slot) -> bool) -> Vec<u16> {
        (0..SLOTS).filter(|number| self.get(*number).is_some_and(&fits)).collect()
    }

    /// Moves a slot to another place.
    pub(super) fn put(&mut self, number: u16, place: Place) -> Option<&mut Slot> {
        let slot = self.all.get_mut(usize::from(number))?.as_deref_mut()?;
        self.busy += usize::from(place != Place::Rest);
        self.busy -= usize::from(slot.place != Place::Rest);
        slot.place = place;
        Some(slot)
    }

    /// Lets a slot wait.
    pub(super) fn hold(&mut self, number: u16, until: Instant) {
        if self.put(number, Place::Held).is_some() {
            self.held.insert((until, number));
        }
    }

    /// A slot that has waited long enough.
    pub(super) fn waited(&mut self, now: Instant) -> Option<u16> {
        self.next_try().filter(|until| *until <= now)?;
        self.held.pop_first().map(|(_, number)| number)
    }

    /// When the first of those that wait is tried again.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.held.first().map(|(until, _)| *until)
    }

    /// True if nothing of any slot waits or is on its way.
    pub(super) fn are_at_rest(&self) -> bool {
        self.busy == 0
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use dts_common::ids::Epoch;

    use super::*;
    use crate::target::Phase;

    #[test]
    fn slots_rest_when_each_has_come_back_and_those_that_wait_come_back_in_time() {
        let record = Checkpoint { holder: None, epoch: Epoch(1), sequence: 0, copy: 1, phase: Phase::Copying };
        let mut slots = Slots::new(vec![(5, record.clone()), (7, record)]);
        assert!(slots.put(6, Place::Ready).is_none() && slots.are_at_rest(), "it is another shard's");
        let now = Instant::now();
        slots.put(5, Place::Ready);
        slots.put(5, Place::Sent);
        slots.hold(7, now + Duration::from_secs(2));
        slots.hold(5, now + Duration::from_secs(1));
        assert_eq!((slots.waited(now), slots.next_try()), (None, Some(now + Duration::from_secs(1))));
        for number in [5, 7] {
            assert_eq!(slots.waited(now + Duration::from_secs(3)), Some(number));
            assert!(!slots.are_at_rest());
            slots.put(number, Place::Rest);
            slots.put(number, Place::Rest);
        }
        assert!(slots.are_at_rest() && slots.next_try().is_none());
    }
}
