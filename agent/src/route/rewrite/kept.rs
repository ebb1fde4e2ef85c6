//! What a stream keeps on the target for itself, and where it goes when databases are swapped.

use super::Rewriter;
use crate::route::out::Out;

impl Rewriter {
    /// Keeps the body of a script, on the target too.
    pub(super) fn learn(&mut self, body: &[u8], out: &mut Out) {
        if let Some(hash) = self.scripts.learn(body) {
            self.keep(&hash, body, out);
        }
    }

    /// What stood in db 0 of ours now stands in the other; the commit writes the position anew.
    pub(super) fn after_swap(&mut self, left: i64, right: i64, out: &mut Out) {
        self.held.add_everything();
        let other = match (left, right) {
            (0, other) | (other, 0) if other != 0 => other,
            _ => return,
        };
        let Ok(other) = u32::try_from(other) else { return };
        out.force_select(other);
        let words: Vec<&[u8]> = std::iter::once(&b"DEL"[..]).chain(self.reserved.iter().map(Vec::as_slice)).collect();
        out.command(&words);
        self.keep_scripts(out);
    }

    pub(super) fn keep_scripts(&self, out: &mut Out) {
        for (hash, body) in self.scripts.iter() {
            self.keep(hash, body, out);
        }
    }

    fn keep(&self, hash: &[u8], body: &[u8], out: &mut Out) {
        if let Some(key) = self.reserved.get(1) {
            out.force_select_if_needed(0);
            out.command(&[b"HSET", key, hash, body]);
        }
    }
}
