//! The command stream as transactions: every commit stands between two commands, outside MULTI.

mod clear;
mod group;
mod passing;

use std::collections::VecDeque;
use std::sync::Arc;

use dts_common::error::{Code, Error, Result};
use dts_common::position::{Position, ReplicationId};
use dts_common::redis::command::{Handling, handling};
use dts_common::redis::resp::CommandParser;
use dts_common::selection::Selection;

pub use self::clear::Clear;
use self::clear::reaches_out;
use self::group::Group;
use super::large::Large;
use super::out::Out;
use super::rewrite::{Command, Outcome, Rewriter};
use super::{Chunk, Commit, Dialect, Held, Progress, Scripts};
use crate::topology::Owner;

/// Parses, rewrites, and batches a stream.
pub struct StreamEncoder {
    parser: CommandParser,
    /// Bytes of the command that is cut off.
    buffer: Vec<u8>,
    /// Offset behind the last byte that was fed.
    fed: u64,
    /// The last legal position, and the last that was committed.
    position: Position,
    committed: Position,
    /// The db that the stream has selected, also inside of a group.
    db: u32,
    out: Out,
    /// `Some` between MULTI and EXEC.
    group: Option<Group>,
    /// A command that passes as it comes; always inside of a group.
    large: Option<Large>,
    /// The database of the target that it goes to.
    large_db: u32,
    ready: VecDeque<Ready>,
    rewriter: Rewriter,
    progress: Progress,
    /// True if chunks say where every command ends.
    marks: bool,
}

enum Ready {
    Chunk(Chunk),
    Clear(Clear),
}

impl StreamEncoder {
    /// Goes on at `position`. `reserved` are our keys on the target: of the position, of the scripts, of a large value, of the claim;
    /// `held` are the keys on the target that may carry a held expiry, `holds_field_expiry` says if hash fields may.
    pub fn new(
        dialect: Dialect,
        position: Position,
        reserved: Vec<Vec<u8>>,
        scripts: Scripts,
        progress: Progress,
        held: Held,
        holds_field_expiry: bool,
    ) -> Self {
        Self {
            parser: CommandParser::default(),
            buffer: Vec::new(),
            fed: position.offset,
            position,
            committed: position,
            db: position.db,
            out: Out::default(),
            group: None,
            large: None,
            large_db: 0,
            ready: VecDeque::new(),
            rewriter: Rewriter::new(dialect, reserved, scripts, held, holds_field_expiry),
            progress,
            marks: false,
        }
    }

    /// Keys that are not the owner's are not written: what changes one ends the stream, what deletes one is left out.
    #[must_use]
    pub fn owned_by(mut self, owner: Owner) -> Self {
        self.rewriter.owner = owner;
        self
    }

    /// Ends with an error where the stream brings what came from the target itself.
    #[must_use]
    pub fn ending_loops(mut self, histories: Vec<ReplicationId>) -> Self {
        self.rewriter.target_histories = histories;
        self
    }

    /// Moves only that.
    #[must_use]
    pub fn selecting(mut self, selection: Arc<Selection>) -> Self {
        self.rewriter.choose(selection);
        self
    }

    /// What is to be cleared before the next chunk is given, if anything.
    pub fn take_clear(&mut self) -> Option<Clear> {
        match self.ready.pop_front()? {
            Ready::Clear(clear) => Some(clear),
            chunk => {
                self.ready.push_front(chunk);
                None
            }
        }
    }

    /// From now on chunks say where every command ends.
    pub fn mark_commands(&mut self) {
        self.marks = true;
    }

    /// The last legal position that was taken in.
    pub fn position(&self) -> Position {
        self.position
    }

    /// Totals so far.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// True if hash fields on the target may carry held expiries.
    pub fn holds_field_expiry(&self) -> bool {
        self.rewriter.holds_field_expiry
    }

    /// From the next command on expiries are written exactly.
    pub fn set_exact(&mut self) {
        self.rewriter.exact = true;
    }

