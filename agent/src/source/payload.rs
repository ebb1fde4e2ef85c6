//! Where a snapshot ends: after as many bytes as its head says, or at a mark that its head names.

use bytes::{Bytes, BytesMut};
use memchr::memmem;

/// A payload that is coming in.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Payload {
    Sized { left: u64 },
    Marked { mark: Vec<u8> },
}

const MARK: usize = 40;

impl Payload {
    /// From the head that stands before it.
    pub(super) fn from_head(head: &str) -> Option<Self> {
        let text = head.strip_prefix('$')?;
        match text.strip_prefix("EOF:") {
            Some(mark) if mark.len() == MARK => Some(Self::Marked { mark: mark.as_bytes().to_vec() }),
            Some(_) => None,
            None => Some(Self::Sized { left: text.parse().ok()? }),
        }
    }

    pub(super) fn size(&self) -> Option<u64> {
        match self {
            Self::Sized { left } => Some(*left),
            Self::Marked { .. } => None,
        }
    }

    /// Takes what belongs to the payload off the buffer; true once it is over. What is behind it stays.
    pub(super) fn take(&mut self, buffer: &mut BytesMut) -> (Bytes, bool) {
        match self {
            Self::Sized { left } => {
                let here = buffer.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= here as u64;
                (buffer.split_to(here).freeze(), *left == 0)
            }
            Self::Marked { mark } => match memmem::find(buffer, mark) {
                Some(at) => {
                    let bytes = buffer.split_to(at).freeze();
                    drop(buffer.split_to(mark.len()));
                    (bytes, true)
                }
                // The mark may be cut off: its beginning stays.
                None => (buffer.split_to(buffer.len().saturating_sub(MARK - 1)).freeze(), false),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_in_pieces(head: &str, bytes: &[u8], cut: usize) -> (Vec<u8>, Vec<u8>) {
        let mut payload = Payload::from_head(head).unwrap();
        let mut buffer = BytesMut::from(&bytes[..cut]);
        let (first, over) = payload.take(&mut buffer);
        let mut found = first.to_vec();
        buffer.extend_from_slice(&bytes[cut..]);
        if !over {
            let (second, over) = payload.take(&mut buffer);
            assert!(over);
            found.extend_from_slice(&second);
        }
        (found, buffer.to_vec())
    }

    #[test]
    fn a_payload_ends_at_its_mark_or_length_wherever_it_is_cut() {
        let mark = "m".repeat(39) + "!";
        let marked = [b"REDIS0011 data", mark.as_bytes(), b"*1\r\n"].concat();
        for cut in 0..=marked.len() {
            let (found, rest) = read_in_pieces(&format!("$EOF:{mark}"), &marked, cut);
            assert_eq!((found.as_slice(), rest.as_slice()), (&b"REDIS0011 data"[..], &b"*1\r\n"[..]), "cut at {cut}");
            let (found, rest) = read_in_pieces("$14", b"REDIS0011 data*1\r\n", cut.min(18));
            assert_eq!((found.as_slice(), rest.as_slice()), (&b"REDIS0011 data"[..], &b"*1\r\n"[..]), "cut at {cut}");
        }
    }

    #[test]
    fn a_head_that_is_none_is_refused() {
        for head in ["+OK", "$", "$-1", "$EOF:short"] {
            assert_eq!(Payload::from_head(head), None, "{head}");
        }
    }
}
