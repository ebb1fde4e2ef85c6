//! Script bodies by their SHA-1: a source up to 4.0 sends a body once and then only its hash, while a target may forget.

use std::collections::HashMap;

use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// The bodies that are known.
#[derive(Clone, Debug, Default)]
pub struct Scripts(HashMap<Vec<u8>, Vec<u8>>);

impl Scripts {
    /// From the answer to HGETALL of where they are kept; `None` if that is something else.
    pub fn from_reply(reply: &BytesFrame) -> Option<Self> {
        let BytesFrame::Array(fields) = reply else { return None };
        let mut scripts = Self::default();
        for pair in fields.chunks_exact(2) {
            scripts.0.insert(pair[0].as_bytes()?.to_vec(), pair[1].as_bytes()?.to_vec());
        }
        Some(scripts)
    }

    /// Remembers a body; its hash if it is new.
    pub(super) fn learn(&mut self, body: &[u8]) -> Option<Vec<u8>> {
        let hash = hex(digest(&SHA1_FOR_LEGACY_USE_ONLY, body).as_ref());
        self.0.insert(hash.clone(), body.to_vec()).is_none().then_some(hash)
    }

    /// The body of a hash, in any case.
    pub(super) fn body(&self, hash: &[u8]) -> Option<&[u8]> {
        self.0.get(&hash.to_ascii_lowercase()).map(Vec::as_slice)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(hash, body)| (hash.as_slice(), body.as_slice()))
    }
}

fn hex(bytes: &[u8]) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_found_by_the_hash_that_redis_gives_it() {
        let mut scripts = Scripts::default();
        let hash = scripts.learn(b"return 1").unwrap();
        assert_eq!(hash, b"e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
        assert_eq!(scripts.body(&hash.to_ascii_uppercase()), Some(&b"return 1"[..]));
        assert!(scripts.learn(b"return 1").is_none());
    }
}
