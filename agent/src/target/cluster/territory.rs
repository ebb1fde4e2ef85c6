//! Which slots of a source cluster each shard writes, where the target is a cluster too: a slot's record says whose it is. A shard that
//! comes to own slots of another one's rewrites their records, and ends that one's connections: it can write nothing more there
//! before it has read them.

use std::collections::BTreeSet;

use dts_common::error::{Code, Error, Result};
use dts_common::ids::{Epoch, ShardId};
use dts_common::redis::resp;
use dts_common::redis::slot::{SLOTS, SlotSet};
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use super::claim::RACES;
use super::link::{Identity, Item};
use super::links::{Links, whole};
use super::topology::{Topology, same};
use super::{Scope, record};
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::target::claim::{CLAIM_STEP, fenced};
use crate::target::{Checkpoint, NOBODY, Phase};

/// What of a task stands on a cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// A record of any shard: the cluster is the task's to fill.
    pub any: bool,
    /// One of this shard.
    pub own: bool,
}

/// Looks for records of earlier attempts, of this shard and of the task's others.
pub async fn found(topology: &Topology, shard: &ShardId, shards: u32, shared: bool) -> Result<Found> {
    let mut found = Found::default();
    for index in std::iter::once(shard.index).chain((0..shards).filter(|index| *index != shard.index)) {
        let records = look(topology, &ShardId { index, ..shard.clone() }, shared).await?;
        for record in records.iter().flatten() {
            found.any = true;
            found.own |= record.holder.unwrap_or(index) == shard.index;
        }
        if found.any || shared {
            break;
        }
    }
    Ok(found)
}

/// The slots of each of the task's shards, as far as their records say.
pub async fn recorded(seed: &[Endpoint], task: &str, shards: u32) -> Result<Vec<Option<SlotSet>>> {
    let shard = ShardId { task: task.to_owned(), index: 0 };
    let records = look(&Topology::find(seed).await?, &shard, true).await?;
    let mut all = vec![None; usize::try_from(shards).unwrap_or(0)];
    for (slot, record) in (0..SLOTS).zip(records) {
        let holder = record.and_then(|record| usize::try_from(record.holder?).ok());
        if let Some(held) = holder.and_then(|holder| all.get_mut(holder)) {
            held.get_or_insert_with(SlotSet::default).insert(slot);
        }
    }
    Ok(all)
}

/// The records of all slots that have an owner, without becoming a writer.
async fn look(topology: &Topology, shard: &ShardId, shared: bool) -> Result<Vec<Option<Checkpoint>>> {
    let mut records = vec![None; usize::from(SLOTS)];
    for master in &topology.masters {
        let owned = |slot: &u16| topology.owner(*slot).is_some_and(|owner| same(owner, master));
        let owned: Vec<u16> = (0..SLOTS).filter(owned).collect();
        let mut bytes = Vec::new();
        owned.iter().for_each(|slot| {
            resp::command(&mut bytes, &[b"GET", record::key(shard, shared, *slot).as_bytes()]);
        });
        let mut client = Client::connect(master, Side::Target).await?;
        client.send(&bytes).await?;
        for slot in owned {
            let found = client.reply().await?;
            if let BytesFrame::Error(text) = &found {
                return Err(Error::new(Code::TargetBusy, format!("a record on the target could not be read: {text}")));
            }
            if let (Some(text), Some(place)) = (found.as_bytes(), records.get_mut(usize::from(slot))) {
                *place = Some(Checkpoint::decode(text)?);
            }
        }
    }
    Ok(records)
}

/// The records of a shard that has one of its own in every slot, for who deletes keys beside the writer.
pub struct SlotRecords {
    shard: ShardId,
    epoch: Epoch,
    topology: Topology,
}

impl SlotRecords {
    /// Of a shard, as the cluster is now.
    pub async fn of(seed: &[Endpoint], shard: &ShardId, epoch: Epoch) -> Result<Self> {
        Ok(Self { shard: shard.clone(), epoch, topology: whole(seed).await? })
    }

    /// The master that has a slot.
    pub fn owner(&self, slot: u16) -> Result<&Endpoint> {
        self.topology.owner(slot).ok_or_else(|| Error::new(Code::TargetBusy, "a slot of the target has no owner"))
    }

    /// The key of a slot's record.
    pub fn key(&self, slot: u16) -> String {
        record::key(&self.shard, false, slot)
    }

    /// True if what stands there is ours, and was not brought up to the offset by an earlier attempt.
    pub fn may_clear(&self, found: Option<&[u8]>, offset: u64) -> Result<bool> {
        let gone = || Error::new(Code::TargetRewound, "a record on the target is gone");
        let record = Checkpoint::decode(found.ok_or_else(gone)?)?;
        if record.epoch != self.epoch {
            return Err(fenced(&record, self.epoch));
        }
        Ok(record::offset(&record) < offset)
    }
}

