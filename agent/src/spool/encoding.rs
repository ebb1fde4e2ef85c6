//! A record as bytes: kind, fields, payload.

use bytes::Bytes;

use crate::source::Record;

pub(super) fn encode(record: &Record) -> Vec<u8> {
    let mut out = Vec::with_capacity(record.weight());
    match record {
        Record::SnapshotBegin { history, offset, size } => {
            out.push(1);
            out.extend_from_slice(&offset.to_le_bytes());
            out.push(u8::from(size.is_some()));
            out.extend_from_slice(&size.unwrap_or(0).to_le_bytes());
            out.extend_from_slice(history.map(|id| id.to_string()).unwrap_or_default().as_bytes());
        }
        Record::Snapshot(bytes) => {
            out.push(2);
            out.extend_from_slice(bytes);
        }
        Record::SnapshotEnd => out.push(3),
        Record::Renamed(history) => {
            out.push(4);
            out.extend_from_slice(history.as_str().as_bytes());
        }
        Record::Stream { offset, received_ms, bytes } => {
            out.push(5);
            out.extend_from_slice(&offset.to_le_bytes());
            out.extend_from_slice(&received_ms.to_le_bytes());
            out.extend_from_slice(bytes);
        }
    }
    out
}

pub(super) fn decode(bytes: Bytes) -> Option<Record> {
    let number = |from: usize| Some(u64::from_le_bytes(bytes.get(from..from + 8)?.try_into().ok()?));
    let text = |from: usize| std::str::from_utf8(bytes.get(from..)?).ok();
    Some(match bytes.first()? {
        1 => {
            let history = match text(18)? {
                "" => None,
                id => Some(id.parse().ok()?),
            };
            let size = if *bytes.get(9)? == 1 { Some(number(10)?) } else { None };
            Record::SnapshotBegin { history, offset: number(1)?, size }
        }
        2 => Record::Snapshot(bytes.slice(1..)),
        3 => Record::SnapshotEnd,
        4 => Record::Renamed(text(1)?.parse().ok()?),
        5 if bytes.len() >= 17 => {
            Record::Stream { offset: number(1)?, received_ms: number(9)?, bytes: bytes.slice(17..) }
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_record_comes_back() {
        let id = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        let bytes = Bytes::from_static(b"payload");
        for record in [
            Record::SnapshotBegin { history: Some(id), offset: 7, size: Some(0) },
            Record::SnapshotBegin { history: None, offset: 0, size: None },
            Record::Snapshot(bytes.clone()),
            Record::SnapshotEnd,
            Record::Renamed(id),
            Record::Stream { offset: 1, received_ms: 2, bytes },
        ] {
            assert_eq!(decode(encode(&record).into()), Some(record));
        }
    }
}
