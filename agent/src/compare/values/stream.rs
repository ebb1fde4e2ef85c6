//! Streams: entries in pieces, the last id, and what stands still of each consumer group: how far it has read, and what is pending.
//!
//! Not compared: how long entries are pending, consumers without pending entries, and counters that only newer servers keep.

use std::collections::BTreeMap;

use dts_common::error::Result;
use redis_protocol::resp2::types::BytesFrame;

use super::ranked::next_step;
use super::{Item, Two};
use crate::compare::finding::{Finding, Kind};
use crate::compare::reply;

const STEP: i64 = 256;

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
    if let Some(name) = here.keys().chain(there.keys()).find(|name| here.get(*name) != there.get(*name)) {
        let of = |groups: &Groups| match groups.get(name) {
            Some((last, pending)) => format!("group at {last}, {pending} pending"),
            None => "no such group".into(),
        };
        return Ok(Some(Finding::new(Kind::Group, of(&here), of(&there)).showing(name, name)));
    }
    for (name, (_, pending)) in &here {
        if *pending > 0
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

/// Id, consumer and number of deliveries of every pending entry.
async fn pending_of(two: &mut Two<'_>, item: Item<'_>, name: &[u8]) -> Result<Option<Finding>> {
    let mut from = "-".to_owned();
    loop {
        let words: [&[u8]; 6] = [b"XPENDING", item.key, name, from.as_bytes(), b"+", b"1000"];
        let (here, there) = two.arrays(item, &words).await?;
        let (here, there) = (still(here.unwrap_or_default()), still(there.unwrap_or_default()));
        if let Some(at) = (0..here.len().max(there.len())).find(|at| here.get(*at) != there.get(*at)) {
            let of = |side: &[Pending]| match side.get(at) {
                Some((id, _, deliveries)) => format!("group, {id} pending, delivered {deliveries} times"),
                None => "group, less pending".into(),
            };
            let consumer = |side: &[Pending]| side.get(at).map(|entry| entry.1.clone()).unwrap_or_default();
            let finding = Finding::new(Kind::Group, of(&here), of(&there));
            return Ok(Some(finding.showing(&consumer(&here), &consumer(&there))));
        }
        match here.last().and_then(|(id, ..)| after(id)) {
            Some(next) if here.len() == 1000 => from = next,
            _ => return Ok(None),
        }
    }
}

type Pending = (String, Vec<u8>, i64);

/// Without the idle time, which grows while one looks.
fn still(found: Vec<BytesFrame>) -> Vec<Pending> {
    let entry = |entry| match entry {
        BytesFrame::Array(parts) => {
            let deliveries = match parts.get(3) {
                Some(BytesFrame::Integer(count)) => *count,
                _ => 0,
            };
            Some((text(parts.first()), reply::bytes(parts.get(1)?).to_vec(), deliveries))
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
}
