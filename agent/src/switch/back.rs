//! What the way back needs, looked at before anything is touched.

use dts_common::error::Result;
use dts_proto::v1::SwitchOverNeed;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use super::look::need;
use super::place::{has_backlog, may_follow};
use super::turn;
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::pipeline::Job;
use crate::target::{Destination, RESERVED_PREFIX};
use crate::topology::Kind;
use crate::verify::destination;

pub(super) async fn look(job: &Job, source: &mut Client, master: &Endpoint) -> Result<SwitchOverNeed> {
    let new = destination(job).await?;
    let refused = match not_kept(job, &new) {
        Some(why) => Some(why.to_owned()),
        None => may_leave_records(source, master).await?,
    };
    if refused.is_some() {
        return Ok(need("way_back", "", refused));
    }
    if job.shard.index > 0 {
        return Ok(need("way_back", "nothing: the first shard prepares it for all", None));
    }
    let servers = match turn::servers(&new).await {
        Ok(servers) => servers,
        Err(error) => return Ok(need("way_back", "", Some(error.message))),
    };
    let (mut without, mut size, mut refused) = (0, u64::MAX, None);
    for (server, _) in &servers {
        let mut client = Client::connect(server, Side::Target).await?;
        let replication = client.info("replication").await?;
        size = size.min(replication.number("repl_backlog_size").unwrap_or(0));
        if !has_backlog(&replication) {
            without += 1;
            if !may_follow(&mut client).await? {
                refused = Some(format!("the task's login on the target needs +psync +replconf ({server})"));
            }
        }
    }
    let begins = match (without, servers.len()) {
        (0, _) => "the target keeps a backlog already,".to_owned(),
        (without, all) => format!("has {without} of {all} servers of the target begin a backlog,"),
    };
    let does =
        format!("{begins} and a second task goes on from their offsets at the switch, by backlogs of {size} bytes");
    Ok(need("way_back", does, refused))
}

/// Why there is none between these two.
fn not_kept(job: &Job, new: &Destination) -> Option<&'static str> {
    if matches!(new, Destination::Routed(_)) {
        return Some("no way back is kept from an endpoint that routes by itself: the servers behind it are not known");
    }
    match &job.topology.kind {
        Kind::Codis(_) => Some("no way back is kept into codis: its slots are not those of the target"),
        Kind::Twemproxy(_) => Some("no way back is kept to servers behind twemproxy: its ring is not the target's"),
        Kind::Independent | Kind::Sentinel(..) if job.topology.is_shared() => Some(
            "no way back is kept to several servers by themselves: nothing tells which of them a new key would go to",
        ),
        _ if !job.selection.is_everything() => {
            Some("the way back of a task with a filter or a map of databases is not kept")
        }
        _ => None,
    }
}

/// Why our login may not write there what the way back begins with, as far as the server says so: before 7.0 for a cluster only. Changes nothing.
async fn may_leave_records(source: &mut Client, master: &Endpoint) -> Result<Option<String>> {
    let key = format!("{RESERVED_PREFIX}look");
    let own = source.ask(&[b"ACL", b"WHOAMI"]).await?;
    let own = own.as_str().unwrap_or_default().as_bytes();
    let mut asked: Vec<Vec<&[u8]>> = vec![vec![b"ACL", b"DRYRUN", own, b"SET", key.as_bytes(), b"1"]];
    if source.info("cluster").await?.get("cluster_enabled") == Some("1") {
        // Where the slot of the key is does not matter: who may not is told so first.
        asked.push(vec![b"EVAL", b"return redis.call('GET', KEYS[1])", b"1", key.as_bytes()]);
        asked.push(vec![b"CLIENT", b"LIST"]);
    }
    for words in asked {
        let said = source.ask(&words).await?;
        let said = match &said {
            BytesFrame::Error(text) => text.to_string(),
            said => said.as_str().unwrap_or_default().to_owned(),
        };
        if said.starts_with("NOPERM") || said.contains("no permissions") {
            let needs = "the way back writes to the source: the task's login there needs what it needs on a target (dst.rights of a check)";
            return Ok(Some(format!("{needs}; {master}: {said}")));
        }
    }
    Ok(None)
}
