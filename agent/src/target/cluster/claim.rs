//! Raising the fence on a cluster. Every record is rewritten under our epoch, if it is still the one that was read; then
//! the connections of older epochs are ended; then the records are read again. Only if they are what we wrote has nobody
//! written between, and a connection that comes later finds our epoch before it may write.

use std::collections::HashMap;

use dts_common::error::{Code, Error, Result};
use dts_common::ids::{Epoch, ShardId};
use dts_common::redis::resp;
use dts_common::redis::slot::{SLOTS, slot};

use super::link::{Away, Identity, Item, Link, Outcome, delete};
use super::topology::Topology;
use super::writer::Writer;
use super::{Job, record};
use crate::endpoint::Endpoint;
use crate::retry::Retry;
use crate::target::claim::{CLAIM_STEP, fenced};
use crate::target::{Checkpoint, Phase, reserved_key};

/// Another writer can win the race for a record only so often before something is wrong.
const RACES: u32 = 16;

/// Claims every slot; gives a writer, and what the records said together.
pub async fn claim(job: Job, mut retry: Retry) -> Result<(Writer, Option<Checkpoint>)> {
    let identity = Identity { shard: job.shard.clone(), epoch: job.epoch };
    loop {
        match raise(&job.seed, &identity).await {
            Ok(raised) => {
                retry.succeeded();
                let before = raised.before.then(|| record::summary(job.epoch, &raised.records));
                let writer = Writer::new(job, identity, raised.topology, raised.records, before.as_ref(), retry);
                return Ok((writer, before));
            }
            Err(error) => retry.wait(error).await?,
        }
    }
}

struct Raised {
    topology: Topology,
    records: Vec<Checkpoint>,
    /// True if any record stood there.
    before: bool,
}

async fn raise(seed: &[Endpoint], identity: &Identity) -> Result<Raised> {
    let topology = whole(seed).await?;
    let mut links = Links { identity, open: HashMap::new() };
    let mut found = links.read(&topology).await?;
    let before = found.iter().any(Option::is_some);
    for _ in 0..RACES {
        if let Some(later) = found.iter().flatten().find(|record| record.epoch > identity.epoch) {
            return Err(fenced(later, identity.epoch));
        }
        let next: Vec<Checkpoint> = found.iter().map(|record| raised(record.as_ref(), identity)).collect();
        let swaps = found
            .into_iter()
            .zip(&next)
            .zip(0..SLOTS)
            .map(|((expected, next), slot)| (slot, Item::Swap { slot, expected, next: next.clone() }));
        links.run(&topology, swaps.collect()).await?;
        for link in links.open.values_mut() {
            link.evict().await?;
        }
        found = links.read(&topology).await?;
        if found.iter().flatten().eq(next.iter()) {
            return Ok(Raised { topology, records: next, before });
        }
    }
    Err(Error::new(Code::Fenced, "another writer keeps changing the records on the target"))
}

fn raised(record: Option<&Checkpoint>, identity: &Identity) -> Checkpoint {
    let epoch = identity.epoch;
    match record {
        Some(before) => Checkpoint { epoch, sequence: before.sequence + CLAIM_STEP, ..before.clone() },
        None => Checkpoint { epoch, sequence: 1, copy: 0, phase: Phase::Claimed },
    }
}

/// The cluster, if every slot has an owner.
async fn whole(seed: &[Endpoint]) -> Result<Topology> {
    let topology = Topology::find(seed).await?;
    match usize::from(SLOTS) - topology.owned() {
        0 => Ok(topology),
        missing => Err(Error::new(Code::TargetBusy, format!("{missing} slots of the target cluster have no owner"))),
    }
}

/// Links to the masters, for questions that need no order.
struct Links<'a> {
    identity: &'a Identity,
    open: HashMap<String, Link>,
}

impl Links<'_> {
    async fn read(&mut self, topology: &Topology) -> Result<Vec<Option<Checkpoint>>> {
        let found = self.run(topology, (0..SLOTS).map(|slot| (slot, Item::Read(slot))).collect()).await?;
        let mut records = vec![None; found.len()];
        for (slot, outcome) in found {
            if let (Outcome::Found(Some(text)), Some(place)) = (outcome, records.get_mut(usize::from(slot))) {
                *place = Some(Checkpoint::decode(&text)?);
            }
        }
        Ok(records)
    }

    /// One item for a slot, each at its owner.
    async fn run(&mut self, topology: &Topology, items: Vec<(u16, Item)>) -> Result<Vec<(u16, Outcome)>> {
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
}

/// Removes our keys from every slot; missing ones are gone already.
pub async fn release(seed: &[Endpoint], shard: &ShardId, epoch: Epoch) -> Result<()> {
    let identity = Identity { shard: shard.clone(), epoch };
    let topology = whole(seed).await?;
    let mut links = Links { identity: &identity, open: HashMap::new() };
    for record in links.read(&topology).await?.iter().flatten() {
        if record.epoch > epoch {
            return Err(fenced(record, epoch));
        }
    }
    let scripts = reserved_key(shard, "scripts");
    let mut forget = Vec::new();
    resp::command(&mut forget, &[b"DEL", scripts.as_bytes()]);
    let mut items: Vec<(u16, Item)> = (0..SLOTS).map(|slot| (slot, delete(shard, slot))).collect();
    items.push((slot(scripts.as_bytes()), Item::Command(forget.into())));
    links.run(&topology, items).await?;
    Ok(())
}

/// True if the records of an earlier attempt stand on these masters.
pub async fn is_ours(topology: &Topology, shard: &ShardId) -> Result<bool> {
    for master in &topology.masters {
        let mut client = crate::client::Client::connect(master, crate::endpoint::Side::Target).await?;
        let mut bytes = Vec::new();
        let owned =
            (0..SLOTS).filter(|slot| topology.owner(*slot).is_some_and(|owner| super::topology::same(owner, master)));
        let owned: Vec<u16> = owned.collect();
        for slot in &owned {
            resp::command(&mut bytes, &[b"EXISTS", record::key(shard, *slot).as_bytes()]);
        }
        client.send(&bytes).await?;
        let mut any = false;
        for _ in owned {
            any |= client.reply().await? == redis_protocol::resp2::types::BytesFrame::Integer(1);
        }
        if any {
            return Ok(true);
        }
    }
    Ok(false)
}
