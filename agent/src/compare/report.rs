//! What a run found.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::time::Duration;

use dts_proto::v1::VerifyShard;
use tokio::sync::watch;

use super::Mode;
use super::finding::{Difference, Finding, Kind};
use super::keep::kind;
use super::suspects::Suspects;

/// What a run came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing that was compared differs.
    Equal,
    /// At least one difference.
    Differs,
    /// No difference; but of some keys it could not be told, for they changed all the time, or their types cannot be compared.
    Undecided,
}

impl Outcome {
    /// In reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Differs => "differs",
            Self::Undecided => "undecided",
        }
    }
}

/// How far a run is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// What is being done, for people.
    pub step: String,
    /// Keys of the source that were looked at.
    pub source_keys: u64,
    /// Keys of the target that were looked at.
    pub target_keys: u64,
    /// What the source's servers say that they hold, to divide by.
    pub expected_keys: u64,
    /// Keys that both sides have and that were compared.
    pub compared_keys: u64,
    /// Read from both sides.
    pub bytes: u64,
    /// Keys that looked different and are judged again.
    pub suspects: u64,
    /// Differences so far.
    pub differences: u64,
}

/// What a run found.
#[derive(Clone, Debug)]
pub struct Report {
    /// How thoroughly it looked.
    pub mode: Mode,
    /// In one word.
    pub outcome: Outcome,
    /// The counts at its end.
    pub progress: Progress,
    /// How many differences of each kind.
    pub counts: BTreeMap<&'static str, u64>,
    /// The first of them, in no order.
    pub differences: Vec<Difference>,
    /// Keys that changed too often to be judged; the first of them.
    pub unsettled: Vec<Difference>,
    /// How many those are.
    pub unsettled_keys: u64,
    /// Keys of types whose values cannot be compared between these two servers.
    pub incomparable_keys: u64,
    /// Keys of the target whose expiry a running task holds back.
    pub held_keys: u64,
    /// What else should be known.
    pub notes: Vec<String>,
    /// How long it took.
    pub took: Duration,
    /// Version of the source, of the target.
    pub versions: (String, String),
    /// How far apart two expiries may be.
    pub tolerance: Duration,
}

/// Keeps count during a run.
#[derive(Debug)]
pub(super) struct Tally {
    scratch: PathBuf,
    most_listed: usize,
    shown: watch::Sender<Progress>,
    pub(super) counts: BTreeMap<&'static str, u64>,
    pub(super) differences: Vec<Difference>,
    seen: HashSet<(u32, Vec<u8>, Kind)>,
    pub(super) unsettled: Vec<Difference>,
    pub(super) unsettled_keys: u64,
    pub(super) unknown: u64,
    pub(super) held: u64,
}

impl Tally {
    pub(super) fn new(scratch: PathBuf, most_listed: usize, shown: watch::Sender<Progress>) -> Self {
        Self {
            scratch,
            most_listed,
            shown,
            counts: BTreeMap::new(),
            differences: Vec::new(),
            seen: HashSet::new(),
            unsettled: Vec::new(),
            unsettled_keys: 0,
            unknown: 0,
            held: 0,
        }
    }

    /// Goes on with what another agent had found.
    pub(super) fn resume(&mut self, shard: &VerifyShard) {
        let was = shard.cursor.as_ref().and_then(|cursor| cursor.progress).unwrap_or_default();
        (self.unknown, self.held, self.unsettled_keys) = (was.incomparable_keys, was.held_keys, was.unsettled_keys);
        let counts = shard.counts.iter().filter_map(|(name, count)| Some((kind(name)?.as_str(), *count)));
        self.counts = counts.collect();
        for found in &shard.differences {
            let named = kind(&found.kind);
            let finding = Finding::new(named.unwrap_or(Kind::Value), &*found.source, &*found.target);
            let one = Difference { db: found.db, target_db: found.target_db, key: found.key.clone(), finding };
            match named {
                Some(kind) => {
                    self.seen.insert((one.db, one.key.clone(), kind));
                    self.differences.push(one);
                }
                None => self.unsettled.push(one),
            }
        }
        self.update(|progress| {
            (progress.source_keys, progress.target_keys) = (was.source_keys, was.target_keys);
            (progress.compared_keys, progress.bytes) = (was.compared_keys, was.bytes);
            progress.differences = was.differences;
        });
    }

    pub(super) fn suspects(&self) -> Suspects {
        Suspects::new(&self.scratch)
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut Progress)) {
        self.shown.send_modify(change);
    }

    pub(super) fn progress(&self) -> Progress {
        self.shown.borrow().clone()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.shown.borrow().bytes
    }

    pub(super) fn add_bytes(&self, bytes: u64) {
        self.update(|progress| progress.bytes += bytes);
    }

    pub(super) fn round(&self, round: u32, suspects: u64) {
        self.update(|progress| {
            progress.step = format!("looking again at what differed, round {round}");
            progress.suspects = suspects;
        });
    }

    /// A key that is given twice counts once, as long as differences are listed.
    pub(super) fn difference(&mut self, difference: Difference) {
        let kind = difference.finding.kind;
        if self.differences.len() < self.most_listed {
            if !self.seen.insert((difference.db, difference.key.clone(), kind)) {
                return;
            }
            self.differences.push(difference);
        } else if self.seen.contains(&(difference.db, difference.key, kind)) {
            return;
        }
        *self.counts.entry(kind.as_str()).or_default() += 1;
        self.update(|progress| progress.differences += 1);
    }

    pub(super) fn unsettled(&mut self, key: Difference) {
        self.unsettled_keys += 1;
        if self.unsettled.len() < self.most_listed {
            self.unsettled.push(key);
        }
    }
}
