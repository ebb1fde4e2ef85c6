//! RDB files of real servers, against what those servers said stands in them (`tests/golden` records both).

// Helpers of tests may fail as tests do.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use dts_common::error::Result;
use dts_common::redis::rdb::{Decoder, Entry, INLINE_LIMIT, Meta, Part, Sink, StreamId};
use proptest::prelude::*;

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn files() -> Vec<(String, Vec<u8>)> {
    let mut found: Vec<_> = std::fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|suffix| suffix == "rdb"))
        .map(|path| (path.file_stem().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
        .collect();
    found.sort();
    assert!(found.len() >= 17, "golden files are missing");
    found
}

fn expected(server: &str) -> BTreeSet<String> {
    let text = match server {
        "redis-2.8" | "redis-3.0" | "redis-3.2" | "redis-4.0rc2" => "no-streams",
        "redis-7.4" | "redis-8.0" | "redis-8.2" | "redis-8.10" | "valkey-9.0" | "valkey-9.1" => "field-expiries",
        _ => "streams",
    };
    let text = std::fs::read_to_string(directory().join(text).with_extension("txt")).unwrap();
    text.lines().map(str::to_owned).collect()
}

/// What a decoder hands on, in the words of the recording.
#[derive(Default)]
struct Found {
    lines: BTreeSet<String>,
    functions: usize,
    items: BTreeMap<Vec<u8>, usize>,
    string: Vec<u8>,
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn id(id: StreamId) -> String {
    format!("{}-{}", id.ms, id.seq)
}

impl Found {
    fn head(meta: &Meta<'_>) -> String {
        format!("{}|{}", meta.db, show(meta.key))
    }

    fn begun(&mut self, meta: &Meta<'_>) {
        if let Some(at) = meta.expire_at_ms {
            self.lines.insert(format!("{}|expires|{at}", Self::head(meta)));
        }
    }

    fn add(&mut self, meta: &Meta<'_>, part: Part<'_>) {
        let head = Self::head(meta);
        let line = match part {
            Part::StringLength(_) => {
                self.string.clear();
                return;
            }
            Part::StringBytes(bytes) => {
                self.string.extend_from_slice(bytes);
                return;
            }
            Part::ListItem(item) => {
                let index = self.items.entry(meta.key.to_vec()).or_default();
                *index += 1;
                format!("{head}|list|{}|{}", *index - 1, show(item))
            }
            Part::SetMember(member) => format!("{head}|set|{}", show(member)),
            Part::HashField { field, value, expire_at_ms } => {
                format!("{head}|hash|{}|{}|{}", show(field), show(value), expire_at_ms.unwrap_or(0))
            }
            Part::ZsetMember { member, score } => format!("{head}|zset|{}|{score:e}", show(member)),
            Part::StreamEntry { id: at, fields } => {
                let fields: Vec<String> = fields.iter().map(|field| show(field)).collect();
                format!("{head}|stream|{}|{}", id(at), fields.join("|"))
            }
            Part::StreamGroup { name, .. } => format!("{head}|group|{}", show(name)),
            Part::StreamPending { group, consumer, id: at, delivery_count, .. } => {
                format!("{head}|pending|{}|{}|{}|{delivery_count}", show(group), show(consumer), id(at))
            }
            Part::StreamMeta { .. } | Part::StreamConsumer { .. } => return,
        };
        self.lines.insert(line);
    }

    fn over(&mut self, meta: &Meta<'_>) {
        if meta.kind == dts_common::redis::rdb::Kind::String {
            self.lines.insert(format!("{}|string|{}", Self::head(meta), show(&self.string)));
        }
    }
}

impl Sink for Found {
    fn aux(&mut self, _name: &[u8], _value: &[u8]) -> Result<()> {
        Ok(())
    }

    fn resize_db(&mut self, _keys: u64) {}

    fn function(&mut self, _library: &[u8]) -> Result<()> {
        self.functions += 1;
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.begun(&entry.meta);
        entry.parts(&mut |part| {
            self.add(&entry.meta, part);
            Ok(())
        })?;
        self.over(&entry.meta);
        Ok(())
    }

    fn begin(&mut self, meta: &Meta<'_>) -> Result<()> {
        self.begun(meta);
        Ok(())
    }

    fn part(&mut self, meta: &Meta<'_>, part: Part<'_>) -> Result<()> {
        self.add(meta, part);
        Ok(())
    }

    fn finish(&mut self, meta: &Meta<'_>) -> Result<()> {
        self.over(meta);
        Ok(())
    }
}

fn decode(bytes: &[u8], piece: usize, inline_limit: usize) -> Result<Found> {
    let mut found = Found::default();
    let mut decoder = Decoder::with_inline_limit(inline_limit);
    for piece in bytes.chunks(piece) {
        decoder.feed(piece, &mut found)?;
    }
    decoder.end(&mut found)?;
    Ok(found)
}

#[test]
fn every_servers_file_holds_what_the_server_said_whatever_the_pieces() {
    for (server, bytes) in files() {
        let expected = expected(&server);
        // All at once; as it comes from a socket; in drips, with everything too large to hold.
        for (piece, limit) in [(bytes.len(), INLINE_LIMIT), (1448, INLINE_LIMIT), (7, 16)] {
            let found = decode(&bytes, piece, limit).unwrap_or_else(|error| panic!("{server}: {error}"));
            let difference = found.lines.symmetric_difference(&expected).next();
            assert_eq!(difference, None, "{server} in pieces of {piece}");
            let knows_functions = bytes.starts_with(b"VALKEY") || &bytes[5..9] >= b"0010".as_slice();
            assert_eq!(found.functions > 0, knows_functions, "{server}");
        }
    }
}

#[test]
fn a_file_that_is_cut_off_anywhere_is_never_taken_for_whole() {
    for (server, bytes) in files() {
        for cut in (0..bytes.len()).step_by(997) {
            assert!(decode(&bytes[..cut], 1 << 16, INLINE_LIMIT).is_err(), "{server} cut at {cut}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    /// Also that no length in a file makes it allocate or loop without bound: the test would not end.
    #[test]
    fn a_changed_byte_is_noticed_and_nothing_panics(
        file in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
        piece in 1usize..5000,
        small in any::<bool>(),
    ) {
        let files = files();
        let (server, whole) = &files[file.index(files.len())];
        let mut bytes = whole.clone();
        for (at, change) in changes {
            let at = at.index(bytes.len());
            bytes[at] ^= change;
        }
        let limit = if small { 16 } else { INLINE_LIMIT };
        if bytes != *whole {
            let error = decode(&bytes, piece, limit).err();
            prop_assert!(error.as_ref().is_some_and(|error| error.message.contains("at byte ")), "{} {:?}", server, error);
        }
    }
}
