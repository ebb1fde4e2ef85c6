//! Links to all masters at once, for questions that need no order.

use std::collections::{BTreeSet, HashMap};

use dts_common::error::{Code, Error, Result};
use dts_common::redis::slot::SLOTS;

use super::link::{Away, Identity, Item, Link, Outcome};
use super::topology::Topology;
use crate::endpoint::Endpoint;
use crate::target::Checkpoint;

/// The cluster, if every slot has an owner.
pub(super) async fn whole(seed: &[Endpoint]) -> Result<Topology> {
    let topology = Topology::find(seed).await?;
    match usize::from(SLOTS) - topology.owned() {
        0 => Ok(topology),
        missing => Err(Error::new(Code::TargetBusy, format!("{missing} slots of the target cluster have no owner"))),
    }
}

/// Each is opened when it is needed, and has then ended those that came before it.
pub(super) struct Links<'a> {
    identity: &'a Identity,
    open: HashMap<String, Link>,
}

impl<'a> Links<'a> {
    pub(super) fn new(identity: &'a Identity) -> Self {
        Self { identity, open: HashMap::new() }
    }

    /// The records of these slots, in their order.
    pub(super) async fn read(&mut self, topology: &Topology, slots: &[u16]) -> Result<Vec<Option<Checkpoint>>> {
        let found = self.run(topology, slots.iter().map(|slot| (*slot, Item::Read(*slot))).collect()).await?;
        let mut records = vec![None; usize::from(SLOTS)];
        for (slot, outcome) in found {
            if let (Outcome::Found(Some(text)), Some(place)) = (outcome, records.get_mut(usize::from(slot))) {
                *place = Some(Checkpoint::decode(&text)?);
            }
        }
        Ok(slots.iter().map(|slot| records.get_mut(usize::from(*slot)).and_then(Option::take)).collect())
    }

    /// One item for a slot, each at its owner.
    pub(super) async fn run(&mut self, topology: &Topology, items: Vec<(u16, Item)>) -> Result<Vec<(u16, Outcome)>> {
        let mut at: HashMap<String, (Endpoint, Vec<u16>, Vec<Item>)> = HashMap::new();
        for (slot, item) in items {
            let owner = topology.owner(slot).ok_or_else(|| Error::new(Code::TargetBusy, "a slot has no owner"))?;
            let (_, slots, items) =
                at.entry(owner.to_string()).or_insert_with(|| (owner.clone(), Vec::new(), Vec::new()));
            slots.push(slot);
            items.push(item);
        }
        let mut all = Vec::new();
        for (name, (endpoint, slots, items)) in at {
            let mut link = match self.open.remove(&name) {
                Some(link) => link,
                None => Link::open(&endpoint, self.identity).await?,
            };
            for (slot, outcome) in slots.into_iter().zip(link.round(&items).await?) {
                match outcome {
                    Outcome::Failed(error) => return Err(error),
                    Outcome::Away(Away::OnItsWay, error) => {
                        let message = format!("a slot of the target is being moved: {}", error.message);
                        return Err(Error { message, ..error });
                    }
                    Outcome::Away(_, error) => return Err(error),
                    outcome => all.push((slot, outcome)),
                }
            }
            self.open.insert(name, link);
        }
        Ok(all)
    }

    /// Ends the connections of those before us, and of shards that something was taken from.
    pub(super) async fn evict(&mut self, taken_from: &BTreeSet<u32>) -> Result<()> {
        for link in self.open.values_mut() {
            link.evict(taken_from).await?;
        }
        Ok(())
    }
}
