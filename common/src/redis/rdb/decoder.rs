//! The file's frame: magic, opcodes, records, checksum. Keeps what is cut off until the rest of it comes.

use crc_fast::{CrcAlgorithm, Digest};

use super::cursor::{Cursor, Fault, Head, Read};
use super::value::{self, Stop, Walk};
use super::{Entry, Family, Kind, Meta, Part, Sink};
use crate::error::{Code, Error, Result};
use crate::redis::lzf::Inflate;

/// A value whose serialised form is larger comes in parts.
pub const INLINE_LIMIT: usize = 1 << 20;
/// A cut record is looked at again once this much is there, then at each doubling.
const RETRY_FROM: usize = 64 << 10;

/// Decodes one payload.
pub struct Decoder {
    buffer: Vec<u8>,
    /// Bytes of the payload before the buffer.
    consumed: u64,
    digest: Digest,
    inline_limit: usize,
    /// Do not look again before this many bytes are there.
    wanted: usize,
    state: State,
    family: Family,
    version: u32,
    db: u32,
    next: Attributes,
}

/// What opcodes said about the next key.
#[derive(Clone, Copy, Default)]
struct Attributes {
    expire_at_ms: Option<i64>,
    idle_s: Option<u64>,
    freq: Option<u8>,
}

enum State {
    Magic,
    Record,
    Large { key: Vec<u8>, attributes: Attributes, code: u8, rest: Rest },
    Over,
}

/// What of a large value is to come.
enum Rest {
    Elements(Box<Walk>),
    Raw(u64),
    Compressed { left: u64, output_left: u64, inflate: Box<Inflate> },
}

/// One look at the buffer.
enum Look {
    Taken,
    /// The file is over.
    Over,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::with_inline_limit(INLINE_LIMIT)
    }
}

