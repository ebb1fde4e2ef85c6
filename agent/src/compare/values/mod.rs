//! Values of keys that both sides have with one type, compared by what they mean, not by how they are encoded.
//!
//! Small values of many keys are read whole, in one batch; large ones one after the other, in pieces of about [`PIECE`] bytes.

mod fields;
mod members;
mod opaque;
mod ranked;
mod stream;
mod strings;

use dts_common::error::Result;
use redis_protocol::resp2::types::BytesFrame;

use super::finding::{Finding, Kind};
use super::reply;
use super::servers::{Batch, Servers};
use super::setup::Setup;
use crate::endpoint::Side;

/// Most bytes that one question about a large value asks for.
pub(super) const PIECE: u64 = 1 << 20;
/// What is smaller is read whole.
const SMALL: u64 = 64 << 10;
/// What one batch of small values may come to.
const BATCH: u64 = 4 << 20;
/// Where nothing tells how many bytes a value has: so many elements count as small.
const FEW: i64 = 64;

/// Both sides, in the databases that correspond.
pub(super) struct Two<'a> {
    pub(super) source: &'a mut Servers,
    pub(super) target: &'a mut Servers,
    pub(super) source_db: u32,
    pub(super) target_db: u32,
    pub(super) setup: &'a Setup,
    /// Read so far, from both sides.
    pub(super) bytes: &'a mut u64,
}

/// A key, and where it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item<'a> {
    pub(super) key: &'a [u8],
    pub(super) kind: &'a str,
    /// Places of the servers that have it.
    pub(super) at: (usize, usize),
}

/// One answer of each side, or `None` where the key changed its type between two questions.
type Pair<T> = (Option<T>, Option<T>);

impl Two<'_> {
    /// Asks both sides at once.
    async fn ask(&mut self, source: Batch, target: Batch) -> Result<(Vec<BytesFrame>, Vec<BytesFrame>)> {
        let (left, right) =
            tokio::join!(self.source.ask(self.source_db, source), self.target.ask(self.target_db, target));
        let (left, right) = (left?, right?);
        *self.bytes += left.iter().chain(&right).map(reply::size).sum::<u64>();
        Ok((left, right))
    }

    /// The same question for one key to both sides.
    async fn ask_both(&mut self, item: Item<'_>, words: &[&[u8]]) -> Result<(BytesFrame, BytesFrame)> {
        let (mut left, mut right) = (Batch::default(), Batch::default());
        left.add(item.at.0, words);
        right.add(item.at.1, words);
        let (mut left, mut right) = self.ask(left, right).await?;
        Ok((left.pop().unwrap_or(BytesFrame::Null), right.pop().unwrap_or(BytesFrame::Null)))
    }

    /// The elements of an array of both sides.
    async fn arrays(&mut self, item: Item<'_>, words: &[&[u8]]) -> Result<Pair<Vec<BytesFrame>>> {
        let (left, right) = self.ask_both(item, words).await?;
        let command = String::from_utf8_lossy(words[0]);
        Ok((reply::elements(left, Side::Source, &command)?, reply::elements(right, Side::Target, &command)?))
    }

    /// A number of both sides.
    async fn numbers(&mut self, item: Item<'_>, words: &[&[u8]]) -> Result<Pair<i64>> {
        let (left, right) = self.ask_both(item, words).await?;
        let command = String::from_utf8_lossy(words[0]);
        Ok((reply::number(&left, Side::Source, &command)?, reply::number(&right, Side::Target, &command)?))
    }

    /// Hash fields have expiries on both sides.
    fn fields_expire(&self) -> bool {
        self.setup.source.version.has_field_expiry() && self.setup.target.version.has_field_expiry()
    }
}

/// How large a value is, where both sides agree.
#[derive(Clone, Copy, Debug)]
struct Size {
    length: i64,
    /// As MEMORY USAGE tells it.
    bytes: Option<u64>,
}

impl Size {
    fn is_small(&self) -> bool {
        self.bytes.map_or(self.length <= FEW, |bytes| bytes <= SMALL)
    }

