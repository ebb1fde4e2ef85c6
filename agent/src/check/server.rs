//! What the two servers are, singly and to each other.

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::Severity;

use super::found::Found;
use super::look::{Shard, is_of_target};
use crate::endpoint::Side;
use crate::target::Destination;
use crate::verify;

/// The listed sources are all there is; `moving`: whether slots are on their way is the question, not the rest.
pub(super) async fn whole(shard: &Shard<'_>, moving: bool) -> Found {
    match verify::whose(shard.job, &shard.destination).await {
        Err(error) if is_of_target(&error) => {
            Found::unknown("what the target knows of the source's slots could not be read").weighing(Severity::Informs)
        }
        Err(error) if (error.code == Code::SourceResharded) == moving => Found::gate(Err(error)),
        Err(_) if moving => Found::unknown("the source could not be looked at").weighing(Severity::Informs),
        _ => Found::fine(),
    }
}

/// Two, and neither follows the other.
pub(super) async fn are_two(shard: &Shard<'_>) -> Result<()> {
    let (mut from, mut to) = (shard.from().await?, shard.to().await?);
    let identity = |info: &crate::client::Info| info.get("run_id").unwrap_or_default().to_owned();
    let (source, target) = (identity(&from.info("server").await?), identity(&to.info("server").await?));
    if let Ok(mut figures) = shard.figures.lock() {
        (figures.source_identity, figures.target_identity) = (source, target);
    }
    verify::are_two(&mut from, &shard.source, &mut to, &shard.job.target).await
}

/// It serves, and could prepare a snapshot.
pub(super) async fn runs(shard: &Shard<'_>) -> Found {
    let look = async {
        let mut from = shard.from().await?;
        let persistence = from.info("persistence").await?;
        let replication = from.info("replication").await?;
        let busy = |why: &str| Ok(Found::Failed(Error::new(Code::SourceBusy, format!("the source {why}")).into()));
        if persistence.get("loading") == Some("1") {
            return busy("is loading its data");
        }
        let is_replica = replication.get("role") == Some("slave");
        if is_replica && replication.get("master_link_status") != Some("up") {
            return busy("is a replica whose link to its master is down");
        }
        if persistence.get("rdb_last_bgsave_status") == Some("err") {
            let failed = Found::bad("the source's last save failed: it may not be able to prepare a snapshot");
            return Ok(failed.weighing(Severity::Warns));
        }
        let advice = "a master: to read one of its replicas would spare it";
        Ok(Found::Passed(if is_replica { String::new() } else { advice.into() }))
    };
    Found::asked(look.await)
}

/// A master, or a whole cluster.
pub(super) async fn takes_writes(shard: &Shard<'_>) -> Result<()> {
    match &shard.destination {
        Destination::Standalone(_) | Destination::Routed(_) => verify::is_master(&mut shard.to().await?).await,
        Destination::Cluster(seeds) => verify::is_whole(seeds).await.map(drop),
    }
}

/// Nobody else's keys are there.
pub(super) async fn is_ours_to_fill(shard: &Shard<'_>) -> Result<()> {
    let job = shard.job;
    match &shard.destination {
        Destination::Standalone(_) | Destination::Routed(_) => {
            verify::is_ours_to_fill(&mut shard.to().await?, &job.shard, job.topology.shards()).await.map(drop)
        }
        Destination::Cluster(seeds) => verify::is_whole_and_ours(job, seeds).await.map(drop),
    }
}

/// Every database has a place.
pub(super) async fn databases_fit(shard: &Shard<'_>) -> Result<()> {
    if matches!(shard.destination, Destination::Cluster(_)) {
        verify::has_one_database(&mut shard.from().await?, &shard.job.selection).await?;
        return verify::map_fits(shard.job, 1);
    }
    let has = verify::databases(&mut shard.to().await?).await?;
    verify::map_fits(shard.job, has)?;
    let keyspace = shard.from().await?.info("keyspace").await?;
    let highest = keyspace.fields().filter_map(|(name, _)| name.strip_prefix("db")?.parse::<u32>().ok()).max();
    match highest {
        Some(highest) if highest >= has && shard.job.selection.is_everything() => {
            let message = format!("the source has keys in db {highest}, the target has {has} databases");
            Err(Error::new(Code::TargetUnsupported, message))
        }
        _ => Ok(()),
    }
}

/// Not to an older version, unless that was asked for.
pub(super) async fn versions_fit(shard: &Shard<'_>) -> Found {
    let look = async {
        let (mut from, mut to) = (shard.from().await?, shard.to().await?);
        let source = verify::version(&mut from, Side::Source).await?;
        let target = verify::version(&mut to, Side::Target).await?;
        if target.takes_all_of(&source) {
            return Ok(Found::Passed(format!("{source} to {target}")));
        }
        if !shard.job.allow_downgrade {
            return Ok(Found::Failed(verify::downgrade(&source, &target).into()));
        }
        let unknown = verify::unknown_commands(&mut from, &mut to, &shard.job.selection).await;
        Ok(match unknown {
            Some(commands) => {
                let fix = "look at the list of what an older version cannot express (docs/versions.md)";
                Found::bad(commands).mended_by(fix).weighing(Severity::Warns)
            }
            None => Found::Passed(format!("{source} to {target}, which is older: allowed")),
        })
    };
    Found::asked(look.await)
}

/// A target that evicts loses keys.
pub(super) async fn eviction(shard: &Shard<'_>) -> Found {
    let look = async { Ok(verify::eviction(&mut shard.to().await?).await) };
    Found::asked(look.await.map(|warning| match warning {
        None => Found::fine(),
        Some(warning) => Found::bad(warning),
    }))
}
