//! Where a shard's keys go: one server, or the masters of a cluster. Everything outside of the writers asks here.

use std::path::Path;
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_common::ids::ShardId;
use dts_common::redis::slot::{SLOTS, slot};
use tokio::time::sleep;

use super::cluster::{Scope, Topology, scripts_key};
use super::reserved_key;
use crate::endpoint::Endpoint;
use crate::route::HeldKeys;
use crate::topology::{self, Kind, Owner};

/// Slots that are on their way are waited for this long at most.
const REST_WITHIN: u32 = 600;
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The nodes of a target cluster that were seen last, beside the spool.
pub const NODES_FILE: &str = "target-nodes";

/// The target.
#[derive(Clone, Debug)]
pub enum Destination {
    /// One server.
    Standalone(Endpoint),
    /// A cluster: nodes to ask for the others.
    Cluster(Vec<Endpoint>),
    /// An endpoint that routes by itself.
    Routed(Endpoint),
}

/// The servers that together hold the target's keys, at one moment.
#[derive(Debug)]
pub struct Parts {
    /// Each of them.
    pub servers: Vec<Endpoint>,
    topology: Option<Topology>,
}

impl Destination {
    /// What keeps a writer that was replaced from writing, if it has no user of its own; the levels stand at `ShardStatus.fence`.
    pub fn fence(&self) -> &'static str {
        match self {
            Self::Standalone(_) => "F3",
            Self::Cluster(_) => "F1",
            Self::Routed(_) => "F0",
        }
    }

    /// How many keys of ours stand there for a task that streams: records, claims, and which slots are whose.
    pub fn records(&self, topology: &topology::Topology) -> u64 {
        let shards = u64::from(topology.shards());
        match (self, &topology.kind) {
            (Self::Routed(_), _) => 0,
            (Self::Standalone(_), Kind::Cluster) => 3 * shards,
            (Self::Standalone(_), _) => 2 * shards,
            (Self::Cluster(_), Kind::Cluster) => SLOTS.into(),
            (Self::Cluster(_), _) => u64::from(SLOTS) * shards,
        }
    }

    /// The key under which a shard keeps scripts.
    pub fn scripts_key(&self, shard: &ShardId, owner: &Owner) -> String {
        match self {
            Self::Standalone(_) | Self::Routed(_) => reserved_key(shard, "scripts"),
            Self::Cluster(_) => scripts_key(shard, &Scope::of(owner)),
        }
    }

    /// The servers to walk over; of a cluster, once no slot is on its way.
    pub async fn parts(&self) -> Result<Parts> {
        let seeds = match self {
            Self::Standalone(endpoint) => return Ok(Parts { servers: vec![endpoint.clone()], topology: None }),
            Self::Routed(endpoint) => {
                let message = format!("the keys behind {endpoint} cannot be listed");
                return Err(Error::new(Code::TargetUnsupported, message));
            }
            Self::Cluster(seeds) => seeds,
        };
        for _ in 0..REST_WITHIN {
            if let Some(topology) = Topology::at_rest(seeds).await.ok().flatten() {
                return Ok(Parts { servers: topology.masters.clone(), topology: Some(topology) });
            }
            sleep(LOOK_EVERY).await;
        }
        Err(Error::new(Code::TargetBusy, "slots of the target cluster do not come to rest"))
    }

    /// The servers as they are now.
    pub async fn servers(&self) -> Result<Vec<Endpoint>> {
        match self {
            Self::Standalone(endpoint) => Ok(vec![endpoint.clone()]),
            // Those that stand behind it are not known.
            Self::Routed(_) => Ok(Vec::new()),
            Self::Cluster(seeds) => Ok(Topology::find(seeds).await?.masters),
        }
    }

    /// Every server of it, also those that hold copies only.
    pub async fn nodes(&self) -> Result<Vec<Endpoint>> {
        match self {
            Self::Cluster(seeds) => Ok(Topology::find(seeds).await?.nodes),
            _ => self.servers().await,
        }
    }

    /// True if a walk that began with these servers has seen every key: none has changed its place since.
    pub async fn is_still(&self, parts: &Parts) -> Result<bool> {
        let (Self::Cluster(seeds), Some(topology)) = (self, &parts.topology) else { return Ok(true) };
        Ok(Topology::at_rest(seeds).await?.is_some_and(|now| now.agrees(topology)))
    }

    /// What came of a walk: false if keys that changed their place meanwhile may not have been seen, so that it has to be made again.
    pub async fn has_shown_all(&self, parts: &Parts, walked: Result<()>) -> Result<bool> {
        let passing = [Code::TargetRole, Code::TargetBusy, Code::TargetLost, Code::TargetUnreachable];
        match walked {
            Ok(()) => self.is_still(parts).await,
            // A slot has another owner.
            Err(error) if matches!(self, Self::Cluster(_)) && passing.contains(&error.code) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The server that holds a key.
    pub async fn holder(&self, key: &[u8]) -> Result<Endpoint> {
        match self {
            Self::Standalone(endpoint) | Self::Routed(endpoint) => Ok(endpoint.clone()),
            Self::Cluster(seeds) => {
                let nobody = || Error::new(Code::TargetBusy, "a slot of the target cluster has no owner");
                Topology::find(seeds).await?.owner(slot(key)).cloned().ok_or_else(nobody)
            }
        }
    }
}

impl Parts {
    /// False for a cluster, of however many masters.
    pub fn is_one_server(&self) -> bool {
        self.topology.is_none()
    }

    /// The keys of each server.
    pub fn divide(&self, keys: HeldKeys) -> Vec<HeldKeys> {
        match &self.topology {
            None => vec![keys],
            Some(topology) => keys.divide(self.servers.len(), |key| topology.place(slot(key))),
        }
    }
}

/// The nodes to ask for a cluster: the one that was given, and those that were seen before, for that one may be gone.
pub fn seeds(target: &Endpoint, scratch: &Path) -> Vec<Endpoint> {
    let seen = std::fs::read_to_string(scratch.join(NODES_FILE)).unwrap_or_default();
    let seen = seen.lines().filter_map(|line| {
        let (host, port) = line.rsplit_once(' ')?;
        Some(Endpoint { host: host.to_owned(), port: port.parse().ok()?, ..target.clone() })
    });
    let mut all: Vec<Endpoint> = std::iter::once(target.clone()).chain(seen).collect();
    all.dedup_by(|left, right| left.to_string() == right.to_string());
    all
}

/// Keeps the nodes of a cluster for later.
pub fn remember(topology: &Topology, scratch: &Path) {
    let lines: String = topology.nodes.iter().map(|node| format!("{} {}\n", node.host, node.port)).collect();
    let written = std::fs::create_dir_all(scratch).and_then(|()| std::fs::write(scratch.join(NODES_FILE), lines));
    if let Err(error) = written {
        tracing::warn!(%error, "the nodes of the target cluster are not kept");
    }
}
