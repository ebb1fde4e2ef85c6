//! The checks before anything is written: both servers answer, are two, and the target is ours to fill.

use dts_common::error::{Code, Error, Result};
use dts_common::ids::ShardId;
use dts_common::redis::version::ServerVersion;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use crate::client::{Client, Info};
use crate::endpoint::{Endpoint, Side};
use crate::target::reserved_key;

/// What the pipeline needs to know of the two servers.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The source's version.
    pub source: ServerVersion,
    /// The target's version.
    pub target: ServerVersion,
    /// How many databases the target has.
    pub target_databases: u32,
}

/// Runs every check. Nothing is written.
pub async fn verify(source: &Endpoint, target: &Endpoint, shard: &ShardId) -> Result<Facts> {
    let mut from = Client::connect(source, Side::Source).await?;
    let mut to = Client::connect(target, Side::Target).await?;
    let facts = Facts {
        source: version(&mut from, Side::Source).await?,
        target: version(&mut to, Side::Target).await?,
        target_databases: databases(&mut to).await?,
    };
    are_two(&mut from, source, &mut to, target).await?;
    is_standalone_master(&mut to).await?;
    is_ours_to_fill(&mut to, shard).await?;
    warn_of_eviction(&mut to).await;
    Ok(facts)
}

async fn version(client: &mut Client, side: Side) -> Result<ServerVersion> {
    let info = client.info("server").await?;
    let no_version = || Error::new(side.refusal(""), "its INFO names no version that we can read");
    ServerVersion::from_info(|field| info.get(field)).ok_or_else(no_version)
}

/// `CONFIG` may be forbidden; 16 is every server's default.
async fn databases(client: &mut Client) -> Result<u32> {
    let reply = client.ask(&[b"CONFIG", b"GET", b"databases"]).await?;
    let BytesFrame::Array(fields) = reply else { return Ok(16) };
    Ok(fields.get(1).and_then(|value| value.as_str()).and_then(|text| text.parse().ok()).unwrap_or(16))
}

async fn are_two(from: &mut Client, source: &Endpoint, to: &mut Client, target: &Endpoint) -> Result<()> {
    let same = |why: &str| Err(Error::new(Code::SameInstance, format!("{source} and {target} {why}")));
    let run_ids = (from.info("server").await?, to.info("server").await?);
    if run_ids.0.get("run_id").is_some() && run_ids.0.get("run_id") == run_ids.1.get("run_id") {
        return same("are the same instance");
    }
    let (left, right) = (from.info("replication").await?, to.info("replication").await?);
    let one_history = left.get("master_replid").is_some() && left.get("master_replid") == right.get("master_replid");
    if one_history || follows(&left, target) || follows(&right, source) {
        return same("are replicas of each other, or of one master");
    }
    Ok(())
}

/// Before 4.0 the histories have no common id; the address that a replica was given is what there is.
fn follows(replication: &Info, master: &Endpoint) -> bool {
    replication.get("role") == Some("slave")
        && replication.get("master_host") == Some(master.host.as_str())
        && replication.number("master_port") == Some(u64::from(master.port))
}

async fn is_standalone_master(to: &mut Client) -> Result<()> {
    let role = |what: &str| Err(Error::new(Code::TargetRole, format!("the target is {what}")));
    if to.info("replication").await?.get("role") == Some("slave") {
        return role("a replica");
    }
    if to.info("cluster").await?.get("cluster_enabled") == Some("1") {
        return role("a cluster node; this version writes to standalone targets");
    }
    Ok(())
}

async fn is_ours_to_fill(to: &mut Client, shard: &ShardId) -> Result<()> {
    let record = to.call(&[b"GET", reserved_key(shard, "position").as_bytes()]).await?;
    if !matches!(record, BytesFrame::Null) {
        return Ok(());
    }
    let keyspace = to.info("keyspace").await?;
    let found: Vec<String> = keyspace
        .fields()
        .filter_map(|(db, counts)| Some(format!("{db}: {} keys", counts.strip_prefix("keys=")?.split(',').next()?)))
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    Err(Error::new(Code::TargetNotEmpty, format!("the target is not empty ({})", found.join(", "))))
}

async fn warn_of_eviction(to: &mut Client) {
    let Ok(memory) = to.info("memory").await else { return };
    let policy = memory.get("maxmemory_policy").unwrap_or("noeviction");
    if memory.number("maxmemory").unwrap_or(0) > 0 && policy != "noeviction" {
        tracing::warn!(policy, "the target may evict keys while they are copied: set maxmemory-policy noeviction");
    }
}

/// Sum of the keys of all databases, as INFO keyspace gives it.
pub fn key_count(keyspace: &Info) -> u64 {
    keyspace
        .fields()
        .filter_map(|(_, counts)| counts.strip_prefix("keys=")?.split(',').next()?.parse::<u64>().ok())
        .sum()
}
