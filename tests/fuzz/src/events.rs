//! What a decoder hands on, in a form that is the same whether a value came whole or in parts.

use dts_common::error::{Code, Error, Result};
use dts_common::redis::rdb::{Decoder, Entry, Kind, Meta, Part, Sink};

/// Takes everything down.
#[derive(Default)]
pub struct Events {
    /// Every event, in words.
    pub found: Vec<String>,
    string: Vec<u8>,
}

impl Sink for Events {
    fn aux(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        self.found.push(format!("aux {name:?} {value:?}"));
        Ok(())
    }

    fn resize_db(&mut self, keys: u64) {
        self.found.push(format!("resize {keys}"));
    }

    fn function(&mut self, library: &[u8]) -> Result<()> {
        self.found.push(format!("function {library:?}"));
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        let meta = &entry.meta;
        self.begin(meta)?;
        if matches!(meta.kind, Kind::Module | Kind::Array) {
            self.found.push(format!("opaque {:?}", entry.raw()));
        } else {
            entry.parts(&mut |part| self.part(meta, part))?;
        }
        self.finish(meta)
    }

    fn begin(&mut self, meta: &Meta<'_>) -> Result<()> {
        self.found.push(format!("begin {meta:?}"));
        Ok(())
    }

    fn part(&mut self, _: &Meta<'_>, part: Part<'_>) -> Result<()> {
        match part {
            Part::StringBytes(bytes) => self.string.extend_from_slice(bytes),
            part => self.found.push(format!("{part:?}")),
        }
        Ok(())
    }

    fn finish(&mut self, _: &Meta<'_>) -> Result<()> {
        self.found.push(format!("end {:?}", std::mem::take(&mut self.string)));
        Ok(())
    }
}

/// Decodes a payload that comes in `pieces`.
pub fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>, inline_limit: usize) -> (Vec<String>, Result<()>) {
    let mut events = Events::default();
    let mut decoder = Decoder::with_inline_limit(inline_limit);
    for piece in pieces {
        if let Err(error) = decoder.feed(piece, &mut events) {
            return (events.found, Err(error));
        }
    }
    let ended = decoder.end(&mut events);
    (events.found, ended)
}

/// An error has to be about the snapshot, and to say where in it.
pub fn check_error(error: &Error, length: usize) {
    assert!(matches!(error.code, Code::SnapshotCorrupt | Code::SnapshotUnknown), "{error}");
    let place = error.message.rsplit_once("at byte ").map(|(_, place)| place.trim_end_matches(')'));
    let place: usize = place.and_then(|place| place.parse().ok()).unwrap_or_else(|| panic!("{error}"));
    assert!(place <= length, "{error}, of {length}");
}
