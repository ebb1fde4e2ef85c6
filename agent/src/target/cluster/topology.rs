//! Who owns which slot, as the nodes say it.

use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_common::redis::slot::{SLOTS, SlotSet};
use futures_util::future::join_all;
use redis_protocol::resp2::types::Resp2Frame as _;
use tokio::time::timeout;

use crate::client::Client;
use crate::endpoint::{Endpoint, Side};

const PATIENCE: Duration = Duration::from_secs(2);

/// The cluster as one node sees it.
#[derive(Clone, Debug)]
pub struct Topology {
    /// Every node that is not failed.
    pub nodes: Vec<Endpoint>,
    /// Masters that own slots.
    pub masters: Vec<Endpoint>,
    /// The owner of every slot, by its place among the masters.
    owners: Vec<Option<u16>>,
    /// True if slots of the node that was asked are on their way.
    moving: bool,
    epoch: u64,
}

impl Topology {
    /// As this node sees it.
    pub async fn ask(endpoint: &Endpoint) -> Result<Self> {
        let mut client = Client::connect(endpoint, Side::Target).await?;
        let reply = client.call(&[b"CLUSTER", b"NODES"]).await?;
        let text = reply.as_str().unwrap_or_default().to_owned();
        let info = client.call(&[b"CLUSTER", b"INFO"]).await?;
        let epoch = info.as_str().and_then(|text| {
            text.lines().find_map(|line| line.strip_prefix("cluster_current_epoch:")?.trim().parse().ok())
        });
        let mut topology = Self::parse(&text, endpoint);
        topology.epoch = epoch.unwrap_or(0);
        Ok(topology)
    }

    /// The most recent view among these nodes.
    pub async fn find(known: &[Endpoint]) -> Result<Self> {
        let asked = join_all(known.iter().map(|endpoint| timeout(PATIENCE, Self::ask(endpoint)))).await;
        let mut failed = None;
        let mut views = Vec::new();
        for answer in asked {
            match answer {
                Ok(Ok(view)) => views.push(view),
                Ok(Err(error)) => failed = Some(error),
                Err(_) => {}
            }
        }
        let best = views.into_iter().max_by_key(|view| (view.epoch, view.owned()));
        let nobody = || Error::new(Code::TargetUnreachable, "no node of the target cluster answers");
        best.ok_or_else(|| failed.unwrap_or_else(nobody))
    }