    /// These keys of the target were written by somebody else, and may carry held expiries; with `fields` so may hash fields.
    pub fn hold<'a>(&mut self, keys: impl Iterator<Item = (u32, &'a [u8])>, fields: bool) {
        keys.for_each(|(db, key)| self.rewriter.held.add(db, key));
        self.rewriter.holds_field_expiry |= fields;
    }

    /// What may carry a held expiry, and was not given before.
    pub fn take_held(&mut self) -> Held {
        std::mem::take(&mut self.rewriter.held)
    }

    /// The history has a new name.
    pub fn rename_history(&mut self, history: ReplicationId) {
        self.position.history = Some(history);
    }

    /// Takes bytes of the stream that begin at `offset`.
    pub fn feed(&mut self, offset: u64, received_ms: u64, bytes: &[u8]) -> Result<()> {
        if offset != self.fed {
            let message = format!("the stream jumps from {} to {offset}", self.fed);
            return Err(Error::new(Code::Internal, message));
        }
        self.fed += bytes.len() as u64;
        self.rewriter.now_ms = i64::try_from(received_ms).unwrap_or(i64::MAX);
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.extend_from_slice(bytes);
        let mut at = 0;
        let mut end = self.fed - buffer.len() as u64;
        loop {
            if self.large.is_some() {
                let taken = self.pass(&buffer[at..], end)?;
                at += taken;
                end += taken as u64;
                if self.large.is_some() {
                    break;
                }
            }
            let parsed = self.parser.parse(&buffer[at..]);
            let parsed =
                parsed.map_err(|error| Error::new(Code::SourceProtocol, format!("at offset {end}: {error}")))?;
            let Some(length) = parsed else {
                let head = self.begin_large(&buffer[at..])?;
                at += head;
                end += head as u64;
                if head > 0 {
                    continue;
                }
                break;
            };
            end += length as u64;
            let raw = &buffer[at..at + length];
            at += length;
            let parser = std::mem::take(&mut self.parser);
            let taken = self.take(&Command { raw, arguments: parser.arguments() }, end);
            self.parser = parser;
            taken?;
        }
        buffer.drain(..at);
        self.buffer = buffer;
        self.progress.received_ms = received_ms;
        Ok(())
    }

    /// How long chunks should become.
    pub fn in_pieces_of(&mut self, bytes: usize) {
        self.out.piece = bytes;
    }

    /// The next chunk; with `flush` also one that is not full, up to the last legal position. None before a [`Clear`].
    pub fn next_chunk(&mut self, flush: bool) -> Option<Chunk> {
        match self.ready.pop_front() {
            Some(Ready::Chunk(chunk)) => return Some(chunk),
            Some(clear) => {
                self.ready.push_front(clear);
                return None;
            }
            None => {}
        }
        let open = self.group.as_ref().is_some_and(|group| group.open);
        let moved = self.position != self.committed || !self.out.bytes.is_empty();
        (flush && moved && !open).then(|| self.commit())
    }

    fn commit(&mut self) -> Chunk {
        self.committed = self.position;
        self.out.commit(self.commit_at(self.position))
    }

    fn commit_at(&self, position: Position) -> Commit {
        let holds_field_expiry = self.rewriter.holds_field_expiry;
        Commit { position: Some(position), holds_field_expiry, progress: self.progress }
    }

    fn take(&mut self, command: &Command<'_>, end: u64) -> Result<()> {
        let how = command.argument(0).map_or(Handling::Ignore, handling);
        match how {
            Handling::Ignore => {}
            Handling::Select => {
                let db = command.argument(1).and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
                self.db = db.ok_or_else(|| Error::new(Code::SourceProtocol, "SELECT without a number"))?;
            }
            Handling::Multi => self.group = Some(Group { begin: end, ..Group::default() }),
            Handling::Exec => self.end_group(end),
            how => {
                self.progress.stream_commands += 1;
                let begin = self.group.as_ref().map_or(0, |group| group.begin);
                let out = match &mut self.group {
                    Some(group) => {
                        group.begin(self.db);
                        group.mixed |= reaches_out(how, command);
                        &mut group.out
                    }
                    None => &mut self.out,
                };
                match self.rewriter.write(how, command, self.db, out)? {
                    Outcome::Done => {}
                    Outcome::Filtered => self.progress.filtered_commands += 1,
                    Outcome::Skipped => self.skipped(command),
                    Outcome::Purge(databases) => self.clear(command, databases, end)?,
                }
                if self.marks
                    && let Some(out) = self.group.as_mut().map(|group| &mut group.out).or(Some(&mut self.out))
                {
                    out.mark(end, begin);
                }
            }
        }
        if self.group.is_none() {
            self.position.offset = end;
            self.position.db = self.db;
            if self.out.is_full() {
                self.push_commit();
            }
        } else {
            self.hand_on_group();
        }
        Ok(())
    }

    fn skipped(&mut self, command: &Command<'_>) {
        self.progress.skipped_commands += 1;
        if self.progress.skipped_commands.is_power_of_two() {
            let name = String::from_utf8_lossy(command.argument(0).unwrap_or_default()).to_uppercase();
            tracing::warn!(name, so_far = self.progress.skipped_commands, "a command is left out: the target differs");
        }
    }

    fn push_commit(&mut self) {
        let chunk = self.commit();
        self.ready.push_back(Ready::Chunk(chunk));
    }
}

#[cfg(test)]
mod tests;
