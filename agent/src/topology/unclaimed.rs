//! Independent sources into one target: deleting what a source no longer has, and no other one has either.
//!
//! Exact: a key that another shard writes while the others are asked breaks the transaction, and is asked for again. Fenced by the shard's
//! record, which is watched too: on a cluster by that of the keys' slot.

use std::collections::{BTreeMap, HashMap};

use dts_common::error::{Code, Error, Result};
use dts_common::redis::slot::slot;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use super::siblings::exist;
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::target::cluster::SlotRecords;

/// Small steps: each watches its keys, and a hot one should not hold many up.
const BATCH: usize = 64;
const ROUNDS: u32 = 1000;

/// The other sources of a task, and how their databases are numbered.
pub struct Others {
    sources: Vec<Client>,
    /// Database of the target.
    db: u32,
    /// The same, as the sources number it.
    source_db: u32,
}

impl Others {
    /// Connects to them; `db` of the target is their `source_db`.
    pub async fn connect(others: impl Iterator<Item = &Endpoint>, db: u32, source_db: u32) -> Result<Self> {
        let mut sources = Vec::new();
        for other in others {
            sources.push(Client::connect(other, Side::Source).await?);
        }
        Ok(Self { sources, db, source_db })
    }

    /// Deletes those keys that none of them has from a standalone target; the record has to stand as it is.
    pub async fn delete_unclaimed(
        &mut self,
        target: &Endpoint,
        (key, record): (&str, &str),
        keys: &[Vec<u8>],
    ) -> Result<u64> {
        let mut to = Client::connect_named(target, Side::Target).await?;
        let mut deleted = 0;
        let stands = |found: Option<&[u8]>| match found == Some(record.as_bytes()) {
            true => Ok(true),
            false => Err(Error::new(Code::TargetRewound, "the record on the target is not the one that was confirmed")),
        };
        for batch in keys.chunks(BATCH) {
            deleted += self.delete_batch(&mut to, key, &stands, batch).await?;
        }
        Ok(deleted)
    }

    /// The same on a cluster, slot by slot; slots that an earlier attempt brought up to `offset` are left alone.
    pub async fn delete_unclaimed_of_slots(
        &mut self,
        records: &SlotRecords,
        offset: u64,
        keys: &[Vec<u8>],
    ) -> Result<u64> {
        let mut by_slot: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
        for key in keys {
            by_slot.entry(slot(key)).or_default().push(key.clone());
        }
        let mut clients: HashMap<String, Client> = HashMap::new();
        let mut deleted = 0;
        for (slot, keys) in by_slot {
            let owner = records.owner(slot)?;
            let mut to = match clients.remove(&owner.to_string()) {
                Some(client) => client,
                None => Client::connect_named(owner, Side::Target).await?,
            };
            let stands = |found: Option<&[u8]>| records.may_clear(found, offset);
            for batch in keys.chunks(BATCH) {
                deleted += self.delete_batch(&mut to, &records.key(slot), &stands, batch).await?;
            }
            clients.insert(owner.to_string(), to);
        }
        Ok(deleted)
    }

    async fn delete_batch(
        &mut self,
        to: &mut Client,
        record: &str,
        stands: &(dyn Fn(Option<&[u8]>) -> Result<bool> + Sync),
        keys: &[Vec<u8>],
    ) -> Result<u64> {
        for _ in 0..ROUNDS {
            if let Some(count) = self.try_delete(to, record, stands, keys).await? {
                return Ok(count);
            }
        }
        Err(Error::new(Code::TargetBusy, "keys change faster than their owners can be asked"))
    }

    /// None if somebody changed a key or the record meanwhile.
    async fn try_delete(
        &mut self,
        to: &mut Client,
        record: &str,
        stands: &(dyn Fn(Option<&[u8]>) -> Result<bool> + Sync),
        keys: &[Vec<u8>],
    ) -> Result<Option<u64>> {
        to.call(&[b"SELECT", b"0"]).await?;
        to.call(&[b"WATCH", record.as_bytes()]).await?;
        let found = to.call(&[b"GET", record.as_bytes()]).await?;
        if !stands(found.as_bytes())? {
            to.call(&[b"UNWATCH"]).await?;
            return Ok(Some(0));
        }
        to.call(&[b"SELECT", self.db.to_string().as_bytes()]).await?;
        let watch: Vec<&[u8]> = std::iter::once(&b"WATCH"[..]).chain(keys.iter().map(Vec::as_slice)).collect();
        to.call(&watch).await?;
        let mut unclaimed = keys.to_vec();
        for source in &mut self.sources {
            let mut there = exist(source, self.source_db, &unclaimed).await?.into_iter();
            unclaimed.retain(|_| !there.next().unwrap_or(true));
        }
        let count = u64::try_from(unclaimed.len()).unwrap_or(u64::MAX);
        if unclaimed.is_empty() {
            to.call(&[b"UNWATCH"]).await?;
            return Ok(Some(0));
        }
        to.call(&[b"MULTI"]).await?;
        let delete: Vec<&[u8]> = std::iter::once(&b"DEL"[..]).chain(unclaimed.iter().map(Vec::as_slice)).collect();
        to.call(&delete).await?;
        match to.call(&[b"EXEC"]).await? {
            BytesFrame::Array(_) => Ok(Some(count)),
            _ => Ok(None),
        }
    }
}
