//! What of one command a task moves. Pure; the rules are told in `docs/filters.md`.
//!
//! The target holds exactly the keys whose name, database and type are covered. A command keeps that true if it passes as it is, is
//! dropped, or is replaced by one that does the same to the covered keys alone. Where nobody can know what it does to them, because
//! it brings in data from outside, it is *over the border*: the task stops there, or leaves it out and counts it.

use dts_common::error::{Code, Error, Result};
use dts_common::redis::command_table::{Access, CommandInfo, Group, Words, find, keys_of};
use dts_common::redis::rdb::kind_of;
use dts_common::selection::{OnBorder, OnFlush, Selection};

use super::Dialect;
use super::rewrite::Command;

/// What becomes of a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// As it came, in the database of the target that its own is mapped to.
    Pass,
    /// It does nothing to covered keys.
    Drop,
    /// It does, and is left out all the same, by policy.
    Skip,
    /// These do the same to the covered keys.
    Instead(Vec<Step>),
    /// Everything that the task holds in these databases of the target goes.
    Purge(Vec<u32>),
}

/// A command for the target.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// Of the target.
    pub(super) db: u32,
    pub(super) words: Vec<Vec<u8>>,
    /// It is ours and goes as it is; it may give this key an expiry that is held.
    pub(super) own: Option<Vec<u8>>,
}

/// RENAME, where the target may not have the key because of its type: then the other one was overwritten by something uncovered.
const RENAME_OR_DEL: &[u8] =
    b"if redis.call('EXISTS', KEYS[1]) == 1 then return redis.call('RENAME', KEYS[1], KEYS[2]) \
    else return redis.call('DEL', KEYS[2]) end";

/// Decides on a command in a database of the source; `shared` if other shards' keys lie on the target too.
pub(super) fn decide(
    selection: &Selection,
    dialect: &Dialect,
    shared: bool,
    command: &Command<'_>,
    db: u32,
) -> Result<Decision> {
    let name = command.word(0).unwrap_or_default();
    if selection.excludes_command(name) {
        return Ok(Decision::Drop);
    }
    let of = Of { selection, dialect, shared, command, db };
    let Some(info) = find(command) else { return of.unknown() };
    match info.name {
        "flushall" | "flushdb" => of.flush(info.name == "flushall"),
        "swapdb" => of.swap(),
        "move" => of.to_database(),
        "copy" => of.copy(),
        "rename" | "renamenx" => of.rename(),
        "smove" => of.element(Group::Set, b"SREM"),
        "lmove" | "blmove" if of.is(3, b"LEFT") => of.element(Group::List, b"LPOP"),
        "lmove" | "blmove" | "rpoplpush" | "brpoplpush" => of.element(Group::List, b"RPOP"),
        "eval" | "evalsha" | "eval_ro" | "evalsha_ro" | "fcall" | "fcall_ro" => of.script(),
        "sort" => of.sort(),
        "del" | "unlink" => Ok(of.split()),
        "mset" | "msetnx" => of.pairs(1),
        "msetex" => of.pairs(2),
        "restore" | "restore-asking" => of.restore(info),
        _ => of.data(info, info.group),
    }
}

struct Of<'a> {
    selection: &'a Selection,
    dialect: &'a Dialect,
    shared: bool,
    command: &'a Command<'a>,
    db: u32,
}

