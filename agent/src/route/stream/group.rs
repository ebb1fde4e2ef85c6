//! A transaction of the source: it stays one on the target, however large.

use super::{Ready, StreamEncoder};
use crate::route::out::Out;

/// A group larger than this is handed on in parts, inside of one transaction.
const LARGEST_GROUP: usize = 1 << 20;

#[derive(Default)]
pub(super) struct Group {
    pub(super) out: Out,
    /// Offset behind its MULTI.
    pub(super) begin: u64,
    /// True once a part of it was handed on.
    pub(super) open: bool,
    /// The database of its commands, as long as it is one.
    pub(super) db: Option<u32>,
    pub(super) mixed: bool,
    /// True if it is there only for a large command.
    pub(super) of_one: bool,
}

impl Group {
    /// A command in this database follows.
    pub(super) fn begin(&mut self, db: u32) {
        if self.out.bytes.is_empty() && !self.open {
            // It may be put behind anything: it begins with its own database.
            self.out.db = u32::MAX;
        }
        self.mixed |= self.db.is_some_and(|before| before != db);
        self.db = Some(db);
    }
}

impl StreamEncoder {
    pub(super) fn hand_on_group(&mut self) {
        let Some(group) = &self.group else { return };
        if group.out.bytes.len() < LARGEST_GROUP {
            return;
        }
        if !group.open && !self.out.bytes.is_empty() {
            self.push_commit();
        }
        if let Some(group) = &mut self.group {
            group.open = true;
            self.ready.push_back(Ready::Chunk(group.out.cut()));
        }
    }

    pub(super) fn end_group(&mut self, end: u64) {
        let Some(mut group) = self.group.take() else { return };
        self.position.offset = end;
        self.position.db = self.db;
        if group.out.commands > 0 {
            self.out.append(&mut group.out);
        } else if group.open {
            self.out.db = group.out.db;
        }
        if group.open {
            self.push_commit();
        }
    }
}
