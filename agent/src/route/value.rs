//! Decoded values as commands in bounded pieces: for what is too large for one RESTORE, or too new for the target.

use dts_common::error::{Code, Error, Result};
use dts_common::redis::expiry::hold;
use dts_common::redis::rdb::{Meta, Part, StreamId};
use dts_common::redis::resp;

use super::Dialect;
use super::out::Out;

const PIECE_BYTES: usize = 64 << 10;
const PIECE_ELEMENTS: usize = 512;

/// Gathers the elements of one value into commands of `name key element…`.
#[derive(Debug, Default)]
pub(super) struct Pieces {
    name: &'static str,
    body: Vec<u8>,
    arguments: usize,
    entries: u64,
    stream: Option<StreamEnd>,
    /// True from the first field expiry on.
    pub(super) field_expiry: bool,
}

/// What a stream is set to once its entries are in.
#[derive(Clone, Copy, Debug)]
struct StreamEnd {
    last_id: StreamId,
    max_deleted_id: Option<StreamId>,
    entries_added: Option<u64>,
}

fn text(id: StreamId) -> String {
    format!("{}-{}", id.ms, id.seq)
}

/// The shortest text that reads back as the same score.
fn score_text(score: f64) -> String {
    if score == f64::INFINITY {
        "inf".into()
    } else if score == f64::NEG_INFINITY {
        "-inf".into()
    } else {
        format!("{score:?}")
    }
}

impl Pieces {
    /// Adds a part of the value to `out`.
    pub(super) fn add(&mut self, meta: &Meta<'_>, part: Part<'_>, dialect: &Dialect, out: &mut Out) -> Result<()> {
        let key = meta.key;
        match part {
            Part::StringLength(length) => {
                resp::array_header(&mut out.bytes, 3);
                resp::bulk(&mut out.bytes, b"SET");
                resp::bulk(&mut out.bytes, key);
                let length = usize::try_from(length).map_err(|_| Error::new(Code::SnapshotCorrupt, "string length"))?;
                resp::header(&mut out.bytes, b'$', length);
            }
            Part::StringBytes(bytes) => out.bytes.extend_from_slice(bytes),
            Part::ListItem(item) => self.put("RPUSH", key, &[item], out),
            Part::SetMember(member) => self.put("SADD", key, &[member], out),
            Part::ZsetMember { member, score } => self.put("ZADD", key, &[score_text(score).as_bytes(), member], out),
            Part::HashField { field, value, expire_at_ms } => {
                let name = if dialect.version.at_least(4, 0) { "HSET" } else { "HMSET" };
                self.put(name, key, &[field, value], out);
                if let Some(at) = expire_at_ms {
                    if !dialect.version.has_field_expiry() {
                        return Err(unsupported(meta, "expiries of hash fields", dialect));
                    }
                    self.flush(key, out);
                    self.field_expiry = true;
                    let at = hold(i64::try_from(at).unwrap_or(i64::MAX)).to_string();
                    out.command(&[b"HPEXPIREAT", key, at.as_bytes(), b"FIELDS", b"1", field]);
                }
            }
            part => self.stream(meta, part, dialect, out)?,
        }
        Ok(())
    }

    /// The value is over.
    pub(super) fn finish(&mut self, meta: &Meta<'_>, out: &mut Out) {
        self.flush(meta.key, out);
        *self = Self { field_expiry: self.field_expiry, ..Self::default() };
    }

    fn put(&mut self, name: &'static str, key: &[u8], arguments: &[&[u8]], out: &mut Out) {
        self.name = name;
        for argument in arguments {
            resp::bulk(&mut self.body, argument);
        }
        self.arguments += arguments.len();
        if self.body.len() >= PIECE_BYTES || self.arguments >= PIECE_ELEMENTS {
            self.flush(key, out);
        }
    }

    fn flush(&mut self, key: &[u8], out: &mut Out) {
        if self.arguments == 0 {
            return;
        }
        resp::array_header(&mut out.bytes, 2 + self.arguments);
        resp::bulk(&mut out.bytes, self.name.as_bytes());
        resp::bulk(&mut out.bytes, key);
        out.bytes.append(&mut self.body);
        out.commands += 1;
        self.arguments = 0;
    }