impl Of<'_> {
    fn word(&self, at: usize) -> Vec<u8> {
        self.command.word(at).unwrap_or_default().to_vec()
    }

    fn is(&self, at: usize, word: &[u8]) -> bool {
        self.command.word(at).is_some_and(|found| found.eq_ignore_ascii_case(word))
    }

    fn inside(&self, at: usize) -> bool {
        self.command.word(at).is_some_and(|key| self.selection.covers(self.db, key))
    }

    /// Over the border.
    fn border(&self) -> Result<Decision> {
        match self.selection.on_border {
            OnBorder::Skip => Ok(Decision::Skip),
            OnBorder::Stop => {
                let name = String::from_utf8_lossy(self.command.word(0).unwrap_or_default()).to_uppercase();
                let message = format!(
                    "what the source's {name} does to the keys of the task cannot be known from these keys alone"
                );
                Err(Error::new(Code::FilterBorder, message))
            }
        }
    }

    fn steps(&self, commands: Vec<Vec<Vec<u8>>>) -> Decision {
        match self.selection.target_db(self.db) {
            Some(db) => Decision::Instead(commands.into_iter().map(|words| Step { db, words, own: None }).collect()),
            None => Decision::Drop,
        }
    }

    fn delete(&self, keys: Vec<Vec<u8>>) -> Decision {
        self.steps(vec![std::iter::once(b"DEL".to_vec()).chain(keys).collect()])
    }

    /// A module's command, or a newer one: which keys it has, nobody knows.
    fn unknown(&self) -> Result<Decision> {
        match self.selection.target_db(self.db) {
            None => Ok(Decision::Drop),
            Some(_) if self.selection.by_name() || self.selection.by_type() => self.border(),
            Some(_) => Ok(Decision::Pass),
        }
    }

    /// A command that writes keys of one type, and may read others of the same.
    fn data(&self, info: &CommandInfo, group: Group) -> Result<Decision> {
        let Ok(keys) = keys_of(self.command) else { return self.border() };
        let keys: Vec<_> = keys.into_iter().filter(|key| key.access != Access::Channel).collect();
        if keys.is_empty() {
            return Ok(Decision::Pass);
        }
        let written: Vec<_> = keys.iter().filter(|key| key.access != Access::Read && self.inside(key.at)).collect();
        if written.is_empty() {
            return Ok(Decision::Drop);
        }
        if group != Group::Generic && !self.selection.covers_type(group) {
            // SET takes the place of a value of any type.
            let over = written.iter().filter(|key| key.access == Access::Overwrite || info.name == "set");
            let over: Vec<_> = over.map(|key| self.word(key.at)).collect();
            return Ok(if over.is_empty() { Decision::Drop } else { self.delete(over) });
        }
        let reads_sets = matches!(info.name, "zunionstore" | "zinterstore" | "zdiffstore");
        if reads_sets && !self.selection.covers_type(Group::Set) {
            return self.border();
        }
        if keys.iter().all(|key| self.inside(key.at)) {
            return Ok(Decision::Pass);
        }
        // It only refreshes the count that the values keep.
        if info.name == "pfcount" { Ok(Decision::Drop) } else { self.border() }
    }

    /// Every word is a key, and each is treated by itself.
    fn split(&self) -> Decision {
        let inside: Vec<usize> = (1..self.command.count()).filter(|at| self.inside(*at)).collect();
        if inside.is_empty() {
            Decision::Drop
        } else if inside.len() == self.command.count() - 1 {
            Decision::Pass
        } else {
            self.steps(vec![std::iter::once(0).chain(inside).map(|at| self.word(at)).collect()])
        }
    }

    /// `MSET key value …`; `MSETEX count key value … options` from 2 on.
    fn pairs(&self, first: usize) -> Result<Decision> {
        let Ok(keys) = keys_of(self.command) else { return self.border() };
        let inside: Vec<usize> = keys.iter().map(|key| key.at).filter(|at| self.inside(*at)).collect();
        if inside.is_empty() {
            return Ok(Decision::Drop);
        }
        if !self.selection.covers_type(Group::String) {
            return Ok(self.delete(inside.into_iter().map(|at| self.word(at)).collect()));
        }
        if inside.len() == keys.len() {
            return Ok(Decision::Pass);
        }
        let mut words = if first == 1 {
            // MSETNX stands in a stream only if it did all of it.
            vec![b"MSET".to_vec()]
        } else {
            vec![self.word(0), inside.len().to_string().into_bytes()]
        };
        words.extend(inside.into_iter().flat_map(|at| [self.word(at), self.word(at + 1)]));
        words.extend((first + 2 * keys.len()..self.command.count()).map(|at| self.word(at)));
        Ok(self.steps(vec![words]))
    }

    /// `SMOVE`, `LMOVE`: an element goes from key 1 to key 2. `taking` is what that is to the first alone.
    fn element(&self, group: Group, taking: &[u8]) -> Result<Decision> {
        if !self.selection.covers_type(group) {
            return Ok(Decision::Drop);
        }
        // SMOVE says which element.
        let named = group == Group::Set;
        match (self.inside(1), self.inside(2)) {
            (true, true) => Ok(Decision::Pass),
            (false, false) => Ok(Decision::Drop),
            (true, false) => {
                let mut words = vec![taking.to_vec(), self.word(1)];
                words.extend(named.then(|| self.word(3)));
                Ok(self.steps(vec![words]))
            }
            (false, true) if named => Ok(self.steps(vec![vec![b"SADD".to_vec(), self.word(2), self.word(3)]])),
            (false, true) => self.border(),
        }
    }

    fn rename(&self) -> Result<Decision> {
        match (self.inside(1), self.inside(2)) {
            (true, true) if self.selection.by_type() => {
                let Some(db) = self.selection.target_db(self.db) else { return Ok(Decision::Drop) };
                let words = vec![b"EVAL".to_vec(), RENAME_OR_DEL.to_vec(), b"2".to_vec(), self.word(1), self.word(2)];
                Ok(Decision::Instead(vec![Step { db, words, own: Some(self.word(2)) }]))
            }
            (true, true) => Ok(Decision::Pass),
            (false, false) => Ok(Decision::Drop),
            (true, false) => Ok(self.delete(vec![self.word(1)])),
            (false, true) => self.border(),
        }
    }

    fn copy(&self) -> Result<Decision> {
        let option = (3..self.command.count()).find(|at| self.is(*at, b"DB"));
        let to = match option {
            Some(at) => match self.number(at + 1) {
                Some(db) => db,
                None => return self.border(),
            },
            None => self.db,
        };
        let covered = self.command.word(2).is_some_and(|key| self.selection.covers(to, key));
        let (Some(target), true) = (self.selection.target_db(to), covered) else { return Ok(Decision::Drop) };
        let Some(db) = self.selection.target_db(self.db).filter(|_| self.inside(1)) else { return self.border() };
        let mut words: Vec<_> = (0..self.command.count()).map(|at| self.word(at)).collect();
        if let Some(number) = option.and_then(|at| words.get_mut(at + 1)) {
            *number = target.to_string().into_bytes();
        }
        let mut steps = Vec::new();
        if self.selection.by_type() {
            // The target may not have the first because of its type, and must then not keep the second.
            steps.push(Step { db: target, words: vec![b"DEL".to_vec(), self.word(2)], own: None });
        }
        steps.push(Step { db, words, own: None });
        Ok(Decision::Instead(steps))
    }

    fn number(&self, at: usize) -> Option<u32> {
        std::str::from_utf8(self.command.word(at)?).ok()?.parse().ok()
    }

    /// `MOVE key db`.
    fn to_database(&self) -> Result<Decision> {
        let Some(to) = self.number(2) else { return self.border() };
        let covered = self.command.word(1).is_some_and(|key| self.selection.covers(to, key));
        match (self.inside(1), self.selection.target_db(to).filter(|_| covered)) {
            (true, Some(to)) => Ok(self.steps(vec![vec![self.word(0), self.word(1), to.to_string().into_bytes()]])),
            (true, None) => Ok(self.delete(vec![self.word(1)])),
            (false, Some(_)) => self.border(),
            (false, None) => Ok(Decision::Drop),
        }
    }

    fn swap(&self) -> Result<Decision> {
        let (Some(left), Some(right)) = (self.number(1), self.number(2)) else { return self.border() };
        match (self.selection.target_db(left), self.selection.target_db(right)) {
            (Some(left), Some(right)) => {
                let words = vec![self.word(0), left.to_string().into_bytes(), right.to_string().into_bytes()];
                // In whatever database; it names its own.
                Ok(Decision::Instead(vec![Step { db: left, words, own: None }]))
            }
            (None, None) => Ok(Decision::Drop),
            _ => self.border(),
        }
    }

    fn flush(&self, all: bool) -> Result<Decision> {
        let databases: Vec<u32> = if all {
            (0..self.dialect.databases).filter(|db| self.selection.source_db(*db).is_some()).collect()
        } else {
            self.selection.target_db(self.db).into_iter().collect()
        };
        if databases.is_empty() {
            return Ok(Decision::Drop);
        }
        match self.selection.on_flush {
            OnFlush::Ignore => return Ok(Decision::Skip),
            OnFlush::Stop => {
                let name = if all { "FLUSHALL" } else { "FLUSHDB" };
                return Err(Error::new(Code::FlushStopped, format!("the source ran {name}")));
            }
            OnFlush::Pass => {}
        }
        if self.shared || self.selection.by_name() || self.selection.by_type() {
            return Ok(Decision::Purge(databases));
        }
        if !all || self.selection.keeps_databases() {
            return Ok(Decision::Pass);
        }
        let flush = |db| Step { db, words: vec![b"FLUSHDB".to_vec()], own: None };
        Ok(Decision::Instead(databases.into_iter().map(flush).collect()))
    }

    /// A script, of a source up to 4.0.
    fn script(&self) -> Result<Decision> {
        if !self.selection.follows_keys() {
            return Ok(Decision::Pass);
        }
        let Ok(keys) = keys_of(self.command) else { return self.border() };
        if !self.selection.trust_scripts || self.selection.by_type() {
            return self.border();
        }
        let inside = keys.iter().filter(|key| self.inside(key.at)).count();
        if inside == 0 && !(keys.is_empty() && self.selection.covers_db(self.db)) {
            return Ok(Decision::Drop);
        }
        if inside == keys.len() { Ok(Decision::Pass) } else { self.border() }
    }

    /// `SORT … STORE` makes a list of a list, a set or a sorted set, and may read any other keys on the way.
    fn sort(&self) -> Result<Decision> {
        let Ok(keys) = keys_of(self.command) else { return self.border() };
        let Some(to) = keys.iter().find(|key| key.access == Access::Overwrite && self.inside(key.at)) else {
            return Ok(Decision::Drop);
        };
        if !self.selection.covers_type(Group::List) {
            return Ok(self.delete(vec![self.word(to.at)]));
        }
        let all_types = [Group::List, Group::Set, Group::Zset].iter().all(|group| self.selection.covers_type(*group));
        // A pattern without a star is no key.
        let looks = (2..self.command.count()).any(|at| {
            (self.is(at, b"BY") || self.is(at, b"GET"))
                && self.command.word(at + 1).is_some_and(|pattern| pattern.contains(&b'*'))
        });
        let blind = looks && (self.selection.by_name() || self.selection.by_type());
        if self.inside(1) && all_types && !blind { Ok(Decision::Pass) } else { self.border() }
    }

    /// The payload begins with its type.
    fn restore(&self, info: &CommandInfo) -> Result<Decision> {
        if !self.selection.by_type() {
            return self.data(info, Group::Generic);
        }
        match self.command.word(3).and_then(|payload| kind_of(*payload.first()?, self.dialect.source.family)) {
            _ if !self.inside(1) => Ok(Decision::Drop),
            None => self.border(),
            Some(kind) if self.selection.covers_kind(kind) => Ok(Decision::Pass),
            Some(_) => Ok(self.delete(vec![self.word(1)])),
        }
    }
}

#[cfg(test)]
mod tests;
