//! Values in one command each: small strings go together, the others as their source would dump them.

use dts_common::error::Result;
use dts_common::redis::expiry::hold;
use dts_common::redis::rdb::{Entry, Meta};
use dts_common::redis::resp;
use dts_common::redis::version::ServerVersion;

use crate::route::out::Out;

/// Small strings go together: 1 M of 100 B cost a target 1.8 s by MSET of 50, 2.6 s by SET.
const MSET_PAIRS: usize = 50;
const MSET_VALUE: usize = 1024;

/// Strings, and those that wait for a MSET.
#[derive(Debug, Default)]
pub(super) struct Strings {
    /// Pairs of the next MSET, in the selected database.
    pairs: Vec<u8>,
    count: usize,
    scratch: Vec<u8>,
}

impl Strings {
    /// True if none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Writes those that wait.
    pub(super) fn flush(&mut self, out: &mut Out) {
        if self.count > 0 {
            resp::array_header(&mut out.bytes, 1 + 2 * self.count);
            resp::bulk(&mut out.bytes, b"MSET");
            out.bytes.append(&mut self.pairs);
            out.commands += 1;
            self.count = 0;
        }
    }

    pub(super) fn write(&mut self, entry: &Entry<'_>, version: &ServerVersion, out: &mut Out) -> Result<()> {
        let mut scratch = std::mem::take(&mut self.scratch);
        let key = entry.meta.key;
        let value = entry.string(&mut scratch)?;
        match entry.meta.expire_at_ms {
            None if value.len() <= MSET_VALUE => {
                resp::bulk(&mut self.pairs, key);
                resp::bulk(&mut self.pairs, value);
                self.count += 1;
                if self.count == MSET_PAIRS {
                    self.flush(out);
                }
            }
            Some(at) if version.at_least(6, 2) => {
                out.command(&[b"SET", key, value, b"PXAT", hold(at).to_string().as_bytes()]);
            }
            _ => {
                out.command(&[b"SET", key, value]);
                expire(&entry.meta, out);
            }
        }
        self.scratch = scratch;
        Ok(())
    }
}

pub(super) fn restore(entry: &Entry<'_>, footer: u16, version: &ServerVersion, out: &mut Out) {
    let meta = &entry.meta;
    let modern = version.at_least(5, 0);
    let replace = version.at_least(3, 0);
    let expiry = meta.expire_at_ms.filter(|_| modern).map(|at| hold(at).to_string());
    let idle = meta.idle_s.filter(|_| modern).map(|seconds| seconds.to_string());
    let freq = meta.freq.filter(|_| modern && idle.is_none()).map(|freq| freq.to_string());
    if !replace {
        out.command(&[b"DEL", meta.key]);
    }
    let options = usize::from(replace)
        + usize::from(expiry.is_some())
        + 2 * usize::from(idle.is_some())
        + 2 * usize::from(freq.is_some());
    resp::array_header(&mut out.bytes, 4 + options);
    resp::bulk(&mut out.bytes, b"RESTORE");
    resp::bulk(&mut out.bytes, meta.key);
    resp::bulk(&mut out.bytes, expiry.as_deref().unwrap_or("0").as_bytes());
    resp::header(&mut out.bytes, b'$', entry.dump_len());
    entry.append_dump(footer, &mut out.bytes);
    out.bytes.extend_from_slice(b"\r\n");
    if replace {
        resp::bulk(&mut out.bytes, b"REPLACE");
    }
    if expiry.is_some() {
        resp::bulk(&mut out.bytes, b"ABSTTL");
    }
    for (name, value) in [("IDLETIME", idle), ("FREQ", freq)] {
        if let Some(value) = value {
            resp::bulk(&mut out.bytes, name.as_bytes());
            resp::bulk(&mut out.bytes, value.as_bytes());
        }
    }
    out.commands += 1;
    if !modern {
        expire(meta, out);
    }
}

/// Gives a key that is written already its expiry.
pub(super) fn expire(meta: &Meta<'_>, out: &mut Out) {
    if let Some(at) = meta.expire_at_ms {
        out.command(&[b"PEXPIREAT", meta.key, hold(at).to_string().as_bytes()]);
    }
}
