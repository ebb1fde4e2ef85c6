//! One slot: what waits for it, and the one transaction of it that is on its way. There is never a second: so nothing of a
//! slot can be overtaken, whatever becomes of the first.

use bytes::Bytes;
use dts_common::error::{Code, Error, Result};

use super::link::Item;
use super::record;
use crate::target::claim::fenced;
use crate::target::session::rewound;
use crate::target::{Checkpoint, Phase, fence};

/// Where a slot stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nothing to do, or nobody has asked yet.
    Rest,
    /// In line for its master.
    Ready,
    /// Something of it is on its way.
    Sent,
    /// Waits until it is tried again.
    Held,
}

/// A slot of the target.
#[derive(Debug)]
pub(super) struct Slot {
    number: u16,
    /// What stands there, as far as it is confirmed.
    pub(super) record: Checkpoint,
    /// The stream up to here was applied by an earlier attempt.
    pub(super) applied: u64,
    pub(super) place: Place,
    /// The connection over which the record was read and found as it should be.
    admitted: u64,
    waiting: Waiting,
    sent: Option<Transaction>,
    /// True if nobody knows whether what was sent is applied.
    unknown: bool,
    /// How often in a row it was sent away.
    pub(super) away: u32,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    count: u32,
    commits: Vec<u64>,
}

#[derive(Debug)]
struct Transaction {
    commands: Bytes,
    count: u32,
    commits: Vec<u64>,
    next: Checkpoint,
}

impl Slot {
    pub(super) fn new(number: u16, record: Checkpoint) -> Self {
        Self {
            number,
            applied: record::offset(&record),
            record,
            place: Place::Rest,
            admitted: 0,
            waiting: Waiting::default(),
            sent: None,
            unknown: false,
            away: 0,
        }
    }

    /// Adds commands of a commit; true if it is the slot's first part of it.
    pub(super) fn add(&mut self, commands: &[u8], count: u32, commit: u64) -> bool {
        self.waiting.bytes.extend_from_slice(commands);
        self.waiting.count += count;
        let new = self.waiting.commits.last() != Some(&commit);
        if new {
            self.waiting.commits.push(commit);
        }
        new
    }

    /// True if anything of it is to be done.
    pub(super) fn has_work(&self) -> bool {
        self.sent.is_some() || !self.waiting.commits.is_empty()
    }

    /// The next thing to do over a connection, and its size; `phase` is what the record says behind all that waits.
    pub(super) fn next(&mut self, link: u64, copy: u64, phase: &Phase) -> Option<(Item, usize)> {
        if self.admitted != link {
            return Some((Item::Read(self.number), 64));
        }
        if self.sent.is_none() {
            if self.waiting.commits.is_empty() {
                return None;
            }
            let Waiting { bytes, count, commits } = std::mem::take(&mut self.waiting);
            let phase = match phase.clone() {
                Phase::Streaming { position, holds_field_expiry, .. } => {
                    Phase::Streaming { position, previous_offset: record::offset(&self.record), holds_field_expiry }
                }
                phase => phase,
            };
            let next = Checkpoint { sequence: self.record.sequence + 1, copy, phase, ..self.record.clone() };
            self.sent = Some(Transaction { commands: bytes.into(), count, commits, next });
        }
        let sent = self.sent.as_ref()?;
        let (commands, next) = (sent.commands.clone(), sent.next.clone());
        Some((Item::Write { slot: self.number, commands, count: sent.count, next }, sent.commands.len() + 256))
    }

    /// The record as it was read over a connection; gives the commits that turn out to be applied, and their bytes.
    pub(super) fn found(&mut self, link: u64, found: Option<&[u8]>) -> Result<Option<(Vec<u64>, usize)>> {
        let is = |record: &Checkpoint| found == Some(record.encode().as_bytes());
        let was_applied = self.unknown && self.sent.as_ref().is_some_and(|sent| is(&sent.next));
        if !was_applied && !is(&self.record) && !fence::is_off() {
            return Err(match found.map(Checkpoint::decode).transpose()? {
                None => rewound("a record on the target is gone"),
                Some(other) if other.holder != self.record.holder => {
                    rewound("another shard of the task has taken over a slot of this one")
                }
                Some(other) if other.epoch > self.record.epoch => fenced(&other, self.record.epoch),
                Some(other) if other.sequence < self.record.sequence => {
                    rewound("a slot of the target does not hold what it confirmed")
                }
                Some(_) => Error::new(Code::Fenced, "somebody else changed a record on the target"),
            });
        }
        self.admitted = link;
        self.unknown = false;
        Ok(was_applied.then(|| self.confirmed()).flatten())
    }

