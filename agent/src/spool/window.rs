//! What was given out of the stream and is kept behind it for a while: a target that forgets its last moments gets them from here, also when
//! the source's backlog does not hold them any more. References to what was received, no copies.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use dts_common::position::ReplicationId;

use crate::source::Record;

/// What the target has confirmed and that was given out earlier than this is let go: five times what an append-only file of one second may lose.
const KEEP: Duration = Duration::from_secs(10);

/// A place in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) history: ReplicationId,
    pub(super) offset: u64,
}

/// Records of the stream without a gap.
#[derive(Debug, Default)]
pub(super) struct Window {
    kept: VecDeque<(Instant, Record)>,
    bytes: u64,
    /// Before the first of `kept`.
    start: Option<Place>,
    /// Behind the last.
    end: Option<Place>,
    /// Behind the snapshot that is being given out.
    copying: Option<Place>,
}

impl Window {
    /// Of a stream that begins there.
    pub(super) fn beginning(at: Option<Place>) -> Self {
        Self { start: at, end: at, ..Self::default() }
    }

    /// What it weighs.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Where it begins, if it holds anything.
    pub(super) fn from(&self) -> Option<u64> {
        self.start.map(|start| start.offset)
    }

    /// A record was given out.
    pub(super) fn gave(&mut self, now: Instant, record: &Record) {
        match (record, &mut self.end) {
            (Record::SnapshotBegin { history, offset, .. }, _) => {
                let copying = history.map(|history| Place { history, offset: *offset });
                *self = Self { copying, ..Self::default() };
            }
            (Record::Snapshot(_), _) => {}
            (Record::SnapshotEnd, _) => *self = Self::beginning(self.copying),
            (Record::Renamed(history), Some(end)) => {
                end.history = *history;
                self.keep(now, record.clone());
            }
            (Record::Stream { offset, bytes, .. }, Some(end)) if end.offset == *offset => {
                end.offset += bytes.len() as u64;
                self.keep(now, record.clone());
            }
            _ => *self = Self::default(),
        }
    }

    fn keep(&mut self, now: Instant, record: Record) {
        self.bytes += record.weight() as u64;
        self.kept.push_back((now, record));
    }

    /// Lets go what is over the bound, and what is old and confirmed.
    pub(super) fn trim(&mut self, now: Instant, most: u64, confirmed: u64) {
        while let (Some((given, record)), Some(start)) = (self.kept.front(), &mut self.start) {
            let (history, offset) = match record {
                Record::Renamed(history) => (*history, start.offset),
                Record::Stream { offset, bytes, .. } => (start.history, offset + bytes.len() as u64),
                _ => return,
            };
            let old = now.saturating_duration_since(*given) > KEEP && offset <= confirmed;
            if self.bytes <= most && !old {
                return;
            }
            self.bytes -= record.weight() as u64;
            *start = Place { history, offset };
            self.kept.pop_front();
        }
    }

    /// True if everything between this place and what was given out last is here.
    pub(super) fn covers(&self, place: Place) -> bool {
        let (Some(mut at), Some(end)) = (self.start, self.end) else { return false };
        let reaches =
            |at: Place, until: u64| place.history == at.history && (at.offset..=until).contains(&place.offset);
        let mut until = at.offset;
        for (_, record) in &self.kept {
            match record {
                Record::Renamed(history) => {
                    if reaches(at, until) {
                        return true;
                    }
                    at = Place { history: *history, offset: until };
                }
                Record::Stream { offset, bytes, .. } => until = offset + bytes.len() as u64,
                _ => return false,
            }
        }
        reaches(at, end.offset)
    }

