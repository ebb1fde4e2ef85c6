//! What the source has run, loaded, and is able to: what of it the target does not follow.

use dts_common::error::Result;
use dts_proto::v1::Severity;
use redis_protocol::resp2::types::BytesFrame;

use super::found::Found;
use super::look::Shard;
use super::words::texts;
use crate::client::Client;
use crate::endpoint::Side;
use crate::target::Destination;
use crate::topology::Kind;
use crate::verify::version;

/// What a cluster does not take at all, unless all keys are in one slot: docs/cluster-targets.md.
const STOPS: &[&str] = &["swapdb", "move"];
/// Up to 4.0 a script is replicated as it is, not as what it did.
const SCRIPTS: &[&str] = &["eval", "evalsha"];
/// Taken exactly, and slowly.
const SLOW: &[&str] = &[
    "rename",
    "renamenx",
    "copy",
    "rpoplpush",
    "brpoplpush",
    "lmove",
    "blmove",
    "sinterstore",
    "sunionstore",
    "sdiffstore",
    "zinterstore",
    "zunionstore",
    "zdiffstore",
    "zrangestore",
    "bitop",
    "pfmerge",
    "geosearchstore",
    "sort",
];

/// What a cluster may refuse, of what the source has run.
pub(super) async fn over_slots(shard: &Shard<'_>) -> Found {
    if matches!(shard.destination, Destination::Standalone(_)) {
        return Found::noted("the target is not a cluster");
    }
    if matches!(shard.job.topology.kind, Kind::Cluster) {
        return Found::noted("the source is a cluster itself");
    }
    let look = async {
        let mut from = shard.from().await?;
        let scripts = !version(&mut from, Side::Source).await?.at_least(5, 0);
        let used = from.info("commandstats").await?;
        let names: Vec<&str> = used.fields().filter_map(|(name, _)| name.strip_prefix("cmdstat_")).collect();
        let of = |list: &[&str]| -> Vec<String> {
            names.iter().filter(|name| list.contains(name)).map(|name| name.to_uppercase()).collect()
        };
        let mut stops = of(STOPS);
        stops.extend(if scripts { of(SCRIPTS) } else { Vec::new() });
        let slow = of(SLOW);
        if !stops.is_empty() {
            let message = format!("the source has run {}, which stop the task over several slots", stops.join(", "));
            let found = Found::bad(message);
            return Ok(if shard.job.skip_cross_slot { found.weighing(Severity::Informs) } else { found });
        }
        if !slow.is_empty() {
            let message = format!("the source has run {}: over several slots hundreds a second", slow.join(", "));
            return Ok(Found::bad(message).weighing(Severity::Informs));
        }
        Ok(if names.is_empty() { Found::unknown("the source does not tell what it has run") } else { Found::fine() })
    };
    Found::asked(look.await)
}

/// What the source has loaded is there on the target.
pub(super) async fn modules(shard: &Shard<'_>) -> Found {
    let look = async {
        let (here, there) = (loaded(&mut shard.from().await?).await?, loaded(&mut shard.to().await?).await?);
        let Some(here) = here else { return Ok(Found::unknown("the source does not tell its modules")) };
        if here.is_empty() {
            return Ok(Found::noted("the source has no modules"));
        }
        let Some(there) = there else { return Ok(Found::unknown("the target does not tell its modules")) };
        let missing: Vec<String> = here.into_iter().filter(|module| !there.contains(module)).collect();
        if missing.is_empty() {
            return Ok(Found::fine());
        }
        Ok(Found::bad(format!("the target lacks {}, which the source has loaded", missing.join(", "))))
    };
    Found::asked(look.await)
}

/// Names of modules; none before 4.0; `None`: the user may not ask.
async fn loaded(client: &mut Client) -> Result<Option<Vec<String>>> {
    let reply = client.ask(&[b"MODULE", b"LIST"]).await?;
    let name = |module: &BytesFrame| {
        let words = texts(module)?;
        let at = words.iter().position(|word| word == "name")?;
        words.get(at + 1).cloned()
    };
    Ok(match &reply {
        BytesFrame::Error(text) if text.contains("unknown command") => Some(Vec::new()),
        BytesFrame::Array(modules) => Some(modules.iter().filter_map(name).collect()),
        _ => None,
    })
}

/// From 4.0 on a replica that takes over knows the history before it.
pub(super) async fn failover(shard: &Shard<'_>) -> Found {
    let look = async {
        let of = version(&mut shard.from().await?, Side::Source).await?;
        let said = format!("the source is {of}: after a failover everything is copied again");
        Ok(if of.at_least(4, 0) { Found::fine() } else { Found::bad(said) })
    };
    Found::asked(look.await)
}