    fn parse(text: &str, asked: &Endpoint) -> Self {
        let mut topology = Self {
            nodes: Vec::new(),
            masters: Vec::new(),
            owners: vec![None; usize::from(SLOTS)],
            moving: false,
            epoch: 0,
        };
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let (Some(address), Some(flags)) = (words.get(1), words.get(2)) else { continue };
            let flagged = |flag: &str| flags.split(',').any(|found| found == flag);
            // `ip:port@bus,name`; the ip is empty where a node does not know its own.
            let address = address.split(['@', ',']).next().unwrap_or_default();
            let Some((host, port)) = address.rsplit_once(':') else { continue };
            let Ok(port) = port.parse::<u16>() else { continue };
            if flagged("fail") || flagged("noaddr") || flagged("handshake") || port == 0 {
                continue;
            }
            let endpoint = at(asked, host, port);
            topology.nodes.push(endpoint.clone());
            let ranges: Vec<&str> = words.iter().skip(8).copied().collect();
            topology.moving |= ranges.iter().any(|range| range.starts_with('['));
            let owned: Vec<(u16, u16)> = ranges.iter().filter_map(|range| slots(range)).collect();
            if owned.is_empty() || !flagged("master") {
                continue;
            }
            let place = u16::try_from(topology.masters.len()).ok();
            topology.masters.push(endpoint);
            for (first, last) in owned {
                for slot in first..=last {
                    if let Some(owner) = topology.owners.get_mut(usize::from(slot)) {
                        *owner = place;
                    }
                }
            }
        }
        topology
    }

    /// Who owns a slot.
    pub fn owner(&self, slot: u16) -> Option<&Endpoint> {
        let place = self.owners.get(usize::from(slot)).copied().flatten()?;
        self.masters.get(usize::from(place))
    }

    /// The place of a slot's owner among the masters.
    pub fn place(&self, slot: u16) -> Option<usize> {
        self.owners.get(usize::from(slot)).copied().flatten().map(usize::from)
    }

    /// The masters with their slots, in the order of their slots.
    pub fn by_slots(&self) -> Vec<(Endpoint, SlotSet)> {
        let mut all: Vec<_> = self.masters.iter().map(|master| (master.clone(), SlotSet::default())).collect();
        for slot in 0..SLOTS {
            if let Some((_, slots)) = self.place(slot).and_then(|place| all.get_mut(place)) {
                slots.insert(slot);
            }
        }
        all.sort_by_key(|(_, slots)| slots.first());
        all
    }

    /// Somebody said that this node owns the slot.
    pub fn set_owner(&mut self, slot: u16, host: &str, port: u16, asked: &Endpoint) {
        let endpoint = at(asked, host, port);
        let known = self.masters.iter().position(|master| same(master, &endpoint));
        let place = known.unwrap_or_else(|| {
            self.nodes.push(endpoint.clone());
            self.masters.push(endpoint);
            self.masters.len() - 1
        });
        if let Some(owner) = self.owners.get_mut(usize::from(slot)) {
            *owner = u16::try_from(place).ok();
        }
    }

    /// How many slots have an owner.
    pub fn owned(&self) -> usize {
        self.owners.iter().filter(|owner| owner.is_some()).count()
    }

    /// True if both name the same owner of every slot.
    pub fn agrees(&self, other: &Self) -> bool {
        (0..SLOTS).all(|slot| match (self.owner(slot), other.owner(slot)) {
            (Some(left), Some(right)) => same(left, right),
            (left, right) => left.is_none() && right.is_none(),
        })
    }

    /// The cluster now, if no slot of any master is on its way.
    pub async fn at_rest(known: &[Endpoint]) -> Result<Option<Self>> {
        let topology = Self::find(known).await?;
        // Slots on their way are told by their own nodes only.
        for master in &topology.masters {
            let view = Self::ask(master).await?;
            if view.moving || !view.agrees(&topology) {
                return Ok(None);
            }
        }
        Ok((topology.owned() == usize::from(SLOTS)).then_some(topology))
    }
}

/// True for the same address.
pub(super) fn same(left: &Endpoint, right: &Endpoint) -> bool {
    left.port == right.port && left.host == right.host
}

fn at(asked: &Endpoint, host: &str, port: u16) -> Endpoint {
    let host = if host.is_empty() || host == "?" { asked.host.clone() } else { host.to_owned() };
    Endpoint { host, port, ..asked.clone() }
}

fn slots(range: &str) -> Option<(u16, u16)> {
    if range.starts_with('[') {
        return None;
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    Some((first.parse().ok()?, last.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_of_every_version_are_read() {
        let asked = Endpoint { host: "h".into(), port: 1, username: None, password: None, tls: None, routes: false };
        let text = "a 10.0.0.1:7000@17000,name,shard-id=x master - 0 1 3 connected 0-5 7 [8->-b]\n\
            b :7001@17001 myself,master - 0 0 2 connected 8-16383\n\
            c 10.0.0.3:7002 slave a 0 1 3 connected\n\
            d 10.0.0.4:7003@17003 master,fail - 0 1 1 disconnected 6\n\
            e :0@0 master,noaddr - 0 0 0 disconnected\n";
        let topology = Topology::parse(text, &asked);
        assert_eq!(topology.nodes.len(), 3);
        let owner = |slot| topology.owner(slot).map(ToString::to_string);
        assert_eq!(owner(7).as_deref(), Some("10.0.0.1:7000"));
        assert_eq!(owner(6), None);
        assert_eq!(owner(16383).as_deref(), Some("h:7001"));
        assert!(topology.moving && topology.owned() == 16383);
        let masters: Vec<String> =
            topology.by_slots().iter().map(|(master, slots)| format!("{master} {slots}")).collect();
        assert_eq!(masters, ["10.0.0.1:7000 0-5,7", "h:7001 8-16383"]);
    }
}