    /// Takes out everything behind a place that it covers.
    pub(super) fn take_from(&mut self, place: Place) -> Vec<Record> {
        let Some(mut at) = self.start else { return Vec::new() };
        let (mut taken, mut taking) = (Vec::new(), false);
        let (all, mut before) = (std::mem::take(&mut self.kept), VecDeque::new());
        for (given, record) in all {
            match &record {
                _ if taking => {}
                Record::Renamed(history) => {
                    taking = at == place;
                    at.history = *history;
                }
                Record::Stream { offset, received_ms, bytes } => {
                    let end = offset + bytes.len() as u64;
                    at.offset = end;
                    if place.history == at.history && place.offset < end {
                        taking = true;
                        let cut = usize::try_from(place.offset.saturating_sub(*offset)).unwrap_or(bytes.len());
                        let piece = |offset, bytes| Record::Stream { offset, received_ms: *received_ms, bytes };
                        if cut > 0 {
                            before.push_back((given, piece(*offset, bytes.slice(..cut))));
                        }
                        taken.push(piece(place.offset, bytes.slice(cut..)));
                        continue;
                    }
                }
                _ => {}
            }
            if taking {
                taken.push(record);
            } else {
                before.push_back((given, record));
            }
        }
        self.bytes = before.iter().map(|(_, record)| record.weight() as u64).sum();
        (self.kept, self.end) = (before, Some(place));
        taken
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn id(of: u8) -> ReplicationId {
        (of as char).to_string().repeat(40).parse().unwrap()
    }

    fn stream(offset: u64, length: usize) -> Record {
        let bytes = (0..length).map(|at| u8::try_from((offset + at as u64) % 251).unwrap()).collect::<Vec<_>>();
        Record::Stream { offset, received_ms: offset, bytes: Bytes::from(bytes) }
    }

    fn place(history: u8, offset: u64) -> Place {
        Place { history: id(history), offset }
    }

    /// The bytes of these records, which have to follow each other from there.
    fn joined(records: &[Record], from: u64) -> Vec<u8> {
        let mut all = Vec::new();
        for record in records {
            if let Record::Stream { offset, bytes, .. } = record {
                assert_eq!(*offset, from + all.len() as u64, "a gap");
                all.extend_from_slice(bytes);
            }
        }
        all
    }

    proptest! {
        #[test]
        fn what_is_taken_out_is_the_stream_from_there_and_it_may_be_given_again(
            lengths in prop::collection::vec(1usize..50, 1..20), at in 0usize..1000, most in 200u64..5000,
        ) {
            let now = Instant::now();
            let mut window = Window::beginning(Some(place(b'a', 100)));
            let mut end = 100;
            for length in lengths {
                window.gave(now, &stream(end, length));
                window.trim(now, most, 0);
                end += length as u64;
                prop_assert!(window.bytes() <= most);
            }
            let from = window.from().unwrap();
            let at = from + at as u64 % (end - from + 1);
            prop_assert!(window.covers(place(b'a', at)) && !window.covers(place(b'b', at)));
            prop_assert!(!window.covers(place(b'a', end + 1)) && (from == 0 || !window.covers(place(b'a', from - 1))));
            let taken = window.take_from(place(b'a', at));
            let whole = stream(at, usize::try_from(end - at).unwrap());
            let Record::Stream { bytes, .. } = whole else { unreachable!() };
            prop_assert_eq!(joined(&taken, at), bytes.to_vec());
            taken.iter().for_each(|record| window.gave(now, record));
            prop_assert!(window.covers(place(b'a', from)) && window.covers(place(b'a', end)));
        }
    }

    #[test]
    fn only_what_is_old_and_confirmed_is_let_go_below_the_bound() {
        let begun = Instant::now();
        let mut window = Window::beginning(Some(place(b'a', 0)));
        (0..4).for_each(|at| window.gave(begun, &stream(at * 10, 10)));
        let later = begun + KEEP + Duration::from_secs(1);
        window.trim(begun, 10_000, 40);
        assert_eq!(window.from(), Some(0));
        window.trim(later, 10_000, 25);
        assert_eq!(window.from(), Some(20));
    }

    #[test]
    fn a_place_before_a_new_name_and_one_behind_it_are_both_known_by_their_names() {
        let now = Instant::now();
        let mut window = Window::beginning(Some(place(b'a', 0)));
        for record in [stream(0, 10), Record::Renamed(id(b'b')), stream(10, 10)] {
            window.gave(now, &record);
        }
        for (of, covered) in [(place(b'a', 5), true), (place(b'a', 10), true), (place(b'b', 10), true)] {
            assert_eq!(window.covers(of), covered, "{of:?}");
        }
        assert!(window.covers(place(b'b', 15)) && !window.covers(place(b'b', 5)) && !window.covers(place(b'a', 15)));
        let taken = window.take_from(place(b'a', 10));
        assert_eq!(taken, [Record::Renamed(id(b'b')), stream(10, 10)]);
        taken.iter().for_each(|record| window.gave(now, record));
        assert_eq!(window.take_from(place(b'b', 10)), [stream(10, 10)]);
    }

    #[test]
    fn a_copy_begins_anew_and_a_gap_or_a_stream_without_a_name_is_not_kept() {
        let now = Instant::now();
        let mut window = Window::beginning(Some(place(b'a', 0)));
        window.gave(now, &stream(0, 10));
        window.gave(now, &Record::SnapshotBegin { history: Some(id(b'c')), offset: 70, size: None });
        window.gave(now, &Record::Snapshot(Bytes::from_static(b"REDIS")));
        assert!(!window.covers(place(b'a', 5)) && !window.covers(place(b'c', 70)));
        window.gave(now, &Record::SnapshotEnd);
        window.gave(now, &stream(70, 10));
        assert!(window.covers(place(b'c', 75)));
        window.gave(now, &stream(90, 10));
        assert!(window.from().is_none());
        let mut nameless = Window::default();
        nameless.gave(now, &stream(0, 10));
        assert!(nameless.from().is_none() && nameless.bytes() == 0);
    }
}