    /// How many elements come to about a piece; a first guess where nothing is known.
    fn step(&self) -> i64 {
        const MOST: u64 = 4096;
        let each = self.bytes.map(|bytes| bytes / u64::try_from(self.length.max(1)).unwrap_or(1) + 1);
        let step = each.map_or(u64::try_from(FEW).unwrap_or(1), |each| (PIECE / each).clamp(1, MOST));
        i64::try_from(step).unwrap_or(1)
    }
}

/// How a type is told its length by; `None`: a type whose values we can only compare as a whole.
fn length_of(kind: &str) -> Option<&'static [u8]> {
    Some(match kind {
        "string" => b"STRLEN",
        "list" => b"LLEN",
        "set" => b"SCARD",
        "zset" => b"ZCARD",
        "hash" => b"HLEN",
        "stream" => b"XLEN",
        _ => return None,
    })
}

/// What differs of each key.
pub(super) async fn compare(two: &mut Two<'_>, items: &[Item<'_>]) -> Result<Vec<Outcome>> {
    let mut outcomes = vec![Outcome::Same; items.len()];
    let texts: Vec<usize> = places(items, |item| item.kind == "string");
    let of_texts: Vec<Item<'_>> = pick(items, &texts);
    put(&mut outcomes, &texts, Box::pin(strings::compare(two, &of_texts)).await?);

    let others = places(items, |item| item.kind != "string" && length_of(item.kind).is_some());
    let sizes = sizes(two, &pick(items, &others)).await?;
    let (mut small, mut large) = (Vec::new(), Vec::new());
    for (index, (size, finding)) in others.iter().zip(sizes) {
        let (Some(item), Some(outcome)) = (items.get(*index), outcomes.get_mut(*index)) else { continue };
        if let Some(finding) = finding {
            *outcome = Outcome::Differs(finding);
        } else if size.is_small() && item.kind != "stream" {
            small.push((*index, size));
        } else {
            large.push((*index, size));
        }
    }
    for batch in batches(small) {
        let of_batch = pick(items, &batch);
        let found = Box::pin(whole(two, &of_batch)).await?;
        for (index, outcome) in batch.into_iter().zip(found) {
            match outcome {
                Some(outcome) => outcomes[index] = outcome,
                // It did not come whole.
                None => large.push((index, Size { length: FEW, bytes: None })),
            }
        }
    }
    for (index, size) in large {
        if let Some(item) = items.get(index) {
            outcomes[index] = Box::pin(in_pieces(two, *item, size)).await?.map_or(Outcome::Same, Outcome::Differs);
        }
    }
    let opaque = places(items, |item| length_of(item.kind).is_none());
    put(&mut outcomes, &opaque, opaque::compare(two, &pick(items, &opaque)).await?);
    Ok(outcomes)
}

/// What came of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Same,
    Differs(Finding),
    /// Nothing tells whether they are equal.
    Unknown,
}

fn places(items: &[Item<'_>], which: impl Fn(&Item<'_>) -> bool) -> Vec<usize> {
    items.iter().enumerate().filter(|(_, item)| which(item)).map(|(index, _)| index).collect()
}

fn pick<'a>(items: &[Item<'a>], places: &[usize]) -> Vec<Item<'a>> {
    places.iter().filter_map(|index| items.get(*index)).copied().collect()
}

fn put(outcomes: &mut [Outcome], places: &[usize], found: Vec<Outcome>) {
    for (index, outcome) in places.iter().zip(found) {
        if let Some(place) = outcomes.get_mut(*index) {
            *place = outcome;
        }
    }
}

