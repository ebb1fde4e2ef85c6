//! Types of modules, and those that are newer than we are: one server serialises them, and only as a whole. Equal bytes prove
//! equality; of other bytes nothing is known.

use dts_common::error::Result;

use super::{Item, Outcome, Two};
use crate::compare::reply;
use crate::endpoint::Side;

/// Version and checksum at the end of a payload, which servers of two versions write differently.
const FOOTER: usize = 10;

pub(super) async fn compare(two: &mut Two<'_>, items: &[Item<'_>]) -> Result<Vec<Outcome>> {
    let mut outcomes = Vec::with_capacity(items.len());
    for item in items {
        let (here, there) = two.ask_both(*item, &[b"DUMP", item.key]).await?;
        for (frame, side) in [(&here, Side::Source), (&there, Side::Target)] {
            if let redis_protocol::resp2::types::BytesFrame::Error(text) = frame {
                reply::changed(text, side, "DUMP")?;
            }
        }
        let body = |bytes: &[u8]| bytes[..bytes.len().saturating_sub(FOOTER)].to_vec();
        let (here, there) = (body(reply::bytes(&here)), body(reply::bytes(&there)));
        outcomes.push(if !here.is_empty() && here == there { Outcome::Same } else { Outcome::Unknown });
    }
    Ok(outcomes)
}
