//! Walks over every key of one side: page by page, judged side by side, and left now and then where another agent could go on.

use std::sync::atomic::Ordering;
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::Backward;
use super::follow::of_records;
use super::judge::{Judged, Key, Lane};
use super::keep::{self, Kept};
use super::report::Progress;
use super::run::{Run, TOGETHER};
use super::servers::Servers;
use super::walk::{Page, Walk};
use crate::endpoint::Side;
use crate::target::Destination;

/// Pages that are judged at the same time.
const LANES: usize = 3;
/// How often a walk is begun again, because a server was lost or keys changed their place.
const WALKS: u32 = 5;
const BEFORE_THE_NEXT: Duration = Duration::from_secs(1);
/// How often a run leaves where another agent could go on.
const KEEP_EVERY: Duration = Duration::from_secs(2);
/// Suspects that are kept as they are.
const MOST_KEPT: u64 = 1000;
/// Records of tasks that are remembered from a walk.
const MOST_RECORDS: usize = 1024;

impl Run<'_> {
    pub(super) async fn walks(&mut self) -> Result<()> {
        // A cursor among the source's keys is behind those of the target.
        let forward = self.cursor.as_ref().is_some_and(|cursor| !cursor.backward);
        if self.plan.backward != Backward::None && !forward {
            self.again("looking for keys that only the target has", None).await?;
        }
        if self.plan.backward == Backward::All && !self.records.is_empty() {
            // Whoever left them writes, or may go on to.
            self.setup.understands_held.store(true, Ordering::Relaxed);
            if !self.follow.is_known() {
                let records = std::mem::take(&mut self.records);
                self.follow = of_records(&mut self.lane, &records).await?;
            }
        }
        for index in self.plan.forward.clone() {
            self.again("comparing", Some(index)).await?;
        }
        self.settle().await
    }

    /// A walk over the target, or over a source, until it was not disturbed.
    async fn again(&mut self, step: &str, source: Option<usize>) -> Result<()> {
        let walked = match source {
            None => self.plan.target.clone(),
            Some(index) => match self.plan.sources.get(index) {
                Some(part) => part.servers.clone(),
                None => return Ok(()),
            },
        };
        let mut lanes = Vec::new();
        for walk in 1.. {
            self.step(step);
            let before = self.tally.progress();
            let ended = Box::pin(self.walk(&walked, source, &mut lanes)).await;
            match ended {
                Ok(true) => break,
                Err(error) if walk >= WALKS || !may_pass(&error) => return Err(error),
                Ok(false) if walk >= WALKS => {
                    return Err(Error::new(Code::TargetBusy, "keys of a cluster change their place all the time"));
                }
                Err(error) => tracing::warn!(%error, "a walk over the keys is begun again"),
                Ok(false) => tracing::warn!("slots moved: a walk over the keys is begun again"),
            }
            let bytes = self.tally.bytes();
            self.tally.update(|progress| *progress = Progress { bytes, ..before });
            lanes.clear();
            sleep(BEFORE_THE_NEXT * walk).await;
            self.lane = self.open_lane().await?;
        }
        Ok(())
    }

    /// False if keys have changed their place meanwhile.
    async fn walk(&mut self, walked: &Destination, source: Option<usize>, lanes: &mut Vec<Lane>) -> Result<bool> {
        let parts = walked.parts().await?;
        let side = if source.is_some() { Side::Source } else { Side::Target };
        let mut servers = Servers::open(walked, side).await?;
        let (backward, run_ids) = (source.is_none(), servers.run_ids().await?);
        let from = self.cursor.take().and_then(|cursor| keep::place(&cursor, backward, &run_ids));
        let mut walk = Walk::over(servers, side, from).await?;
        let mut kept_at = Instant::now();
        let mut busy: JoinSet<Result<Done>> = JoinSet::new();
        while let Some(page) = walk.next_page().await? {
            if source.is_none() {
                self.note_records(&page);
            }
            let (db, keys) = match source {
                Some(index) => (page.db, self.of_source(index, page)),
                None => match self.of_target(page) {
                    Some((db, names)) => (db, names.into_iter().map(|name| Key { from: None, name }).collect()),
                    None => continue,
                },
            };
            for keys in keys.chunks(TOGETHER) {
                self.pace.ready().await;
                // The rate counts keys when they are begun, bytes when they are there.
                self.pace.spent(u64::try_from(keys.len()).unwrap_or(0), 0);
                let mut lane = match lanes.pop() {
                    Some(lane) => lane,
                    None if busy.len() < LANES => self.open_lane().await?,
                    None => self.finished(&mut busy).await?,
                };
                let keys = keys.to_vec();
                busy.spawn(async move {
                    let count = keys.len();
                    let found = match side {
                        Side::Source => Found::Judged(lane.judge(db, keys).await?),
                        Side::Target => {
                            let names = keys.into_iter().map(|key| key.name).collect();
                            Found::Strangers(lane.strangers(db, names).await?)
                        }
                    };
                    Ok(Done { lane, db, count, found })
                });
            }
            if self.kept.is_some() && kept_at.elapsed() >= KEEP_EVERY {
                while !busy.is_empty() {
                    let lane = self.finished(&mut busy).await?;
                    lanes.push(lane);
                }
                self.keep(backward, &run_ids, &walk).await?;
                kept_at = Instant::now();
            }
        }
        while !busy.is_empty() {
            let lane = self.finished(&mut busy).await?;
            lanes.push(lane);
        }
        walked.is_still(&parts).await
    }

    /// Takes in what one of the lanes found; the lane is free.
    async fn finished(&mut self, busy: &mut JoinSet<Result<Done>>) -> Result<Lane> {
        let broken = || Error::new(Code::Internal, "a part of the comparison broke");
        let Done { lane, db, count, found } = busy.join_next().await.ok_or_else(broken)?.map_err(|_| broken())??;
        match found {
            Found::Judged(judged) => {
                let bytes = judged.bytes;
                self.take(db, count, judged)?;
                self.pace.spent(0, bytes);
            }
            Found::Strangers(strangers) => self.take_strangers(db, count, strangers)?,
        }
        Ok(lane)
    }

    /// Leaves what was found where another agent can go on. Suspects that are many are judged first: what is left of them are differences.
    async fn keep(&mut self, backward: bool, servers: &[String], walk: &Walk) -> Result<()> {
        let Some(place) = walk.place().filter(|_| self.kept.is_some()) else { return Ok(()) };
        if self.suspects.count() > MOST_KEPT {
            self.settle().await?;
        }
        let Some(suspects) = self.suspects.list() else { return Ok(()) };
        let kept =
            Kept { report: self.report(Duration::ZERO), cursor: keep::cursor(backward, servers, place, suspects) };
        if let Some(told) = &self.kept {
            told.send_replace(Some(kept));
        }
        Ok(())
    }

    fn note_records(&mut self, page: &Page) {
        let free = MOST_RECORDS.saturating_sub(self.records.len());
        self.records.extend(page.records.iter().take(free).cloned());
    }
}

/// What a lane brings back.
struct Done {
    lane: Lane,
    db: u32,
    count: usize,
    found: Found,
}

enum Found {
    Judged(Judged),
    Strangers(Vec<Vec<u8>>),
}

/// Another walk may not meet this error.
fn may_pass(error: &Error) -> bool {
    error.code.retry() || error.code == Code::TargetRole
}
