//! The command stream as transactions: every commit stands between two commands, outside MULTI.

use std::collections::VecDeque;
use std::sync::Arc;

use dts_common::error::{Code, Error, Result};
use dts_common::position::{Position, ReplicationId};
use dts_common::redis::command::{Handling, handling};
use dts_common::redis::resp::CommandParser;
use dts_common::selection::Selection;

use super::large::{Head, LARGE, Large};
use super::out::{CHUNK, Out};
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
    /// Goes on at `position`. `reserved` are our keys on the target: of the position, of the scripts, of a large value;
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
            if self.out.bytes.len() >= CHUNK {
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
mod tests {
    use dts_common::redis::expiry::hold;
    use dts_common::redis::rdb::Family;
    use dts_common::redis::resp;
    use dts_common::redis::version::ServerVersion;
    use proptest::prelude::*;

    use super::*;

    fn new(major: u32, minor: u32) -> StreamEncoder {
        let version = ServerVersion { family: Family::Redis, major, minor, patch: 0 };
        let position = Position { history: None, offset: 0, db: 0 };
        let reserved = vec![b"__dts:t:0:position".to_vec(), b"__dts:t:0:scripts".to_vec(), b"__dts:t:0:large".to_vec()];
        let dialect = Dialect { version, source: version, databases: 16 };
        let (scripts, progress, held) = (Scripts::default(), Progress::default(), Held::default());
        StreamEncoder::new(dialect, position, reserved, scripts, progress, held, false)
    }

    fn stream(commands: &[&str]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for command in commands {
            let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
            resp::command(&mut bytes, &words);
        }
        bytes
    }

    /// The commands of all chunks, as text.
    fn texts(encoder: &mut StreamEncoder) -> Vec<String> {
        let mut bytes = Vec::new();
        let mut promised = 0;
        while let Some(chunk) = encoder.next_chunk(true) {
            bytes.extend_from_slice(&chunk.bytes);
            promised += chunk.commands;
        }
        let found = commands_of(&bytes);
        assert_eq!(usize::try_from(promised).unwrap(), found.len(), "replies promised");
        found
    }

    fn commands_of(bytes: &[u8]) -> Vec<String> {
        let (mut parser, mut at, mut found) = (CommandParser::default(), 0, Vec::new());
        while let Some(length) = parser.parse(&bytes[at..]).unwrap() {
            let words: Vec<_> =
                parser.arguments().iter().map(|(s, e)| String::from_utf8_lossy(&bytes[at + s..at + e])).collect();
            found.push(words.join(" "));
            at += length;
        }
        found
    }

    fn encoded(major: u32, minor: u32, commands: &[&str]) -> Vec<String> {
        let mut encoder = new(major, minor);
        encoder.feed(0, 1_000_000, &stream(commands)).unwrap();
        texts(&mut encoder)
    }

    #[test]
    fn a_relative_expiry_becomes_absolute_and_is_held() {
        let at = |ms| hold(ms).to_string();
        assert_eq!(encoded(7, 0, &["EXPIRE k 10"]), [format!("PEXPIREAT k {}", at(1_010_000))]);
        assert_eq!(encoded(7, 0, &["pexpireat k 5000 GT"]), [format!("PEXPIREAT k {}", at(5000))]);
        assert_eq!(encoded(7, 0, &["SETEX k 10 v"]), [format!("SET k v PXAT {}", at(1_010_000))]);
        assert_eq!(encoded(7, 0, &["SET k v PX 10 NX"]), [format!("SET k v PXAT {}", at(1_000_010))]);
        assert_eq!(encoded(6, 0, &["SET k v EX 10"]), ["SET k v".to_owned(), format!("PEXPIREAT k {}", at(1_010_000))]);
        assert_eq!(
            encoded(5, 0, &["RESTORE k 10 payload"]),
            [format!("RESTORE k {} payload REPLACE ABSTTL", at(1_000_010))]
        );
        assert_eq!(
            encoded(4, 0, &["RESTORE k 10 payload"]),
            ["RESTORE k 0 payload REPLACE".to_owned(), format!("PEXPIREAT k {}", at(1_000_010))]
        );
        assert_eq!(encoded(7, 4, &["HEXPIRE k 10 FIELDS 1 f"]), [format!("HPEXPIREAT k {} FIELDS 1 f", at(1_010_000))]);
    }

    #[test]
    fn an_older_target_gets_what_it_knows() {
        let at = hold(5000).to_string();
        assert_eq!(encoded(3, 2, &["HSET h a 1 b 2"]), ["HMSET h a 1 b 2"]);
        assert_eq!(encoded(5, 0, &["LPOP l 2"]), ["LPOP l", "LPOP l"]);
        assert_eq!(encoded(5, 0, &["LMOVE a b RIGHT LEFT"]), ["RPOPLPUSH a b"]);
        assert_eq!(encoded(6, 0, &["XGROUP SETID s g 1-1 ENTRIESREAD 4"]), ["XGROUP SETID s g 1-1"]);
        assert!(encoded(6, 0, &["XGROUP CREATECONSUMER s g c"]).is_empty());
        assert!(encoded(5, 0, &["SET k v KEEPTTL"])[0].starts_with("EVAL"));
        assert_eq!(
            encoded(7, 4, &["HSETEX h PXAT 5000 FIELDS 1 f v"]),
            ["HSET h f v".to_owned(), format!("HPEXPIREAT h {at} FIELDS 1 f")]
        );
        assert_eq!(encoded(7, 0, &["HSETEX h KEEPTTL FIELDS 1 f v"]), ["HSET h f v"]);
        assert_eq!(encoded(8, 0, &["LPOP l 2", "HSETEX h KEEPTTL FIELDS 1 f v"]).len(), 2);
    }

    #[test]
    fn exact_expiries_are_written_as_they_are_and_renamed_keys_are_named() {
        let mut encoder = new(7, 0);
        encoder.set_exact();
        encoder.feed(0, 0, &stream(&["PEXPIREAT k 5000", "RENAME a b", "MOVE c 3", "COPY d e DB 2"])).unwrap();
        assert_eq!(texts(&mut encoder)[0], "PEXPIREAT k 5000");
        let mut held = encoder.take_held().into_keys().unwrap();
        for (db, key) in [(0, "b"), (2, "e"), (3, "c")] {
            assert_eq!(held.next_page(10), Some((db, vec![key.as_bytes().to_vec()])));
        }
        assert!(held.is_empty() && encoder.take_held().into_keys().unwrap().is_empty());
    }

    #[test]
    fn what_is_held_is_named_and_what_hides_its_keys_means_all() {
        let mut encoder = new(7, 0);
        encoder.feed(0, 0, &stream(&["SETEX a 10 v", "SET b v", "EXPIRE c 5", "HPEXPIREAT h 99 FIELDS 1 f"])).unwrap();
        let mut held = encoder.take_held().into_keys().unwrap();
        assert_eq!(held.next_page(10), Some((0, [b"a", b"c", b"h"].map(|key| key.to_vec()).to_vec())));
        for hiding in ["SWAPDB 1 2", "EVAL x 0", "JSON.SET k $ 1"] {
            let mut fresh = new(7, 0);
            fresh.feed(0, 0, &stream(&[hiding])).unwrap();
            assert!(fresh.take_held().into_keys().is_none(), "{hiding}");
        }
    }

    #[test]
    fn a_group_stays_in_one_transaction_and_no_commit_stands_inside_it() {
        let mut encoder = new(7, 0);
        let bytes = stream(&["SET a 1", "MULTI", "SELECT 3", "SET b 2", "SET c 3"]);
        let before = stream(&["SET a 1"]).len() as u64;
        encoder.feed(0, 0, &bytes).unwrap();
        assert_eq!(encoder.position(), Position { history: None, offset: before, db: 0 });
        assert_eq!(texts(&mut encoder), ["SET a 1"]);
        encoder.feed(bytes.len() as u64, 0, &stream(&["EXEC"])).unwrap();
        assert_eq!(texts(&mut encoder), ["SELECT 3", "SET b 2", "SET c 3", "SELECT 0"]);
        assert_eq!(encoder.position().db, 3);
    }

    #[test]
    fn a_huge_group_passes_in_parts_of_one_transaction() {
        let mut encoder = new(7, 0);
        let value = "v".repeat(100_000);
        let mut commands = vec!["SET before 1".to_owned(), "MULTI".into()];
        commands.extend((0..40).map(|i| format!("SET k{i} {value}")));
        commands.push("EXEC".into());
        let bytes = stream(&commands.iter().map(String::as_str).collect::<Vec<_>>());
        let mut offset = 0;
        let (mut chunks, mut commits) = (0, 0);
        for piece in bytes.chunks(50_000) {
            encoder.feed(offset, 0, piece).unwrap();
            offset += piece.len() as u64;
            while let Some(chunk) = encoder.next_chunk(true) {
                assert!(chunk.bytes.len() < 2 << 20);
                chunks += 1;
                commits += u32::from(chunk.commit.is_some());
            }
        }
        assert_eq!(commits, 2, "one before the group, one at its end");
        assert!(chunks > 3);
        assert_eq!(encoder.position().offset, bytes.len() as u64);
    }

    /// The same stream whole and in parts has the same effect: what is large is written under a key of ours first.
    #[test]
    fn a_large_value_passes_in_parts_whatever_stands_behind_it() {
        let value = "v".repeat(3 << 20);
        let (at, exact) = (hold(1_010_000).to_string(), hold(5000).to_string());
        let temporary = "__dts:t:0:large";
        for (command, expected) in [
            (format!("SET k {value}"), vec![format!("SET k {value}")]),
            (format!("RPUSH k a {value} b"), vec![format!("RPUSH k a {value} b")]),
            (
                format!("SET k {value} PX 10000 NX"),
                vec![format!("SET {temporary} {value}"), format!("RENAME {temporary} k"), format!("PEXPIREAT k {at}")],
            ),
            (format!("SETEX k 10 {value}"), vec![format!("SET k {value}"), format!("PEXPIREAT k {at}")]),
            (
                format!("RESTORE k 5000 {value} REPLACE ABSTTL IDLETIME 7"),
                vec![
                    format!("RESTORE {temporary} 0 {value} REPLACE ABSTTL IDLETIME 7"),
                    format!("RENAME {temporary} k"),
                    format!("PEXPIREAT k {exact}"),
                ],
            ),
        ] {
            for in_group in [false, true] {
                let mut commands = vec!["SELECT 2", "SET before 1"];
                commands.extend(in_group.then_some("MULTI"));
                commands.push(&command);
                commands.extend(in_group.then_some("EXEC"));
                commands.push("SET after 1");
                let bytes = stream(&commands);
                let mut encoder = new(7, 0);
                let (mut sent, mut promised, mut offset, mut largest) = (Vec::new(), 0, 0, 0);
                for piece in bytes.chunks(77_777) {
                    encoder.feed(offset, 1_000_000, piece).unwrap();
                    offset += piece.len() as u64;
                    while let Some(chunk) = encoder.next_chunk(false) {
                        largest = largest.max(chunk.bytes.len());
                        sent.extend_from_slice(&chunk.bytes);
                        promised += chunk.commands;
                    }
                    assert!(encoder.buffer.len() <= LARGE + 77_777, "it waits for the whole value");
                }
                assert!(largest < 2 * LARGE, "{largest}");
                while let Some(chunk) = encoder.next_chunk(true) {
                    sent.extend_from_slice(&chunk.bytes);
                    promised += chunk.commands;
                }
                assert_eq!(encoder.position().offset, bytes.len() as u64);
                assert_eq!(encoder.position().db, 2);
                let found: Vec<String> =
                    commands_of(&sent).into_iter().filter(|text| !text.starts_with("SELECT")).collect();
                assert_eq!(usize::try_from(promised).unwrap(), commands_of(&sent).len());
                let mut all = vec!["SET before 1".to_owned()];
                all.extend(expected.clone());
                all.push("SET after 1".into());
                assert!(found == all, "{:.100} in a group: {in_group}", command);
            }
        }
    }

    #[test]
    fn pings_move_the_position_and_write_nothing() {
        let mut encoder = new(7, 0);
        let bytes = [stream(&["ping", "REPLCONF GETACK *"]), b"\r\n".to_vec()].concat();
        encoder.feed(0, 0, &bytes).unwrap();
        let chunk = encoder.next_chunk(true).unwrap();
        assert_eq!((chunk.commands, chunk.bytes.len()), (0, 0));
        assert_eq!(chunk.commit.unwrap().position.unwrap().offset, bytes.len() as u64);
    }

    #[test]
    fn a_script_is_sent_by_its_body_and_kept_on_the_target() {
        let found = encoded(7, 0, &["EVAL x 0", "EVALSHA 11F6AD8EC52A2984ABAAFD7C3B516503785C2072 0"]);
        assert_eq!(
            found,
            ["HSET __dts:t:0:scripts 11f6ad8ec52a2984abaafd7c3b516503785c2072 x", "EVAL x 0", "EVAL x 0"]
        );
    }

    #[test]
    fn our_own_keys_survive_a_flush_and_a_swap() {
        let found = encoded(7, 0, &["EVAL x 0", "FLUSHALL", "SWAPDB 0 2"]);
        let keep = "HSET __dts:t:0:scripts 11f6ad8ec52a2984abaafd7c3b516503785c2072 x";
        assert_eq!(
            found,
            [
                keep,
                "EVAL x 0",
                "FLUSHALL",
                keep,
                "SWAPDB 0 2",
                "SELECT 2",
                "DEL __dts:t:0:position __dts:t:0:scripts __dts:t:0:large",
                "SELECT 0",
                keep
            ]
        );
    }

    #[test]
    fn keys_of_another_migration_are_not_carried() {
        assert_eq!(encoded(7, 0, &["SET __dts:other:0:position x", "SET a 1"]), ["SET a 1"]);
    }

    #[test]
    fn commands_of_another_topology_are_refused_by_name() {
        let error = new(7, 0).feed(0, 0, &stream(&["TRIMSLOTS RANGES 1"])).unwrap_err();
        assert_eq!(error.code, Code::TargetUnsupported);
        assert!(error.message.contains("TRIMSLOTS"));
    }

    #[test]
    fn a_gap_in_the_stream_is_an_error() {
        assert!(new(7, 0).feed(1, 0, b"").is_err());
    }

    proptest! {
        #[test]
        fn cuts_of_the_stream_change_nothing(cuts in prop::collection::vec(1usize..60, 1..40)) {
            let bytes = stream(&["SET a 1", "SELECT 2", "MULTI", "INCR x", "SELECT 0", "LPUSH l 1", "EXEC", "PING", "DEL a", "EXPIRE x 3"]);
            let mut whole = new(7, 0);
            whole.feed(0, 5, &bytes).unwrap();
            let mut cut = new(7, 0);
            let mut at = 0;
            for length in cuts.iter().cycle() {
                let end = (at + length).min(bytes.len());
                cut.feed(at as u64, 5, &bytes[at..end]).unwrap();
                at = end;
                if at == bytes.len() { break; }
            }
            prop_assert_eq!(whole.position(), cut.position());
            prop_assert_eq!(texts(&mut whole), texts(&mut cut));
        }

        #[test]
        fn no_stream_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _malformed_or_not = new(7, 0).feed(0, 0, &bytes);
        }
    }
}
