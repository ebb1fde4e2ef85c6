//! The way back: where the streams of the new side begin, left on the old side as the records of the task that goes on there.
//!
//! Once every shard is released, and before clients are told to come: so nothing of ours comes back, and nothing of theirs is missed.

use dts_common::error::{Code, Error, Result};
use dts_common::ids::ShardId;
use dts_common::position::Position;
use dts_proto::v1::{Turned, WayBackSource};

use super::place::{Place, backlog, place};
use super::{look, parted};
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::pipeline::Job;
use crate::status::Board;
use crate::target::cluster::{self, Scope, key_within};
use crate::target::{self, Destination};
use crate::topology::{Kind, Owner};
use crate::verify::destination;

/// Takes the offsets of the target's servers, and leaves them on the source. Done again, by another agent too, it begins anew.
pub(super) async fn turn(job: &Job, board: &Board, task: &str) -> Result<Turned> {
    let new = destination(job).await?;
    let servers = servers(&new).await?;
    let mut places = Vec::new();
    for ((server, owner), index) in servers.iter().zip(0..) {
        let shard = ShardId { task: task.to_owned(), index };
        let mut client = Client::connect(server, Side::Target).await?;
        backlog(server, &mut client).await?;
        places.push(place(&mut client, &key_within(&shard, &Scope::of(owner), "way-back")).await?);
    }
    let named = |servers: &[(Endpoint, Owner)]| -> Vec<(String, Owner)> {
        servers.iter().map(|(server, owner)| (server.to_string(), owner.clone())).collect()
    };
    if named(&servers) != named(&self::servers(&new).await?) {
        return Err(Error::new(Code::TargetBusy, "slots of the target were moved, or a master was replaced"));
    }
    let old = old_side(job, board).await?;
    for ((place, (_, owner)), index) in places.iter().zip(&servers).zip(0..) {
        let shard = ShardId { task: task.to_owned(), index };
        let position = Position { history: Some(place.history), offset: place.offset, db: 0 };
        target::leave(&old, &shard, job.epoch, owner, position).await?;
    }
    tracing::info!(shard = %job.shard, task, servers = servers.len(), "the way back begins here");
    let (target_host, target_port) = parted(&entry(&old).await?);
    let sources = servers.iter().zip(&places).map(|((server, owner), place)| source(server, owner, place)).collect();
    Ok(Turned { sources, target_host, target_port, failed: String::new() })
}

/// The servers that together are the new side, and whose streams together are all that happens there.
pub(super) async fn servers(new: &Destination) -> Result<Vec<(Endpoint, Owner)>> {
    match new {
        Destination::Standalone(server) => Ok(vec![(server.clone(), Owner::Everything)]),
        Destination::Cluster(seeds) => {
            let moving = || Error::new(Code::TargetBusy, "slots of the target cluster are not at rest");
            let topology = cluster::Topology::at_rest(seeds).await?.ok_or_else(moving)?;
            Ok(topology.by_slots().into_iter().map(|(master, slots)| (master, Owner::Slots(slots))).collect())
        }
        Destination::Routed(endpoint) => {
            let message = format!("the servers behind {endpoint} are not known: their streams cannot be followed");
            Err(Error::new(Code::TargetUnsupported, message))
        }
    }
}

/// The source, as what the way back writes to.
async fn old_side(job: &Job, board: &Board) -> Result<Destination> {
    if matches!(job.topology.kind, Kind::Cluster) {
        return Ok(Destination::Cluster(job.topology.siblings.clone()));
    }
    let master = look::master(job, board).await?;
    let cluster = Client::connect(&master, Side::Source).await?.info("cluster").await?;
    // One node that has all slots counts as a server by itself, and takes what a cluster takes.
    Ok(match cluster.get("cluster_enabled") {
        Some("1") => Destination::Cluster(vec![master]),
        _ => Destination::Standalone(master),
    })
}

/// A server of the old side that lives: the one that was listed may be a replica, or gone.
async fn entry(old: &Destination) -> Result<Endpoint> {
    let nobody = || Error::new(Code::TargetBusy, "the old side has no master");
    old.servers().await?.into_iter().next().ok_or_else(nobody)
}

fn source(server: &Endpoint, owner: &Owner, place: &Place) -> WayBackSource {
    let (host, port) = parted(server);
    let slots = match owner {
        Owner::Slots(slots) => slots.to_string(),
        _ => String::new(),
    };
    WayBackSource { host, port, slots, replication_id: place.history.to_string(), offset: place.offset }
}
