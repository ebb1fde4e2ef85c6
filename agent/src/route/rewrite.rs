//! One command of the stream, as the target shall have it. What needs no change passes byte for byte.

mod value;

use std::sync::Arc;

use dts_common::error::{Code, Error, Result};
use dts_common::position::ReplicationId;
use dts_common::redis::command::{Fields, Handling, Unit, handling};
use dts_common::redis::command_table::{Access, Group, Key, Words, find, keys_of};
use dts_common::redis::expiry::{HOLD_MS, hold};
use dts_common::redis::resp;
use dts_common::selection::{OnBorder, Selection};

use super::out::Out;
use super::select::{Decision, Step, decide};
use super::{Dialect, Held, Scripts};
use crate::target::{Checkpoint, Phase, RESERVED_PREFIX};
use crate::topology::Owner;

/// A command as it came.
#[derive(Clone, Copy)]
pub(super) struct Command<'a> {
    pub(super) raw: &'a [u8],
    pub(super) arguments: &'a [(usize, usize)],
}

impl<'a> Command<'a> {
    pub(super) fn argument(&self, index: usize) -> Option<&'a [u8]> {
        self.arguments.get(index).and_then(|(start, end)| self.raw.get(*start..*end))
    }

    fn from(&self, index: usize) -> impl Iterator<Item = &'a [u8]> + '_ {
        (index..self.arguments.len()).filter_map(|index| self.argument(index))
    }

    fn number(&self, index: usize) -> Option<i64> {
        number(self.argument(index)?)
    }
}

impl Words for Command<'_> {
    fn count(&self) -> usize {
        self.arguments.len()
    }

    fn word(&self, at: usize) -> Option<&[u8]> {
        self.argument(at)
    }
}

/// True if a script may flush; better once too often.
fn flushes(body: &[u8]) -> bool {
    body.to_ascii_lowercase().windows(5).any(|word| word == b"flush")
}

/// Every source has the same libraries, and each tells of them: they are loaded over each other, and never unloaded, because the
/// others may still need them. True if the command passes as it is.
fn shared_function(command: &Command<'_>, out: &mut Out) -> bool {
    let is = |index: usize, word: &[u8]| command.argument(index).is_some_and(|found| found.eq_ignore_ascii_case(word));
    if is(1, b"LOAD") && !is(2, b"REPLACE") {
        let words: Vec<&[u8]> = [&b"FUNCTION"[..], b"LOAD", b"REPLACE"].into_iter().chain(command.from(2)).collect();
        out.command(&words);
        return false;
    }
    !is(1, b"DELETE") && !is(1, b"FLUSH")
}

/// What became of a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is written, or nothing of it is to be.
    Done,
    /// The task does not move what it is about.
    Filtered,
    /// It was left out by policy.
    Skipped,
    /// Everything of the task has to go from these databases of the target.
    Purge(Vec<u32>),
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// What rewriting depends on.
pub(super) struct Rewriter {
    dialect: Dialect,
    selection: Arc<Selection>,
    /// False if everything is moved as it is.
    selects: bool,
    reserved: Vec<Vec<u8>>,
    scripts: Scripts,
    /// When the command was received, by the source's clock.
    pub(super) now_ms: i64,
    pub(super) exact: bool,
    pub(super) held: Held,
    pub(super) holds_field_expiry: bool,
    pub(super) owner: Owner,
    /// The target's own histories.
    pub(super) target_histories: Vec<ReplicationId>,
}

impl Rewriter {
    pub(super) fn new(
        dialect: Dialect,
        reserved: Vec<Vec<u8>>,
        scripts: Scripts,
        held: Held,
        holds_field_expiry: bool,
    ) -> Self {
        let (selection, selects, owner) = (Arc::default(), false, Owner::Everything);
        Self {
            dialect,
            selection,
            selects,
            reserved,
            scripts,
            now_ms: 0,
            exact: false,
            held,
            holds_field_expiry,
            owner,
            target_histories: Vec::new(),
        }
    }

    /// Only that is moved.
    pub(super) fn choose(&mut self, selection: Arc<Selection>) {
        self.selects = !selection.is_everything();
        self.selection = selection;
    }

