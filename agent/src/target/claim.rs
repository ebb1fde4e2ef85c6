//! Raising the fence: our epoch becomes the claim, which breaks the transaction of whoever writes and cannot be outrun by one, for
//! writers only watch it. Then the record is written anew under our epoch, and only then what the target holds is read. Never the
//! other order. Releasing: the same check, then our keys are gone.

use std::sync::Arc;

use bytes::Bytes;
use dts_common::error::{Code, Error, Result};
use dts_common::ids::{Epoch, ShardId};
use dts_common::redis::slot::SlotSet;
use dts_common::redis::version::ServerVersion;
use redis_protocol::resp2::types::BytesFrame;

use super::connection::Connection;
use super::reply::Reply;
use super::session::rewound;
use super::user::{Door, EpochUser};
use super::writer::Writer;
use super::{Checkpoint, Phase, fence, reserved_key};
use crate::client::Info;
use crate::endpoint::Endpoint;
use crate::leash::{Leash, unrecorded};
use crate::limits::Throttle;
use crate::retry::Retry;

/// Others that claim can win so often before something is wrong; so can a writer of a program that knows no claims.
const RACES: u32 = 64;
/// A claim raises the record's sequence by two, a transaction by one: whoever finds a record knows which it was.
pub(super) const CLAIM_STEP: u64 = 2;

/// Claims the shard on the target; gives a writer, and the record that stood there. Where none stands the shard may be over, and this leash decides.
pub async fn claim(
    endpoint: Endpoint,
    user: Option<Arc<EpochUser>>,
    shard: &ShardId,
    epoch: Epoch,
    leash: &Leash,
    mut retry: Retry,
    pace: Throttle,
) -> Result<(Writer, Option<Checkpoint>)> {
    let keys = Keys::of(shard);
    let mut door = Door { endpoint, user, claimed: false };
    loop {
        let raised = async {
            door.claimed = leash.is_over();
            if door.claimed && watched(&mut Connection::open(&door.endpoint).await?, &keys, epoch).await?.is_none() {
                return Err(unrecorded());
            }
            raise(&door, &keys, epoch).await
        };
        match raised.await {
            Ok(raised) => {
                retry.succeeded();
                let before = raised.before.clone();
                let door = Door { claimed: true, ..door };
                return Ok((Writer::new(door, keys, raised, retry, pace), before));
            }
            Err(error) if error.code == Code::CoordinatorLost => retry.until(error, leash.slack()).await?,
            Err(error) => retry.wait(error).await?,
        }
    }
}

/// Where a shard's authority stands on a standalone target.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// The record: what the target holds, and under which epoch it was written.
    pub(super) record: String,
    /// The highest epoch that was claimed.
    pub(super) claim: String,
    others: [String; 2],
}

impl Keys {
    pub(super) fn of(shard: &ShardId) -> Self {
        let [record, claim, scripts, slots] =
            ["position", "claim", "scripts", "slots"].map(|name| reserved_key(shard, name));
        Self { record, claim, others: [scripts, slots] }
    }
}

impl Door {
    /// Whoever wakes when all is over must not begin anew.
    fn knows(&self, found: Option<&Checkpoint>) -> Result<()> {
        match found {
            None if self.claimed => Err(rewound("the record on the target is gone")),
            _ => Ok(()),
        }
    }
}

/// A connection whose record is ours.
pub(super) struct Raised {
    pub(super) connection: Connection,
    /// What may follow a MULTI before its answer.
    pub(super) multi_is_never_refused: bool,
    pub(super) before: Option<Checkpoint>,
    pub(super) now: Checkpoint,
}

pub(super) async fn raise(door: &Door, keys: &Keys, epoch: Epoch) -> Result<Raised> {
    let mut connection = match &door.user {
        None => Connection::open(&door.endpoint).await?,
        Some(user) => {
            // Who was replaced makes no user that somebody would have to remove again.
            let found = watched(&mut Connection::open(&door.endpoint).await?, keys, epoch).await?;
            door.knows(found.as_ref())?;
            user.enter(&door.endpoint).await?
        }
    };
    let multi_is_never_refused = multi_is_never_refused(&mut connection).await?;
    for _ in 0..RACES {
        if door.claimed {
            door.knows(watched(&mut connection, keys, epoch).await?.as_ref())?;
            connection.call(&[b"UNWATCH"]).await?;
        }
        watched_claim(&mut connection, keys, epoch).await?;
        connection.call(&[b"MULTI"]).await?;
        connection.call(&[b"SET", keys.claim.as_bytes(), epoch.to_string().as_bytes()]).await?;
        if !executed(&mut connection).await? {
            continue;
        }
        let before = watched(&mut connection, keys, epoch).await?;
        if let Err(error) = door.knows(before.as_ref()) {
            // It went in this very moment, and the claim would be left.
            connection.call(&[b"MULTI"]).await?;
            connection.call(&[b"DEL", keys.claim.as_bytes()]).await?;
            executed(&mut connection).await?;
            return Err(error);
        }
        let now = match &before {
            Some(before) => Checkpoint { epoch, sequence: before.sequence + CLAIM_STEP, ..before.clone() },
            None => Checkpoint { holder: None, epoch, sequence: 1, copy: 0, phase: Phase::Claimed },
        };
        connection.call(&[b"MULTI"]).await?;
        connection.call(&[b"SET", keys.record.as_bytes(), now.encode().as_bytes()]).await?;
        if executed(&mut connection).await? {
            if let Some(user) = &door.user {
                user.expel(&door.endpoint).await?;
            }
            return Ok(Raised { connection, multi_is_never_refused, before, now });
        }
    }
    Err(Error::new(Code::TargetBusy, "another writer keeps changing the record on the target"))
}

