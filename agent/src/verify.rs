//! The checks before anything is written: both servers answer, are two, and the target is ours to fill.

mod routed;

use dts_common::error::{Code, Error, Result};
use dts_common::ids::ShardId;
use dts_common::position::ReplicationId;
use dts_common::redis::command::is_rewritten;
use dts_common::redis::slot::SLOTS;
use dts_common::redis::version::ServerVersion;
use dts_common::selection::Selection;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use crate::client::{Client, Info};
use crate::endpoint::{Endpoint, Side};
use crate::pipeline::Job;
use crate::target::{Destination, cluster, remember, reserved_key, seeds, territory};
use crate::topology::{self, Kind, Owner, Proof, Topology};

/// What the pipeline needs to know of the two servers.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The source's version.
    pub source: ServerVersion,
    /// The target's version.
    pub target: ServerVersion,
    /// How many databases the target has.
    pub target_databases: u32,
    /// Where the keys go.
    pub destination: Destination,
    /// What may stop the task later.
    pub warnings: Vec<String>,
    /// Where the source's data is now.
    pub read_from: Endpoint,
    /// Which keys of the target are this shard's.
    pub owner: Owner,
    /// Where the task's sources are now.
    pub siblings: Vec<Endpoint>,
    /// Nothing of this shard is on the target yet.
    pub untouched: bool,
    /// What was proved of a node of a cluster.
    pub proof: Option<Proof>,
    /// The names of the target's own streams, now and before their servers were promoted.
    pub target_histories: Vec<ReplicationId>,
}

/// Runs every check. Nothing is written.
pub async fn verify(job: &Job) -> Result<Facts> {
    let Job { target, shard, topology, .. } = job;
    let destination = destination(job).await?;
    let (read_from, owner, proof) = whose(job, &destination).await?;
    let source = &read_from.clone();
    let mut from = Client::connect(source, Side::Source).await?;
    if matches!(destination, Destination::Routed(_)) {
        let whose = (read_from, owner, proof);
        return routed::verify(job, destination, whose, now(topology).await?, &mut from).await;
    }
    let mut to = client(&destination).await?;
    let mut facts = Facts {
        source: version(&mut from, Side::Source).await?,
        target: version(&mut to, Side::Target).await?,
        target_databases: match destination {
            Destination::Standalone(_) => databases(&mut to).await?,
            Destination::Cluster(_) | Destination::Routed(_) => 1,
        },
        destination,
        warnings: [("source", source), ("target", target)].into_iter().filter_map(unverified).collect(),
        read_from,
        owner,
        siblings: now(topology).await?,
        untouched: true,
        proof,
        target_histories: Vec::new(),
    };
    are_two(&mut from, source, &mut to, target).await?;
    facts.untouched = match &facts.destination {
        Destination::Standalone(_) => {
            is_master(&mut to).await?;
            facts.target_histories = histories(&mut to).await?;
            is_ours_to_fill(&mut to, shard, topology.shards()).await?
        }
        Destination::Cluster(seeds) => {
            has_one_database(&mut from, &job.selection).await?;
            for master in facts.destination.servers().await? {
                let mut to = Client::connect(&master, Side::Target).await?;
                facts.target_histories.extend(histories(&mut to).await?);
            }
            is_whole_and_ours(job, seeds).await?
        }
        Destination::Routed(_) => true,
    };
    map_fits(job, facts.target_databases)?;
    facts.warnings.extend(eviction(&mut to).await);
    if !facts.target.takes_all_of(&facts.source) {
        if !job.allow_downgrade {
            return Err(downgrade(&facts.source, &facts.target));
        }
        facts.warnings.extend(unknown_commands(&mut from, &mut to, &job.selection).await);
    }
    for warning in &facts.warnings {
        tracing::warn!(%shard, warning);
    }
    Ok(facts)
}

/// Before 4.0 the history is the server's own.
async fn histories(client: &mut Client) -> Result<Vec<ReplicationId>> {
    let (server, replication) = (client.info("server").await?, client.info("replication").await?);
    let named = [replication.get("master_replid"), replication.get("master_replid2"), server.get("run_id")];
    Ok(named.into_iter().flatten().filter_map(|name| name.parse().ok()).collect())
}

