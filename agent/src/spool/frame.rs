//! A record as it lies in a segment: `length u32, crc u32, body`, little-endian; the body is `kind u8, fields, bytes`.

use bytes::{Buf as _, BufMut as _, Bytes};
use crc_fast::{CrcAlgorithm, Digest, checksum};

use crate::source::Record;

pub(super) const HEADER: usize = 8;

const SNAPSHOT_BEGIN: u8 = 1;
const SNAPSHOT: u8 = 2;
const SNAPSHOT_END: u8 = 3;
const RENAMED: u8 = 4;
const STREAM: u8 = 5;
const ID: usize = 40;

/// Length of a record's whole frame.
pub(super) fn size(record: &Record) -> usize {
    HEADER
        + 1
        + match record {
            Record::SnapshotBegin { history, .. } => 18 + history.map_or(0, |_| ID),
            Record::Snapshot(bytes) => bytes.len(),
            Record::SnapshotEnd => 0,
            Record::Renamed(_) => ID,
            Record::Stream { bytes, .. } => 16 + bytes.len(),
        }
}

/// The frame up to the record's bytes, and those bytes, uncopied. `None`: longer than a frame can be.
pub(super) fn encode(record: Record) -> Option<(Vec<u8>, Bytes)> {
    let mut head = vec![0; HEADER];
    let tail = match record {
        Record::SnapshotBegin { history, offset, size } => {
            head.put_u8(SNAPSHOT_BEGIN);
            head.put_u8(u8::from(history.is_some()));
            head.put_slice(history.as_ref().map_or(&[], |id| id.as_str().as_bytes()));
            head.put_u64_le(offset);
            head.put_u8(u8::from(size.is_some()));
            head.put_u64_le(size.unwrap_or_default());
            Bytes::new()
        }
        Record::Snapshot(bytes) => {
            head.put_u8(SNAPSHOT);
            bytes
        }
        Record::SnapshotEnd => {
            head.put_u8(SNAPSHOT_END);
            Bytes::new()
        }
        Record::Renamed(id) => {
            head.put_u8(RENAMED);
            head.put_slice(id.as_str().as_bytes());
            Bytes::new()
        }
        Record::Stream { offset, received_ms, bytes } => {
            head.put_u8(STREAM);
            head.put_u64_le(offset);
            head.put_u64_le(received_ms);
            bytes
        }
    };
    let length = u32::try_from(head.len() - HEADER + tail.len()).ok()?;
    let mut digest = Digest::new(CrcAlgorithm::Crc32IsoHdlc);
    digest.update(&head[HEADER..]);
    digest.update(&tail);
    let sum = u32::try_from(digest.finalize()).ok()?;
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..HEADER].copy_from_slice(&sum.to_le_bytes());
    Some((head, tail))
}

/// Length of the whole frame that begins with `bytes`; `None` if the header is not complete.
pub(super) fn length(bytes: &[u8]) -> Option<u64> {
    let (length, _) = bytes.get(..HEADER)?.split_first_chunk::<4>()?;
    Some(u64::from(u32::from_le_bytes(*length)) + HEADER as u64)
}

/// The record in one whole frame; `None` if it is damaged.
pub(super) fn decode(mut frame: Bytes) -> Option<Record> {
    frame.try_get_u32_le().ok()?;
    let sum = frame.try_get_u32_le().ok()?;
    if checksum(CrcAlgorithm::Crc32IsoHdlc, &frame) != u64::from(sum) {
        return None;
    }
    Some(match frame.try_get_u8().ok()? {
        SNAPSHOT_BEGIN => {
            let history = if frame.try_get_u8().ok()? == 1 { Some(id(&mut frame)?) } else { None };
            let offset = frame.try_get_u64_le().ok()?;
            let sized = frame.try_get_u8().ok()? == 1;
            let size = frame.try_get_u64_le().ok()?;
            Record::SnapshotBegin { history, offset, size: sized.then_some(size) }
        }
        SNAPSHOT => Record::Snapshot(frame),
        SNAPSHOT_END => Record::SnapshotEnd,
        RENAMED => Record::Renamed(id(&mut frame)?),
        STREAM => {
            let offset = frame.try_get_u64_le().ok()?;
            let received_ms = frame.try_get_u64_le().ok()?;
            Record::Stream { offset, received_ms, bytes: frame }
        }
        _ => return None,
    })
}

fn id(frame: &mut Bytes) -> Option<dts_common::position::ReplicationId> {
    if frame.len() < ID {
        return None;
    }
    std::str::from_utf8(&frame.split_to(ID)).ok()?.parse().ok()
}
