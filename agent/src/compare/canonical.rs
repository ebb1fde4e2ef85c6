//! Serialised values of two servers, compared by what they mean.

use std::collections::BTreeMap;

use dts_common::error::Result;
use dts_common::redis::expiry::restore;
use dts_common::redis::rdb::{Decoder, Entry, Kind, Meta, Part, Sink};

/// Of a key that both servers were asked for at one place of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// They hold the same.
    Same,
    /// They do not.
    Differs,
    /// Nothing tells.
    Unknown,
}

/// What a payload holds, by key.
#[derive(Debug, Default)]
pub struct Canonical {
    keys: BTreeMap<Vec<u8>, Value>,
}

#[derive(Debug, Default)]
struct Value {
    kind: Option<Kind>,
    type_code: u8,
    expiry: Option<i64>,
    parts: Vec<String>,
    /// The bytes of a string that comes in pieces.
    text: Vec<u8>,
}

impl Canonical {
    /// Of a payload as a source sends it; `None`: of no keys at all.
    pub fn of(payload: Option<&[u8]>) -> Result<Self> {
        let (mut found, mut decoder) = (Self::default(), Decoder::default());
        if let Some(payload) = payload {
            decoder.feed(payload, &mut found)?;
            decoder.end(&mut found)?;
        }
        for value in found.keys.values_mut() {
            if matches!(value.kind, Some(Kind::Set | Kind::Hash | Kind::Zset)) {
                value.parts.sort_unstable();
            }
        }
        Ok(found)
    }

    /// What of a key is the same on both sides; expiries may be apart by so many ms.
    pub fn likeness(&self, other: &Self, key: &[u8], tolerance_ms: u64) -> Likeness {
        let (Some(one), Some(other)) = (self.keys.get(key), other.keys.get(key)) else {
            let alone = self.keys.get(key).or(other.keys.get(key));
            // One that is about to die may be dead on one side already.
            return match alone {
                None => Likeness::Same,
                Some(value) if value.expiry.is_some() => Likeness::Unknown,
                Some(_) => Likeness::Differs,
            };
        };
        let near = match (one.expiry, other.expiry) {
            (Some(one), Some(other)) => one.abs_diff(other) <= tolerance_ms,
            (None, None) => true,
            _ => false,
        };
        match (one.kind, one.kind == other.kind) {
            (Some(Kind::Module | Kind::Array), true) => Likeness::Unknown,
            (_, false) => Likeness::Differs,
            _ if one.parts == other.parts && one.text == other.text => {
                if near {
                    Likeness::Same
                } else {
                    Likeness::Differs
                }
            }
            // What an older server does not serialise is not a difference.
            (Some(Kind::Stream), _) if one.type_code != other.type_code => Likeness::Unknown,
            _ => Likeness::Differs,
        }
    }

    fn put(&mut self, meta: &Meta<'_>, part: Part<'_>) {
        let value = self.keys.entry(meta.key.to_vec()).or_default();
        match part {
            Part::StringLength(_) | Part::StreamConsumer { .. } => {}
            Part::StringBytes(bytes) => value.text.extend_from_slice(bytes),
            Part::HashField { field, value: of, expire_at_ms } => {
                let at = expire_at_ms.map(|at| i64::try_from(at).unwrap_or(i64::MAX));
                let at = at.map(|at| restore(at).unwrap_or(at));
                value.parts.push(format!("{field:?} {of:?} {at:?}"));
            }
            Part::StreamMeta { length, last_id, .. } => value.parts.push(format!("{length} {last_id:?}")),
            Part::StreamGroup { name, last_id, .. } => value.parts.push(format!("group {name:?} {last_id:?}")),
            Part::StreamPending { group, consumer, id, delivery_count, .. } => {
                value.parts.push(format!("pending {group:?} {consumer:?} {id:?} {delivery_count}"));
            }
            other => value.parts.push(format!("{other:?}")),
        }
    }
}

impl Sink for Canonical {
    fn aux(&mut self, _name: &[u8], _value: &[u8]) -> Result<()> {
        Ok(())
    }

    fn resize_db(&mut self, _keys: u64) {}

    fn function(&mut self, _library: &[u8]) -> Result<()> {
        Ok(())
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.begin(&entry.meta)?;
        if matches!(entry.meta.kind, Kind::Module | Kind::Array) {
            return Ok(());
        }
        entry.parts(&mut |part| {
            self.put(&entry.meta, part);
            Ok(())
        })
    }

    fn begin(&mut self, meta: &Meta<'_>) -> Result<()> {
        let expiry = meta.expire_at_ms.map(|at| restore(at).unwrap_or(at));
        let value = Value { kind: Some(meta.kind), type_code: meta.type_code, expiry, ..Value::default() };
        self.keys.insert(meta.key.to_vec(), value);
        Ok(())
    }

    fn part(&mut self, meta: &Meta<'_>, part: Part<'_>) -> Result<()> {
        self.put(meta, part);
        Ok(())
    }

    fn finish(&mut self, _meta: &Meta<'_>) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use dts_common::redis::expiry::hold;

    use super::*;

    /// A payload of one key `k`: its type, its value, and its expiry.
    fn of(kind: u8, value: &[u8], expiry: Option<i64>) -> Canonical {
        let mut bytes = b"REDIS0009\xfe\x00".to_vec();
        if let Some(at) = expiry {
            bytes.push(0xfc);
            bytes.extend_from_slice(&at.to_le_bytes());
        }
        bytes.extend([kind, 1, b'k']);
        bytes.extend_from_slice(value);
        bytes.push(0xff);
        bytes.extend([0; 8]);
        Canonical::of(Some(&bytes)).unwrap()
    }

    #[test]
    fn order_and_held_expiries_do_not_matter_and_values_do() {
        let set = |members: &[u8; 2]| of(2, &[2, 1, members[0], 1, members[1]], None);
        assert_eq!(set(b"ab").likeness(&set(b"ba"), b"k", 0), Likeness::Same);
        assert_eq!(set(b"ab").likeness(&set(b"bc"), b"k", 0), Likeness::Differs);
        let text = |at: i64| of(0, &[1, b'v'], Some(at));
        let moment = 1_790_000_000_000;
        assert_eq!(text(moment).likeness(&text(hold(moment)), b"k", 0), Likeness::Same);
        assert_eq!(text(moment).likeness(&text(moment + 9), b"k", 8), Likeness::Differs);
        assert_eq!(text(moment).likeness(&of(0, &[1, b'v'], None), b"k", 8), Likeness::Differs);
        assert_eq!(set(b"ab").likeness(&of(1, &[2, 1, b'a', 1, b'b'], None), b"k", 0), Likeness::Differs);
        let none = Canonical::of(None).unwrap();
        assert_eq!(set(b"ab").likeness(&none, b"k", 0), Likeness::Differs);
        assert_eq!(none.likeness(&none, b"k", 0), Likeness::Same);
    }
}
