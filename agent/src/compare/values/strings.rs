//! Strings: the beginning of each, all in one batch; the rest of the long ones in pieces.

use dts_common::error::Result;
use redis_protocol::resp2::types::BytesFrame;

use super::{Batch, Item, Outcome, PIECE, Two, lengths};
use crate::compare::finding::{Finding, Kind};
use crate::compare::reply;
use crate::endpoint::Side;

/// So much of every string is read at once.
const HEAD: i64 = 16 << 10;

pub(super) async fn compare(two: &mut Two<'_>, items: &[Item<'_>]) -> Result<Vec<Outcome>> {
    if items.is_empty() {
        return Ok(Vec::new());
    }
    let (mut left, mut right) = (Batch::default(), Batch::default());
    let last = (HEAD - 1).to_string();
    for item in items {
        for (batch, node) in [(&mut left, item.at.0), (&mut right, item.at.1)] {
            batch.add(node, &[b"STRLEN", item.key]);
            batch.add(node, &[b"GETRANGE", item.key, b"0", last.as_bytes()]);
        }
    }
    let (left, right) = two.ask(left, right).await?;
    let mut outcomes = Vec::with_capacity(items.len());
    let mut long = Vec::new();
    for (index, (here, there)) in left.chunks(2).zip(right.chunks(2)).enumerate() {
        let ([length, head], [other_length, other_head]) = (here, there) else { continue };
        let length = reply::number(length, Side::Source, "STRLEN")?.unwrap_or(0);
        let other = reply::number(other_length, Side::Target, "STRLEN")?.unwrap_or(0);
        outcomes.push(match (length == other, texts(head, other_head, 0)) {
            (false, found) => {
                let values = found.and_then(|finding| finding.values);
                Outcome::Differs(Finding { values, ..lengths("string", length, other) })
            }
            (true, Some(finding)) => Outcome::Differs(finding),
            (true, None) => {
                if length > HEAD {
                    long.push((index, length));
                }
                Outcome::Same
            }
        });
    }
    for (index, length) in long {
        let Some(item) = items.get(index) else { continue };
        if let Some(finding) = rest(two, *item, length).await? {
            outcomes[index] = Outcome::Differs(finding);
        }
    }
    Ok(outcomes)
}

async fn rest(two: &mut Two<'_>, item: Item<'_>, length: i64) -> Result<Option<Finding>> {
    let piece = i64::try_from(PIECE).unwrap_or(HEAD);
    let mut from = HEAD;
    while from < length {
        let to = from + piece - 1;
        let (first, last) = (from.to_string(), to.to_string());
        let (here, there) = two.ask_both(item, &[b"GETRANGE", item.key, first.as_bytes(), last.as_bytes()]).await?;
        if let Some(finding) = texts(&here, &there, from) {
            return Ok(Some(finding));
        }
        from = to + 1;
    }
    Ok(None)
}

fn texts(here: &BytesFrame, there: &BytesFrame, from: i64) -> Option<Finding> {
    let (here, there) = (reply::bytes(here), reply::bytes(there));
    if here == there {
        return None;
    }
    let at = here.iter().zip(there).position(|(left, right)| left != right).unwrap_or(here.len().min(there.len()));
    let place = from.saturating_add(i64::try_from(at).unwrap_or(i64::MAX));
    let said = format!("string, other bytes from {place}");
    Some(Finding::new(Kind::Value, said.clone(), said).showing(&here[at..], &there[at..]))
}