/// What the map of databases names is there.
pub(crate) fn map_fits(job: &Job, databases: u32) -> Result<()> {
    let Some(db) = job.selection.highest_db().filter(|db| *db >= databases) else { return Ok(()) };
    let message = format!("the map of databases leads to {db}, the target has {databases}");
    Err(Error::new(Code::TargetUnsupported, message))
}

pub(crate) fn downgrade(source: &ServerVersion, target: &ServerVersion) -> Error {
    Error::new(Code::Downgrade, format!("the target ({target}) is older than the source ({source})"))
}

/// Where the sources are, as far as they move by a name; nodes of a cluster are found by what they own.
async fn now(topology: &Topology) -> Result<Vec<Endpoint>> {
    let Kind::Sentinel(sentinels, names) = &topology.kind else { return Ok(topology.siblings.clone()) };
    let mut siblings = Vec::new();
    for (listed, name) in topology.siblings.iter().zip(names) {
        siblings.push(topology::sentinel::find(listed, sentinels, name).await?);
    }
    if siblings.len() > 1 {
        topology::are_apart(&siblings).await?;
    }
    Ok(siblings)
}

/// Where the shard is read, and which keys are its own.
pub(crate) async fn whose(job: &Job, destination: &Destination) -> Result<(Endpoint, Owner, Option<Proof>)> {
    let Job { source, shard, topology, .. } = job;
    let index = usize::try_from(shard.index).unwrap_or(usize::MAX);
    let without = || Error::new(Code::Internal, "a shard without a source");
    let listed = source.clone();
    let (read_from, owner) = match &topology.kind {
        Kind::Cluster => {
            let recorded = territory::recorded(destination, &shard.task, topology.shards()).await?;
            let proofs = topology::prove(&topology.siblings, &recorded).await?;
            let proof = proofs.into_iter().nth(index).ok_or_else(without)?;
            return Ok((proof.at.clone(), Owner::Slots(proof.slots.clone()), Some(proof)));
        }
        Kind::Sentinel(sentinels, names) => {
            let name = names.get(index).ok_or_else(without)?;
            let found = topology::sentinel::find(source, sentinels, name).await?;
            (found, if topology.is_shared() { Owner::Unnamed } else { Owner::Everything })
        }
        Kind::Codis(slots) => (listed, Owner::Codis(slots.get(index).ok_or_else(without)?.clone())),
        Kind::Twemproxy(ring) => (listed, Owner::Ring(ring.clone(), index)),
        Kind::Independent if topology.is_shared() => (listed, Owner::Unnamed),
        Kind::Independent => (listed, Owner::Everything),
    };
    not_a_part_of_a_cluster(&read_from).await?;
    // Where sources move, what is listed may be gone.
    if topology.is_shared() && !matches!(topology.kind, Kind::Sentinel(..)) {
        topology::are_apart(&topology.siblings).await?;
    }
    Ok((read_from, owner, None))
}

/// One node of a cluster has a part of the data, and nobody would notice that the rest is missing.
async fn not_a_part_of_a_cluster(source: &Endpoint) -> Result<()> {
    let mut client = Client::connect(source, Side::Source).await?;
    if client.info("cluster").await?.get("cluster_enabled") != Some("1") {
        return Ok(());
    }
    let whole = client.call(&[b"CLUSTER", b"INFO"]).await?;
    let known = Info::of(&whole).number("cluster_size").unwrap_or(0);
    if known <= 1 {
        return Ok(());
    }
    let message = format!("{source} is one node of a Redis Cluster with {known} masters");
    Err(Error::new(Code::SourceTopology, message))
}

fn unverified((side, endpoint): (&str, &Endpoint)) -> Option<String> {
    endpoint.tls.as_ref().filter(|tls| tls.skip_verify).map(|_| {
        format!(
            "INSECURE: the certificate of the {side} ({endpoint}) is not verified: whoever sits between can read and alter everything"
        )
    })
}