    pub(super) fn write(&mut self, how: Handling, command: &Command<'_>, db: u32, out: &mut Out) -> Result<Outcome> {
        if self.selection.excludes_command(command.argument(0).unwrap_or_default()) {
            return Ok(Outcome::Filtered);
        }
        if self.owner.shares() && !self.admits(how, command, out)? {
            return Ok(Outcome::Done);
        }
        if how == Handling::Refuse {
            let name = String::from_utf8_lossy(command.argument(0).unwrap_or_default()).into_owned();
            return Err(Error::new(
                Code::TargetUnsupported,
                format!("the source sends {name}: slots of a cluster or proxy move, or it is an active replica"),
            ));
        }
        if command.argument(1).is_some_and(|key| key.starts_with(RESERVED_PREFIX.as_bytes())) {
            self.ends_loops(command)?;
            return Ok(Outcome::Done);
        }
        if !self.selects {
            if how == Handling::Flush && self.owner.shares() {
                let all = command.argument(0).is_some_and(|name| name.eq_ignore_ascii_case(b"FLUSHALL"));
                return Ok(Outcome::Purge(if all { (0..self.dialect.databases).collect() } else { vec![db] }));
            }
            self.put(how, command, db, out)?;
            return Ok(Outcome::Done);
        }
        if how == Handling::Eval {
            // The source may send its hash alone the next time.
            self.learn(command.argument(1).unwrap_or_default(), out);
        }
        match decide(&self.selection, &self.dialect, self.owner.shares(), command, db)? {
            Decision::Pass => {
                // What is of no database passes wherever it stands.
                let db = self.selection.target_db(db).unwrap_or(out.db);
                self.put(how, command, db, out)?;
            }
            Decision::Drop => return Ok(Outcome::Filtered),
            Decision::Skip => return Ok(Outcome::Skipped),
            Decision::Instead(steps) => steps.into_iter().try_for_each(|step| self.step(step, out))?,
            Decision::Purge(databases) => return Ok(Outcome::Purge(databases)),
        }
        Ok(Outcome::Done)
    }

    /// What another task writes to the source says in the same transaction where it comes from: from our target, and it would go round for ever.
    fn ends_loops(&self, command: &Command<'_>) -> Result<()> {
        let Some(Ok(record)) = command.argument(2).map(Checkpoint::decode) else { return Ok(()) };
        match record.phase {
            Phase::Streaming { position, .. }
                if position.history.is_some_and(|history| self.target_histories.contains(&history)) =>
            {
                Err(Error::new(Code::GoesRound, "another task writes to the source what comes from this task's target"))
            }
            _ => Ok(()),
        }
    }

    /// True if a purge that cannot be done is to be left out.
    pub(super) fn skips_borders(&self) -> bool {
        self.selection.on_border == OnBorder::Skip
    }

    /// Writes a command in a database of the target.
    fn put(&mut self, how: Handling, command: &Command<'_>, db: u32, out: &mut Out) -> Result<()> {
        self.select(db, out)?;
        if self.rewritten(how, command, db, out).is_none() {
            out.raw(command.raw);
        }
        Ok(())
    }

    /// On a target with other shards' keys: false if the command is not to be written, or is written already.
    fn admits(&self, how: Handling, command: &Command<'_>, out: &mut Out) -> Result<bool> {
        let name = command.argument(0).unwrap_or_default();
        let refused = |what: &str| {
            Err(Error::new(Code::TargetUnsupported, format!("{what}, and the target holds other sources' keys too")))
        };
        match how {
            Handling::SwapDb => return refused("the source swaps databases"),
            Handling::Eval if command.argument(1).is_some_and(flushes) => {
                return refused("the source runs a script that flushes");
            }
            Handling::EvalSha if command.argument(1).and_then(|hash| self.scripts.body(hash)).is_some_and(flushes) => {
                return refused("the source runs a script that flushes");
            }
            _ if name.eq_ignore_ascii_case(b"FUNCTION") => return Ok(shared_function(command, out)),
            _ => {}
        }
        if matches!(self.owner, Owner::Everything | Owner::Unnamed) {
            return Ok(true);
        }
        let moves = |what: &str| {
            let what = format!("the source sends {what}: slots move between its masters");
            // Codis's map is a part of the task: it does not follow.
            let code = if matches!(self.owner, Owner::Slots(_)) { Code::SourceResharded } else { Code::SourceTopology };
            Err(Error::new(code, what))
        };
        let of_slots = matches!(self.owner, Owner::Slots(_));
        if of_slots && (how == Handling::Refuse || name.eq_ignore_ascii_case(b"RESTORE-ASKING")) {
            return moves(&String::from_utf8_lossy(name));
        }
        let keys = keys_of(command).unwrap_or_default();
        let foreign = |key: &Key| {
            key.access != Access::Channel && command.argument(key.at).is_some_and(|key| !self.owner.may_own(key))
        };
        if !keys.iter().any(foreign) {
            return Ok(true);
        }
        // A master that lost a slot deletes what it still has of it, and old copies behind a proxy expire: of the keys that the
        // owner has, nothing.
        if keys.iter().all(foreign) && (how == Handling::Unlink || name.eq_ignore_ascii_case(b"DEL")) {
            return Ok(false);
        }
        if matches!(self.owner, Owner::Ring(..)) {
            let key = keys.iter().find(|key| foreign(key)).and_then(|key| command.argument(key.at));
            let what =
                "the source changes a key that by the ring another one owns: it is not the ring that the proxy uses";
            return Err(Error::new(Code::SourceTopology, what).about_key(key.unwrap_or_default()));
        }
        moves("a change of a key that was not its own")
    }

