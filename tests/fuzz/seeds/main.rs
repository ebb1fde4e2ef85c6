//! Corpora from the files of real servers: `seeds <directory of RDB files> <directory for a corpus a target>`.

use std::fs;
use std::path::{Path, PathBuf};

use dts_common::error::Result;
use dts_common::redis::rdb::{Decoder, Entry, Kind, Meta, Part, Sink};
use dts_common::redis::resp;

/// Blobs and values longer than this teach the engine nothing that shorter ones do not.
const LONGEST: usize = 16 << 10;
/// What says how an input is cut: in pieces of up to 1448 bytes.
const CUT: u8 = 0xFF;

struct Seeds {
    out: PathBuf,
    magic: Vec<u8>,
    written: usize,
}

impl Seeds {
    fn write(&mut self, target: &str, parts: &[&[u8]]) {
        let seed = parts.concat();
        if seed.len() <= LONGEST {
            self.written += 1;
            let dir = self.out.join(target);
            fs::create_dir_all(&dir).expect("a directory for the corpus");
            fs::write(dir.join(self.written.to_string()), seed).expect("a seed");
        }
    }

    /// A file with this record alone, without a checksum.
    fn record(&mut self, entry: &Entry<'_>) {
        let key = u8::try_from(entry.meta.key.len().min(63)).unwrap_or(0);
        let head = [entry.meta.type_code, key];
        let parts = [&[CUT], &self.magic.clone()[..], &head, &entry.meta.key[..usize::from(key)], entry.raw()];
        self.write("rdb", &[&parts.concat(), &[255, 0, 0, 0, 0, 0, 0, 0, 0]]);
    }

    /// The strings of which the value is made, as they stand in the file.
    fn blobs(&mut self, entry: &Entry<'_>) {
        let (skip, target) = match entry.meta.type_code {
            9 => (0, "zipmap"),
            10 | 12 | 13 => (0, "ziplist"),
            11 => (0, "intset"),
            14 => (1, "ziplist"),
            16 | 17 | 20 => (0, "listpack"),
            18 => (2, "listpack"),
            23 => (0, "listpack"),
            25 => (8, "listpack"),
            // The number of nodes, then the id of the first.
            15 | 19 | 21 | 26 | 27 => (18, "listpack"),
            0 => (0, ""),
            _ => return,
        };
        let Some(text) = entry.raw().get(skip..) else { return };
        match Text::read(text) {
            Some(Text::Raw(bytes)) if !target.is_empty() => self.write(target, &[bytes]),
            Some(Text::Lzf(data, plain)) => {
                self.write("lzf", &[&[CUT], data]);
                if !target.is_empty() {
                    self.write(target, &[&plain]);
                }
            }
            _ => {}
        }
    }
}

/// A string of an RDB file.
enum Text<'a> {
    Raw(&'a [u8]),
    Lzf(&'a [u8], Vec<u8>),
}

impl<'a> Text<'a> {
    fn read(mut text: &'a [u8]) -> Option<Self> {
        if text.first() == Some(&0xC3) {
            text = &text[1..];
            let (length, plain) = (length(&mut text)?, length(&mut text)?);
            let mut out = Vec::new();
            let data = text.get(..length)?;
            dts_common::redis::lzf::decompress(data, plain, &mut out)?;
            return Some(Self::Lzf(data, out));
        }
        let length = length(&mut text)?;
        text.get(..length).map(Self::Raw)
    }
}

fn length(text: &mut &[u8]) -> Option<usize> {
    let (length, used) = match *text {
        [first, ..] if first >> 6 == 0 => (usize::from(*first), 1),
        [first, second, ..] if first >> 6 == 1 => (usize::from(first & 63) << 8 | usize::from(*second), 2),
        [0x80, a, b, c, d, ..] => (usize::try_from(u32::from_be_bytes([*a, *b, *c, *d])).ok()?, 5),
        _ => return None,
    };
    *text = &text[used..];
    Some(length)
}

impl Sink for Seeds {
    fn aux(&mut self, _: &[u8], _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn resize_db(&mut self, _: u64) {}

    fn function(&mut self, library: &[u8]) -> Result<()> {
        let mut command = vec![CUT];
        resp::command(&mut command, &[b"FUNCTION", b"LOAD", library]);
        self.write("resp", &[&command]);
        Ok(())
    }

    /// The record, what it is made of, and the commands that a source would have sent for it.
    fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.record(entry);
        self.blobs(entry);
        let Meta { key, kind, .. } = entry.meta;
        if matches!(kind, Kind::Module | Kind::Array) {
            return Ok(());
        }
        let mut commands = vec![CUT];
        resp::command(&mut commands, &[b"SELECT", b"0"]);
        entry.parts(&mut |part| {
            match part {
                Part::StringBytes(value) => resp::command(&mut commands, &[b"SET", key, value]),
                Part::ListItem(item) => resp::command(&mut commands, &[b"RPUSH", key, item]),
                Part::SetMember(member) => resp::command(&mut commands, &[b"SADD", key, member]),
                Part::HashField { field, value, .. } => resp::command(&mut commands, &[b"HSET", key, field, value]),
                _ => commands.extend_from_slice(b"\r\n"),
            }
            commands.truncate(LONGEST);
            Ok(())
        })?;
        self.write("resp", &[&commands]);
        Ok(())
    }

    fn begin(&mut self, _: &Meta<'_>) -> Result<()> {
        Ok(())
    }

    fn part(&mut self, _: &Meta<'_>, _: Part<'_>) -> Result<()> {
        Ok(())
    }

    fn finish(&mut self, _: &Meta<'_>) -> Result<()> {
        Ok(())
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [from, to] = arguments.as_slice() else { panic!("give a directory of RDB files, and one for the corpora") };
    let mut files: Vec<PathBuf> = fs::read_dir(from).expect("RDB files").flatten().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|suffix| suffix == "rdb"));
    files.sort();
    let mut seeds = Seeds { out: Path::new(to).to_owned(), magic: Vec::new(), written: 0 };
    for path in files {
        let file = fs::read(&path).expect("an RDB file");
        seeds.magic = file[..9].to_vec();
        let mut decoder = Decoder::default();
        decoder.feed(&file, &mut seeds).expect("what a server wrote");
    }
    // Only servers up to 2.4 wrote zipmaps, and none of those runs here: two of both lengths of a field.
    seeds.write("zipmap", &[b"\x02\x03foo\x03\x00bar\x05hello\x05\x02world!!\xff"]);
    seeds.write("zipmap", &[b"\x01\xfe\x03\x00\x00\x00foo\x00\x00\xff"]);
    println!("{} seeds", seeds.written);
}
