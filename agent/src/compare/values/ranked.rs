//! Lists and sorted sets: both have an order, so that pieces of the same ranks are the same.

use dts_common::error::Result;
use redis_protocol::resp2::types::BytesFrame;

use super::{Item, PIECE, Size, Two};
use crate::compare::finding::{Finding, Kind};
use crate::compare::reply;
use crate::endpoint::Side;

pub(super) fn whole(kind: &str, here: BytesFrame, there: BytesFrame) -> Result<Option<Finding>> {
    let here = reply::elements(here, Side::Source, "LRANGE")?.unwrap_or_default();
    let there = reply::elements(there, Side::Target, "LRANGE")?.unwrap_or_default();
    Ok(pieces(kind, &here, &there, 0))
}

pub(super) async fn in_pieces(two: &mut Two<'_>, item: Item<'_>, size: Size) -> Result<Option<Finding>> {
    let (mut from, mut step) = (0i64, size.step());
    while from < size.length {
        let to = from + step - 1;
        let (first, last) = (from.to_string(), to.to_string());
        let mut words: Vec<&[u8]> = vec![b"LRANGE", item.key, first.as_bytes(), last.as_bytes()];
        if item.kind == "zset" {
            words[0] = b"ZRANGE";
            words.push(b"WITHSCORES");
        }
        let before = *two.bytes;
        let (here, there) = two.arrays(item, &words).await?;
        if let Some(finding) = pieces(item.kind, &here.unwrap_or_default(), &there.unwrap_or_default(), from) {
            return Ok(Some(finding));
        }
        from = to + 1;
        step = next_step(step, *two.bytes - before);
    }
    Ok(None)
}

/// So many elements came to so many bytes of both sides: how many to ask for next.
pub(super) fn next_step(step: i64, bytes: u64) -> i64 {
    const MOST: i64 = 8192;
    if bytes > 2 * PIECE {
        (step / 2).max(1)
    } else if bytes < PIECE / 2 {
        (step * 2).min(MOST)
    } else {
        step
    }
}

fn pieces(kind: &str, here: &[BytesFrame], there: &[BytesFrame], from: i64) -> Option<Finding> {
    let zset = kind == "zset";
    let width = if zset { 2 } else { 1 };
    let same = |at: usize| {
        let (left, right) = (here.get(at).map(reply::bytes), there.get(at).map(reply::bytes));
        match (left, right) {
            (Some(left), Some(right)) if zset && !at.is_multiple_of(2) => reply::same_score(left, right),
            _ => left == right,
        }
    };
    let at = (0..here.len().max(there.len())).find(|at| !same(*at))?;
    let rank = from.saturating_add(i64::try_from(at / width).unwrap_or(i64::MAX));
    let said = if zset && !at.is_multiple_of(2) {
        format!("zset, another score at rank {rank}")
    } else {
        format!("{kind}, another element at {} {rank}", if zset { "rank" } else { "index" })
    };
    let of = |side: &[BytesFrame]| side.get(at).map(|found| reply::bytes(found).to_vec()).unwrap_or_default();
    Some(Finding::new(Kind::Value, said.clone(), said).showing(&of(here), &of(there)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&'static str]) -> Vec<BytesFrame> {
        texts.iter().map(|text| BytesFrame::BulkString(text.as_bytes().into())).collect()
    }

    #[test]
    fn the_first_other_element_is_named_by_its_rank() {
        let found = pieces("list", &texts(&["a", "b"]), &texts(&["a", "c"]), 100).unwrap();
        assert!(found.source.contains("index 101") && found.values == Some(("b".into(), "c".into())), "{found:?}");
        let scores = (texts(&["a", "1", "b", "0.33333333333333331"]), texts(&["a", "1", "b", "0.3333333333333333"]));
        assert_eq!(pieces("zset", &scores.0, &scores.1, 0), None);
        let found = pieces("zset", &texts(&["a", "1"]), &texts(&["a", "2"]), 7).unwrap();
        assert!(found.source.contains("score at rank 7"), "{found:?}");
        assert!(pieces("list", &texts(&["a"]), &texts(&["a", "b"]), 0).is_some());
    }

    #[test]
    fn steps_grow_and_shrink_with_what_they_bring() {
        assert_eq!(next_step(64, 1000), 128);
        assert_eq!(next_step(64, 4 * PIECE), 32);
        assert_eq!(next_step(1, 100 * PIECE), 1);
    }
}
