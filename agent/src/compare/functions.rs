//! Libraries of functions, where both sides know such a thing.

use std::collections::BTreeMap;

use dts_common::error::Result;
use redis_protocol::resp2::types::BytesFrame;

use super::finding::{Difference, Finding, Kind};
use super::judge::Lane;
use super::reply;
use super::report::Tally;
use super::servers::Servers;
use crate::endpoint::Side;

type Libraries = BTreeMap<Vec<u8>, Vec<u8>>;

/// Name and code of each library: every server of the target has to have those of the source.
pub(super) async fn compare(lane: &mut Lane, tally: &mut Tally) -> Result<()> {
    let both = lane.setup.source.version.at_least(7, 0) && lane.setup.target.version.at_least(7, 0);
    if !both || lane.setup.selection.excludes_command(b"FUNCTION") {
        return Ok(());
    }
    let mut here = Libraries::new();
    for source in &mut lane.sources {
        // The nodes of a cluster have the same.
        here.extend(libraries(source, 0, Side::Source).await?);
    }
    for node in 0..lane.target.count() {
        let there = libraries(&mut lane.target, node, Side::Target).await?;
        for name in here.keys().chain(there.keys().filter(|name| !here.contains_key(*name))) {
            let (left, right) = (here.get(name), there.get(name));
            if left != right {
                let of = |code: Option<&Vec<u8>>| match code {
                    Some(code) => format!("library, {} bytes", code.len()),
                    None => "absent".into(),
                };
                let finding = Finding::new(Kind::Function, of(left), of(right));
                tally.difference(Difference { db: 0, target_db: 0, key: name.clone(), finding });
            }
        }
    }
    Ok(())
}

async fn libraries(servers: &mut Servers, node: usize, side: Side) -> Result<Libraries> {
    let listed = servers.ask_one(node, 0, &[b"FUNCTION", b"LIST", b"WITHCODE"]).await?;
    let listed = reply::elements(listed, side, "FUNCTION LIST")?.unwrap_or_default();
    let library = |library| match library {
        BytesFrame::Array(parts) => {
            let of = |field: &[u8]| {
                parts.chunks(2).find(|pair| pair.first().map(reply::bytes) == Some(field)).and_then(|pair| pair.get(1))
            };
            Some((reply::bytes(of(b"library_name")?).to_vec(), reply::bytes(of(b"library_code")?).to_vec()))
        }
        _ => None,
    };
    Ok(listed.into_iter().filter_map(library).collect())
}