/// Takes the slots; to be called before the shard is claimed. With `afresh` the shard copies again also if they are the same.
pub async fn take(seed: &[Endpoint], shard: &ShardId, epoch: Epoch, slots: &SlotSet, afresh: bool) -> Result<()> {
    let identity = Identity { shard: shard.clone(), epoch, shared: true, user: None };
    let topology = whole(seed).await?;
    let mut links = Links::new(&identity);
    let every = Scope::Every.slots();
    for _ in 0..RACES {
        let found = links.read(&topology, &every).await?;
        let Some(change) = change(&found, shard.index, epoch, slots, afresh)? else { return Ok(()) };
        let swaps = change.next.iter().map(|(slot, next)| {
            let expected = found.get(usize::from(*slot)).cloned().flatten();
            (*slot, Item::Swap { slot: *slot, expected, next: Some(next.clone()) })
        });
        links.run(&topology, swaps.collect()).await?;
        links.evict(&change.taken_from).await?;
        let after = links.read(&topology, &every).await?;
        if change.next.iter().all(|(slot, next)| after.get(usize::from(*slot)) == Some(&Some(next.clone()))) {
            tracing::info!(%shard, %slots, "took slots");
            return Ok(());
        }
    }
    Err(Error::new(Code::TargetBusy, "the records of the task's other shards keep changing"))
}

/// What taking slots does to the records.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    next: Vec<(u16, Checkpoint)>,
    taken_from: BTreeSet<u32>,
}

/// None if the shard holds the slots as they are to be, or nothing stands there yet.
fn change(
    found: &[Option<Checkpoint>],
    index: u32,
    epoch: Epoch,
    slots: &SlotSet,
    afresh: bool,
) -> Result<Option<Change>> {
    let mut change = Change { next: Vec::new(), taken_from: BTreeSet::new() };
    let mut afresh = afresh;
    for (slot, record) in (0..SLOTS).zip(found) {
        let Some(record) = record else { continue };
        let own = record.holder == Some(index);
        if own && record.epoch > epoch {
            return Err(fenced(record, epoch));
        }
        afresh |= own != slots.contains(slot) && (own || slots.contains(slot));
        if !own && slots.contains(slot) {
            change.taken_from.extend(record.holder.filter(|holder| *holder != NOBODY));
        }
    }
    if !afresh {
        return Ok(None);
    }
    for (slot, record) in (0..SLOTS).zip(found) {
        let Some(record) = record else { continue };
        let holder = match (record.holder == Some(index), slots.contains(slot)) {
            (_, true) => index,
            (true, false) => NOBODY,
            (false, false) => continue,
        };
        let (holder, sequence) = (Some(holder), record.sequence + CLAIM_STEP);
        change.next.push((slot, Checkpoint { holder, epoch, sequence, phase: Phase::Taken, ..record.clone() }));
    }
    Ok(Some(change).filter(|change| !change.next.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(by: u32, epoch: u64) -> Option<Checkpoint> {
        let (holder, epoch) = (Some(by), Epoch(epoch));
        Some(Checkpoint { holder, epoch, sequence: 5, copy: 1, phase: Phase::Copying })
    }

    fn records(of: impl Fn(u16) -> Option<Checkpoint>) -> Vec<Option<Checkpoint>> {
        (0..SLOTS).map(of).collect()
    }

    fn set(text: &str) -> SlotSet {
        SlotSet::parse(text).unwrap()
    }

    #[test]
    fn what_is_held_as_it_should_be_stays_as_it_is() {
        let found = records(|slot| if slot < 100 { held(0, 3) } else { held(1, 9) });
        assert_eq!(change(&found, 0, Epoch(4), &set("0-99"), false).unwrap(), None);
        assert_eq!(change(&records(|_| None), 0, Epoch(4), &set("0-99"), true).unwrap(), None);
        let afresh = change(&found, 0, Epoch(4), &set("0-99"), true).unwrap().unwrap();
        assert!(afresh.next.len() == 100 && afresh.taken_from.is_empty());
    }

    #[test]
    fn slots_of_another_shard_are_taken_whatever_its_epoch_and_those_that_went_are_given_up() {
        let found = records(|slot| if slot < 100 { held(0, 3) } else { held(1, 9) });
        let Change { next, taken_from } = change(&found, 0, Epoch(4), &set("10-110"), false).unwrap().unwrap();
        assert_eq!(taken_from, BTreeSet::from([1]));
        assert_eq!(next.len(), 111);
        for (slot, record) in next {
            let holder = if slot < 10 { NOBODY } else { 0 };
            assert_eq!((record.holder, record.epoch, record.sequence), (Some(holder), Epoch(4), 7));
            assert_eq!(record.phase, Phase::Taken);
        }
    }

    #[test]
    fn a_shard_that_was_replaced_takes_nothing() {
        let found = records(|slot| if slot < 100 { held(0, 5) } else { held(1, 9) });
        assert_eq!(change(&found, 0, Epoch(4), &set("0-200"), true).unwrap_err().code, Code::Fenced);
    }
}
