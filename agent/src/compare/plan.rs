//! What to compare with what.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dts_common::error::Result;
use dts_common::selection::Selection;

use super::{Mode, Rate};
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::mend::Mends;
use crate::target::Destination;
use crate::topology::{self, Kind, Owner, Topology};

/// A source, and which keys are its own.
#[derive(Clone, Debug)]
pub struct Part {
    /// A server, or a whole cluster.
    pub servers: Destination,
    /// What else it holds is left out.
    pub owner: Owner,
}

/// Which keys of the target are looked for on the sources.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backward {
    /// All.
    All,
    /// Those that are this source's by their name.
    Of(usize),
    /// None: somebody else does that.
    None,
}

/// A run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Every source of the target.
    pub sources: Vec<Part>,
    /// The sources whose keys are walked over.
    pub forward: Vec<usize>,
    /// The keys of the target that are.
    pub backward: Backward,
    /// Where the data went.
    pub target: Destination,
    /// What of the sources is on the target.
    pub selection: Arc<Selection>,
    /// How thoroughly.
    pub mode: Mode,
    /// Picks of each side in mode `sample`.
    pub sample: u64,
    /// How fast.
    pub rate: Rate,
    /// How far apart two expiries may be; `None`: by the versions.
    pub tolerance: Option<Duration>,
    /// Rounds over keys that differ.
    pub rounds: u32,
    /// Differences that are kept; the others are counted.
    pub most_listed: usize,
    /// Expiries may be held back by a task.
    pub task_runs: bool,
    /// Compares keys of the one source that change all the time.
    pub faces: Option<Mends>,
    /// For suspects, if they are many.
    pub scratch: PathBuf,
}

/// What each source of a topology has. A lone server that turns out to be a node of a cluster stands for all of it.
pub async fn parts(topology: &Topology) -> Result<Vec<Part>> {
    let alone = |endpoint: Endpoint, owner: Owner| Part { servers: Destination::Standalone(endpoint), owner };
    let siblings = &topology.siblings;
    match &topology.kind {
        Kind::Cluster => {
            let proofs = topology::prove(siblings, &vec![None; siblings.len()]).await?;
            Ok(proofs.into_iter().map(|proof| alone(proof.at, Owner::Slots(proof.slots))).collect())
        }
        Kind::Codis(slots) => {
            let owner = |(at, slots): (&Endpoint, &_)| alone(at.clone(), Owner::Codis(Clone::clone(slots)));
            Ok(siblings.iter().zip(slots).map(owner).collect())
        }
        Kind::Twemproxy(ring) => {
            let owner = |(index, at): (usize, &Endpoint)| alone(at.clone(), Owner::Ring(ring.clone(), index));
            Ok(siblings.iter().enumerate().map(owner).collect())
        }
        Kind::Sentinel(sentinels, names) => {
            let mut parts = Vec::new();
            for (listed, name) in siblings.iter().zip(names) {
                let found = topology::sentinel::find(listed, sentinels, name).await?;
                parts.push(alone(found, if topology.is_shared() { Owner::Unnamed } else { Owner::Everything }));
            }
            Ok(parts)
        }
        Kind::Independent => match siblings.as_slice() {
            [one] => Ok(vec![Part { servers: whole(one, Side::Source).await?, owner: Owner::Everything }]),
            several => Ok(several.iter().map(|one| alone(one.clone(), Owner::Unnamed)).collect()),
        },
    }
}

/// A server, or the cluster that it is a node of.
pub async fn whole(endpoint: &Endpoint, side: Side) -> Result<Destination> {
    let mut client = Client::connect_named(endpoint, side).await?;
    let cluster = client.info("cluster").await?.get("cluster_enabled") == Some("1");
    let seed = || vec![endpoint.clone()];
    Ok(if cluster { Destination::Cluster(seed()) } else { Destination::Standalone(endpoint.clone()) })
}
