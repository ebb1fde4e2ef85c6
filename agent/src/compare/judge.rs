//! Says of keys whether both sides hold the same of them. Everything else decides only which keys to ask about, and when.

use std::sync::Arc;

use dts_common::error::Result;
use redis_protocol::resp2::types::BytesFrame;

use super::finding::{Finding, Kind};
use super::reply;
use super::servers::{Batch, Servers};
use super::setup::Setup;
use super::values::{self, Item, Outcome, Two};
use super::view::{View, views};
use crate::endpoint::Side;

/// A key of the source, or one of the target under the name of the source's database.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    /// Which source has it; `None`: whichever may.
    pub(super) from: Option<usize>,
    pub(super) name: Vec<u8>,
}

/// A set of connections to everybody, for one question at a time.
#[derive(Debug)]
pub(super) struct Lane {
    pub(super) sources: Vec<Servers>,
    pub(super) target: Servers,
    pub(super) setup: Arc<Setup>,
}

/// What came of the keys of one page.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub(super) findings: Vec<(Key, Finding)>,
    /// Both sides have them.
    pub(super) compared: u64,
    /// Of these nothing tells whether the values are equal.
    pub(super) unknown: u64,
    /// Their expiry is held back on the target.
    pub(super) held: u64,
    /// Read from both sides.
    pub(super) bytes: u64,
}

impl Lane {
    /// Compares keys of one database of the source.
    pub(super) async fn judge(&mut self, db: u32, keys: Vec<Key>) -> Result<Judged> {
        let setup = self.setup.clone();
        let mut judged = Judged::default();
        let Some(target_db) = setup.selection.target_db(db) else { return Ok(judged) };
        let Self { sources, target, .. } = self;
        let names: Vec<(usize, &[u8])> =
            keys.iter().map(|key| (target.place(&key.name), key.name.as_slice())).collect();
        let (here, there) = tokio::join!(
            of_sources(sources, &setup, db, &keys),
            views(target, (Side::Target, setup.target), target_db, &names)
        );
        let (here, there) = (here?, there?);
        let mut same_type: Vec<Vec<usize>> = vec![Vec::new(); sources.len()];
        let mut found: Vec<Option<Finding>> = vec![None; keys.len()];
        for (index, (here, there)) in here.iter().zip(&there).enumerate() {
            let source = here.as_ref().map(|(_, view)| view).filter(|view| setup.covers(&view.kind));
            let target = there.as_ref().filter(|view| setup.covers(&view.kind));
            judged.held += u64::from(target.is_some_and(|view| view.held));
            judged.compared += u64::from(source.is_some() && target.is_some());
            let finding = without_value(source, target, &setup);
            if let (Some((part, view)), Some(target)) = (here, target)
                && view.kind == target.kind
                && setup.values
                && let Some(same_type) = same_type.get_mut(*part)
            {
                same_type.push(index);
            }
            if let Some(place) = found.get_mut(index) {
                *place = finding;
            }
        }
        for (part, indices) in same_type.into_iter().enumerate().filter(|(_, indices)| !indices.is_empty()) {
            let Some(source) = sources.get_mut(part) else { continue };
            let items: Vec<Item<'_>> = indices
                .iter()
                .filter_map(|index| {
                    let (key, view) = (keys.get(*index)?, here.get(*index)?.as_ref()?);
                    let at = (source.place(&key.name), names.get(*index)?.0);
                    Some(Item { key: &key.name, kind: &view.1.kind, at })
                })
                .collect();
            let bytes = &mut judged.bytes;
            let mut two = Two { source, target, source_db: db, target_db, setup: &setup, bytes };
            let outcomes = Box::pin(values::compare(&mut two, &items)).await?;
            for (index, outcome) in indices.into_iter().zip(outcomes) {
                match outcome {
                    Outcome::Same => {}
                    Outcome::Unknown => judged.unknown += 1,
                    Outcome::Differs(finding) => found[index] = Some(finding),
                }
            }
        }
        judged.findings = keys.into_iter().zip(found).filter_map(|(key, finding)| Some((key, finding?))).collect();
        Ok(judged)
    }

    /// Keys of the target, and whether any source has them.
    pub(super) async fn strangers(&mut self, db: u32, names: Vec<Vec<u8>>) -> Result<Vec<Vec<u8>>> {
        let mut known = vec![false; names.len()];
        for (servers, owner) in self.sources.iter_mut().zip(&self.setup.owners) {
            let asked: Vec<usize> = (0..names.len()).filter(|at| !known[*at] && owner.may_own(&names[*at])).collect();
            let mut batch = Batch::default();
            for at in &asked {
                batch.add(servers.place(&names[*at]), &[b"TYPE", &names[*at]]);
            }
            for (at, answer) in asked.into_iter().zip(servers.ask(db, batch).await?) {
                if let BytesFrame::Error(text) = &answer {
                    reply::changed(text, Side::Source, "TYPE")?;
                }
                let kind = String::from_utf8_lossy(reply::bytes(&answer)).into_owned();
                known[at] = kind != "none" && self.setup.covers(&kind);
            }
        }
        let mut known = known.into_iter();
        Ok(names.into_iter().filter(|_| !known.next().unwrap_or(true)).collect())
    }
}

/// Each key at the source that has it: which one that is, and what it says.
async fn of_sources(
    sources: &mut [Servers],
    setup: &Setup,
    db: u32,
    keys: &[Key],
) -> Result<Vec<Option<(usize, View)>>> {
    let mut found: Vec<Option<(usize, View)>> = vec![None; keys.len()];
    for (part, (servers, owner)) in sources.iter_mut().zip(&setup.owners).enumerate() {
        let asked = |key: &Key| key.from.map_or_else(|| owner.may_own(&key.name), |from| from == part);
        let places: Vec<usize> =
            (0..keys.len()).filter(|at| found[*at].is_none() && keys.get(*at).is_some_and(asked)).collect();
        if places.is_empty() {
            continue;
        }
        let names: Vec<(usize, &[u8])> =
            places.iter().map(|at| (servers.place(&keys[*at].name), keys[*at].name.as_slice())).collect();
        let seen = views(servers, (Side::Source, setup.source), db, &names).await?;
        for (at, view) in places.into_iter().zip(seen) {
            found[at] = view.map(|view| (part, view));
        }
    }
    Ok(found)
}

/// What is different without looking at the value.
fn without_value(source: Option<&View>, target: Option<&View>, setup: &Setup) -> Option<Finding> {
    match (source, target) {
        (None, None) => None,
        // It dies about now: the other side was asked a moment later.
        (Some(view), None) | (None, Some(view)) if view.is_dying() => None,
        (Some(view), None) => Some(Finding::new(Kind::Missing, view.describe(), "absent")),
        (None, Some(view)) => Some(Finding::new(Kind::Extra, "absent", view.describe())),
        (Some(here), Some(there)) if here.kind != there.kind => {
            Some(Finding::new(Kind::Type, here.describe(), there.describe()))
        }
        (Some(here), Some(there)) if there.held && !setup.understands_held() => {
            let held = format!("{}, held back by a task that has gone", there.describe());
            Some(Finding::new(Kind::Ttl, here.describe(), held))
        }
        (Some(here), Some(there)) if !here.expiry.agrees(there.expiry, setup.tolerance) => {
            Some(Finding::new(Kind::Ttl, here.describe(), there.describe()))
        }
        _ => None,
    }
}