/// Up to 5.0 a server that is busy with a script refuses MULTI too: what is sent behind it would run by itself.
async fn multi_is_never_refused(connection: &mut Connection) -> Result<bool> {
    let Reply::Bulk(Some(info)) = connection.call(&[b"INFO", b"server"]).await? else { return Ok(false) };
    let info = Info::of(&BytesFrame::BulkString(Bytes::from(info)));
    Ok(ServerVersion::from_info(|field| info.get(field)).is_some_and(|version| version.at_least(6, 0)))
}

/// Leaves a record as if the shard had come so far: the task goes on from there. `slots`: those of the source, of a node of a cluster.
pub(super) async fn leave(
    endpoint: &Endpoint,
    shard: &ShardId,
    epoch: Epoch,
    phase: &Phase,
    slots: Option<&SlotSet>,
) -> Result<()> {
    let keys = Keys::of(shard);
    let [_, owned] = &keys.others;
    let mut connection = Connection::open(endpoint).await?;
    for _ in 0..RACES {
        let before = watched(&mut connection, &keys, epoch).await?;
        let sequence = before.map_or(1, |before| before.sequence + CLAIM_STEP);
        let now = Checkpoint { holder: None, epoch, sequence, copy: 0, phase: phase.clone() };
        connection.call(&[b"MULTI"]).await?;
        connection.call(&[b"SET", keys.record.as_bytes(), now.encode().as_bytes()]).await?;
        if let Some(slots) = slots {
            connection.call(&[b"SET", owned.as_bytes(), slots.to_string().as_bytes()]).await?;
        }
        if executed(&mut connection).await? {
            return Ok(());
        }
    }
    Err(Error::new(Code::TargetBusy, "another writer keeps changing the record on the target"))
}

/// Removes our keys; missing ones are gone already.
pub async fn release(endpoint: &Endpoint, shard: &ShardId, epoch: Epoch) -> Result<()> {
    let keys = Keys::of(shard);
    let mut connection = Connection::open(endpoint).await?;
    for _ in 0..RACES {
        watched(&mut connection, &keys, epoch).await?;
        connection.call(&[b"MULTI"]).await?;
        let [scripts, slots] = &keys.others;
        let all = [&keys.record, &keys.claim, scripts, slots].map(|key| key.as_bytes());
        connection.call(&[b"DEL", all[0], all[1], all[2], all[3]]).await?;
        if executed(&mut connection).await? {
            return Ok(());
        }
    }
    Err(Error::new(Code::TargetBusy, "another writer keeps changing the record on the target"))
}

/// Watches the claim and the record, then reads them; refuses if either has a higher epoch.
async fn watched(connection: &mut Connection, keys: &Keys, epoch: Epoch) -> Result<Option<Checkpoint>> {
    watched_claim(connection, keys, epoch).await?;
    connection.call(&[b"WATCH", keys.record.as_bytes()]).await?;
    let record = match connection.call(&[b"GET", keys.record.as_bytes()]).await? {
        Reply::Bulk(Some(text)) => Some(Checkpoint::decode(&text)?),
        _ => None,
    };
    match record {
        Some(record) if record.epoch > epoch && !fence::is_off() => Err(fenced(&record, epoch)),
        record => Ok(record),
    }
}

async fn watched_claim(connection: &mut Connection, keys: &Keys, epoch: Epoch) -> Result<()> {
    connection.call(&[b"WATCH", keys.claim.as_bytes()]).await?;
    let found = match connection.call(&[b"GET", keys.claim.as_bytes()]).await? {
        Reply::Bulk(found) => found,
        _ => None,
    };
    match outclaimed(found.as_deref(), epoch) {
        Some(error) if !fence::is_off() => Err(error),
        _ => Ok(()),
    }
}

/// The error that a claim is for an epoch, if it is one.
pub(super) fn outclaimed(claim: Option<&[u8]>, ours: Epoch) -> Option<Error> {
    let claim = claim?;
    match std::str::from_utf8(claim).ok().and_then(|text| text.parse().ok()) {
        Some(claimed) if claimed <= ours.0 => None,
        Some(claimed) => Some(claimed_by(Epoch(claimed), ours)),
        None => Some(Error::new(Code::Fenced, "the claim on the target is not one of ours")),
    }
}

pub(super) fn fenced(record: &Checkpoint, epoch: Epoch) -> Error {
    claimed_by(record.epoch, epoch)
}

fn claimed_by(theirs: Epoch, ours: Epoch) -> Error {
    Error::new(Code::Fenced, format!("the target was claimed under epoch {theirs}, ours is {ours}"))
}

/// False if what was watched has changed.
async fn executed(connection: &mut Connection) -> Result<bool> {
    match connection.call(&[b"EXEC"]).await? {
        Reply::Array(None) | Reply::Bulk(None) => Ok(false),
        Reply::Array(Some(elements)) => {
            for _ in 0..elements {
                if let Some(error) = connection.element().await? {
                    return Err(connection.refused(&error));
                }
            }
            Ok(true)
        }
        _ => Err(Error::new(Code::TargetLost, "the target answers EXEC with something else")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_higher_epoch_or_what_is_none_keeps_us_from_writing() {
        for (claim, refuses) in [
            (None, false),
            (Some("6"), false),
            (Some("7"), false),
            (Some("8"), true),
            (Some(""), true),
            (Some("x"), true),
        ] {
            let found = outclaimed(claim.map(str::as_bytes), Epoch(7));
            assert_eq!(found.is_some_and(|error| error.code == Code::Fenced), refuses, "{claim:?}");
        }
    }
}
