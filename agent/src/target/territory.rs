//! Which slots of a source cluster each shard of a task writes, said by the target: `__dts:<task>:<index>:slots` on a standalone one, the
//! record of each slot on a cluster (`cluster::territory`).
//!
//! No two shards own a slot at any moment. A shard that comes to own slots of another one's takes them, and breaks that one's
//! record in the same transaction: it can write nothing more before it has read what is left to it, and copied that again.

use dts_common::error::{Code, Error, Result};
use dts_common::ids::{Epoch, ShardId};
use dts_common::redis::slot::SlotSet;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use super::claim::{CLAIM_STEP, fenced};
use super::{Checkpoint, Destination, Phase, cluster, reserved_key};
use crate::client::Client;
use crate::endpoint::Side;

const RACES: u32 = 64;

struct Held {
    position: String,
    slots: String,
    record: Option<Checkpoint>,
    owned: Option<SlotSet>,
}

/// The slots of each of the task's shards, as far as they were taken.
pub async fn recorded(target: &Destination, task: &str, shards: u32) -> Result<Vec<Option<SlotSet>>> {
    let target = match target {
        Destination::Standalone(target) => target,
        // Slots that move end the task there: nothing is copied a second time.
        Destination::Routed(_) => return Ok((0..shards).map(|_| None).collect()),
        Destination::Cluster(seeds) => return cluster::territory::recorded(seeds, task, shards).await,
    };
    let mut client = Client::connect(target, Side::Target).await?;
    Ok(read(&mut client, task, shards).await?.into_iter().map(|held| held.owned).collect())
}

/// Takes the slots; to be called before the shard is claimed. With `afresh` the shard copies again also if they are the same.
pub async fn take(
    target: &Destination,
    shard: &ShardId,
    shards: u32,
    epoch: Epoch,
    slots: &SlotSet,
    afresh: bool,
) -> Result<()> {
    let target = match target {
        Destination::Standalone(target) => target,
        Destination::Routed(_) => return Ok(()),
        Destination::Cluster(seeds) => return cluster::territory::take(seeds, shard, epoch, slots, afresh).await,
    };
    let mut client = Client::connect_named(target, Side::Target).await?;
    for _ in 0..RACES {
        let keys = (0..shards).flat_map(|index| {
            let id = ShardId { task: shard.task.clone(), index };
            [reserved_key(&id, "position"), reserved_key(&id, "slots")]
        });
        let keys: Vec<String> = keys.collect();
        let watch: Vec<&[u8]> = std::iter::once(&b"WATCH"[..]).chain(keys.iter().map(String::as_bytes)).collect();
        client.call(&watch).await?;
        let mut writes = Vec::new();
        for (index, held) in (0..).zip(read(&mut client, &shard.task, shards).await?) {
            let taken = |record: &Checkpoint| Checkpoint {
                sequence: record.sequence + CLAIM_STEP,
                phase: Phase::Taken,
                ..record.clone()
            };
            if index == shard.index {
                if let Some(record) = held.record.as_ref().filter(|record| record.epoch > epoch) {
                    return Err(fenced(record, epoch));
                }
                if held.owned.as_ref() != Some(slots) || afresh {
                    writes.extend(held.record.map(|record| (held.position, taken(&record).encode())));
                    writes.push((held.slots, slots.to_string()));
                }
            } else if let Some(owned) = held.owned.filter(|owned| !owned.and(slots).is_empty()) {
                writes.extend(held.record.map(|record| (held.position, taken(&record).encode())));
                writes.push((held.slots, owned.without(slots).to_string()));
            }
        }
        if writes.is_empty() {
            client.call(&[b"UNWATCH"]).await?;
            return Ok(());
        }
        client.call(&[b"MULTI"]).await?;
        for (key, value) in &writes {
            client.call(&[b"SET", key.as_bytes(), value.as_bytes()]).await?;
        }
        if matches!(client.call(&[b"EXEC"]).await?, BytesFrame::Array(_)) {
            tracing::info!(%shard, %slots, "took slots");
            return Ok(());
        }
    }
    Err(Error::new(Code::TargetBusy, "the records of the task's other shards keep changing"))
}

/// To be called once the shard is claimed: from here on nobody takes a slot without breaking the claim.
pub async fn still_ours(target: &Destination, shard: &ShardId, slots: &SlotSet) -> Result<()> {
    // Of a cluster the claim itself found every record to be ours.
    let Destination::Standalone(target) = target else { return Ok(()) };
    let mut client = Client::connect(target, Side::Target).await?;
    let found = client.call(&[b"GET", reserved_key(shard, "slots").as_bytes()]).await?;
    if found.as_str().and_then(SlotSet::parse).as_ref() == Some(slots) {
        return Ok(());
    }
    Err(Error::new(Code::TargetRewound, "another shard of the task has taken slots of this one over"))
}

async fn read(client: &mut Client, task: &str, shards: u32) -> Result<Vec<Held>> {
    let mut all = Vec::new();
    for index in 0..shards {
        let id = ShardId { task: task.to_owned(), index };
        let (position, slots) = (reserved_key(&id, "position"), reserved_key(&id, "slots"));
        let record = match client.call(&[b"GET", position.as_bytes()]).await? {
            BytesFrame::Null => None,
            found => Some(Checkpoint::decode(found.as_bytes().unwrap_or_default())?),
        };
        let owned = client.call(&[b"GET", slots.as_bytes()]).await?;
        let owned = match owned.as_str() {
            None => None,
            Some(text) => Some(
                SlotSet::parse(text).ok_or_else(|| Error::new(Code::Fenced, "a record of slots is not one of ours"))?,
            ),
        };
        all.push(Held { position, slots, record, owned });
    }
    Ok(all)
}
