//! Where a snapshot ends: after a known length, or at a mark that the source announced.

use bytes::{Buf as _, Bytes, BytesMut};
use memchr::memmem::Finder;

const MARK: usize = 40;

/// The rest of a snapshot.
#[derive(Debug)]
pub(super) enum Payload {
    /// So many bytes; nothing stands behind them.
    Length(u64),
    /// All up to the mark.
    Mark(Box<Finder<'static>>),
    /// Nothing more.
    Done,
}

impl Payload {
    /// Reads `$<length>` or `$EOF:<mark>`, without the line end.
    pub(super) fn announced(line: &[u8]) -> Option<Self> {
        let rest = line.strip_prefix(b"$")?;
        if let Some(mark) = rest.strip_prefix(b"EOF:") {
            return (mark.len() == MARK).then(|| Self::Mark(Box::new(Finder::new(mark).into_owned())));
        }
        if !rest.iter().all(u8::is_ascii_digit) {
            return None;
        }
        std::str::from_utf8(rest).ok()?.parse().ok().map(Self::Length)
    }

    /// The size, if the source said.
    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::Length(length) => Some(*length),
            _ => None,
        }
    }

    /// All of it was taken, so what is in the buffer now is the command stream.
    pub(super) fn done(&self) -> bool {
        matches!(self, Self::Done | Self::Length(0))
    }

    /// Takes what surely belongs to the snapshot out of the buffer; takes the mark too, and hands it to nobody.
    pub(super) fn take(&mut self, buffer: &mut BytesMut) -> Bytes {
        match self {
            Self::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(buffer.len());
                *left -= here as u64;
                buffer.split_to(here).freeze()
            }
            Self::Mark(mark) => match mark.find(buffer) {
                Some(at) => {
                    let bytes = buffer.split_to(at).freeze();
                    buffer.advance(MARK);
                    *self = Self::Done;
                    bytes
                }
                // The last bytes may be the beginning of the mark.
                None => buffer.split_to(buffer.len().saturating_sub(MARK - 1)).freeze(),
            },
            Self::Done => Bytes::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `bytes` in pieces of the given sizes; gives the snapshot and what is left for the stream.
    fn feed(mut payload: Payload, bytes: &[u8], cuts: &[usize]) -> (Vec<u8>, Vec<u8>, bool) {
        let mut buffer = BytesMut::new();
        let mut snapshot = Vec::new();
        let mut rest = bytes;
        for cut in cuts.iter().copied().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at(cut.min(rest.len()));
            rest = after;
            buffer.extend_from_slice(piece);
            if !payload.done() {
                snapshot.extend_from_slice(&payload.take(&mut buffer));
            }
        }
        (snapshot, buffer.to_vec(), payload.done())
    }

    const EOF: &str = "aaaaaaaaaaaaaaaaaaaabaaaaaaaaaaaaaaaaaaa";

    proptest! {
        #[test]
        fn a_counted_payload_is_told_from_the_stream_at_any_cut(
            snapshot in proptest::collection::vec(any::<u8>(), 0..300),
            stream in proptest::collection::vec(any::<u8>(), 0..100),
            cuts in proptest::collection::vec(1usize..90, 1..20),
        ) {
            let payload = Payload::announced(format!("${}", snapshot.len()).as_bytes()).unwrap();
            let got = feed(payload, &[snapshot.clone(), stream.clone()].concat(), &cuts);
            prop_assert_eq!(got, (snapshot, stream, true));
        }

        // An alphabet of two lets pieces that look like the mark's beginning occur often.
        #[test]
        fn a_mark_is_found_at_any_cut_and_handed_to_nobody(
            snapshot in "[ab]{0,300}", stream in "[ab]{0,100}", cuts in proptest::collection::vec(1usize..90, 1..20),
        ) {
            let all = format!("{snapshot}{EOF}{stream}");
            let first = all.find(EOF).unwrap();
            let payload = Payload::announced(format!("$EOF:{EOF}").as_bytes()).unwrap();
            let got = feed(payload, all.as_bytes(), &cuts);
            prop_assert_eq!(got, (all.as_bytes()[..first].to_vec(), all.as_bytes()[first + MARK..].to_vec(), true));
        }

        #[test]
        fn without_its_mark_a_payload_does_not_end(
            snapshot in proptest::collection::vec(98u8.., 0..300), cuts in proptest::collection::vec(1usize..90, 1..20),
        ) {
            let payload = Payload::announced(format!("$EOF:{EOF}").as_bytes()).unwrap();
            let (taken, kept, done) = feed(payload, &snapshot, &cuts);
            prop_assert!(!done);
            prop_assert!(kept.len() < MARK);
            prop_assert_eq!([taken, kept].concat(), snapshot);
        }
    }

    #[test]
    fn malformed_announcements_are_refused() {
        for line in ["", "$", "$-1", "$+1", "$12a", "$EOF:short", "+OK", "$99999999999999999999999"] {
            assert!(Payload::announced(line.as_bytes()).is_none(), "{line}");
        }
    }
}
