//! What of a source a task moves, and where to: which keys by name, database and type, which commands, and the map of databases.
//!
//! The target is to hold, at every position of the stream, exactly the keys that are *covered*: name, database and type fit.

pub mod glob;
mod spec;

use std::collections::{BTreeMap, BTreeSet, HashSet};

pub use glob::fits;

use crate::redis::command_table::Group;
use crate::redis::rdb::Kind;

/// What a task moves. Made from what the user asked for: [`Selection::new`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    include: Vec<Name>,
    exclude: Vec<Name>,
    databases: BTreeSet<u32>,
    types: Vec<Group>,
    /// In upper case.
    commands: HashSet<String>,
    map: BTreeMap<u32, u32>,
    /// FLUSHALL, FLUSHDB.
    pub on_flush: OnFlush,
    /// Commands over the border of the filter.
    pub on_border: OnBorder,
    /// Scripts touch what they declare.
    pub trust_scripts: bool,
}

/// A pattern or a plain beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Name {
    Pattern(Vec<u8>),
    Prefix(Vec<u8>),
}

impl Name {
    fn fits(&self, key: &[u8]) -> bool {
        match self {
            Self::Pattern(pattern) => fits(pattern, key),
            Self::Prefix(prefix) => key.starts_with(prefix),
        }
    }
}

/// What a flush of the source does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFlush {
    /// Deletes what the task moves.
    #[default]
    Pass,
    /// Nothing.
    Ignore,
    /// Ends the task.
    Stop,
}

/// What becomes of a command whose effect on covered keys cannot be known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBorder {
    /// Ends the task.
    #[default]
    Stop,
    /// It is left out.
    Skip,
}

impl Selection {
    /// True if everything passes as it is: nothing has to be looked at.
    pub fn is_everything(&self) -> bool {
        *self == Self { on_border: self.on_border, trust_scripts: self.trust_scripts, ..Self::default() }
    }

    /// True if keys are chosen by their names.
    pub fn by_name(&self) -> bool {
        !self.include.is_empty() || !self.exclude.is_empty()
    }

    /// True if keys are chosen by their types.
    pub fn by_type(&self) -> bool {
        !self.types.is_empty()
    }

    /// True if keys are chosen by name, type or database, or change their database: what a script does besides cannot be followed.
    pub fn follows_keys(&self) -> bool {
        self.by_name() || self.by_type() || !self.databases.is_empty() || !self.map.is_empty()
    }

    /// True if the target numbers its databases as the source does, and all are covered.
    pub fn keeps_databases(&self) -> bool {
        self.databases.is_empty() && self.map.is_empty()
    }

    /// True if a database of the source is covered.
    pub fn covers_db(&self, db: u32) -> bool {
        self.databases.is_empty() || self.databases.contains(&db)
    }

    /// True if name and database of a key of the source are covered.
    pub fn covers(&self, db: u32, key: &[u8]) -> bool {
        self.covers_db(db) && self.covers_name(key)
    }

    fn covers_name(&self, key: &[u8]) -> bool {
        (self.include.is_empty() || self.include.iter().any(|name| name.fits(key)))
            && !self.exclude.iter().any(|name| name.fits(key))
    }

    /// True if keys of this type are covered.
    pub fn covers_type(&self, group: Group) -> bool {
        self.types.is_empty() || self.types.contains(&group)
    }

    /// The same of a value of a snapshot.
    pub fn covers_kind(&self, kind: Kind) -> bool {
        self.covers_type(match kind {
            Kind::String => Group::String,
            Kind::List => Group::List,
            Kind::Set => Group::Set,
            Kind::Zset => Group::Zset,
            Kind::Hash => Group::Hash,
            Kind::Stream => Group::Stream,
            Kind::Module => Group::Module,
            Kind::Array => Group::Array,
        })
    }

    /// True if this command of the stream is to be dropped.
    pub fn excludes_command(&self, name: &[u8]) -> bool {
        !self.commands.is_empty()
            && std::str::from_utf8(name).is_ok_and(|name| self.commands.contains(name.to_ascii_uppercase().as_str()))
    }

    /// Where a database of the source goes, if it is covered.
    pub fn target_db(&self, db: u32) -> Option<u32> {
        self.covers_db(db).then(|| self.map.get(&db).copied().unwrap_or(db))
    }

    /// Where a database of the target comes from; `None`: it is not ours.
    pub fn source_db(&self, target: u32) -> Option<u32> {
        let mapped = self.map.iter().find(|(from, to)| **to == target && self.covers_db(**from)).map(|(from, _)| *from);
        mapped.or_else(|| (!self.map.contains_key(&target) && self.covers_db(target)).then_some(target))
    }

    /// True if a key of the target may be there because of this task.
    pub fn holds(&self, target_db: u32, key: &[u8]) -> bool {
        self.source_db(target_db).is_some() && self.covers_name(key)
    }

    /// The highest database of the target that the map names.
    pub fn highest_db(&self) -> Option<u32> {
        self.map.values().copied().max()
    }
}
