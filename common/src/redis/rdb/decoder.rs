//! The decoder.

use super::event::Event;
use crate::error::{Code, Error};

/// Takes a snapshot in pieces of any size and tells what it holds.
#[derive(Debug)]
pub struct Decoder {
    inline_limit: usize,
    buffer: Vec<u8>,
    offset: u64,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Decoder {
    /// A decoder that delivers values up to 1 MiB whole.
    pub fn new() -> Self {
        Self::with_inline_limit(1 << 20)
    }

    /// A decoder that delivers values up to `bytes` whole and larger ones in parts.
    pub fn with_inline_limit(bytes: usize) -> Self {
        Self { inline_limit: bytes, buffer: Vec::new(), offset: 0 }
    }

    /// Takes the next bytes of the snapshot.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next event, or `None` if that takes more bytes. An error is final.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> Result<Option<Event<'_>>, Error> {
        Err(Error::new(Code::Internal, format!("not decoded yet, limit {}", self.inline_limit)))
    }

    /// Bytes of the snapshot that the events so far took.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}
