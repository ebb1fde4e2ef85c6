//! A snapshot as commands, each value in the way that costs the target least.

mod facts;
mod whole;

use std::collections::VecDeque;
use std::sync::Arc;

use dts_common::error::{Code, Error, Result};
use dts_common::redis::rdb::{Decoder, Entry, Kind, Meta, Part, Sink};
use dts_common::selection::Selection;

pub use self::facts::{SnapshotFacts, Strays};
use self::whole::{Strings, expire, restore};
use super::out::Out;
use super::value::{Pieces, unsupported};
use super::{Chunk, Commit, Dialect, Fingerprint, Fingerprinter, Progress};
use crate::target::RESERVED_PREFIX;
use crate::topology::Owner;

/// Decodes a payload and encodes it for the target.
pub struct SnapshotEncoder {
    decoder: Decoder,
    writer: Writer,
}

struct Writer {
    dialect: Dialect,
    selection: Arc<Selection>,
    fingerprinter: Option<Fingerprinter>,
    fingerprints: Vec<Fingerprint>,
    out: Out,
    ready: VecDeque<Chunk>,
    strings: Strings,
    pieces: Pieces,
    /// True while the parts of a reserved key pass by.
    dropping: bool,
    /// True while a large string is written: its command is open.
    inside: bool,
    facts: SnapshotFacts,
    progress: Progress,
    owner: Owner,
}

impl SnapshotEncoder {
    /// With a fingerprinter it tells which keys it saw.
    pub fn new(dialect: Dialect, selection: Arc<Selection>, fingerprinter: Option<Fingerprinter>) -> Self {
        let writer = Writer {
            dialect,
            selection,
            fingerprinter,
            fingerprints: Vec::new(),
            out: Out::default(),
            ready: VecDeque::new(),
            strings: Strings::default(),
            pieces: Pieces::default(),
            dropping: false,
            inside: false,
            facts: SnapshotFacts::none(),
            progress: Progress::default(),
            owner: Owner::Everything,
        };
        Self { decoder: Decoder::default(), writer }
    }

    /// Keys that are not the owner's are not written.
    #[must_use]
    pub fn owned_by(mut self, owner: Owner) -> Self {
        self.writer.owner = owner;
        self
    }

    /// What functions the target has is forgotten first: a copy before this one may have left some that the source has no more.
    pub fn forget_functions(&mut self) {
        self.writer.out.command(&[b"FUNCTION", b"FLUSH"]);
    }

    /// Takes bytes of the payload.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<()> {
        self.decoder.feed(bytes, &mut self.writer)?;
        self.writer.progress.snapshot_bytes = self.decoder.offset();
        Ok(())
    }

    /// The payload is over; an error unless it was whole and its checksum right.
    pub fn finish(&mut self) -> Result<SnapshotFacts> {
        self.decoder.end(&mut self.writer)?;
        self.writer.progress.snapshot_bytes = self.decoder.offset();
        Ok(std::mem::replace(&mut self.writer.facts, SnapshotFacts::none()))
    }

    /// The next chunk; with `flush` also one that is not full.
    pub fn next_chunk(&mut self, flush: bool) -> Option<Chunk> {
        self.writer.next_chunk(flush)
    }

    /// How long chunks should become.
    pub fn in_pieces_of(&mut self, bytes: usize) {
        self.writer.out.piece = bytes;
    }

    /// The keys seen since the last call.
    pub fn take_fingerprints(&mut self) -> Vec<Fingerprint> {
        std::mem::take(&mut self.writer.fingerprints)
    }

    /// Totals so far.
    pub fn progress(&self) -> Progress {
        self.writer.progress
    }
}

impl Writer {
    fn next_chunk(&mut self, flush: bool) -> Option<Chunk> {
        if let Some(chunk) = self.ready.pop_front() {
            return Some(chunk);
        }
        if !flush || self.inside {
            return None;
        }
        (!self.strings.is_empty() || !self.out.bytes.is_empty()).then(|| self.commit())
    }

