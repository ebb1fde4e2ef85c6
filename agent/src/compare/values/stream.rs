//! Streams: entries in pieces, the last id, and what stands still of each consumer group: how far it has read, and what is pending.
//!
//! Not compared: how long entries are pending, consumers without pending entries, counters that only newer servers keep, and what is pending of
//! entries that the stream has no more: no command can make that on a target (nor does a server's own rewrite of its append-only file).

use std::collections::{BTreeMap, BTreeSet};

use dts_common::error::Result;
use redis_protocol::resp2::types::BytesFrame;

use super::ranked::next_step;
use super::{Item, Two};
use crate::compare::finding::{Finding, Kind};
use crate::compare::reply;

const STEP: i64 = 256;
/// Pending entries that are asked for at once.
const PAGE: usize = 1000;

pub(super) async fn compare(two: &mut Two<'_>, item: Item<'_>) -> Result<Option<Finding>> {
    let (here, there) = two.arrays(item, &[b"XINFO", b"STREAM", item.key]).await?;
    let (here, there) = (fields(here.unwrap_or_default()), fields(there.unwrap_or_default()));
    let last = |of: &Fields| text(of.get("last-generated-id"));
    if last(&here) != last(&there) {
        let of = |fields: &Fields| format!("stream, last id {}", last(fields));
        return Ok(Some(Finding::new(Kind::Value, of(&here), of(&there))));
    }
    if let Some(finding) = entries(two, item).await? {
        return Ok(Some(finding));
    }
    groups(two, item).await
}

type Fields = BTreeMap<String, BytesFrame>;

fn fields(found: Vec<BytesFrame>) -> Fields {
    found.chunks(2).filter_map(|pair| Some((text(pair.first()), pair.get(1)?.clone()))).collect()
}

fn text(frame: Option<&BytesFrame>) -> String {
    match frame {
        Some(BytesFrame::Integer(number)) => number.to_string(),
        other => other.map(|frame| reply::bytes(frame).escape_ascii().to_string()).unwrap_or_default(),
    }
}

async fn entries(two: &mut Two<'_>, item: Item<'_>) -> Result<Option<Finding>> {
    let (mut from, mut step) = ("-".to_owned(), STEP);
    loop {
        let count = step.to_string();
        let before = *two.bytes;
        let words: [&[u8]; 6] = [b"XRANGE", item.key, from.as_bytes(), b"+", b"COUNT", count.as_bytes()];
        let (here, there) = two.arrays(item, &words).await?;
        let (here, there) = (here.unwrap_or_default(), there.unwrap_or_default());
        if here != there {
            let at = here.iter().zip(&there).position(|(left, right)| left != right);
            let at = at.unwrap_or(here.len().min(there.len()));
            let of = |side: &[BytesFrame]| match side.get(at) {
                Some(entry) => format!("stream, entry {}", id(entry)),
                None => "stream, no entry there".into(),
            };
            let bytes = |side: &[BytesFrame]| side.get(at).map(flat).unwrap_or_default();
            let finding = Finding::new(Kind::Value, of(&here), of(&there));
            return Ok(Some(finding.showing(&bytes(&here), &bytes(&there))));
        }
        match here.last().map(id).and_then(|last| after(&last)) {
            Some(next) if i64::try_from(here.len()) == Ok(step) => from = next,
            _ => return Ok(None),
        }
        step = next_step(step, *two.bytes - before);
    }
}

fn id(entry: &BytesFrame) -> String {
    match entry {
        BytesFrame::Array(parts) => text(parts.first()),
        _ => String::new(),
    }
}

/// The least id behind this one; 5.0 knows no open intervals.
fn after(id: &str) -> Option<String> {
    let (ms, sequence) = id.split_once('-')?;
    let (ms, sequence): (u64, u64) = (ms.parse().ok()?, sequence.parse().ok()?);
    Some(match sequence.checked_add(1) {
        Some(sequence) => format!("{ms}-{sequence}"),
        None => format!("{}-0", ms.checked_add(1)?),
    })
}

fn flat(entry: &BytesFrame) -> Vec<u8> {
    match entry {
        BytesFrame::Array(parts) => parts.iter().map(flat).collect::<Vec<_>>().join(&b' '),
        other => reply::bytes(other).to_vec(),
    }
}

async fn groups(two: &mut Two<'_>, item: Item<'_>) -> Result<Option<Finding>> {
    let (here, there) = two.arrays(item, &[b"XINFO", b"GROUPS", item.key]).await?;
    let (here, there) = (by_name(here.unwrap_or_default()), by_name(there.unwrap_or_default()));
    let last = |groups: &Groups, name: &[u8]| groups.get(name).map(|(last, _)| last.clone());
    if let Some(name) = here.keys().chain(there.keys()).find(|name| last(&here, name) != last(&there, name)) {
        let of = |groups: &Groups| match groups.get(name) {
            Some((last, pending)) => format!("group at {last}, {pending} pending"),
            None => "no such group".into(),
        };
        return Ok(Some(Finding::new(Kind::Group, of(&here), of(&there)).showing(name, name)));
    }
    for (name, (_, pending)) in &here {
        let pending_there = there.get(name).map_or(0, |(_, pending)| *pending);
        if (*pending > 0 || pending_there > 0)
            && let Some(finding) = pending_of(two, item, name).await?
        {
            return Ok(Some(finding));
        }
    }
    Ok(None)
}

/// How far each group has read, and how much is pending.
type Groups = BTreeMap<Vec<u8>, (String, i64)>;

