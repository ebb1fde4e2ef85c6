//! Raising the fence on a cluster. Every record is rewritten under our epoch, if it is still the one that was read; then
//! the connections of older epochs are ended; then the records are read again. Only if they are what we wrote has nobody
//! written between, and a connection that comes later finds our epoch before it may write.

use std::collections::BTreeSet;

use dts_common::error::{Code, Error, Result};
use dts_common::ids::{Epoch, ShardId};
use dts_common::redis::slot::{SlotSet, slot};

use super::link::{Identity, Item, delete};
use super::links::{Links, whole};
use super::topology::Topology;
use super::writer::Writer;
use super::{Job, Scope, record};
use crate::endpoint::Endpoint;
use crate::leash::{Leash, unrecorded};
use crate::retry::Retry;
use crate::target::claim::{CLAIM_STEP, fenced};
use crate::target::session::rewound;
use crate::target::{Checkpoint, Phase};

/// Another writer can win the race for a record only so often before something is wrong.
pub(super) const RACES: u32 = 16;

/// Claims every slot of the job's scope; gives a writer, and what the records said together.
pub async fn claim(job: Job, mut retry: Retry) -> Result<(Writer, Option<Checkpoint>)> {
    let identity =
        Identity { shard: job.shard.clone(), epoch: job.epoch, shared: job.scope.is_shared(), user: job.user.clone() };
    loop {
        match raise(&job, &identity).await {
            Ok(raised) => {
                retry.succeeded();
                if let Some(user) = &job.user {
                    user.expel_beside(&raised.topology.nodes).await;
                }
                let records: Vec<Checkpoint> = raised.records.iter().map(|(_, record)| record.clone()).collect();
                let before = raised.before.then(|| record::summary(job.epoch, &records));
                let writer = Writer::new(job, identity, raised.topology, raised.records, before.as_ref(), retry);
                return Ok((writer, before));
            }
            Err(error) if error.code == Code::CoordinatorLost => retry.until(error, job.leash.slack()).await?,
            Err(error) => retry.wait(error).await?,
        }
    }
}

struct Raised {
    topology: Topology,
    records: Vec<(u16, Checkpoint)>,
    /// True if any record stood there.
    before: bool,
}

async fn raise(job: &Job, identity: &Identity) -> Result<Raised> {
    rewrite(&job.seed, identity, &job.scope, Some(&job.leash), |found| raised(found, identity)).await
}

/// Leaves records in every slot of the scope as if the shard had come so far: the task goes on from there.
pub async fn leave(seed: &[Endpoint], shard: &ShardId, epoch: Epoch, scope: &Scope, phase: &Phase) -> Result<()> {
    let identity = Identity { shard: shard.clone(), epoch, shared: scope.is_shared(), user: None };
    let holder = identity.shared.then_some(shard.index);
    let left = |found: Option<&Checkpoint>| match found {
        Some(record) if record.epoch > epoch => Err(fenced(record, epoch)),
        // Of an attempt that did not come to its end, perhaps with other masters.
        found => {
            let sequence = found.map_or(1, |record| record.sequence + CLAIM_STEP);
            Ok(Checkpoint { holder, epoch, sequence, copy: 0, phase: phase.clone() })
        }
    };
    rewrite(seed, &identity, scope, None, left).await.map(drop)
}

/// Writes all records anew, until what was written is what stands there. Where there is none, not when this leash is over.
async fn rewrite(
    seed: &[Endpoint],
    identity: &Identity,
    scope: &Scope,
    leash: Option<&Leash>,
    anew: impl Fn(Option<&Checkpoint>) -> Result<Checkpoint>,
) -> Result<Raised> {
    let topology = whole(seed).await?;
    let mut links = Links::new(identity);
    let slots = scope.slots();
    let mut found = links.read(&topology, &slots).await?;
    let before = found.iter().any(Option::is_some);
    if !before && leash.is_some_and(Leash::is_over) {
        return Err(unrecorded());
    }
    for _ in 0..RACES {
        let next: Vec<Checkpoint> = found.iter().map(|record| anew(record.as_ref())).collect::<Result<_>>()?;
        let swaps =
            found.into_iter().zip(&next).zip(&slots).map(|((expected, next), slot)| {
                (*slot, Item::Swap { slot: *slot, expected, next: Some(next.clone()) })
            });
        links.run(&topology, swaps.collect()).await?;
        links.evict(&BTreeSet::new()).await?;
        found = links.read(&topology, &slots).await?;
        if found.iter().flatten().eq(next.iter()) {
            return Ok(Raised { topology, records: slots.into_iter().zip(next).collect(), before });
        }
    }
    Err(Error::new(Code::TargetBusy, "another writer keeps changing the records on the target"))
}

fn raised(record: Option<&Checkpoint>, identity: &Identity) -> Result<Checkpoint> {
    let epoch = identity.epoch;
    match record {
        Some(record) if record.holder.is_some_and(|holder| holder != identity.shard.index) => {
            Err(rewound("another shard of the task has taken over a slot of this one"))
        }
        Some(record) if record.epoch > epoch => Err(fenced(record, epoch)),
        Some(before) => Ok(Checkpoint { epoch, sequence: before.sequence + CLAIM_STEP, ..before.clone() }),
        None => {
            let holder = identity.shared.then_some(identity.shard.index);
            Ok(Checkpoint { holder, epoch, sequence: 1, copy: 0, phase: Phase::Claimed })
        }
    }
}

/// Removes our keys from every slot; missing ones are gone already. `shared`: the records are those of all shards of the task, and only
/// those that are this one's go.
pub async fn release(seed: &[Endpoint], shard: &ShardId, epoch: Epoch, shared: bool) -> Result<()> {
    let identity = Identity { shard: shard.clone(), epoch, shared, user: None };
    let topology = whole(seed).await?;
    let mut links = Links::new(&identity);
    let every = Scope::Every.slots();
    for _ in 0..RACES {
        let (mut removals, mut held) = (Vec::new(), SlotSet::default());
        for (slot, record) in every.iter().zip(links.read(&topology, &every).await?) {
            let Some(record) = record.filter(|record| record.holder.is_none_or(|holder| holder == shard.index)) else {
                continue;
            };
            if record.epoch > epoch {
                return Err(fenced(&record, epoch));
            }
            held.insert(*slot);
            removals.push((*slot, Item::Swap { slot: *slot, expected: Some(record), next: None }));
        }
        // First, so that what is cut off here is done again: the records tell where they are.
        let scope = if shared { Scope::Slots(held) } else { Scope::Every };
        let scripts = record::scripts_key(shard, &scope);
        links.run(&topology, vec![(slot(scripts.as_bytes()), delete(&scripts))]).await?;
        if removals.is_empty() {
            return Ok(());
        }
        links.run(&topology, removals).await?;
    }
    Err(Error::new(Code::TargetBusy, "another writer keeps changing the records on the target"))
}