    /// What was sent is applied: gives its commits, and its bytes.
    pub(super) fn confirmed(&mut self) -> Option<(Vec<u64>, usize)> {
        let sent = self.sent.take()?;
        self.record = sent.next;
        self.away = 0;
        Some((sent.commits, sent.commands.len()))
    }

    /// It was sent away; with `elsewhere` its record has to be read again where it goes next.
    pub(super) fn sent_away(&mut self, elsewhere: bool) {
        self.away = self.away.saturating_add(1);
        if elsewhere {
            self.admitted = 0;
        }
    }

    /// The connection broke while something of it was on its way.
    pub(super) fn lost(&mut self) {
        self.admitted = 0;
        self.unknown |= self.sent.is_some();
    }
}

#[cfg(test)]
mod tests {
    use dts_common::ids::Epoch;
    use dts_common::position::Position;

    use super::*;

    fn slot() -> Slot {
        Slot::new(5, Checkpoint { holder: Some(1), epoch: Epoch(3), sequence: 10, copy: 1, phase: streaming(100) })
    }

    fn streaming(offset: u64) -> Phase {
        let position = Position { history: None, offset, db: 0 };
        Phase::Streaming { position, previous_offset: 0, holds_field_expiry: false }
    }

    fn admit(slot: &mut Slot, link: u64) {
        assert!(matches!(slot.next(link, 1, &streaming(200)), Some((Item::Read(5), _))));
        let record = slot.record.encode();
        assert_eq!(slot.found(link, Some(record.as_bytes())).unwrap(), None);
    }

    fn write(slot: &mut Slot, link: u64, offset: u64) -> (Bytes, Checkpoint) {
        match slot.next(link, 1, &streaming(offset)) {
            Some((Item::Write { commands, next, .. }, _)) => (commands, next),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_transaction_is_on_its_way_and_the_rest_gathers_behind_it() {
        let mut slot = slot();
        assert!(slot.add(b"a", 1, 7) && !slot.add(b"b", 1, 7));
        admit(&mut slot, 1);
        let (commands, next) = write(&mut slot, 1, 200);
        assert_eq!((&*commands, next.sequence, record::offset(&next)), (&b"ab"[..], 11, 200));
        assert!(slot.add(b"c", 1, 8));
        slot.sent_away(false);
        assert_eq!(write(&mut slot, 1, 300), (commands, next.clone()), "the same again, with its own position");
        assert_eq!(slot.confirmed(), Some((vec![7], 2)));
        assert_eq!(slot.record, next);
        assert_eq!(&*write(&mut slot, 1, 300).0, b"c");
    }

    #[test]
    fn a_lost_transaction_is_repeated_only_if_the_record_says_so() {
        for applied in [false, true] {
            let mut slot = slot();
            slot.add(b"a", 1, 7);
            admit(&mut slot, 1);
            let before = slot.record.encode();
            let (_, next) = write(&mut slot, 1, 200);
            slot.lost();
            assert!(matches!(slot.next(2, 1, &streaming(200)), Some((Item::Read(5), _))));
            let stands = if applied { next.encode() } else { before };
            let confirmed = slot.found(2, Some(stands.as_bytes())).unwrap();
            assert_eq!(confirmed.is_some(), applied);
            assert_eq!(slot.next(2, 1, &streaming(200)).is_some(), !applied);
        }
    }

    #[test]
    fn a_record_that_is_not_ours_stops_the_slot() {
        let stands = |change: fn(&mut Checkpoint)| {
            let mut record = slot().record;
            change(&mut record);
            slot().found(1, Some(record.encode().as_bytes())).unwrap_err().code
        };
        assert_eq!(stands(|record| record.epoch = Epoch(4)), Code::Fenced);
        assert_eq!(stands(|record| (record.holder, record.epoch) = (Some(2), Epoch(4))), Code::TargetRewound);
        assert_eq!(stands(|record| record.sequence = 9), Code::TargetRewound);
        assert_eq!(stands(|record| record.sequence = 11), Code::Fenced);
        assert_eq!(slot().found(1, None).unwrap_err().code, Code::TargetRewound);
    }
}
