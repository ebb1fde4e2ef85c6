//! One command of the stream, as the target shall have it. What needs no change passes byte for byte.

mod admit;
mod cut_off;
mod kept;
mod translate;
mod value;

use std::ops::Range;
use std::sync::Arc;

use dts_common::error::{Code, Error, Result};
use dts_common::position::ReplicationId;
use dts_common::redis::command::{Handling, Unit, handling};
use dts_common::redis::command_table::Words;
use dts_common::redis::expiry::{HOLD_MS, hold};
use dts_common::redis::resp;
use dts_common::selection::{OnBorder, Selection};

use super::out::Out;
use super::select::{Decision, Step, decide};
use super::{Dialect, Held, Scripts};
use crate::target::RESERVED_PREFIX;
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
        std::str::from_utf8(self.argument(index)?).ok()?.parse().ok()
    }

    /// True if this word stands there, in any case.
    pub(super) fn is(&self, index: usize, word: &[u8]) -> bool {
        self.argument(index).is_some_and(|found| found.eq_ignore_ascii_case(word))
    }

    /// Where a word stands.
    fn find(&self, mut within: Range<usize>, word: &[u8]) -> Option<usize> {
        within.find(|index| self.is(*index, word))
    }

    /// The expiry that options say.
    fn expiry(&self, mut within: Range<usize>) -> Option<(Unit, i64)> {
        within.find_map(|index| Some((Unit::of_option(self.argument(index)?)?, self.number(index + 1)?)))
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
                let all = command.is(0, b"FLUSHALL");
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

    /// Selects a database of the target.
    pub(super) fn select(&self, db: u32, out: &mut Out) -> Result<()> {
        out.select(db, &self.dialect)
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
}
