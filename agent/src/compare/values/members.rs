//! Sets and hashes, which have no order: small ones are sorted; of large ones the pieces of one side are looked up on the other.
//!
//! All members of the source are on the target, and both have as many: then they are equal. Where the counts mean nothing,
//! because dead fields are still counted, the target's are looked up on the source too.

use dts_common::error::Result;
use redis_protocol::resp2::types::BytesFrame;

use super::{Item, Size, Two, fields, lengths};
use crate::compare::finding::{Finding, Kind};
use crate::compare::reply;
use crate::compare::servers::Batch;
use crate::endpoint::Side;

pub(super) enum Whole {
    /// There is more.
    Cut,
    /// These are the members, or the fields, of both.
    Same(Vec<Vec<u8>>),
    Differs(Finding),
}

pub(super) fn whole(kind: &str, here: BytesFrame, there: BytesFrame) -> Result<Whole> {
    let (here, there) = (reply::page(here, Side::Source, "SCAN")?, reply::page(there, Side::Target, "SCAN")?);
    let (Some((cursor, here)), Some((other_cursor, there))) = (here, there) else { return Ok(Whole::Cut) };
    if cursor != b"0" || other_cursor != b"0" {
        return Ok(Whole::Cut);
    }
    let width = if kind == "hash" { 2 } else { 1 };
    let (here, there) = (sorted(&here, width), sorted(&there, width));
    if here.len() != there.len() {
        return Ok(Whole::Differs(lengths(kind, number(here.len()), number(there.len()))));
    }
    let Some((left, right)) = here.iter().zip(&there).find(|(left, right)| left != right) else {
        return Ok(Whole::Same(here.iter().filter_map(|member| Some(member.first()?.to_vec())).collect()));
    };
    let (what, place) = match kind {
        "hash" if left.first() == right.first() => ("hash, another value of a field", 1),
        "hash" => ("hash, another field", 0),
        _ => ("set, another member", 0),
    };
    let of = |member: &[&[u8]]| member.get(place).map(|part| part.to_vec()).unwrap_or_default();
    Ok(Whole::Differs(Finding::new(Kind::Value, what, what).showing(&of(left), &of(right))))
}

/// A scan may give a member twice.
fn sorted(found: &[BytesFrame], width: usize) -> Vec<Vec<&[u8]>> {
    let mut members: Vec<Vec<&[u8]>> =
        found.chunks(width).map(|member| member.iter().map(reply::bytes).collect()).collect();
    members.sort_unstable();
    members.dedup();
    members
}

fn number(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(super) async fn in_pieces(two: &mut Two<'_>, item: Item<'_>, size: Size) -> Result<Option<Finding>> {
    if let Some(finding) = walk(two, item, size, Side::Source).await? {
        return Ok(Some(finding));
    }
    let length: [&[u8]; 2] = [if item.kind == "hash" { b"HLEN" } else { b"SCARD" }, item.key];
    let (here, there) = two.numbers(item, &length).await?;
    let (here, there) = (here.unwrap_or(0), there.unwrap_or(0));
    if here == there {
        return Ok(None);
    }
    if item.kind == "hash" && two.fields_expire() {
        return walk(two, item, size, Side::Target).await;
    }
    Ok(Some(lengths(item.kind, here, there)))
}

/// Looks every member that one side has up on the other.
async fn walk(two: &mut Two<'_>, item: Item<'_>, size: Size, from: Side) -> Result<Option<Finding>> {
    let hash = item.kind == "hash";
    let command: &[u8] = if hash { b"HSCAN" } else { b"SSCAN" };
    let width = if hash { 2 } else { 1 };
    let count = size.step().to_string();
    let mut cursor = b"0".to_vec();
    loop {
        let words: [&[u8]; 5] = [command, item.key, &cursor, b"COUNT", count.as_bytes()];
        let reply = match from {
            Side::Source => two.source.ask_one(item.at.0, two.source_db, &words).await?,
            Side::Target => two.target.ask_one(item.at.1, two.target_db, &words).await?,
        };
        *two.bytes += reply::size(&reply);
        let Some((next, found)) = reply::page(reply, from, "SCAN")? else { return Ok(None) };
        let members: Vec<&[BytesFrame]> = found.chunks(width).collect();
        // One member may be large: what is looked up at once stays bounded in number.
        for members in members.chunks(512) {
            if let Some(finding) = look_up(two, item, members, from).await? {
                return Ok(Some(finding));
            }
            if hash && two.fields_expire() {
                let names = members.iter().filter_map(|pair| Some(reply::bytes(pair.first()?).to_vec())).collect();
                if let Some((_, finding)) = fields::compare(two, vec![(0, item, names)]).await?.into_iter().next() {
                    return Ok(Some(finding));
                }
            }
        }
        cursor = next;
        if cursor == b"0" {
            return Ok(None);
        }
    }
}

async fn look_up(two: &mut Two<'_>, item: Item<'_>, members: &[&[BytesFrame]], from: Side) -> Result<Option<Finding>> {
    if members.is_empty() {
        return Ok(None);
    }
    let names = members.iter().filter_map(|member| member.first()).map(reply::bytes);
    let (servers, node, db, side) = match from {
        Side::Source => (&mut *two.target, item.at.1, two.target_db, Side::Target),
        Side::Target => (&mut *two.source, item.at.0, two.source_db, Side::Source),
    };
    let mut batch = Batch::default();
    let version = if side == Side::Target { two.setup.target.version } else { two.setup.source.version };
    let at_once = item.kind == "hash" || version.at_least(6, 2);
    if at_once {
        let command: &[u8] = if item.kind == "hash" { b"HMGET" } else { b"SMISMEMBER" };
        batch.add(node, &[command, item.key].into_iter().chain(names).collect::<Vec<_>>());
    } else {
        names.for_each(|name| batch.add(node, &[b"SISMEMBER", item.key, name]));
    }
    let mut answers = servers.ask(db, batch).await?;
    *two.bytes += answers.iter().map(reply::size).sum::<u64>();
    if at_once {
        let first = answers.pop().unwrap_or(BytesFrame::Null);
        answers = reply::elements(first, side, "a look-up")?.unwrap_or_default();
    }
    for (member, answer) in members.iter().zip(&answers) {
        let name = member.first().map(reply::bytes).unwrap_or_default();
        let finding = match member.get(1).map(reply::bytes) {
            Some(value) if matches!(answer, BytesFrame::BulkString(found) if found.as_ref() == value) => continue,
            None if matches!(answer, BytesFrame::Integer(1)) => continue,
            Some(value) if !matches!(answer, BytesFrame::Null) => {
                let what = "hash, another value of a field";
                let finding = Finding::new(Kind::Value, what, what);
                return Ok(Some(sided(finding, from, value, reply::bytes(answer))));
            }
            Some(_) => missing(from, "a field"),
            None => missing(from, "a member"),
        };
        return Ok(Some(sided(finding, from, name, b"")));
    }
    Ok(None)
}

fn missing(from: Side, what: &str) -> Finding {
    let (has, lacks) = (format!("has {what}"), format!("lacks {what}"));
    match from {
        Side::Source => Finding::new(Kind::Value, has, lacks),
        Side::Target => Finding::new(Kind::Value, lacks, has),
    }
}

fn sided(finding: Finding, from: Side, ours: &[u8], others: &[u8]) -> Finding {
    match from {
        Side::Source => finding.showing(ours, others),
        Side::Target => finding.showing(others, ours),
    }
}
