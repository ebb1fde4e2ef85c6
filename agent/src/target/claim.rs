//! Raising the fence: writes the record anew under our epoch, which breaks the transaction of whoever held it before, and
//! reads what the target holds. Never the other order. Releasing: the same check, then our keys are gone.

use std::sync::Arc;

use dts_common::error::{Code, Error, Result};
use dts_common::ids::{Epoch, ShardId};

use super::connection::Connection;
use super::reply::Reply;
use super::user::{Door, EpochUser};
use super::writer::{Writer, rewound};
use super::{Checkpoint, Phase, fence, reserved_key};
use crate::endpoint::Endpoint;
use crate::limits::Throttle;
use crate::retry::Retry;

/// Another writer can win the race for the record only so often before something is wrong.
const RACES: u32 = 16;
/// A claim raises the record's sequence by two, a transaction by one: whoever finds a record knows which it was.
pub(super) const CLAIM_STEP: u64 = 2;

/// Claims the shard on the target; gives a writer, and the record that stood there.
pub async fn claim(
    endpoint: Endpoint,
    user: Option<Arc<EpochUser>>,
    shard: &ShardId,
    epoch: Epoch,
    mut retry: Retry,
    pace: Throttle,
) -> Result<(Writer, Option<Checkpoint>)> {
    let key = reserved_key(shard, "position");
    let door = Door { endpoint, user, claimed: false };
    loop {
        match raise(&door, &key, epoch).await {
            Ok(raised) => {
                retry.succeeded();
                let writer =
                    Writer::new(Door { claimed: true, ..door }, key, raised.connection, raised.now, retry, pace);
                return Ok((writer, raised.before));
            }
            Err(error) => retry.wait(error).await?,
        }
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
    pub(super) before: Option<Checkpoint>,
    pub(super) now: Checkpoint,
}

pub(super) async fn raise(door: &Door, key: &str, epoch: Epoch) -> Result<Raised> {
    let mut connection = match &door.user {
        None => Connection::open(&door.endpoint).await?,
        Some(user) => {
            // Who was replaced makes no user that somebody would have to remove again.
            door.knows(record(&mut Connection::open(&door.endpoint).await?, key, epoch).await?.as_ref())?;
            user.enter(&door.endpoint).await?
        }
    };
    for _ in 0..RACES {
        let before = watched(&mut connection, key, epoch).await?;
        door.knows(before.as_ref())?;
        let now = match &before {
            Some(before) => Checkpoint { epoch, sequence: before.sequence + CLAIM_STEP, ..before.clone() },
            None => Checkpoint { holder: None, epoch, sequence: 1, copy: 0, phase: Phase::Claimed },
        };
        connection.call(&[b"MULTI"]).await?;
        connection.call(&[b"SET", key.as_bytes(), now.encode().as_bytes()]).await?;
        if executed(&mut connection).await? {
            if let Some(user) = &door.user {
                user.expel(&door.endpoint).await?;
            }
            return Ok(Raised { connection, before, now });
        }
    }
    Err(Error::new(Code::Fenced, "another writer keeps changing the record on the target"))
}

/// Removes our keys; missing ones are gone already.
pub async fn release(endpoint: &Endpoint, shard: &ShardId, epoch: Epoch) -> Result<()> {
    let [position, scripts, slots] = ["position", "scripts", "slots"].map(|name| reserved_key(shard, name));
    let mut connection = Connection::open(endpoint).await?;
    for _ in 0..RACES {
        watched(&mut connection, &position, epoch).await?;
        connection.call(&[b"MULTI"]).await?;
        connection.call(&[b"DEL", position.as_bytes(), scripts.as_bytes(), slots.as_bytes()]).await?;
        if executed(&mut connection).await? {
            return Ok(());
        }
    }
    Err(Error::new(Code::Fenced, "another writer keeps changing the record on the target"))
}

/// Watches the record, then reads it; refuses if somebody with a higher epoch wrote it.
async fn watched(connection: &mut Connection, key: &str, epoch: Epoch) -> Result<Option<Checkpoint>> {
    connection.call(&[b"WATCH", key.as_bytes()]).await?;
    record(connection, key, epoch).await
}

async fn record(connection: &mut Connection, key: &str, epoch: Epoch) -> Result<Option<Checkpoint>> {
    let record = match connection.call(&[b"GET", key.as_bytes()]).await? {
        Reply::Bulk(Some(text)) => Some(Checkpoint::decode(&text)?),
        _ => None,
    };
    match record {
        Some(record) if record.epoch > epoch && !fence::is_off() => Err(fenced(&record, epoch)),
        record => Ok(record),
    }
}

pub(super) fn fenced(record: &Checkpoint, epoch: Epoch) -> Error {
    Error::new(Code::Fenced, format!("the target was claimed under epoch {}, ours is {epoch}", record.epoch))
}

/// False if the watched record was changed.
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