    fn commit(&mut self) -> Chunk {
        // They belong to the database that is selected here, and a commit selects another.
        self.strings.flush(&mut self.out);
        let commit =
            Commit { position: None, holds_field_expiry: self.facts.holds_field_expiry, progress: self.progress };
        self.out.commit(commit)
    }

    fn hand_on(&mut self) {
        if self.out.is_full() {
            let chunk = if self.inside { self.out.cut() } else { self.commit() };
            self.ready.push_back(chunk);
        }
    }

    /// Begins a key: true if it is to be written.
    fn key(&mut self, meta: &Meta<'_>) -> Result<bool> {
        if meta.key.starts_with(RESERVED_PREFIX.as_bytes()) {
            return Ok(false);
        }
        if !self.owner.may_own(meta.key) {
            self.facts.strays.add(meta.db, meta.key);
            return Ok(false);
        }
        let covered = self.selection.covers_kind(meta.kind) && self.selection.covers(meta.db, meta.key);
        let Some(db) = self.selection.target_db(meta.db).filter(|_| covered) else {
            self.progress.filtered_keys += 1;
            return Ok(false);
        };
        if db != self.out.db {
            self.strings.flush(&mut self.out);
            self.out.select(db, &self.dialect).map_err(|error| error.about_key(meta.key))?;
        }
        if meta.expire_at_ms.is_some() {
            self.facts.held.add(db, meta.key);
        }
        if let Some(fingerprinter) = &self.fingerprinter {
            self.fingerprints.push(fingerprinter.of(db, meta.key));
        }
        Ok(true)
    }
}

impl Sink for Writer {
    fn aux(&mut self, name: &[u8], value: &[u8]) -> Result<()> {
        match name {
            b"repl-stream-db" => {
                let db = std::str::from_utf8(value).ok().and_then(|text| text.parse::<i64>().ok());
                let db = db.ok_or_else(|| Error::new(Code::SnapshotCorrupt, "repl-stream-db is not a number"))?;
                // Candidates of 4.0 say -1 where a SELECT follows anyway.
                self.facts.stream_db = u32::try_from(db).unwrap_or(0);
            }
            b"lua" => drop(self.facts.scripts.learn(value)),
            _ => {}
        }
        Ok(())
    }

    fn resize_db(&mut self, keys: u64) {
        self.progress.announced_keys += keys;
    }

    fn function(&mut self, library: &[u8]) -> Result<()> {
        if self.selection.excludes_command(b"FUNCTION") {
            return Ok(());
        }
        if !self.dialect.version.at_least(7, 0) {
            let message = format!("{} does not know functions, and the source has some", self.dialect.version);
            return Err(Error::new(Code::TargetUnsupported, message));
        }
        self.out.command(&[b"FUNCTION", b"LOAD", b"REPLACE", library]);
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        let meta = &entry.meta;
        if !self.key(meta)? {
            return Ok(());
        }
        self.progress.snapshot_keys += 1;
        // How long a key was idle, or how often it was used, only RESTORE can say.
        let used = (meta.idle_s.is_some() || meta.freq.is_some()) && self.dialect.version.at_least(5, 0);
        if meta.kind == Kind::String && !used {
            self.strings.write(entry, &self.dialect.version, &mut self.out)?;
            self.hand_on();
            return Ok(());
        }
        // The order of a MSET and what follows it does not matter: a snapshot has every key once.
        match self.dialect.version.accepts_dump(meta.family, meta.type_code) {
            Some(footer) if !entry.has_field_expiry()? => restore(entry, footer, &self.dialect.version, &mut self.out),
            None if matches!(meta.kind, Kind::Module | Kind::Array) => {
                return Err(unsupported(meta, "this type", &self.dialect));
            }
            _ => {
                self.begin(meta)?;
                let mut pieces = std::mem::take(&mut self.pieces);
                let parts = entry.parts(&mut |part| pieces.add(meta, part, &self.dialect, &mut self.out));
                self.pieces = pieces;
                parts?;
                self.finish(meta)?;
                self.progress.snapshot_keys -= 1;
            }
        }
        self.hand_on();
        Ok(())
    }

