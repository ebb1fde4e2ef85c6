//! Independent servers into one target: names do not tell whose a key is, the other servers do.

use std::collections::HashMap;

use dts_common::error::{Code, Error, Result};
use futures_util::future::try_join_all;
use redis_protocol::resp2::types::BytesFrame;

use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::sweep::Scan;

/// Names in one question.
const GROUP: usize = 200;

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
        let asked = clients.iter_mut().map(|(_, client, _)| exist(client, page.db, &page.keys));
        let answers = try_join_all(asked).await?;
        for ((_, _, count), there) in clients.iter_mut().zip(answers) {
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

/// Which of the keys a server has. Mostly none or all: so it is asked for many at once first, which costs it an eighth of asking one by one.
pub(crate) async fn exist(client: &mut Client, db: u32, keys: &[Vec<u8>]) -> Result<Vec<bool>> {
    client.call(&[b"SELECT", db.to_string().as_bytes()]).await?;
    let groups: Vec<&[Vec<u8>]> = keys.chunks(GROUP).collect();
    let counts = ask(client, &groups).await?;
    let mut found = Vec::with_capacity(keys.len());
    for (group, count) in groups.into_iter().zip(counts) {
        match count {
            Some(count) if count == 0 || usize::try_from(count) == Ok(group.len()) => {
                found.extend(group.iter().map(|_| count > 0));
            }
            // Some, or a server that takes one name at a time (before 3.0.3, or in a cluster).
            _ => {
                let singles: Vec<&[Vec<u8>]> = group.chunks(1).collect();
                for count in ask(client, &singles).await? {
                    let no_answer = || Error::new(Code::SourcePermission, "a source does not answer EXISTS");
                    found.push(count.ok_or_else(no_answer)? > 0);
                }
            }
        }
    }
    Ok(found)
}

/// How many of each group's keys are there; none where the server does not say.
async fn ask(client: &mut Client, groups: &[&[Vec<u8>]]) -> Result<Vec<Option<i64>>> {
    let mut bytes = Vec::new();
    for group in groups {
        let words: Vec<&[u8]> = std::iter::once(&b"EXISTS"[..]).chain(group.iter().map(Vec::as_slice)).collect();
        dts_common::redis::resp::command(&mut bytes, &words);
    }
    client.send(&bytes).await?;
    let mut counts = Vec::with_capacity(groups.len());
    for _ in groups {
        counts.push(match client.reply().await? {
            BytesFrame::Integer(count) => Some(count),
            _ => None,
        });
    }
    Ok(counts)
}
