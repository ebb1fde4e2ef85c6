//! How many keys each database has, as the servers count them: dead keys that are not yet reaped count, ours do not.

use std::collections::BTreeMap;

use dts_common::error::Result;

use super::finding::{Difference, Finding, Kind};
use super::judge::Lane;
use super::reply;
use super::report::Tally;
use super::servers::Servers;
use crate::endpoint::Side;
use crate::target::RESERVED_PREFIX;

/// One look; database of the source with its counts, where they differ.
pub(super) async fn look(lane: &mut Lane, tally: &Tally) -> Result<Vec<Difference>> {
    let selection = lane.setup.selection.clone();
    let mut here = BTreeMap::new();
    for source in &mut lane.sources {
        for (db, keys) in keyspace(source).await? {
            if let Some(target_db) = selection.target_db(db) {
                *here.entry((db, target_db)).or_default() += keys;
            }
        }
    }
    let mut there = BTreeMap::new();
    for (target_db, mut keys) in keyspace(&mut lane.target).await? {
        let Some(db) = selection.source_db(target_db) else { continue };
        if target_db == 0 && here.get(&(db, target_db)).copied().unwrap_or(0u64) != keys {
            keys = keys.saturating_sub(reserved(&mut lane.target).await?);
        }
        there.insert((db, target_db), keys);
    }
    tally.update(|progress| {
        progress.source_keys = here.values().sum();
        progress.target_keys = there.values().sum();
    });
    let all: std::collections::BTreeSet<(u32, u32)> = here.keys().chain(there.keys()).copied().collect();
    let counts = all.into_iter().map(|place| {
        let of = |side: &BTreeMap<(u32, u32), u64>| side.get(&place).copied().unwrap_or(0);
        (place, of(&here), of(&there))
    });
    let differ = counts.filter(|(_, here, there)| here != there).map(|((db, target_db), here, there)| {
        let finding = Finding::new(Kind::Count, format!("{here} keys"), format!("{there} keys"));
        Difference { db, target_db, key: Vec::new(), finding }
    });
    Ok(differ.collect())
}

async fn keyspace(servers: &mut Servers) -> Result<BTreeMap<u32, u64>> {
    let mut counts = BTreeMap::new();
    for info in servers.infos("keyspace").await? {
        for (name, count) in info.fields() {
            let db = name.strip_prefix("db").and_then(|db| db.parse().ok());
            let keys = count.strip_prefix("keys=").and_then(|rest| rest.split(',').next()?.parse::<u64>().ok());
            if let (Some(db), Some(keys)) = (db, keys) {
                *counts.entry(db).or_default() += keys;
            }
        }
    }
    Ok(counts)
}

/// How many keys of db 0 are ours.
async fn reserved(servers: &mut Servers) -> Result<u64> {
    let pattern = format!("{RESERVED_PREFIX}*");
    let mut names = std::collections::HashSet::new();
    for node in 0..servers.count() {
        let mut cursor = b"0".to_vec();
        loop {
            let words: [&[u8]; 6] = [b"SCAN", &cursor, b"MATCH", pattern.as_bytes(), b"COUNT", b"1000"];
            let answer = servers.ask_one(node, 0, &words).await?;
            let Some((next, found)) = reply::page(answer, Side::Target, "SCAN")? else { break };
            names.extend(found.iter().map(|name| reply::bytes(name).to_vec()));
            cursor = next;
            if cursor == b"0" {
                break;
            }
        }
    }
    Ok(u64::try_from(names.len()).unwrap_or(0))
}
