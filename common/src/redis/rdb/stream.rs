//! Stream values (types 15, 19, 21, 26, 27): nodes of entries, then ids, groups, and what is pending in them.

use super::blob::Listpack;
use super::cursor::{Cursor, Fault, Read};
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

/// Everything behind the nodes. What a group has pending is emitted once all of it was read.
pub(super) fn tail<E>(code: u8, cursor: &mut Cursor<'_>, emit: Emit<'_, E>) -> Result<(), Stop<E>> {
    let start = *cursor;
    // Look first, so that nothing is emitted of a tail that is cut off.
    walk_tail::<E>(code, cursor, None)?;
    let mut again = start;
    walk_tail(code, &mut again, Some(emit))
}

fn walk_tail<E>(code: u8, cursor: &mut Cursor<'_>, mut emit: Option<Emit<'_, E>>) -> Result<(), Stop<E>> {
    let mut out = |part: Part<'_>| match &mut emit {
        Some(emit) => emit(part).map_err(Stop::Taker),
        None => Ok(()),
    };
    let newer = code >= 19;
    let length = cursor.length()?;
    let last_id = id_lengths(cursor)?;
    let (mut first_id, mut max_deleted_id, mut entries_added) = (None, None, None);
    if newer {
        first_id = Some(id_lengths(cursor)?);
        max_deleted_id = Some(id_lengths(cursor)?);
        entries_added = Some(cursor.length()?);
    }
    out(Part::StreamMeta { length, last_id, first_id, max_deleted_id, entries_added })?;
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..cursor.length()? {
        let name_text = cursor.text()?;
        let group = name_text.decode(&mut one)?;
        let last_id = id_lengths(cursor)?;
        // All ones: unknown.
        let entries_read = if newer { i64::try_from(cursor.length()?).ok() } else { None };
        out(Part::StreamGroup { name: group, last_id, entries_read })?;
        let pending = cursor.length()?;
        let mut deliveries = std::collections::HashMap::new();
        for _ in 0..pending {
            let id = cursor.array::<16>()?;
            let ms = cursor.u64_le()?;
            let count = cursor.length()?;
            deliveries.insert(id, (ms, count));
        }
        for _ in 0..cursor.length()? {
            let name_text = cursor.text()?;
            let consumer = name_text.decode(&mut two)?;
            let seen_ms = cursor.u64_le()?;
            let active_ms = if code >= 21 { Some(cursor.u64_le()?) } else { None };
            out(Part::StreamConsumer { group, name: consumer, seen_ms, active_ms })?;
            for _ in 0..cursor.length()? {
                let raw = cursor.array::<16>()?;
                let (delivery_ms, delivery_count) =
                    *deliveries.get(&raw).ok_or(Fault::Bad("pending entry of no group"))?;
                out(Part::StreamPending { group, consumer, id: id(raw), delivery_ms, delivery_count })?;
            }
        }
        if code >= 27 {
            for _ in 0..cursor.length()? {
                cursor.take(16)?;
            }
        }
    }
    if code >= 26 {
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
    }
    Ok(())
}