pub(crate) async fn version(client: &mut Client, side: Side) -> Result<ServerVersion> {
    let info = client.info("server").await?;
    let no_version = || Error::new(side.refusal(""), "its INFO names no version that we can read");
    ServerVersion::from_info(|field| info.get(field)).ok_or_else(no_version)
}

/// `CONFIG` may be forbidden; 16 is every server's default.
pub(crate) async fn databases(client: &mut Client) -> Result<u32> {
    let reply = client.ask(&[b"CONFIG", b"GET", b"databases"]).await?;
    let BytesFrame::Array(fields) = reply else { return Ok(16) };
    Ok(fields.get(1).and_then(|value| value.as_str()).and_then(|text| text.parse().ok()).unwrap_or(16))
}

pub(crate) async fn are_two(from: &mut Client, source: &Endpoint, to: &mut Client, target: &Endpoint) -> Result<()> {
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

pub(crate) async fn is_master(to: &mut Client) -> Result<()> {
    if to.info("replication").await?.get("role") == Some("slave") {
        return Err(Error::new(Code::TargetRole, "the target is a replica"));
    }
    Ok(())
}

/// What the target is, by its own word. A node of a cluster that is gone is asked by those that were seen before.
pub async fn destination(job: &Job) -> Result<Destination> {
    if job.target.routes {
        return Ok(Destination::Routed(job.target.clone()));
    }
    let seeds = seeds(&job.target, &job.scratch);
    let mut failed = None;
    for seed in &seeds {
        match Client::connect(seed, Side::Target).await {
            Ok(mut client) => {
                let is_cluster = match client.info("cluster").await {
                    Ok(info) => info.get("cluster_enabled") == Some("1"),
                    Err(error) => return Err(routed::no_info(&job.target, error).await),
                };
                let standalone = Destination::Standalone(job.target.clone());
                return Ok(if is_cluster { Destination::Cluster(seeds) } else { standalone });
            }
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.unwrap_or_else(|| Error::new(Code::Internal, "a target without an address")))
}

/// A connection to the target, or to any node of it.
pub(crate) async fn client(destination: &Destination) -> Result<Client> {
    let seeds = match destination {
        Destination::Standalone(target) | Destination::Routed(target) => {
            return Client::connect(target, Side::Target).await;
        }
        Destination::Cluster(seeds) => seeds,
    };
    let topology = cluster::Topology::find(seeds).await?;
    let master = topology.masters.first().ok_or_else(|| Error::new(Code::TargetBusy, "the target has no master"))?;
    Client::connect(master, Side::Target).await
}

/// Other databases have no place on a cluster, unless they are left out or become db 0.
pub(crate) async fn has_one_database(from: &mut Client, selection: &Selection) -> Result<()> {
    let keyspace = from.info("keyspace").await?;
    let leads_elsewhere = |name: &&str| {
        let db = name.strip_prefix("db").and_then(|number| number.parse().ok());
        db.is_none_or(|db| selection.target_db(db).is_some_and(|target| target != 0))
    };
    let others: Vec<&str> = keyspace.fields().map(|(name, _)| name).filter(leads_elsewhere).collect();
    if others.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the source has keys in {}, and the target has db 0 only: map one database to 0 and leave the others out",
        others.join(", ")
    );
    Err(Error::new(Code::TargetUnsupported, message))
}

/// Every slot has an owner.
pub(crate) async fn is_whole(seeds: &[Endpoint]) -> Result<cluster::Topology> {
    let topology = cluster::Topology::find(seeds).await?;
    let missing = usize::from(SLOTS) - topology.owned();
    if missing > 0 {
        return Err(Error::new(Code::TargetBusy, format!("{missing} slots of the target cluster have no owner")));
    }
    Ok(topology)
}

/// As [`is_ours_to_fill`], of a cluster.
pub(crate) async fn is_whole_and_ours(job: &Job, seeds: &[Endpoint]) -> Result<bool> {
    let topology = is_whole(seeds).await?;
    remember(&topology, &job.scratch);
    let shared = matches!(job.topology.kind, Kind::Cluster);
    let found = cluster::territory::found(&topology, &job.shard, job.topology.shards(), shared).await?;
    if found.any {
        return Ok(!found.own);
    }
    let mut keys = 0;
    for master in &topology.masters {
        keys += key_count(&Client::connect(master, Side::Target).await?.info("keyspace").await?);
    }
    match keys {
        0 => Ok(true),
        keys => Err(Error::new(Code::TargetNotEmpty, format!("the target cluster is not empty ({keys} keys)"))),
    }
}

/// Empty, or begun by any shard of this task: each of them saw it empty before the first of them wrote. False if this one has begun.
pub(crate) async fn is_ours_to_fill(to: &mut Client, shard: &ShardId, shards: u32) -> Result<bool> {
    for index in std::iter::once(shard.index).chain(0..shards) {
        let of = ShardId { task: shard.task.clone(), index };
        let record = to.call(&[b"GET", reserved_key(&of, "position").as_bytes()]).await?;
        if !matches!(record, BytesFrame::Null) {
            return Ok(index != shard.index);
        }
    }
    let keyspace = to.info("keyspace").await?;
    let found: Vec<String> = keyspace
        .fields()
        .filter_map(|(db, counts)| Some(format!("{db}: {} keys", counts.strip_prefix("keys=")?.split(',').next()?)))
        .collect();
    if found.is_empty() {
        return Ok(true);
    }
    Err(Error::new(Code::TargetNotEmpty, format!("the target is not empty ({})", found.join(", "))))
}

pub(crate) async fn eviction(to: &mut Client) -> Option<String> {
    let memory = to.info("memory").await.ok()?;
    let policy = memory.get("maxmemory_policy").unwrap_or("noeviction");
    let may_evict = memory.number("maxmemory").unwrap_or(0) > 0 && policy != "noeviction";
    may_evict
        .then(|| format!("the target may evict keys while they are copied ({policy}): set maxmemory-policy noeviction"))
}

/// Commands that the source has run, that write, and that the target neither knows nor gets rewritten.
pub(crate) async fn unknown_commands(from: &mut Client, to: &mut Client, selection: &Selection) -> Option<String> {
    let used = from.info("commandstats").await.ok()?;
    let names: Vec<String> = used
        .fields()
        .filter_map(|(name, _)| name.strip_prefix("cmdstat_"))
        .filter(|name| !name.contains('|') && !is_rewritten(name.as_bytes()))
        .filter(|name| !selection.excludes_command(name.as_bytes()))
        .map(str::to_owned)
        .collect();
    let mut unknown = Vec::new();
    for name in names {
        let ask = [&b"COMMAND"[..], b"INFO", name.as_bytes()];
        let (here, there) = (from.ask(&ask).await.ok()?, to.ask(&ask).await.ok()?);
        if writes(&here) && matches!(&there, BytesFrame::Array(found) if found.iter().all(is_nothing)) {
            unknown.push(name.to_uppercase());
        }
    }
    (!unknown.is_empty()).then(|| {
        format!(
            "the target does not know {}, which the source has run: the task will stop when it comes",
            unknown.join(", ")
        )
    })
}

fn is_nothing(reply: &BytesFrame) -> bool {
    matches!(reply, BytesFrame::Null) || matches!(reply, BytesFrame::Array(fields) if fields.is_empty())
}

/// True if an answer to COMMAND INFO has the flag `write`.
fn writes(reply: &BytesFrame) -> bool {
    let BytesFrame::Array(commands) = reply else { return false };
    let Some(BytesFrame::Array(fields)) = commands.first() else { return false };
    let Some(BytesFrame::Array(flags)) = fields.get(2) else { return false };
    flags.iter().any(|flag| flag.as_str() == Some("write"))
}

/// Sum of the keys of all databases, as INFO keyspace gives it.
pub fn key_count(keyspace: &Info) -> u64 {
    keyspace
        .fields()
        .filter_map(|(_, counts)| counts.strip_prefix("keys=")?.split(',').next()?.parse::<u64>().ok())
        .sum()
}