fn by_name(found: Vec<BytesFrame>) -> Groups {
    let group = |group| match group {
        BytesFrame::Array(parts) => {
            let fields = fields(parts);
            let name = reply::bytes(fields.get("name")?).to_vec();
            let pending = match fields.get("pending") {
                Some(BytesFrame::Integer(count)) => *count,
                _ => 0,
            };
            Some((name, (text(fields.get("last-delivered-id")), pending)))
        }
        _ => None,
    };
    found.into_iter().filter_map(group).collect()
}

/// Id, consumer and number of deliveries of every pending entry that the stream has.
async fn pending_of(two: &mut Two<'_>, item: Item<'_>, name: &[u8]) -> Result<Option<Finding>> {
    let (mut from, page) = ("-".to_owned(), PAGE.to_string());
    loop {
        let words: [&[u8]; 6] = [b"XPENDING", item.key, name, from.as_bytes(), b"+", page.as_bytes()];
        let (here, there) = two.arrays(item, &words).await?;
        let (mut here, mut there) = (still(here.unwrap_or_default()), still(there.unwrap_or_default()));
        // A side whose page is full has said nothing of what lies behind it.
        let full = |side: &[Pending]| (side.len() == PAGE).then(|| side.last().map(|entry| entry.0)).flatten();
        let end = [full(&here), full(&there)].into_iter().flatten().min();
        if let Some(end) = end {
            [&mut here, &mut there].into_iter().for_each(|side| side.retain(|(id, ..)| *id <= end));
        }
        if here != there {
            let gone = gone(two, item, &only_one(&here, &there)).await?;
            [&mut here, &mut there].into_iter().for_each(|side| side.retain(|(id, ..)| !gone.contains(id)));
        }
        if let Some(at) = (0..here.len().max(there.len())).find(|at| here.get(*at) != there.get(*at)) {
            let of = |side: &[Pending]| match side.get(at) {
                Some(((ms, seq), _, deliveries)) => format!("group, {ms}-{seq} pending, delivered {deliveries} times"),
                None => "group, less pending".into(),
            };
            let consumer = |side: &[Pending]| side.get(at).map(|entry| entry.1.clone()).unwrap_or_default();
            let finding = Finding::new(Kind::Group, of(&here), of(&there));
            return Ok(Some(finding.showing(&consumer(&here), &consumer(&there))));
        }
        match end.and_then(|(ms, seq)| after(&format!("{ms}-{seq}"))) {
            Some(next) => from = next,
            None => return Ok(None),
        }
    }
}

/// Ids that are pending on one side alone.
fn only_one(here: &[Pending], there: &[Pending]) -> BTreeSet<Id> {
    let ids = |side: &[Pending]| side.iter().map(|entry| entry.0).collect::<BTreeSet<_>>();
    &ids(here) ^ &ids(there)
}

/// Those of `ids` that the stream has on neither side.
async fn gone(two: &mut Two<'_>, item: Item<'_>, ids: &BTreeSet<Id>) -> Result<BTreeSet<Id>> {
    let (Some(first), Some(last)) = (ids.first(), ids.last()) else { return Ok(BTreeSet::new()) };
    // Mostly they are of the head that was trimmed.
    if nothing_between(two, item, *first, *last).await? {
        return Ok(ids.clone());
    }
    let mut gone = BTreeSet::new();
    for id in ids {
        if nothing_between(two, item, *id, *id).await? {
            gone.insert(*id);
        }
    }
    Ok(gone)
}

async fn nothing_between(two: &mut Two<'_>, item: Item<'_>, from: Id, to: Id) -> Result<bool> {
    let [from, to] = [from, to].map(|(ms, seq)| format!("{ms}-{seq}"));
    let words: [&[u8]; 6] = [b"XRANGE", item.key, from.as_bytes(), to.as_bytes(), b"COUNT", b"1"];
    let (here, there) = two.arrays(item, &words).await?;
    Ok(here.is_none_or(|found| found.is_empty()) && there.is_none_or(|found| found.is_empty()))
}

type Id = (u64, u64);

type Pending = (Id, Vec<u8>, i64);

/// Without the idle time, which grows while one looks.
fn still(found: Vec<BytesFrame>) -> Vec<Pending> {
    let entry = |entry| match entry {
        BytesFrame::Array(parts) => {
            let deliveries = match parts.get(3) {
                Some(BytesFrame::Integer(count)) => *count,
                _ => 0,
            };
            let id = text(parts.first());
            let (ms, seq) = id.split_once('-')?;
            Some(((ms.parse().ok()?, seq.parse().ok()?), reply::bytes(parts.get(1)?).to_vec(), deliveries))
        }
        _ => None,
    };
    found.into_iter().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_id_is_the_least_that_is_greater() {
        assert_eq!(after("5-7").as_deref(), Some("5-8"));
        assert_eq!(after(&format!("5-{}", u64::MAX)).as_deref(), Some("6-0"));
        assert_eq!(after("x"), None);
    }

    #[test]
    fn what_is_pending_on_one_side_alone_is_found() {
        let side = |ids: &[Id]| ids.iter().map(|id| (*id, Vec::new(), 1)).collect::<Vec<_>>();
        let (here, there) = (side(&[(1, 0), (2, 0), (3, 1)]), side(&[(2, 0), (3, 1), (10, 0)]));
        assert_eq!(only_one(&here, &there), BTreeSet::from([(1, 0), (10, 0)]));
    }
}
