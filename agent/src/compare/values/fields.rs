//! Expiries of hash fields, where both sides have such a thing.

use dts_common::error::Result;
use redis_protocol::resp2::types::BytesFrame;

use super::{Item, Two};
use crate::compare::finding::{Finding, Kind};
use crate::compare::reply;
use crate::compare::servers::Batch;
use crate::compare::ttl::Expiry;
use crate::endpoint::Side;

/// Hashes with the fields that both sides have; what differs comes back under its number.
pub(super) async fn compare(
    two: &mut Two<'_>,
    hashes: Vec<(usize, Item<'_>, Vec<Vec<u8>>)>,
) -> Result<Vec<(usize, Finding)>> {
    let mut found = Vec::new();
    if hashes.is_empty() {
        return Ok(found);
    }
    let (mut left, mut right) = (Batch::default(), Batch::default());
    for (_, item, fields) in &hashes {
        let count = fields.len().to_string();
        let head: [&[u8]; 4] = [b"HPEXPIRETIME", item.key, b"FIELDS", count.as_bytes()];
        let words: Vec<&[u8]> = head.into_iter().chain(fields.iter().map(Vec::as_slice)).collect();
        left.add(item.at.0, &words);
        right.add(item.at.1, &words);
    }
    let (left, right) = two.ask(left, right).await?;
    for ((index, _, fields), (here, there)) in hashes.into_iter().zip(left.into_iter().zip(right)) {
        let here = reply::elements(here, Side::Source, "HPEXPIRETIME")?.unwrap_or_default();
        let there = reply::elements(there, Side::Target, "HPEXPIRETIME")?.unwrap_or_default();
        for (field, (here, there)) in fields.iter().zip(here.iter().zip(&there)) {
            let (here, there) = (expiry(here), expiry(there));
            if !here.agrees(there, two.setup.tolerance) {
                let of = |expiry: Expiry| format!("hash, a field: {}", expiry.describe());
                found.push((index, Finding::new(Kind::Ttl, of(here), of(there)).showing(field, field)));
                break;
            }
        }
    }
    Ok(found)
}

fn expiry(answer: &BytesFrame) -> Expiry {
    match answer {
        BytesFrame::Integer(at) => Expiry::at(*at).released().0,
        _ => Expiry::Never,
    }
}
