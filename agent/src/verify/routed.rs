//! The checks where the target is an endpoint that routes by itself.

use dts_common::error::{Code, Error, Result};
use dts_common::ids::ShardId;
use redis_protocol::resp2::types::BytesFrame;

use super::{Facts, has_one_database, unverified, version};
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::pipeline::Job;
use crate::target::routed::inspect;
use crate::target::{Destination, reserved_key};
use crate::topology::{Owner, Proof};

/// As [`super::verify`]. Nothing is written.
pub(super) async fn verify(
    job: &Job,
    destination: Destination,
    (read_from, owner, proof): (Endpoint, Owner, Option<Proof>),
    siblings: Vec<Endpoint>,
    from: &mut Client,
) -> Result<Facts> {
    let Job { target, shard, topology, .. } = job;
    let behind = inspect(target).await?;
    let run_id = from.info("server").await?.get("run_id").map(str::to_owned);
    if run_id.is_some_and(|id| behind.run_ids.contains(&id)) {
        return Err(Error::new(Code::SameInstance, format!("{read_from} stands behind {target}")));
    }
    has_one_database(from, &job.selection).await?;
    // By which expiries are made exact at completion.
    from.call(&[b"SCAN", b"0", b"COUNT", b"1"]).await?;
    if let BytesFrame::Error(text) = from.ask(&[b"PTTL", b"a"]).await?
        && text.starts_with("NOPERM")
    {
        return Err(from.refused("PTTL", &text));
    }
    let begun = begun(target, shard, topology.shards()).await?;
    if begun.is_none() && behind.keys > 0 {
        let message = format!("the {} servers behind {target} are not empty ({} keys)", behind.servers, behind.keys);
        return Err(Error::new(Code::TargetNotEmpty, message));
    }
    let source = version(from, Side::Source).await?;
    if !behind.version.takes_all_of(&source) && !job.allow_downgrade {
        let message = format!("the target ({}) is older than the source ({source})", behind.version);
        return Err(Error::new(Code::Downgrade, message));
    }
    let insecure = [("source", &read_from), ("target", target)].into_iter().filter_map(unverified);
    let promise = format!(
        "AT LEAST ONCE: {target} routes by itself ({} servers behind it were met). After a lost connection commands that compute (INCR, APPEND, RPUSH …) may be applied twice; at_risk_commands counts them. Commands over several keys stop the task, and so does a copy that would have to be repeated",
        behind.servers
    );
    Ok(Facts {
        source,
        target: behind.version,
        target_databases: 1,
        destination,
        warnings: insecure.chain([promise]).collect(),
        read_from,
        owner,
        siblings,
        untouched: begun != Some(shard.index),
        proof,
        target_histories: Vec::new(),
    })
}

/// A shard of this task that has a record there; this one first.
async fn begun(target: &Endpoint, shard: &ShardId, shards: u32) -> Result<Option<u32>> {
    let mut to = Client::connect(target, Side::Target).await?;
    for index in std::iter::once(shard.index).chain(0..shards) {
        let of = ShardId { task: shard.task.clone(), index };
        if to.call(&[b"GET", reserved_key(&of, "position").as_bytes()]).await? != BytesFrame::Null {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// Why a target does not tell what it is, if it answers otherwise: proxies hang up on what they do not know.
pub(super) async fn no_info(target: &Endpoint, error: Error) -> Error {
    let answers = async {
        let mut client = Client::connect(target, Side::Target).await?;
        client.call(&[b"GET", b"a"]).await
    };
    if error.code != Code::TargetLost || answers.await.is_err() {
        return error;
    }
    let message = format!(
        "{target} hangs up on INFO: if it routes by itself (a proxy, the address of a managed cluster), say so: --target-kind endpoint (target.routes)"
    );
    Error::new(Code::TargetUnsupported, message)
}
