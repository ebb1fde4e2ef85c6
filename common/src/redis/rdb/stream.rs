//! Stream values (types 15, 19, 21, 26, 27): nodes of entries, then ids, groups, and what is pending in them.

use super::blob::Listpack;
use super::cursor::{Cursor, Fault, Read};
use super::pending::{Deliveries, Delivery};
use super::value::{Emit, Stop};
use super::{Part, StreamId};

fn id(raw: [u8; 16]) -> StreamId {
    let mut ms = [0; 8];
    let mut seq = [0; 8];
    ms.copy_from_slice(&raw[..8]);
    seq.copy_from_slice(&raw[8..]);
    StreamId { ms: u64::from_be_bytes(ms), seq: u64::from_be_bytes(seq) }
}

fn id_lengths(cursor: &mut Cursor<'_>) -> Read<StreamId> {
    Ok(StreamId { ms: cursor.length()?, seq: cursor.length()? })
}

/// One node: its id, and a listpack of entries that share field names with the first (`stream.h`).
pub(super) fn node<E>(cursor: &mut Cursor<'_>, emit: Emit<'_, E>) -> Result<(), Stop<E>> {
    const DELETED: i64 = 1;
    const SAME_FIELDS: i64 = 2;
    let (mut key, mut data) = (Vec::new(), Vec::new());
    let (key_text, data_text) = (cursor.text()?, cursor.text()?);
    let master = id(key_text.decode(&mut key)?.try_into().map_err(|_| Fault::Bad("stream node id"))?);
    let mut list = Listpack::new(data_text.decode(&mut data)?)?;
    let count = list.expect()?.integer()?;
    let deleted = list.expect()?.integer()?;
    let fields = list.expect()?.integer()?;
    let mut names = Vec::new();
    for _ in 0..fields {
        names.push(list.expect()?);
    }
    list.expect()?;
    let entries = count.checked_add(deleted).ok_or(Fault::Bad("stream node count"))?;
    let (mut arena, mut ends) = (Vec::new(), Vec::new());
    let mut scratch = Vec::new();
    for _ in 0..entries {
        let flags = list.expect()?.integer()?;
        let (ms, seq) = (list.expect()?.integer()?, list.expect()?.integer()?);
        let same = flags & SAME_FIELDS != 0;
        let pairs = if same { fields } else { list.expect()?.integer()? };
        arena.clear();
        ends.clear();
        for index in 0..pairs {
            let name = if same {
                *usize::try_from(index).ok().and_then(|index| names.get(index)).ok_or(Fault::Bad("stream field"))?
            } else {
                list.expect()?
            };
            for element in [name, list.expect()?] {
                arena.extend_from_slice(element.text(&mut scratch));
                ends.push(arena.len());
            }
        }
        list.expect()?;
        if flags & DELETED == 0 {
            let mut start = 0;
            let fields: Vec<&[u8]> = ends
                .iter()
                .map(|end| {
                    let field = &arena[start..*end];
                    start = *end;
                    field
                })
                .collect();
            let id = StreamId { ms: master.ms.wrapping_add_signed(ms), seq: master.seq.wrapping_add_signed(seq) };
            emit(Part::StreamEntry { id, fields: &fields }).map_err(Stop::Taker)?;
        }
    }
    Ok(())
}

/// Everything behind the nodes, piece by piece.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    code: u8,
    at: At,
    group: Vec<u8>,
    consumer: Vec<u8>,
    deliveries: Deliveries,
}

/// What comes next, and how much of it.
#[derive(Clone, Copy, Debug)]
enum At {
    Meta,
    Groups(u64),
    Deliveries { groups: u64, left: u64 },
    Consumers { groups: u64, left: u64 },
    Pending { groups: u64, consumers: u64, left: u64 },
    Nacks { groups: u64, left: u64 },
}

impl Tail {
    pub(super) fn new(code: u8) -> Self {
        let (group, consumer, deliveries) = (Vec::new(), Vec::new(), Deliveries::default());
        Self { code, at: At::Meta, group, consumer, deliveries }
    }

