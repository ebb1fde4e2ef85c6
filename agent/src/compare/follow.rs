//! Knowing that the target has taken over what the source had: then a difference of a key that nobody changes is one.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use redis_protocol::resp2::types::Resp2Frame as _;
use tokio::time::{Instant, sleep};

use super::judge::Lane;
use crate::target::{Checkpoint, Phase};

/// How long the target may take to come to an offset.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Where the target stands, seen from the source.
#[derive(Clone, Default)]
pub enum Follow {
    /// Not known: pauses have to do.
    #[default]
    Unknown,
    /// The one source's offset up to which the target holds everything, asked now.
    Applied(Arc<dyn Fn() -> u64 + Send + Sync>),
    /// Each source's record on the target, if it has one.
    Records(Vec<Option<Vec<u8>>>),
}

impl fmt::Debug for Follow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown => "unknown",
            Self::Applied(_) => "applied",
            Self::Records(_) => "records",
        })
    }
}

impl Follow {
    /// True if waiting for an offset is possible.
    pub(super) fn is_known(&self) -> bool {
        !matches!(self, Self::Unknown)
    }

    /// Waits until the target has what the sources have now; false if it does not come to that in time.
    pub(super) async fn pass(&self, lane: &mut Lane) -> Result<bool> {
        let mut goals = Vec::new();
        for source in &mut lane.sources {
            let offsets = source.infos("replication").await?;
            goals.push(offsets.first().and_then(|info| info.number("master_repl_offset")).unwrap_or(0));
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.has_passed(lane, &goals).await? {
            if Instant::now() > deadline {
                return Ok(false);
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(true)
    }

    async fn has_passed(&self, lane: &mut Lane, goals: &[u64]) -> Result<bool> {
        match self {
            Self::Unknown => Ok(true),
            Self::Applied(applied) => Ok(goals.iter().all(|goal| applied() >= *goal)),
            Self::Records(records) => {
                for (record, goal) in records.iter().zip(goals) {
                    let Some(name) = record else { continue };
                    let found = lane.target.ask_one(0, 0, &[b"GET", name]).await?;
                    let offset = found.as_bytes().and_then(|text| match Checkpoint::decode(text).ok()?.phase {
                        Phase::Streaming { position, .. } => Some(position.offset),
                        _ => None,
                    });
                    // The task completed or began anew: what it said does not count any more.
                    let gone = || Error::new(Code::TargetRewound, "the task that writes the target changed its record");
                    if offset.ok_or_else(gone)? < *goal {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }
}

/// Finds the record of each source among those on the target, by the source's history. Unknown, unless each source has one.
pub(super) async fn of_records(lane: &mut Lane, names: &[Vec<u8>]) -> Result<Follow> {
    if lane.target.is_cluster() {
        return Ok(Follow::Unknown);
    }
    let mut records = Vec::new();
    for name in names {
        let found = lane.target.ask_one(0, 0, &[b"GET", name]).await?;
        if let Some(Ok(Checkpoint { phase: Phase::Streaming { position, .. }, .. })) =
            found.as_bytes().map(Checkpoint::decode)
            && let Some(history) = position.history
        {
            records.push((history.to_string(), name.clone()));
        }
    }
    let mut of_each = Vec::new();
    for source in &mut lane.sources {
        let (server, replication) = (source.infos("server").await?, source.infos("replication").await?);
        let [server] = server.as_slice() else { return Ok(Follow::Unknown) };
        // Before 4.0 the history is the server's own.
        let history = replication.first().and_then(|info| info.get("master_replid")).or_else(|| server.get("run_id"));
        let record = records.iter().find(|(of, _)| history == Some(of.as_str()));
        match record {
            Some((_, name)) => of_each.push(Some(name.clone())),
            None => return Ok(Follow::Unknown),
        }
    }
    Ok(Follow::Records(of_each))
}
