//! Keys that the servers pick by chance.

use dts_common::error::Result;
use redis_protocol::resp2::types::BytesFrame;

use super::reply;
use super::servers::{Batch, Servers};
use super::walk::Page;
use crate::endpoint::Side;
use crate::target::RESERVED_PREFIX;

/// Asked for at once.
const AT_ONCE: u64 = 500;

/// As many picks of each database as its share of the keys, at least one; a key may be picked more than once.
pub(super) async fn pick(servers: &mut Servers, side: Side, wanted: u64) -> Result<Vec<Page>> {
    let mut places = Vec::new();
    for (node, info) in servers.infos("keyspace").await?.into_iter().enumerate() {
        for (name, counts) in info.fields() {
            let db = name.strip_prefix("db").and_then(|db| db.parse::<u32>().ok());
            let keys = counts.strip_prefix("keys=").and_then(|rest| rest.split(',').next()?.parse::<u64>().ok());
            places.extend(db.zip(keys).map(|(db, keys)| (node, db, keys)));
        }
    }
    let all = places.iter().map(|(.., keys)| *keys).sum::<u64>().max(1);
    let mut pages = Vec::new();
    for (node, db, keys) in places {
        let share = u64::try_from(u128::from(wanted) * u128::from(keys) / u128::from(all)).unwrap_or(wanted);
        let mut left = share.max(1);
        while left > 0 {
            let mut batch = Batch::default();
            let count = left.min(AT_ONCE);
            (0..count).for_each(|_| batch.add(node, &[b"RANDOMKEY"]));
            left -= count;
            let mut page = Page { db, ..Page::default() };
            for answer in servers.ask(db, batch).await? {
                if let BytesFrame::Error(text) = &answer {
                    reply::changed(text, side, "RANDOMKEY")?;
                }
                page.keys.push(reply::bytes(&answer).to_vec());
            }
            page.keys.sort_unstable();
            page.keys.dedup();
            page.keys.retain(|key| !key.is_empty() && !key.starts_with(RESERVED_PREFIX.as_bytes()));
            pages.push(page);
        }
    }
    Ok(pages)
}
