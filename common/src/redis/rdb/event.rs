//! What the decoder tells.

use super::entry::Entry;

/// Whose format it is; from version 12 on the families give one number two meanings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Magic `REDIS`.
    Redis,
    /// Magic `VALKEY`.
    Valkey,
}

/// What a key holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    String,
    /// A list.
    List,
    /// A set.
    Set,
    /// A sorted set.
    Zset,
    /// A hash.
    Hash,
    /// A stream.
    Stream,
    /// A Redis 8.8 array: only DUMP and RESTORE carry it.
    Array,
    /// A module's value: only DUMP and RESTORE carry it.
    Module,
}

/// What stands before a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta<'a> {
    /// The database.
    pub db: u32,
    /// The key.
    pub key: &'a [u8],
    /// Absolute expiry, if the key has one; may be past.
    pub expire_at_ms: Option<i64>,
    /// Seconds since the last access, under an LRU policy.
    pub idle_s: Option<u64>,
    /// Access frequency, under an LFU policy.
    pub freq: Option<u8>,
    /// RDB type number.
    pub type_code: u8,
    /// What the type number means.
    pub kind: Kind,
    /// Family of the snapshot.
    pub family: Family,
    /// RDB version of the snapshot.
    pub version: u32,
    /// Whether modules attached metadata to the key (Redis 8.6): a dump carries it, parts do not.
    pub has_key_meta: bool,
}

/// A step of the snapshot.
#[derive(Clone, Debug, PartialEq)]
pub enum Event<'a> {
    /// The magic.
    Version {
        /// Whose format.
        family: Family,
        /// RDB version.
        version: u32,
    },
    /// A named fact about the snapshot or, between keys, about its surroundings.
    Aux {
        /// Its name.
        name: &'a [u8],
        /// Its value.
        value: &'a [u8],
    },
    /// The records that follow belong to this database.
    SelectDb(u32),
    /// A hint: how many keys the database holds.
    ResizeDb {
        /// Keys.
        keys: u64,
        /// Keys with an expiry.
        expires: u64,
    },
    /// A function library.
    Function {
        /// Its source, as for `FUNCTION LOAD`.
        library: &'a [u8],
    },
    /// Data of a module that belongs to no key; left out.
    ModuleAux {
        /// The module type's name.
        module: String,
    },
    /// A whole record.
    Entry(Entry<'a>),
    /// A record too large to hold; its parts follow.
    Begin(Meta<'a>),
    /// The next piece of the record begun.
    Part(Part<'a>),
    /// The record begun is complete.
    Finish,
    /// The snapshot is complete and its checksum, if it has one, right.
    End,
}

/// A piece of a value. Pieces come in the order of the snapshot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Part<'a> {
    /// Length of the string whose bytes follow.
    StringLen(u64),
    /// The next bytes of the string.
    StringBytes(&'a [u8]),
    /// The next item of a list, head first.
    ListItem(&'a [u8]),
    /// A member of a set.
    SetMember(&'a [u8]),
    /// A field of a hash.
    HashField {
        /// The field.
        field: &'a [u8],
        /// Its value.
        value: &'a [u8],
        /// Absolute expiry of the field, if it has one.
        expire_at_ms: Option<u64>,
    },
    /// A member of a sorted set.
    ZsetMember {
        /// The member.
        member: &'a [u8],
        /// Its score, never NaN.
        score: f64,
    },
    /// An entry of a stream. Deleted ones are left out.
    StreamEntry {
        /// Milliseconds and sequence.
        id: (u64, u64),
        /// Fields and values.
        fields: Fields<'a>,
    },
    /// What a stream knows of itself; after its entries, before its groups.
    StreamMeta {
        /// Number of entries.
        length: u64,
        /// Last id ever added.
        last_id: (u64, u64),
        /// First entry's id (7.0).
        first_id: Option<(u64, u64)>,
        /// Largest id ever deleted (7.0).
        max_deleted_id: Option<(u64, u64)>,
        /// Entries ever added (7.0).
        entries_added: Option<u64>,
    },
    /// A consumer group; its consumers and pending entries follow.
    StreamGroup {
        /// The group.
        name: &'a [u8],
        /// Last id delivered.
        last_id: (u64, u64),
        /// Entries read so far (7.0), if known.
        entries_read: Option<i64>,
    },
    /// A consumer; its pending entries follow.
    StreamConsumer {
        /// The group.
        group: &'a [u8],
        /// The consumer.
        name: &'a [u8],
        /// When it last tried.
        seen_ms: u64,
        /// When it last got something (7.2), if ever.
        active_ms: Option<u64>,
    },
    /// An entry delivered and not yet acknowledged.
    StreamPending {
        /// The group.
        group: &'a [u8],
        /// The consumer.
        consumer: &'a [u8],
        /// The entry, which may be deleted by now.
        id: (u64, u64),
        /// When it was delivered last.
        delivery_ms: u64,
        /// How often it was delivered.
        delivery_count: u64,
    },
    /// An entry delivered, given back (XNACK, Redis 8.8) and nobody's since.
    StreamNacked {
        /// The group.
        group: &'a [u8],
        /// The entry, which may be deleted by now.
        id: (u64, u64),
        /// When it was delivered last.
        delivery_ms: u64,
        /// How often it was delivered.
        delivery_count: u64,
    },
}

/// Fields and values of a stream entry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fields<'a> {
    pairs: &'a [(&'a [u8], &'a [u8])],
}

impl<'a> Fields<'a> {
    /// Number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        self.pairs.iter().copied()
    }
}
