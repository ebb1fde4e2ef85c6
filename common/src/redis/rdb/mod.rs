//! The RDB format, versions 1 to 15 of Redis and 80 of Valkey, as it comes from a replication link: bytes in, calls to a
//! [`Sink`] out. Memory is bounded by the largest element, not by the largest value. Sources: `rdb.c`, `rdb.h`, `t_stream.c`.

mod blob;
mod cursor;
mod decoder;
mod module;
mod pending;
mod stream;
mod value;

pub use decoder::{Decoder, INLINE_LIMIT};
pub use module::module_type;
pub use value::kind as kind_of;

use crate::error::{Code, Error, Result};
use cursor::{Cursor, Fault, Text};
use value::{Stop, Walk};

/// Whose numbers these are: from RDB 12 on the two families give types different meanings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Magic `REDIS`.
    Redis,
    /// Magic `VALKEY`.
    Valkey,
}

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // Redis's own names
pub enum Kind {
    String,
    List,
    Set,
    Zset,
    Hash,
    Stream,
    Module,
    Array,
}

/// An entry's id in a stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    /// Milliseconds.
    pub ms: u64,
    /// Number within the millisecond.
    pub seq: u64,
}

/// What stands before a value.
#[derive(Clone, Copy, Debug)]
pub struct Meta<'a> {
    /// Its database.
    pub db: u32,
    /// Its key.
    pub key: &'a [u8],
    /// Absolute expiry, ms since 1970.
    pub expire_at_ms: Option<i64>,
    /// Seconds since it was used, if the source's policy is LRU.
    pub idle_s: Option<u64>,
    /// Its LFU counter, if the source's policy is LFU.
    pub freq: Option<u8>,
    /// The number in the file.
    pub type_code: u8,
    /// What it is.
    pub kind: Kind,
    /// Whose number.
    pub family: Family,
    /// RDB version of the file.
    pub version: u32,
}

/// A whole record.
#[derive(Clone, Copy, Debug)]
pub struct Entry<'a> {
    /// What stands before the value.
    pub meta: Meta<'a>,
    raw: &'a [u8],
    /// Bytes of the payload before it.
    offset: u64,
}

/// A piece of a value. Pieces come in the order of the file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)] // Redis's own names
pub enum Part<'a> {
    /// First of a large string: its length.
    StringLength(u64),
    /// Some bytes of it.
    StringBytes(&'a [u8]),
    ListItem(&'a [u8]),
    SetMember(&'a [u8]),
    HashField {
        field: &'a [u8],
        value: &'a [u8],
        expire_at_ms: Option<u64>,
    },
    ZsetMember {
        member: &'a [u8],
        score: f64,
    },
    /// Names and values in turn. Deleted entries are left out.
    StreamEntry {
        id: StreamId,
        fields: &'a [&'a [u8]],
    },
    StreamMeta {
        length: u64,
        last_id: StreamId,
        first_id: Option<StreamId>,
        max_deleted_id: Option<StreamId>,
        entries_added: Option<u64>,
    },
    StreamGroup {
        name: &'a [u8],
        last_id: StreamId,
        entries_read: Option<i64>,
    },
    StreamConsumer {
        group: &'a [u8],
        name: &'a [u8],
        seen_ms: u64,
        active_ms: Option<u64>,
    },
    StreamPending {
        group: &'a [u8],
        consumer: &'a [u8],
        id: StreamId,
        delivery_ms: u64,
        delivery_count: u64,
    },
}

/// Takes what a [`Decoder`] finds. An error stops the decoder for good.
pub trait Sink {
    /// An auxiliary field; may stand anywhere.
    fn aux(&mut self, name: &[u8], value: &[u8]) -> Result<()>;
    /// A hint of how many keys the selected database has.
    fn resize_db(&mut self, keys: u64);
    /// The source of a function library.
    fn function(&mut self, library: &[u8]) -> Result<()>;
    /// A whole record.
    fn entry(&mut self, entry: &Entry<'_>) -> Result<()>;
    /// A value too large to hold begins; its parts follow.
    fn begin(&mut self, meta: &Meta<'_>) -> Result<()>;
    /// A part of it.
    fn part(&mut self, meta: &Meta<'_>, part: Part<'_>) -> Result<()>;
    /// The value is over.
    fn finish(&mut self, meta: &Meta<'_>) -> Result<()>;
}

impl<'a> Entry<'a> {
    /// The value's bytes as they stand in the file, behind the key.
    pub fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// The bytes of a string value; `scratch` is used where they have to be made.
    pub fn string<'b>(&self, scratch: &'b mut Vec<u8>) -> Result<&'b [u8]>
    where
        'a: 'b,
    {
        let text = Cursor::new(self.raw, 0).text().map_err(|fault| self.damaged(fault))?;
        if let Text::Raw(bytes) = text {
            return Ok(bytes);
        }
        text.decode(scratch).map_err(|fault| self.damaged(fault))
    }

    /// Decodes the value into its parts.
    pub fn parts(&self, each: &mut dyn FnMut(Part<'_>) -> Result<()>) -> Result<()> {
        if self.meta.kind == Kind::String {
            let mut scratch = Vec::new();
            let bytes = self.string(&mut scratch)?;
            each(Part::StringLength(bytes.len() as u64))?;
            return each(Part::StringBytes(bytes));
        }
        if !Walk::can_stream(self.meta.type_code, self.meta.family) {
            return Err(
                self.damaged(Fault::Unknown("value type that only a server with the same module or version takes"))
            );
        }
        let mut walk = Walk::new(self.meta.type_code, self.meta.family);
        let mut cursor = Cursor::new(self.raw, 0);
        loop {
            match walk.step(&mut cursor, each) {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(Stop::Fault(fault)) => return Err(self.damaged(fault)),
                Err(Stop::Taker(error)) => return Err(error),
            }
        }
    }

    /// True if a field of this hash has an expiry of its own.
    pub fn has_field_expiry(&self) -> Result<bool> {
        let family_22 = self.meta.type_code == 22;
        if !(family_22 || matches!(self.meta.type_code, 23..=25)) {
            return Ok(false);
        }
        let mut found = false;
        self.parts(&mut |part| {
            found |= matches!(part, Part::HashField { expire_at_ms: Some(_), .. });
            Ok(())
        })?;
        Ok(found)
    }

    /// How long [`Entry::append_dump`] will be.
    pub fn dump_len(&self) -> usize {
        1 + self.raw.len() + 10
    }

    /// Appends what DUMP would have given, with the version that the target wants to see.
    pub fn append_dump(&self, version: u16, out: &mut Vec<u8>) {
        let begin = out.len();
        out.push(self.meta.type_code);
        out.extend_from_slice(self.raw);
        out.extend_from_slice(&version.to_le_bytes());
        let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Redis, &out[begin..]);
        out.extend_from_slice(&crc.to_le_bytes());
    }

    fn damaged(&self, fault: Fault) -> Error {
        let place = format!("in the value of type {} at byte {}", self.meta.type_code, self.offset);
        match fault {
            Fault::Unknown(what) => Error::new(Code::SnapshotUnknown, format!("unknown {what} {place}")),
            Fault::Bad(what) => Error::new(Code::SnapshotCorrupt, format!("damaged {what} {place}")),
            Fault::More => Error::new(Code::SnapshotCorrupt, format!("cut off {place}")),
        }
        .about_key(self.meta.key)
    }
}