    fn begin(&mut self, meta: &Meta<'_>) -> Result<()> {
        self.dropping = !self.key(meta)?;
        if !self.dropping {
            self.strings.flush(&mut self.out);
            self.out.command(&[b"DEL", meta.key]);
        }
        Ok(())
    }

    fn part(&mut self, meta: &Meta<'_>, part: Part<'_>) -> Result<()> {
        if self.dropping {
            return Ok(());
        }
        self.inside = meta.kind == Kind::String;
        self.pieces.add(meta, part, &self.dialect, &mut self.out)?;
        self.hand_on();
        Ok(())
    }

    fn finish(&mut self, meta: &Meta<'_>) -> Result<()> {
        self.progress.snapshot_keys += 1;
        if std::mem::take(&mut self.dropping) {
            return Ok(());
        }
        if std::mem::take(&mut self.inside) {
            self.out.bytes.extend_from_slice(b"\r\n");
            self.out.commands += 1;
        }
        self.pieces.finish(meta, &mut self.out);
        if std::mem::take(&mut self.pieces.field_expiry) {
            self.facts.holds_field_expiry = true;
            // The key's own database is selected.
            self.facts.held.add(self.out.db, meta.key);
        }
        expire(meta, &mut self.out);
        self.hand_on();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dts_common::redis::rdb::Family;
    use dts_common::redis::resp;
    use dts_common::redis::version::ServerVersion;
    use proptest::prelude::*;

    use super::*;

    /// An RDB of strings: database, key, length of the value.
    fn snapshot(keys: &[(u8, u8, usize)]) -> Vec<u8> {
        let mut bytes = b"REDIS0009".to_vec();
        for (db, key, length) in keys {
            bytes.extend([254, *db, 0, 1, *key, 0x80]);
            bytes.extend(u32::try_from(*length).unwrap().to_be_bytes());
            bytes.extend(vec![b'v'; *length]);
        }
        bytes.push(255);
        bytes.extend([0; 8]);
        bytes
    }

    /// Database and key of everything that the commands set, as a server would see it.
    fn written(encoder: &mut SnapshotEncoder) -> Vec<(u8, u8)> {
        let mut bytes = Vec::new();
        while let Some(chunk) = encoder.next_chunk(true) {
            bytes.extend_from_slice(&chunk.bytes);
        }
        let mut parser = resp::CommandParser::default();
        let (mut at, mut db, mut found) = (0, 0, Vec::new());
        while let Some(length) = parser.parse(&bytes[at..]).unwrap() {
            let words: Vec<&[u8]> =
                parser.arguments().iter().map(|(start, end)| &bytes[at + start..at + end]).collect();
            match words[0] {
                b"SELECT" => db = std::str::from_utf8(words[1]).unwrap().parse().unwrap(),
                b"SET" => found.push((db, words[1][0])),
                b"MSET" => found.extend(words[1..].chunks(2).map(|pair| (db, pair[0][0]))),
                _ => {}
            }
            at += length;
            if at == bytes.len() {
                break;
            }
        }
        assert_eq!(db, 0, "a transaction has to leave db 0 selected");
        found
    }

    proptest! {
        #[test]
        fn every_key_lands_in_its_own_database_wherever_chunks_end(
            keys in prop::collection::vec((0u8..4, any::<u8>(), prop::sample::select(vec![1usize, 900, 2000, 300_000])), 1..40),
            piece in 1000usize..400_000,
        ) {
            let version = ServerVersion { family: Family::Redis, major: 7, minor: 0, patch: 0 };
            let mut encoder = SnapshotEncoder::new(Dialect { version, source: version, databases: 16 }, Arc::default(), None);
            for piece in snapshot(&keys).chunks(piece) {
                encoder.feed(piece).unwrap();
            }
            encoder.finish().unwrap();
            let mut expected: Vec<(u8, u8)> = keys.iter().map(|(db, key, _)| (*db, *key)).collect();
            let mut found = written(&mut encoder);
            expected.sort_unstable();
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}
