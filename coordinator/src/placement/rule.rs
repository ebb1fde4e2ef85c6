//! What forbids an agent a shard.

use std::fmt;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{Endpoint, Network, TaskSpec};

use super::{Candidate, LEAST_DISK, Spot, Wanted, has_room};

/// Why an agent cannot take a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Why {
    /// It has no session.
    Gone,
    /// An operator said so.
    Cordoned,
    /// An operator said so.
    Draining,
    /// It has as many as it takes.
    Full(u32),
    /// Its disk is full.
    Disk(u64),
    /// It stands elsewhere: what (source, target), where that is, where the agent is.
    Region(&'static str, String, String),
    /// It has no such network: what (source, target) is reached by it.
    Network(&'static str, &'static str),
    /// The source may not leave its region.
    CrossRegion(String, String),
    /// It shall lose the shard, and there is no other agent.
    Alone,
    /// It does not reach a server; what it said.
    Cut(String),
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone => f.write_str("it is not connected"),
            Self::Cordoned => f.write_str("it is cordoned"),
            Self::Draining => f.write_str("it is being drained"),
            Self::Full(most) => write!(f, "it has as many shards as it takes ({most}, --max-shards)"),
            Self::Disk(free) => write!(f, "its disk has {} MiB left, less than {}", free >> 20, LEAST_DISK >> 20),
            Self::Region(what, there, here) if here.is_empty() => {
                write!(f, "it has no label region, and the {what} is in {there}")
            }
            Self::Region(what, there, here) => write!(f, "it is in region {here}, and the {what} in {there}"),
            Self::Network(what, network) => {
                write!(f, "its label network does not name {network}, by which the {what} is reached")
            }
            Self::CrossRegion(source, target) => {
                write!(f, "the source is self-built on a CVM in {source} and may not be moved to {target}")
            }
            Self::Alone => f.write_str("there is no other agent"),
            Self::Cut(why) => f.write_str(why),
        }
    }
}

/// What forbids it, leaving aside what was measured.
pub(super) fn refusal(agent: &Candidate, shard: &Wanted, has: u32) -> Option<Why> {
    // A pin is a word of an operator, as a cordon is, and the more particular one.
    let pinned = shard.pinned_to == agent.name;
    if !agent.connected {
        return Some(Why::Gone);
    }
    if agent.draining {
        return Some(Why::Draining);
    }
    if agent.cordoned && !pinned {
        return Some(Why::Cordoned);
    }
    if let Some(why) = wrong_place(agent, &shard.source, &shard.target) {
        return Some(why);
    }
    if agent.max_shards > 0 && has >= agent.max_shards && shard.on != agent.name {
        return Some(Why::Full(agent.max_shards));
    }
    (!has_room(agent.free_disk)).then_some(Why::Disk(agent.free_disk))
}

/// What forbids it by labels alone.
pub(super) fn wrong_place(agent: &Candidate, source: &Spot, target: &Spot) -> Option<Why> {
    if source.network == Network::Cvm && source.region != target.region {
        return Some(Why::CrossRegion(source.region.clone(), target.region.clone()));
    }
    for (what, spot) in [("source", source), ("target", target)] {
        if spot.network != Network::Unspecified && !agent.networks.contains(&spot.network) {
            return Some(Why::Network(what, word(spot.network)));
        }
        let bound = match spot.network {
            // These lead to a region; the agent has to stand where they end.
            Network::Cvm | Network::Dc | Network::Vpn => true,
            Network::Public | Network::Ccn => false,
            Network::Unspecified => what == "source",
        };
        if bound && !spot.region.is_empty() && spot.region != agent.region {
            return Some(Why::Region(what, spot.region.clone(), agent.region.clone()));
        }
    }
    None
}

fn word(network: Network) -> &'static str {
    match network {
        Network::Unspecified => "",
        Network::Cvm => "cvm",
        Network::Public => "public",
        Network::Dc => "dc",
        Network::Vpn => "vpn",
        Network::Ccn => "ccn",
    }
}

/// Refuses a task that no agent of any fleet could run: a source self-built on a CVM is moved within its region only.
pub fn check(spec: &TaskSpec) -> Result<()> {
    let target = spec.target.clone().unwrap_or_default();
    let cvm = |(_, source): &(usize, &Endpoint)| source.network() == Network::Cvm;
    for (index, source) in spec.sources.iter().enumerate().filter(cvm) {
        let wrong = |code, what: &str| Err(Error::new(code, format!("spec.sources[{index}]: {what}")));
        if source.region.is_empty() || target.region.is_empty() {
            let what = "a source self-built on a CVM needs the region of it and of the target";
            return wrong(Code::InvalidRequest, what);
        }
        if source.region != target.region {
            let what = format!(
                "a source self-built on a CVM in {} is not moved across regions, to {}",
                source.region, target.region
            );
            return wrong(Code::CrossRegion, &what);
        }
    }
    Ok(())
}