/// Divides small values so that no batch is large.
fn batches(small: Vec<(usize, Size)>) -> Vec<Vec<usize>> {
    let mut batches = Vec::new();
    let (mut batch, mut bytes) = (Vec::new(), 0);
    for (index, size) in small {
        bytes += size.bytes.unwrap_or(SMALL);
        batch.push(index);
        if bytes >= BATCH {
            batches.push(std::mem::take(&mut batch));
            bytes = 0;
        }
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// Lengths, and bytes where they are told. Another length is a difference, except of a hash whose dead fields one side may still count.
async fn sizes(two: &mut Two<'_>, items: &[Item<'_>]) -> Result<Vec<(Size, Option<Finding>)>> {
    if items.is_empty() {
        return Ok(Vec::new());
    }
    let usage_of_source = two.setup.source.memory_usage;
    let usage_of_target = !usage_of_source && two.setup.target.memory_usage;
    let (mut left, mut right) = (Batch::default(), Batch::default());
    for item in items {
        let length = length_of(item.kind).unwrap_or(b"EXISTS");
        left.add(item.at.0, &[length, item.key]);
        right.add(item.at.1, &[length, item.key]);
        let usage: [&[u8]; 3] = [b"MEMORY", b"USAGE", item.key];
        if usage_of_source {
            left.add(item.at.0, &usage);
        } else if usage_of_target {
            right.add(item.at.1, &usage);
        }
    }
    let (left, right) = two.ask(left, right).await?;
    let (mut left, mut right) = (left.into_iter(), right.into_iter());
    let mut sizes = Vec::with_capacity(items.len());
    for item in items {
        let (here, there) = (left.next().unwrap_or(BytesFrame::Null), right.next().unwrap_or(BytesFrame::Null));
        let usage = if usage_of_source { left.next() } else { usage_of_target.then(|| right.next()).flatten() };
        let bytes = usage.and_then(|usage| match usage {
            BytesFrame::Integer(bytes) => u64::try_from(bytes).ok(),
            _ => None,
        });
        let here = reply::number(&here, Side::Source, "a length")?.unwrap_or(0);
        let there = reply::number(&there, Side::Target, "a length")?.unwrap_or(0);
        let counts_dead = item.kind == "hash" && two.fields_expire();
        let finding = (here != there && !counts_dead).then(|| lengths(item.kind, here, there));
        sizes.push((Size { length: here.max(there), bytes }, finding));
    }
    Ok(sizes)
}

fn lengths(kind: &str, here: i64, there: i64) -> Finding {
    let unit = match kind {
        "string" => "bytes",
        "list" => "elements",
        "hash" => "fields",
        "stream" => "entries",
        _ => "members",
    };
    Finding::new(Kind::Value, format!("{kind}, {here} {unit}"), format!("{kind}, {there} {unit}"))
}

/// Small values of several keys; `None` for one that did not come whole.
async fn whole(two: &mut Two<'_>, items: &[Item<'_>]) -> Result<Vec<Option<Outcome>>> {
    let (mut left, mut right) = (Batch::default(), Batch::default());
    for item in items {
        let words: Vec<&[u8]> = match item.kind {
            "list" => vec![b"LRANGE", item.key, b"0", b"-1"],
            "zset" => vec![b"ZRANGE", item.key, b"0", b"-1", b"WITHSCORES"],
            "set" => vec![b"SSCAN", item.key, b"0", b"COUNT", b"10000"],
            _ => vec![b"HSCAN", item.key, b"0", b"COUNT", b"10000"],
        };
        left.add(item.at.0, &words);
        right.add(item.at.1, &words);
    }
    let (left, right) = two.ask(left, right).await?;
    let mut found = Vec::with_capacity(items.len());
    let mut hashes = Vec::new();
    for (index, (item, (here, there))) in items.iter().zip(left.into_iter().zip(right)).enumerate() {
        found.push(match item.kind {
            "list" | "zset" => Some(outcome(ranked::whole(item.kind, here, there)?)),
            _ => match members::whole(item.kind, here, there)? {
                members::Whole::Cut => None,
                members::Whole::Same(fields) => {
                    if item.kind == "hash" && two.fields_expire() {
                        hashes.push((index, *item, fields));
                    }
                    Some(Outcome::Same)
                }
                members::Whole::Differs(finding) => Some(Outcome::Differs(finding)),
            },
        });
    }
    for (index, finding) in fields::compare(two, hashes).await? {
        found[index] = Some(Outcome::Differs(finding));
    }
    Ok(found)
}

fn outcome(finding: Option<Finding>) -> Outcome {
    finding.map_or(Outcome::Same, Outcome::Differs)
}

/// A large value.
async fn in_pieces(two: &mut Two<'_>, item: Item<'_>, size: Size) -> Result<Option<Finding>> {
    match item.kind {
        "list" | "zset" => ranked::in_pieces(two, item, size).await,
        "stream" => Box::pin(stream::compare(two, item)).await,
        _ => Box::pin(members::in_pieces(two, item, size)).await,
    }
}