    fn stream(&mut self, meta: &Meta<'_>, part: Part<'_>, dialect: &Dialect, out: &mut Out) -> Result<()> {
        let key = meta.key;
        let version = &dialect.version;
        if !version.at_least(5, 0) {
            return Err(unsupported(meta, "streams", dialect));
        }
        match part {
            Part::StreamEntry { id, fields } => {
                self.entries += 1;
                let id = text(id);
                resp::array_header(&mut out.bytes, 3 + fields.len());
                for argument in [b"XADD", key, id.as_bytes()].iter().chain(fields) {
                    resp::bulk(&mut out.bytes, argument);
                }
                out.commands += 1;
            }
            Part::StreamMeta { last_id, max_deleted_id, entries_added, .. } => {
                if self.entries == 0 {
                    // Only an entry makes a stream; it goes again at once.
                    let id = text(if last_id == StreamId::default() { StreamId { ms: 0, seq: 1 } } else { last_id });
                    out.command(&[b"XADD", key, id.as_bytes(), b"x", b"x"]);
                    out.command(&[b"XDEL", key, id.as_bytes()]);
                }
                self.stream = Some(StreamEnd { last_id, max_deleted_id, entries_added });
                self.end_stream(key, dialect, out);
            }
            Part::StreamGroup { name, last_id, entries_read } => {
                let last_id = text(last_id);
                match entries_read.filter(|_| version.at_least(7, 0)) {
                    Some(read) => {
                        let read = read.to_string();
                        out.command(&[
                            b"XGROUP",
                            b"CREATE",
                            key,
                            name,
                            last_id.as_bytes(),
                            b"ENTRIESREAD",
                            read.as_bytes(),
                        ]);
                    }
                    None => out.command(&[b"XGROUP", b"CREATE", key, name, last_id.as_bytes()]),
                }
            }
            Part::StreamConsumer { group, name, .. } if version.at_least(6, 2) => {
                out.command(&[b"XGROUP", b"CREATECONSUMER", key, group, name]);
            }
            // Before 6.2 the first claim makes the consumer.
            Part::StreamConsumer { .. } => {}
            Part::StreamPending { group, consumer, id, delivery_ms, delivery_count } => {
                let (id, ms, count) = (text(id), delivery_ms.to_string(), delivery_count.to_string());
                out.command(&[
                    b"XCLAIM",
                    key,
                    group,
                    consumer,
                    b"0",
                    id.as_bytes(),
                    b"TIME",
                    ms.as_bytes(),
                    b"RETRYCOUNT",
                    count.as_bytes(),
                    b"FORCE",
                    b"JUSTID",
                ]);
            }
            _ => {}
        }
        Ok(())
    }

    fn end_stream(&mut self, key: &[u8], dialect: &Dialect, out: &mut Out) {
        let Some(end) = self.stream.take() else { return };
        let last_id = text(end.last_id);
        match (end.entries_added, end.max_deleted_id) {
            (Some(added), Some(deleted)) if dialect.version.at_least(7, 0) => {
                let (added, deleted) = (added.to_string(), text(deleted));
                out.command(&[
                    b"XSETID",
                    key,
                    last_id.as_bytes(),
                    b"ENTRIESADDED",
                    added.as_bytes(),
                    b"MAXDELETEDID",
                    deleted.as_bytes(),
                ]);
            }
            _ => out.command(&[b"XSETID", key, last_id.as_bytes()]),
        }
    }
}

pub(super) fn unsupported(meta: &Meta<'_>, what: &str, dialect: &Dialect) -> Error {
    let message = format!("{} does not know {what} (type {} of the source)", dialect.version, meta.type_code);
    Error::new(Code::TargetUnsupported, message).about_key(meta.key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_score_reads_back_as_itself() {
        for score in [0.1, 1.23e-7, 1e300, -5.0, f64::MAX, f64::MIN_POSITIVE] {
            assert_eq!(score_text(score).parse::<f64>().unwrap().to_bits(), score.to_bits());
        }
        assert_eq!(score_text(f64::NEG_INFINITY), "-inf");
    }
}
