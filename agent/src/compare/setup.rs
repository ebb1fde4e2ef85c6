//! What every part of a run knows.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dts_common::redis::command_table::Group;
use dts_common::selection::Selection;

use super::servers::Abilities;
use crate::topology::Owner;

#[derive(Debug)]
pub(super) struct Setup {
    pub(super) source: Abilities,
    pub(super) target: Abilities,
    pub(super) selection: Arc<Selection>,
    /// Whose each key is, by source.
    pub(super) owners: Vec<Owner>,
    /// How far apart two expiries may be.
    pub(super) tolerance: Duration,
    /// Values are compared, not only types and expiries.
    pub(super) values: bool,
    /// Expiries may be held back by a task that runs.
    pub(super) understands_held: AtomicBool,
}

impl Setup {
    /// True if keys of this type are compared.
    pub(super) fn covers(&self, kind: &str) -> bool {
        self.selection.covers_type(group(kind))
    }

    pub(super) fn understands_held(&self) -> bool {
        self.understands_held.load(Ordering::Relaxed)
    }
}

/// The group of a type as TYPE names it; what has no name of its own is a module's.
fn group(kind: &str) -> Group {
    match kind {
        "string" => Group::String,
        "list" => Group::List,
        "set" => Group::Set,
        "zset" => Group::Zset,
        "hash" => Group::Hash,
        "stream" => Group::Stream,
        "array" => Group::Array,
        _ => Group::Module,
    }
}
