//! A flush of the source, where it cannot pass as it is.

use dts_common::error::{Code, Error, Result};
use dts_common::redis::command::Handling;

use super::{Group, Ready, StreamEncoder};
use crate::route::Commit;
use crate::route::rewrite::Command;

/// A flush of the source, on a target that may hold other keys too, of other shards or outside of the filter: all keys that this shard moves
/// are to be deleted, before anything that follows and after everything that came before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clear {
    /// In these databases of the target.
    pub databases: Vec<u32>,
    /// Behind the flush.
    pub offset: u64,
    /// Where the target stands until the flush is done.
    pub commit: Commit,
}

impl StreamEncoder {
    /// A flush: of what the group before it did in its databases nothing is left either.
    pub(super) fn clear(&mut self, command: &Command<'_>, databases: Vec<u32>, offset: u64) -> Result<()> {
        let everything = command.is(0, b"FLUSHALL");
        if let Some(group) = &mut self.group {
            let only_here = !group.mixed && group.db.is_none_or(|db| db == self.db);
            if group.open || !(everything || only_here) {
                return self.uncleared(command);
            }
            *group = Group::default();
        }
        if !self.out.bytes.is_empty() || self.position != self.committed {
            self.push_commit();
        }
        let commit = self.commit_at(self.committed);
        self.ready.push_back(Ready::Clear(Clear { databases, offset, commit }));
        Ok(())
    }

    /// A flush that cannot be done where it stands.
    fn uncleared(&mut self, command: &Command<'_>) -> Result<()> {
        let what = "a flush in the middle of a large transaction, or of one over several databases";
        if self.rewriter.owner.shares() {
            let message = format!("{what}, with other sources' keys beside");
            return Err(Error::new(Code::TargetUnsupported, message));
        }
        if self.rewriter.skips_borders() {
            self.skipped(command);
            return Ok(());
        }
        Err(Error::new(Code::FilterBorder, format!("{what}, with a filter on keys")))
    }
}

/// True if a command leaves something behind that a flush of its database does not delete.
pub(super) fn reaches_out(how: Handling, command: &Command<'_>) -> bool {
    match how {
        Handling::Move | Handling::SwapDb => true,
        // COPY with options: with a database.
        Handling::Rename => command.arguments.len() > 3,
        _ => command.is(0, b"FUNCTION"),
    }
}