    /// Reads a piece; true once all is read. On [`Fault::More`] nothing has changed, but for the cursor.
    pub(super) fn step<E>(&mut self, cursor: &mut Cursor<'_>, emit: Emit<'_, E>) -> Result<bool, Stop<E>> {
        let newer = self.code >= 19;
        let mut out = |part: Part<'_>| emit(part).map_err(Stop::Taker);
        self.at = match self.at {
            At::Meta => {
                let length = cursor.length()?;
                let last_id = id_lengths(cursor)?;
                let (mut first_id, mut max_deleted_id, mut entries_added) = (None, None, None);
                if newer {
                    first_id = Some(id_lengths(cursor)?);
                    max_deleted_id = Some(id_lengths(cursor)?);
                    entries_added = Some(cursor.length()?);
                }
                let groups = cursor.length()?;
                out(Part::StreamMeta { length, last_id, first_id, max_deleted_id, entries_added })?;
                At::Groups(groups)
            }
            At::Groups(0) => {
                if self.code >= 26 {
                    idempotent_producers(cursor)?;
                }
                return Ok(true);
            }
            At::Groups(groups) => {
                let name = cursor.text()?;
                let last_id = id_lengths(cursor)?;
                // All ones: unknown.
                let entries_read = if newer { i64::try_from(cursor.length()?).ok() } else { None };
                let left = cursor.length()?;
                let mut scratch = Vec::new();
                self.group = name.decode(&mut scratch)?.to_vec();
                self.deliveries.clear();
                out(Part::StreamGroup { name: &self.group, last_id, entries_read })?;
                At::Deliveries { groups: groups - 1, left }
            }
            At::Deliveries { groups, left: 0 } => At::Consumers { groups, left: cursor.length()? },
            At::Deliveries { groups, left } => {
                let raw = cursor.array::<16>()?;
                let delivery = Delivery { at_ms: cursor.u64_le()?, count: cursor.length()? };
                self.deliveries.push(id(raw), delivery)?;
                At::Deliveries { groups, left: left - 1 }
            }
            At::Consumers { groups, left: 0 } if self.code >= 27 => At::Nacks { groups, left: cursor.length()? },
            At::Consumers { groups, left: 0 } => At::Groups(groups),
            At::Consumers { groups, left } => {
                let name = cursor.text()?;
                let seen_ms = cursor.u64_le()?;
                let active_ms = if self.code >= 21 { Some(cursor.u64_le()?) } else { None };
                let pending = cursor.length()?;
                let mut scratch = Vec::new();
                self.consumer = name.decode(&mut scratch)?.to_vec();
                out(Part::StreamConsumer { group: &self.group, name: &self.consumer, seen_ms, active_ms })?;
                At::Pending { groups, consumers: left - 1, left: pending }
            }
            At::Pending { groups, consumers, left: 0 } => At::Consumers { groups, left: consumers },
            At::Pending { groups, consumers, left } => {
                let id = id(cursor.array::<16>()?);
                let Delivery { at_ms: delivery_ms, count: delivery_count } =
                    self.deliveries.get(id).ok_or(Fault::Bad("pending entry of no group"))?;
                let (group, consumer) = (self.group.as_slice(), self.consumer.as_slice());
                out(Part::StreamPending { group, consumer, id, delivery_ms, delivery_count })?;
                At::Pending { groups, consumers, left: left - 1 }
            }
            At::Nacks { groups, left: 0 } => At::Groups(groups),
            At::Nacks { groups, left } => {
                cursor.take(16)?;
                At::Nacks { groups, left: left - 1 }
            }
        };
        Ok(false)
    }
}

/// What 8.6 keeps to know a repeated XADD by.
fn idempotent_producers(cursor: &mut Cursor<'_>) -> Read<()> {
    cursor.length()?;
    cursor.length()?;
    for _ in 0..cursor.length()? {
        cursor.text()?;
        for _ in 0..cursor.length()? {
            cursor.text()?;
            cursor.length()?;
            cursor.length()?;
        }
    }
    cursor.length()?;
    cursor.length()?;
    Ok(())
}