    fn step(&mut self, step: Step, out: &mut Out) -> Result<()> {
        let words: Vec<&[u8]> = step.words.iter().map(Vec::as_slice).collect();
        let mut raw = Vec::new();
        resp::command(&mut raw, &words);
        if let Some(key) = step.own {
            out.select(step.db, &self.dialect)?;
            out.raw(&raw);
            self.held.add(step.db, &key);
            return Ok(());
        }
        let mut parser = resp::CommandParser::default();
        parser.parse(&raw).map_err(|error| Error::new(Code::Internal, format!("a command of ours: {error}")))?;
        let how = words.first().map_or(Handling::Ignore, |name| handling(name));
        self.put(how, &Command { raw: &raw, arguments: parser.arguments() }, step.db, out)
    }

    /// Keeps the body of a script, on the target too.
    fn learn(&mut self, body: &[u8], out: &mut Out) {
        if let Some(hash) = self.scripts.learn(body) {
            self.keep(&hash, body, out);
        }
    }

    /// `None`: it passes as it is.
    fn rewritten(&mut self, how: Handling, command: &Command<'_>, db: u32, out: &mut Out) -> Option<()> {
        let version = self.dialect.version;
        let key = command.argument(1);
        match how {
            Handling::Expire(unit, Fields::Key) => {
                let at = self.at(unit, command.number(2)?, db, key?);
                out.command(&[b"PEXPIREAT", key?, at.as_bytes()]);
            }
            Handling::Expire(unit, Fields::Hash) => {
                // A condition (NX, XX, GT, LT) held on the source.
                let fields = command.from(0).position(|word| word.eq_ignore_ascii_case(b"FIELDS"))?;
                self.holds_field_expiry = true;
                let at = self.at(unit, command.number(2)?, db, key?);
                let mut words = vec![b"HPEXPIREAT", key?, at.as_bytes()];
                words.extend(command.from(fields));
                out.command(&words);
            }
            Handling::Set => self.set(command, db, out)?,
            Handling::SetEx(unit) => {
                let at = self.at(unit, command.number(2)?, db, key?);
                self.set_at(key?, command.argument(3)?, &at, out);
            }
            Handling::GetEx => {
                let option = command.argument(2)?;
                match Unit::of_option(option) {
                    Some(unit) => {
                        let at = self.at(unit, command.number(3)?, db, key?);
                        out.command(&[b"PEXPIREAT", key?, at.as_bytes()]);
                    }
                    None => out.command(&[option, key?]),
                }
            }
            Handling::Restore => self.restore(command, db, out)?,
            Handling::HSetEx if !self.knows_hsetex() => self.hset_ex(command, db, out)?,
            Handling::HSetEx => {
                let option = (2..command.arguments.len())
                    .find(|index| command.argument(*index).is_some_and(|word| Unit::of_option(word).is_some()))?;
                let fields = command.from(0).position(|word| word.eq_ignore_ascii_case(b"FIELDS"))?;
                if option > fields {
                    return None;
                }
                self.holds_field_expiry = true;
                let unit = Unit::of_option(command.argument(option)?)?;
                let at = self.at(unit, command.number(option + 1)?, db, key?);
                let mut words = vec![b"HSETEX", key?, b"PXAT", at.as_bytes()];
                words.extend(command.from(fields));
                out.command(&words);
            }
            Handling::MSetEx => self.mset_ex(command, db, out)?,
            Handling::BRPopLPush => out.command(&[b"RPOPLPUSH", key?, command.argument(2)?]),
            Handling::Unlink if !version.at_least(4, 0) => {
                let words: Vec<&[u8]> = std::iter::once(&b"DEL"[..]).chain(command.from(1)).collect();
                out.command(&words);
            }
            Handling::Flush => {
                out.command(&[command.argument(0)?]);
                if db == 0 || command.argument(0)?.eq_ignore_ascii_case(b"FLUSHALL") {
                    self.keep_scripts(out);
                }
            }
            Handling::SwapDb => {
                out.raw(command.raw);
                self.after_swap(command.number(1)?, command.number(2)?, out);
            }
            Handling::Eval => {
                // What it renames, nobody sees.
                self.held.add_everything();
                self.learn(key?, out);
                // Keeping it selected db 0.
                out.select(db, &self.dialect).ok()?;
                return None;
            }
            Handling::EvalSha => {
                self.held.add_everything();
                let body = self.scripts.body(key?)?;
                let words: Vec<&[u8]> = [b"EVAL", body].into_iter().chain(command.from(2)).collect();
                out.command(&words);
            }
            Handling::Script => {
                if key?.eq_ignore_ascii_case(b"LOAD") {
                    self.learn(command.argument(2)?, out);
                }
                return None;
            }
            Handling::HSet if !version.at_least(4, 0) => {
                let words: Vec<&[u8]> = std::iter::once(&b"HMSET"[..]).chain(command.from(1)).collect();
                out.command(&words);
            }
            Handling::Pop if !version.at_least(6, 2) && command.arguments.len() > 2 => {
                for _ in 0..command.number(2)? {
                    out.command(&[command.argument(0)?, key?]);
                }
            }
            Handling::LMove if !version.at_least(6, 2) => {
                let is = |index: usize, word: &[u8]| {
                    command.argument(index).is_some_and(|found| found.eq_ignore_ascii_case(word))
                };
                if !is(3, b"RIGHT") || !is(4, b"LEFT") {
                    return None;
                }
                out.command(&[b"RPOPLPUSH", key?, command.argument(2)?]);
            }
            Handling::XMeta if !version.at_least(7, 0) => self.older_x_meta(command, out)?,
            Handling::SPublish if !version.at_least(7, 0) => {}
            Handling::Rename => {
                let database = (3..command.arguments.len())
                    .find(|index| command.argument(*index).is_some_and(|word| word.eq_ignore_ascii_case(b"DB")))
                    .and_then(|index| command.number(index + 1));
                let to = database.and_then(|db| u32::try_from(db).ok()).unwrap_or(db);
                self.held.add(to, command.argument(2)?);
                return None;
            }
            Handling::Move => {
                let to = u32::try_from(command.number(2)?).ok()?;
                self.held.add(to, key?);
                if self.dialect.source.at_least(3, 0) {
                    return None;
                }
                // 2.8 forgets the expiry of what it moves.
                out.raw(command.raw);
                out.select(to, &self.dialect).ok()?;
                out.command(&[b"PERSIST", key?]);
            }
            _ => {
                // A module's command may do anything to names.
                if command.argument(0)?.contains(&b'.') {
                    self.held.add_everything();
                }
                return None;
            }
        }
        Some(())
    }

