//! Claiming a shard behind an endpoint: the record is read and written without a transaction. Whoever held it before sees the new one before its
//! next batch, and stops; what it has sent by then may still arrive (`F0`).

use dts_common::error::{Code, Error, Result};
use dts_common::ids::{Epoch, ShardId};

use super::writer::Writer;
use super::{Job, ahead_key};
use crate::endpoint::Endpoint;
use crate::retry::Retry;
use crate::target::claim::{CLAIM_STEP, fenced};
use crate::target::connection::Connection;
use crate::target::reply::Reply;
use crate::target::{Checkpoint, Phase, reserved_key};

/// Claims the shard; gives a writer, and the record that stood there.
pub async fn claim(job: Job, mut retry: Retry) -> Result<(Writer, Option<Checkpoint>)> {
    loop {
        job.leash.slack().await;
        match raise(&job).await {
            Ok((connection, before, now, ahead)) => {
                retry.succeeded();
                return Ok((Writer::new(job, connection, now, ahead, retry), before));
            }
            Err(error) => retry.wait(error).await?,
        }
    }
}

async fn raise(job: &Job) -> Result<(Connection, Option<Checkpoint>, Checkpoint, u64)> {
    let key = reserved_key(&job.shard, "position");
    let mut connection = Connection::open(&job.endpoint).await?;
    let before = read(&mut connection, &key, job.epoch).await?;
    let now = match &before {
        Some(before) => Checkpoint { epoch: job.epoch, sequence: before.sequence + CLAIM_STEP, ..before.clone() },
        None => Checkpoint { holder: None, epoch: job.epoch, sequence: 1, copy: 0, phase: Phase::Claimed },
    };
    connection.call(&[b"SET", key.as_bytes(), now.encode().as_bytes()]).await?;
    if read(&mut connection, &key, job.epoch).await?.as_ref() != Some(&now) {
        return Err(Error::new(Code::Fenced, "another writer changes the record behind the endpoint"));
    }
    let ahead = match connection.call(&[b"GET", ahead_key(&job.shard).as_bytes()]).await? {
        Reply::Bulk(Some(text)) => String::from_utf8_lossy(&text).parse().unwrap_or(u64::MAX),
        _ => 0,
    };
    Ok((connection, before, now, ahead))
}

/// Removes our keys; missing ones are gone already.
pub async fn release(endpoint: &Endpoint, shard: &ShardId, epoch: Epoch) -> Result<()> {
    let mut connection = Connection::open(endpoint).await?;
    read(&mut connection, &reserved_key(shard, "position"), epoch).await?;
    for key in [ahead_key(shard), reserved_key(shard, "scripts"), reserved_key(shard, "position")] {
        connection.call(&[b"DEL", key.as_bytes()]).await?;
    }
    Ok(())
}

/// Refuses if somebody with a higher epoch wrote it.
async fn read(connection: &mut Connection, key: &str, epoch: Epoch) -> Result<Option<Checkpoint>> {
    match connection.call(&[b"GET", key.as_bytes()]).await? {
        Reply::Bulk(Some(text)) => match Checkpoint::decode(&text)? {
            record if record.epoch > epoch => Err(fenced(&record, epoch)),
            record => Ok(Some(record)),
        },
        _ => Ok(None),
    }
}