impl Decoder {
    /// A decoder that streams values larger than `inline_limit`.
    pub fn with_inline_limit(inline_limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            consumed: 0,
            digest: Digest::new(CrcAlgorithm::Crc64Redis),
            inline_limit,
            wanted: 0,
            state: State::Magic,
            family: Family::Redis,
            version: 0,
            db: 0,
            next: Attributes::default(),
        }
    }

    /// Bytes of the payload that are decoded.
    pub fn offset(&self) -> u64 {
        self.consumed
    }

    /// Takes the next bytes of the payload and hands on all that is complete.
    pub fn feed(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Result<()> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < self.wanted { Ok(()) } else { self.decode(sink) }
    }

    /// The payload is over: an error unless it was whole.
    pub fn end(&mut self, sink: &mut impl Sink) -> Result<()> {
        self.decode(sink)?;
        match self.state {
            State::Over => Ok(()),
            _ => Err(self.fault(Fault::Bad("end: the snapshot is cut off"), 0)),
        }
    }

    fn decode(&mut self, sink: &mut impl Sink) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let mut at = 0;
        let ended = loop {
            let mut cursor = Cursor::new(&buffer, at);
            match self.look(&mut cursor, sink) {
                Ok(Look::Taken) => at = cursor.at,
                Ok(Look::Over) => {
                    self.digest.update(&buffer[..cursor.at]);
                    let end = cursor.at;
                    break self.check(&buffer, end).map(|()| at = buffer.len());
                }
                Err(Stop::Fault(Fault::More)) => {
                    // Large values make progress inside of an element too.
                    at = at.max(if matches!(self.state, State::Large { .. }) { cursor.at } else { at });
                    break Ok(());
                }
                Err(Stop::Fault(fault)) => break Err(self.fault(fault, at)),
                Err(Stop::Taker(error)) => break Err(error),
            }
        };
        let whole = matches!(self.state, State::Over);
        let checked = if whole { 0 } else { at };
        self.digest.update(&buffer[..checked]);
        self.consumed += at as u64;
        self.buffer = buffer;
        self.buffer.drain(..at);
        let left = self.buffer.len();
        self.wanted = if left < RETRY_FROM || whole { 0 } else { left * 2 };
        if matches!(self.state, State::Record) && self.wanted > self.inline_limit && left <= self.inline_limit {
            self.wanted = self.inline_limit + 1;
        }
        ended
    }

    /// The checksum behind the end, and nothing behind that.
    fn check(&mut self, buffer: &[u8], end: usize) -> Result<()> {
        let mut cursor = Cursor::new(buffer, end);
        if self.version >= 5 {
            let stored = cursor.u64_le().map_err(|fault| self.fault(fault, end))?;
            let found = self.digest.finalize();
            if stored != 0 && stored != found {
                return Err(self.fault(
                    Fault::Bad("checksum: the snapshot was altered on its way, or is damaged at the source"),
                    end,
                ));
            }
        }
        if cursor.remaining() > 0 {
            return Err(self.fault(Fault::Bad("end: bytes behind it"), cursor.at));
        }
        self.state = State::Over;
        Ok(())
    }

    fn look(&mut self, cursor: &mut Cursor<'_>, sink: &mut impl Sink) -> Result<Look, Stop<Error>> {
        match &mut self.state {
            State::Magic => {
                let magic = cursor.take(9)?;
                let (family, digits) = match (magic.strip_prefix(b"REDIS"), magic.strip_prefix(b"VALKEY")) {
                    (Some(digits), _) => (Family::Redis, digits),
                    (_, Some(digits)) => (Family::Valkey, digits),
                    _ => return Err(not_a_snapshot()),
                };
                let version = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
                let newest = if family == Family::Redis { 15 } else { 80 };
                match version {
                    Some(version) if (1..=newest).contains(&version) => {
                        (self.family, self.version) = (family, version);
                        self.state = State::Record;
                        Ok(Look::Taken)
                    }
                    Some(_) => Err(Stop::Fault(Fault::Unknown("RDB version, newer than this program"))),
                    None => Err(not_a_snapshot()),
                }
            }
            State::Record => self.record(cursor, sink),
            State::Large { .. } => self.large(cursor, sink),
            State::Over if cursor.remaining() == 0 => Err(Stop::Fault(Fault::More)),
            State::Over => Err(Stop::Fault(Fault::Bad("end: bytes behind it"))),
        }
    }

    fn record(&mut self, cursor: &mut Cursor<'_>, sink: &mut impl Sink) -> Result<Look, Stop<Error>> {
        let start = cursor.at;
        let redis = self.family == Family::Redis;
        let mut scratch = (Vec::new(), Vec::new());
        let code = cursor.byte()?;
        match code {
            255 => {
                if self.version >= 5 && cursor.remaining() < 8 {
                    return Err(Stop::Fault(Fault::More));
                }
                return Ok(Look::Over);
            }
            254 => self.db = u32::try_from(cursor.length()?).map_err(|_| Fault::Bad("database number"))?,
            253 => self.next.expire_at_ms = Some(i64::from(i32::from_le_bytes(cursor.array()?)) * 1000),
            252 => self.next.expire_at_ms = Some(i64::from_le_bytes(cursor.array()?)),
            251 => {
                let keys = cursor.length()?;
                cursor.length()?;
                sink.resize_db(keys);
            }
            250 => {
                let (name, value) = (cursor.text()?, cursor.text()?);
                let (name, value) = (name.decode(&mut scratch.0)?, value.decode(&mut scratch.1)?);
                sink.aux(name, value).map_err(Stop::Taker)?;
            }
            249 => self.next.freq = Some(cursor.byte()?),
            248 => self.next.idle_s = Some(cursor.length()?),
            247 => {
                // Module data outside of keys: module id, when, then items.
                cursor.length()?;
                if cursor.length()? != 2 {
                    return Err(Fault::Bad("module aux").into());
                }
                cursor.length()?;
                value::module_items(cursor)?;
            }
            246 => return Err(Fault::Unknown("functions as 7.0-rc1 wrote them").into()),
            245 => {
                let library = cursor.text()?;
                sink.function(library.decode(&mut scratch.0)?).map_err(Stop::Taker)?;
            }
            244 if redis => {
                for _ in 0..3 {
                    cursor.length()?;
                }
            }
            243 if redis => return Err(Fault::Unknown("key metadata of a module class").into()),
            243 => {
                cursor.text()?;
                for _ in 0..cursor.length()? {
                    cursor.length()?;
                    cursor.length()?;
                }
            }
            _ => return self.key(code, start, cursor, sink),
        }
        Ok(Look::Taken)
    }

    fn key(
        &mut self,
        code: u8,
        start: usize,
        cursor: &mut Cursor<'_>,
        sink: &mut impl Sink,
    ) -> Result<Look, Stop<Error>> {
        let kind = value::kind(code, self.family).ok_or(Fault::Unknown("opcode or value type"))?;
        let mut scratch = Vec::new();
        let text = cursor.text()?;
        let key = text.decode(&mut scratch)?;
        let begin = *cursor;
        match value::skip(code, self.family, cursor) {
            Ok(()) => {
                let length = cursor.at - begin.at;
                let mut whole = begin;
                let raw = whole.take(length)?;
                let meta = meta(self.next, self.db, key, code, kind, self.family, self.version);
                self.next = Attributes::default();
                let offset = self.consumed + begin.at as u64;
                sink.entry(&Entry { meta, raw, offset }).map_err(Stop::Taker)?;
                Ok(Look::Taken)
            }
            Err(Fault::More) => {
                let held = begin.at + begin.remaining() - start;
                if held <= self.inline_limit || matches!(kind, Kind::Module | Kind::Array) {
                    return Err(Stop::Fault(Fault::More));
                }
                *cursor = begin;
                let rest = match kind {
                    Kind::String => string_rest(cursor)?,
                    _ => Rest::Elements(Box::new(Walk::new(code, self.family))),
                };
                let meta = meta(self.next, self.db, key, code, kind, self.family, self.version);
                sink.begin(&meta).map_err(Stop::Taker)?;
                match &rest {
                    Rest::Raw(length) => sink.part(&meta, Part::StringLength(*length)).map_err(Stop::Taker)?,
                    Rest::Compressed { output_left, .. } => {
                        sink.part(&meta, Part::StringLength(*output_left)).map_err(Stop::Taker)?;
                    }
                    Rest::Elements(_) => {}
                }
                let attributes = std::mem::take(&mut self.next);
                self.state = State::Large { key: key.to_vec(), attributes, code, rest };
                Ok(Look::Taken)
            }
            Err(fault) => {
                let error = self.fault(fault, begin.at).about_key(key);
                Err(Stop::Taker(error))
            }
        }
    }

    fn large(&mut self, cursor: &mut Cursor<'_>, sink: &mut impl Sink) -> Result<Look, Stop<Error>> {
        let State::Large { key, attributes, code, rest } = &mut self.state else { return Ok(Look::Taken) };
        let kind = value::kind(*code, self.family).ok_or(Fault::Unknown("value type"))?;
        let meta = meta(*attributes, self.db, key, *code, kind, self.family, self.version);
        let over = match rest {
            Rest::Elements(walk) => {
                let start = *cursor;
                match walk.step(cursor, &mut |part| sink.part(&meta, part)) {
                    Ok(over) => over,
                    Err(stop) => {
                        *cursor = start;
                        return Err(stop);
                    }
                }
            }
            Rest::Raw(left) => {
                let bytes = cursor.take(at_hand(cursor, *left)?)?;
                sink.part(&meta, Part::StringBytes(bytes)).map_err(Stop::Taker)?;
                *left -= bytes.len() as u64;
                *left == 0
            }
            Rest::Compressed { left, output_left, inflate } => {
                let bytes = cursor.take(at_hand(cursor, *left)?.min(RETRY_FROM))?;
                let mut out = Vec::new();
                inflate.feed(bytes, &mut out).ok_or(Fault::Bad("LZF string"))?;
                *left -= bytes.len() as u64;
                *output_left = output_left.checked_sub(out.len() as u64).ok_or(Fault::Bad("LZF string"))?;
                sink.part(&meta, Part::StringBytes(&out)).map_err(Stop::Taker)?;
                if *left == 0 && (*output_left != 0 || !inflate.is_whole()) {
                    return Err(Fault::Bad("LZF string").into());
                }
                *left == 0
            }
        };
        if over {
            sink.finish(&meta).map_err(Stop::Taker)?;
            self.state = State::Record;
        }
        Ok(Look::Taken)
    }

    fn fault(&self, fault: Fault, at: usize) -> Error {
        let offset = self.consumed + at as u64;
        match fault {
            Fault::Unknown(what) => Error::new(Code::SnapshotUnknown, format!("unknown {what} at byte {offset}")),
            Fault::Bad(what) => Error::new(Code::SnapshotCorrupt, format!("damaged {what} (at byte {offset})")),
            Fault::More => Error::new(Code::SnapshotCorrupt, format!("cut off at byte {offset}")),
        }
    }
}

fn meta<'a>(
    next: Attributes,
    db: u32,
    key: &'a [u8],
    type_code: u8,
    kind: Kind,
    family: Family,
    version: u32,
) -> Meta<'a> {
    let Attributes { expire_at_ms, idle_s, freq } = next;
    Meta { db, key, expire_at_ms, idle_s, freq, type_code, kind, family, version }
}

fn string_rest(cursor: &mut Cursor<'_>) -> Read<Rest> {
    match cursor.text_head()? {
        Head::Raw(length) => Ok(Rest::Raw(length)),
        Head::Lzf { compressed, length } => {
            Ok(Rest::Compressed { left: compressed, output_left: length, inflate: Box::default() })
        }
        // Only its key can be large: the few bytes of the number come whole.
        Head::Short => Err(Fault::More),
    }
}

/// How many of `left` bytes are here; none is [`Fault::More`].
fn at_hand(cursor: &Cursor<'_>, left: u64) -> Read<usize> {
    let here = cursor.remaining().min(usize::try_from(left).unwrap_or(usize::MAX));
    if here == 0 { Err(Fault::More) } else { Ok(here) }
}

fn not_a_snapshot<E>() -> Stop<E> {
    Stop::Fault(Fault::Bad("magic: this is not an RDB"))
}
