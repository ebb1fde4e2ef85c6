//! The command stream as transactions: every commit stands between two commands, outside MULTI.

use std::collections::VecDeque;
use std::sync::Arc;

use dts_common::error::{Code, Error, Result};
use dts_common::position::{Position, ReplicationId};
use dts_common::redis::command::{Handling, handling};
use dts_common::redis::resp::CommandParser;
use dts_common::selection::Selection;

use super::large::{Head, LARGE, Large};
use super::out::Out;
use super::rewrite::{Command, Outcome, Rewriter};
use super::{Chunk, Commit, Dialect, Held, Progress, Scripts};
use crate::topology::Owner;

/// A group larger than this is handed on in parts, inside of one transaction.
const LARGEST_GROUP: usize = 1 << 20;

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

#[derive(Default)]
struct Group {
    out: Out,
    /// Offset behind its MULTI.
    begin: u64,
    /// True once a part of it was handed on.
    open: bool,
    /// The database of its commands, as long as it is one.
    db: Option<u32>,
    mixed: bool,
    /// True if it is there only for a large command.
    of_one: bool,
}

impl Group {
    /// A command in this database follows.
    fn begin(&mut self, db: u32) {
        if self.out.bytes.is_empty() && !self.open {
            // It may be put behind anything: it begins with its own database.
            self.out.db = u32::MAX;
        }
        self.mixed |= self.db.is_some_and(|before| before != db);
        self.db = Some(db);
    }
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

    /// Begins to pass on the command that is cut off, if it is large; the length of its header, or 0.
    fn begin_large(&mut self, cut_off: &[u8]) -> Result<usize> {
        // Where a value waits for its name is in another slot.
        if cut_off.len() < LARGE || self.marks {
            return Ok(0);
        }
        let Some((arguments, whole)) = self.parser.partial() else { return Ok(0) };
        let whole: Vec<&[u8]> = whole.iter().filter_map(|(start, end)| cut_off.get(*start..*end)).collect();
        let Some(header) = memchr::memchr(b'\n', cut_off) else { return Ok(0) };
        let head = Head { arguments, whole: &whole };
        let Some(db) = self.rewriter.moves_in_parts(&head, self.db) else { return Ok(0) };
        let Some((large, begins)) = Large::begin(arguments, &whole, &self.rewriter) else { return Ok(0) };
        let group = self.group.get_or_insert_with(|| Group { of_one: true, ..Group::default() });
        group.begin(self.db);
        self.rewriter.select(db, &mut group.out)?;
        self.large_db = db;
        group.out.bytes.extend_from_slice(&begins);
        self.large = Some(large);
        self.parser = CommandParser::default();
        self.progress.stream_commands += 1;
        Ok(header + 1)
    }

    /// Passes on what there is of the large command; `start` is the offset of these bytes.
    fn pass(&mut self, bytes: &[u8], start: u64) -> Result<usize> {
        let (Some(large), Some(group)) = (&mut self.large, &mut self.group) else { return Ok(0) };
        let (taken, over) = large.take(bytes, &mut group.out)?;
        if over && let Some(large) = self.large.take() {
            large.finish(&mut self.rewriter, self.large_db, &mut group.out);
            if group.of_one {
                self.end_group(start + taken as u64);
                return Ok(taken);
            }
        }
        self.hand_on_group();
        Ok(taken)
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
        let commit = Commit {
            position: Some(self.position),
            holds_field_expiry: self.rewriter.holds_field_expiry,
            progress: self.progress,
        };
        self.out.commit(commit)
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

    fn hand_on_group(&mut self) {
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

    fn end_group(&mut self, end: u64) {
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

    fn push_commit(&mut self) {
        let chunk = self.commit();
        self.ready.push_back(Ready::Chunk(chunk));
    }

    /// A flush: of what the group before it did in its databases nothing is left either.
    fn clear(&mut self, command: &Command<'_>, databases: Vec<u32>, offset: u64) -> Result<()> {
        let everything = command.argument(0).is_some_and(|name| name.eq_ignore_ascii_case(b"FLUSHALL"));
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
        let commit = Commit {
            position: Some(self.committed),
            holds_field_expiry: self.rewriter.holds_field_expiry,
            progress: self.progress,
        };
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
fn reaches_out(how: Handling, command: &Command<'_>) -> bool {
    match how {
        Handling::Move | Handling::SwapDb => true,
        // COPY with options: with a database.
        Handling::Rename => command.arguments.len() > 3,
        _ => command.argument(0).is_some_and(|name| name.eq_ignore_ascii_case(b"FUNCTION")),
    }
}

#[cfg(test)]
mod tests;