    /// Selects a database of the target.
    pub(super) fn select(&self, db: u32, out: &mut Out) -> Result<()> {
        out.select(db, &self.dialect)
    }

    /// Where a command goes of which only the beginning is known: its database of the target, if it is moved and changes one key alone, which it
    /// names first.
    pub(super) fn moves_in_parts(&self, command: &impl Words, db: u32) -> Option<u32> {
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

    /// True if all keys of the command are known to be ours.
    pub(super) fn owns_all(&self, command: &impl Words) -> bool {
        let Owner::Slots(_) = &self.owner else { return true };
        let own = |key: &Key| command.word(key.at).is_some_and(|key| self.owner.may_own(key));
        keys_of(command).is_ok_and(|keys| keys.iter().all(own))
    }

    /// Where a large value waits for its name.
    pub(super) fn large_key(&self) -> &[u8] {
        self.reserved.get(2).map_or(b"", Vec::as_slice)
    }

    /// True if nothing behind the name of the command can ask for a change.
    pub(super) fn passes_as_it_is(&self, how: Handling, name: &[u8]) -> bool {
        match how {
            Handling::Pass => !name.contains(&b'.'),
            Handling::HSet => self.dialect.version.at_least(4, 0),
            _ => false,
        }
    }

    /// `REPLACE` alone is older.
    pub(super) fn knows_restore_options(&self) -> bool {
        self.dialect.version.at_least(5, 0)
    }

    /// The absolute expiry as it is written now.
    pub(super) fn at(&mut self, unit: Unit, value: i64, db: u32, key: &[u8]) -> String {
        let at = unit.absolute_ms(value, self.now_ms);
        if self.exact && at < HOLD_MS {
            return at.to_string();
        }
        self.held.add(db, key);
        hold(at).to_string()
    }

    /// What stood in db 0 of ours now stands in the other; the commit writes the position anew.
    fn after_swap(&mut self, left: i64, right: i64, out: &mut Out) {
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

    fn keep_scripts(&self, out: &mut Out) {
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
