//! Independent servers into one target: names do not tell whose a key is, the other servers do.

use std::collections::HashMap;

use dts_common::error::{Code, Error, Result};
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::sweep::{Page, Scan};

/// No two of them are one server, or replicas of each other.
pub async fn are_apart(siblings: &[Endpoint]) -> Result<()> {
    let mut seen: HashMap<String, &Endpoint> = HashMap::new();
    for at in siblings {
        let mut client = Client::connect(at, Side::Source).await?;
        let (server, replication) = (client.info("server").await?, client.info("replication").await?);
        // Before 4.0 the histories have no common id; the address that a replica was given is what there is.
        let master = match (replication.get("role"), replication.get("master_host"), replication.get("master_port")) {
            (Some("slave"), Some(host), Some(port)) => Some(format!("{host}:{port}")),
            _ => None,
        };
        let names = [server.get("run_id"), replication.get("master_replid")].into_iter().flatten().map(str::to_owned);
        for name in names.chain(master).chain([at.to_string()]).collect::<std::collections::HashSet<_>>() {
            if let Some(before) = seen.insert(name, at) {
                let message =
                    format!("{before} and {at} hold the same data: they are one server, or replicas of one master");
                return Err(Error::new(Code::SourceTopology, message));
            }
        }
    }
    Ok(())
}

/// Keys of a source that others have too: an error that says how many, and names one.
pub async fn no_duplicates(source: &Endpoint, others: &[Endpoint]) -> Result<()> {
    let mut scan = Scan::over(Client::connect(source, Side::Source).await?, |_| true).await?;
    let mut clients = Vec::new();
    for other in others {
        clients.push((other, Client::connect(other, Side::Source).await?, 0u64));
    }
    let mut first = None;
    while let Some(page) = scan.next_page().await? {
        for (_, client, count) in &mut clients {
            let there = exist(client, page.db, &page.keys).await?;
            let both = page.keys.iter().zip(there).filter(|(_, there)| *there);
            for (key, _) in both {
                *count += 1;
                first.get_or_insert_with(|| key.clone());
            }
        }
    }
    let Some(first) = first else { return Ok(()) };
    let counts = clients.iter().filter(|(_, _, count)| *count > 0);
    let counts: Vec<String> = counts.map(|(other, _, count)| format!("{count} also on {other}")).collect();
    let message = format!("of the keys on {source}, {}", counts.join(", "));
    Err(Error::new(Code::SourceStrays, message).about_key(&first))
}

/// Which of the keys a server has.
async fn exist(client: &mut Client, db: u32, keys: &[Vec<u8>]) -> Result<Vec<bool>> {
    client.call(&[b"SELECT", db.to_string().as_bytes()]).await?;
    let mut bytes = Vec::new();
    keys.iter().for_each(|key| dts_common::redis::resp::command(&mut bytes, &[b"EXISTS", key]));
    client.send(&bytes).await?;
    let mut found = Vec::with_capacity(keys.len());
    for _ in keys {
        match client.reply().await? {
            BytesFrame::Integer(count) => found.push(count > 0),
            _ => return Err(Error::new(Code::SourcePermission, "a source does not answer EXISTS")),
        }
    }
    Ok(found)
}

/// Deletes those keys of a page that no other source has. Exact: a key that another shard writes while the others are asked breaks
/// the transaction, and is asked for again. The sources have the page's keys in `source_db`. Fenced by the shard's record, which has to stand as it is.
pub async fn delete_unclaimed(
    target: &Endpoint,
    record: (&str, &str),
    others: impl Iterator<Item = &Endpoint>,
    (page, source_db): (&Page, u32),
) -> Result<u64> {
    let mut to = Client::connect(target, Side::Target).await?;
    let mut sources = Vec::new();
    for other in others {
        sources.push(Client::connect(other, Side::Source).await?);
    }
    let mut asked = page.keys.clone();
    let mut deleted = 0;
    // Small steps: each watches its keys, and a hot one should not hold many up.
    while !asked.is_empty() {
        let batch = asked.split_off(asked.len().saturating_sub(BATCH));
        let mut rounds = 0;
        loop {
            match try_delete(&mut to, record, &mut sources, (page.db, source_db), &batch).await? {
                Some(count) => break deleted += count,
                None if rounds < ROUNDS => rounds += 1,
                None => return Err(Error::new(Code::TargetBusy, "keys change faster than their owners can be asked")),
            }
        }
    }
    Ok(deleted)
}

const BATCH: usize = 64;
const ROUNDS: u32 = 1000;

async fn try_delete(
    to: &mut Client,
    (key, record): (&str, &str),
    sources: &mut [Client],
    (db, source_db): (u32, u32),
    keys: &[Vec<u8>],
) -> Result<Option<u64>> {
    to.call(&[b"SELECT", b"0"]).await?;
    to.call(&[b"WATCH", key.as_bytes()]).await?;
    let found = to.call(&[b"GET", key.as_bytes()]).await?;
    if found.as_bytes() != Some(record.as_bytes()) {
        return Err(Error::new(Code::TargetRewound, "the record on the target is not the one that was confirmed"));
    }
    to.call(&[b"SELECT", db.to_string().as_bytes()]).await?;
    let watch: Vec<&[u8]> = std::iter::once(&b"WATCH"[..]).chain(keys.iter().map(Vec::as_slice)).collect();
    to.call(&watch).await?;
    let mut unclaimed = keys.to_vec();
    for source in sources {
        let mut there = exist(source, source_db, &unclaimed).await?.into_iter();
        unclaimed.retain(|_| !there.next().unwrap_or(true));
    }
    let count = u64::try_from(unclaimed.len()).unwrap_or(u64::MAX);
    if unclaimed.is_empty() {
        to.call(&[b"UNWATCH"]).await?;
        return Ok(Some(0));
    }
    to.call(&[b"MULTI"]).await?;
    let delete: Vec<&[u8]> = std::iter::once(&b"DEL"[..]).chain(unclaimed.iter().map(Vec::as_slice)).collect();
    to.call(&delete).await?;
    match to.call(&[b"EXEC"]).await? {
        BytesFrame::Array(_) => Ok(Some(count)),
        _ => Ok(None),
    }
}
