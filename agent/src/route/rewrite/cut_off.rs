//! What is to be known of a command of which only the beginning has come.

use dts_common::redis::command::Handling;
use dts_common::redis::command_table::{Group, Words, find};

use super::Rewriter;

impl Rewriter {
    /// Where a command goes of which only the beginning is known: its database of the target, if it is moved and changes one key alone, which it
    /// names first.
    pub(in crate::route) fn moves_in_parts(&self, command: &impl Words, db: u32) -> Option<u32> {
        if !self.selects {
            return Some(db);
        }
        let info = find(command)?;
        let typed =
            !self.selection.by_type() || (info.group != Group::Generic && self.selection.covers_type(info.group));
        let moved = typed
            && info.only_key() == Some(1)
            && self.selection.covers(db, command.word(1)?)
            && !self.selection.excludes_command(command.word(0)?);
        self.selection.target_db(db).filter(|_| moved)
    }

    /// Where a large value waits for its name.
    pub(in crate::route) fn large_key(&self) -> &[u8] {
        self.reserved.get(2).map_or(b"", Vec::as_slice)
    }

    /// True if nothing behind the name of the command can ask for a change.
    pub(in crate::route) fn passes_as_it_is(&self, how: Handling, name: &[u8]) -> bool {
        match how {
            Handling::Pass => !name.contains(&b'.'),
            Handling::HSet => self.dialect.version.at_least(4, 0),
            _ => false,
        }
    }

    /// `REPLACE` alone is older.
    pub(in crate::route) fn knows_restore_options(&self) -> bool {
        self.dialect.version.at_least(5, 0)
    }
}
