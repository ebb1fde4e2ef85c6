//! Commands as they are encoded: bytes, how many, and which database is selected where they end.

use bytes::Bytes;
use dts_common::error::{Code, Error, Result};
use dts_common::redis::resp;

use super::{Chunk, Commit, Dialect, Mark};

/// A chunk is handed on from this size on, unless more is asked for.
const CHUNK: usize = 256 << 10;

/// The commands of a transaction, or of a part of it.
#[derive(Debug, Default)]
pub(super) struct Out {
    pub(super) bytes: Vec<u8>,
    pub(super) commands: u32,
    pub(super) db: u32,
    pub(super) marks: Vec<Mark>,
    /// See [`Out::is_full`].
    pub(super) piece: usize,
}

impl Out {
    /// True if it is worth a transaction.
    pub(super) fn is_full(&self) -> bool {
        self.bytes.len() >= self.piece.max(CHUNK)
    }

    /// Selects a database, if another one is.
    pub(super) fn select(&mut self, db: u32, dialect: &Dialect) -> Result<()> {
        if db == self.db {
            return Ok(());
        }
        if db >= dialect.databases {
            let message = format!(
                "the source uses database {db}, the target has {} (0 to {})",
                dialect.databases,
                dialect.databases - 1
            );
            return Err(Error::new(Code::TargetUnsupported, message));
        }
        self.force_select(db);
        Ok(())
    }

    pub(super) fn force_select(&mut self, db: u32) {
        self.command(&[b"SELECT", db.to_string().as_bytes()]);
        self.db = db;
    }

    pub(super) fn force_select_if_needed(&mut self, db: u32) {
        if self.db != db {
            self.force_select(db);
        }
    }

    pub(super) fn command(&mut self, arguments: &[&[u8]]) {
        resp::command(&mut self.bytes, arguments);
        self.commands += 1;
    }

    /// A whole command that is encoded already.
    pub(super) fn raw(&mut self, command: &[u8]) {
        self.bytes.extend_from_slice(command);
        self.commands += 1;
    }

    /// Puts another's commands behind these; they begin with their own SELECT.
    pub(super) fn append(&mut self, other: &mut Out) {
        self.bytes.append(&mut other.bytes);
        let before = self.commands;
        self.marks.extend(other.marks.drain(..).map(|mark| Mark { commands: before + mark.commands, ..mark }));
        self.commands += std::mem::take(&mut other.commands);
        self.db = other.db;
    }

    /// A command of the source ends here.
    pub(super) fn mark(&mut self, offset: u64, group: u64) {
        self.marks.push(Mark { commands: self.commands, offset, group });
    }

    /// Ends the transaction here.
    pub(super) fn commit(&mut self, commit: Commit) -> Chunk {
        self.force_select_if_needed(0);
        let mut chunk = self.cut();
        chunk.commit = Some(commit);
        chunk
    }

    /// What is here, as a part of a transaction that goes on.
    pub(super) fn cut(&mut self) -> Chunk {
        let commands = std::mem::take(&mut self.commands);
        let next = Vec::with_capacity(if self.bytes.len() > CHUNK { CHUNK } else { 0 });
        Chunk {
            bytes: Bytes::from(std::mem::replace(&mut self.bytes, next)),
            commands,
            commit: None,
            marks: std::mem::take(&mut self.marks),
        }
    }
}
