//! A run from its beginning to its report.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::VerifyCursor;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::finding::Difference;
use super::follow::Follow;
use super::judge::{Judged, Key, Lane};
use super::keep::{self, Keeper, Kept};
use super::rate::Pace;
use super::report::{Outcome, Progress, Report, Tally};
use super::servers::{Abilities, Servers};
use super::settle::{Busy, settle};
use super::setup::Setup;
use super::suspects::{Suspect, Suspects};
use super::walk::Page;
use super::{Backward, Mode, Part, Plan, count, functions, sample};
use crate::endpoint::Side;
use crate::topology::Owner;

/// Keys that are judged together.
pub(super) const TOGETHER: usize = 500;
/// Expiries that servers from 7.0 on replicate as they are.
const EXACT: Duration = Duration::from_secs(1);
/// Before that they are counted from when they arrive.
const RELATIVE: Duration = Duration::from_secs(5);

/// Compares. Dropping the future ends everything that it began.
pub async fn run(plan: &Plan, follow: Follow, shown: watch::Sender<Progress>, mut keeper: Keeper) -> Result<Report> {
    let begun = Instant::now();
    let mut run = Run::open(plan, follow, shown).await?;
    if matches!(plan.mode, Mode::Keys | Mode::Full) {
        run.resume(&mut keeper)?;
        run.kept = keeper.kept;
    }
    match plan.mode {
        Mode::Count => run.counts().await?,
        Mode::Sample => run.samples().await?,
        Mode::Keys | Mode::Full => run.walks().await?,
    }
    if plan.backward != Backward::None && plan.mode != Mode::Count {
        functions::compare(&mut run.lane, &mut run.tally).await?;
    }
    Ok(run.report(begun.elapsed()))
}

/// Judges some keys only: those that an earlier run found to differ.
pub async fn recheck(
    plan: &Plan,
    follow: Follow,
    shown: watch::Sender<Progress>,
    keys: Vec<(u32, Vec<u8>)>,
) -> Result<Report> {
    let begun = Instant::now();
    let mut run = Run::open(plan, follow, shown).await?;
    let count = u64::try_from(keys.len()).unwrap_or(0);
    run.tally.update(|progress| (progress.source_keys, progress.expected_keys) = (count, count));
    for (db, name) in keys {
        run.suspects.add(Suspect { db, key: Key { from: None, name }, strikes: 0 })?;
    }
    run.settle().await?;
    Ok(run.report(begun.elapsed()))
}

pub(super) struct Run<'a> {
    pub(super) plan: &'a Plan,
    pub(super) setup: Arc<Setup>,
    pub(super) lane: Lane,
    pub(super) follow: Follow,
    pub(super) pace: Pace,
    pub(super) tally: Tally,
    pub(super) suspects: Suspects,
    /// Records of tasks on the target.
    pub(super) records: Vec<Vec<u8>>,
    /// Where to go on.
    pub(super) cursor: Option<VerifyCursor>,
    /// Where to leave how far it is.
    pub(super) kept: Option<watch::Sender<Option<Kept>>>,
}

impl<'a> Run<'a> {
    async fn open(plan: &'a Plan, follow: Follow, shown: watch::Sender<Progress>) -> Result<Self> {
        let tally = Tally::new(plan.scratch.clone(), plan.most_listed, shown);
        let mut sources = connect(&plan.sources).await?;
        let mut target = Servers::open(&plan.target, Side::Target).await?;
        let source = abilities(&mut sources).await?;
        let target_abilities = target.abilities().await?;
        let by_version = if source.version.at_least(7, 0) { EXACT } else { RELATIVE };
        let setup = Arc::new(Setup {
            source,
            target: target_abilities,
            selection: plan.selection.clone(),
            owners: plan.sources.iter().map(|part| part.owner.clone()).collect(),
            tolerance: plan.tolerance.unwrap_or(by_version),
            values: matches!(plan.mode, Mode::Full | Mode::Sample),
            understands_held: AtomicBool::new(plan.task_runs || plan.mode == Mode::Sample),
        });
        let mut expected = 0;
        for index in &plan.forward {
            if let Some(source) = sources.get_mut(*index) {
                expected += source.infos("keyspace").await?.iter().map(crate::verify::key_count).sum::<u64>();
            }
        }
        tally.update(|progress| progress.expected_keys = expected);
        let suspects = tally.suspects();
        let lane = Lane { sources, target, setup: setup.clone() };
        let pace = Pace::new(plan.rate);
        let (records, cursor, kept) = (Vec::new(), None, None);
        Ok(Self { plan, setup, lane, follow, pace, tally, suspects, records, cursor, kept })
    }

    /// Takes up what another agent has left.
    fn resume(&mut self, keeper: &mut Keeper) -> Result<()> {
        let Some(shard) = keeper.usable() else { return Ok(()) };
        self.tally.resume(&shard);
        let cursor = shard.cursor.unwrap_or_default();
        for of in &cursor.suspects {
            self.suspects.add(keep::suspect(of))?;
        }
        self.cursor = Some(cursor);
        Ok(())
    }

    /// Counts have to agree once.
    async fn counts(&mut self) -> Result<()> {
        if self.plan.selection.by_name() || self.plan.selection.by_type() {
            let why = "mode count counts whole databases: with a filter on names or types use mode keys";
            return Err(Error::new(Code::InvalidRequest, why));
        }
        self.step("counting");
        let mut pause = Duration::from_millis(100);
        let mut differ = Vec::new();
        for _ in 0..self.plan.rounds.max(1) {
            self.follow.clone().pass(&mut self.lane).await?;
            differ = count::look(&mut self.lane, &self.tally).await?;
            if differ.is_empty() {
                return Ok(());
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(3));
        }
        differ.into_iter().for_each(|difference: Difference| self.tally.difference(difference));
        Ok(())
    }

    async fn samples(&mut self) -> Result<()> {
        self.step("picking keys");
        for index in &self.plan.forward {
            let Some(source) = self.lane.sources.get_mut(*index) else { continue };
            for page in sample::pick(source, Side::Source, self.plan.sample).await? {
                self.forward_page(*index, page).await?;
            }
        }
        for page in sample::pick(&mut self.lane.target, Side::Target, self.plan.sample).await? {
            self.backward_page(page).await?;
        }
        self.settle().await
    }

    async fn forward_page(&mut self, index: usize, page: Page) -> Result<()> {
        let (db, keys) = (page.db, self.of_source(index, page));
        for keys in keys.chunks(TOGETHER) {
            self.pace.ready().await;
            let judged = self.lane.judge(db, keys.to_vec()).await?;
            self.take(db, keys.len(), judged)?;
        }
        Ok(())
    }

    async fn backward_page(&mut self, page: Page) -> Result<()> {
        let Some((db, names)) = self.of_target(page) else { return Ok(()) };
        self.pace.ready().await;
        let looked = names.len();
        let strangers = self.lane.strangers(db, names).await?;
        self.take_strangers(db, looked, strangers)
    }

    pub(super) fn take(&mut self, db: u32, keys: usize, judged: Judged) -> Result<()> {
        self.tally.unknown += judged.unknown;
        self.tally.held += judged.held;
        let (compared, bytes) = (judged.compared, judged.bytes);
        for (key, _) in judged.findings {
            self.suspects.add(Suspect { db, key, strikes: 0 })?;
        }
        let suspects = self.suspects.count();
        self.tally.update(|progress| {
            progress.source_keys += u64::try_from(keys).unwrap_or(0);
            progress.compared_keys += compared;
            progress.bytes += bytes;
            progress.suspects = suspects;
        });
        Ok(())
    }

    pub(super) fn take_strangers(&mut self, db: u32, keys: usize, strangers: Vec<Vec<u8>>) -> Result<()> {
        for name in strangers {
            self.suspects.add(Suspect { db, key: Key { from: None, name }, strikes: 0 })?;
        }
        let suspects = self.suspects.count();
        self.tally.update(|progress| {
            progress.target_keys += u64::try_from(keys).unwrap_or(0);
            progress.suspects = suspects;
        });
        Ok(())
    }

    /// Keys of a source that are on the target, if all is well.
    pub(super) fn of_source(&self, index: usize, page: Page) -> Vec<Key> {
        let owner = self.setup.owners.get(index).cloned().unwrap_or_default();
        let selected = |name: &Vec<u8>| owner.may_own(name) && self.setup.selection.covers(page.db, name);
        let keys = page.keys.into_iter().filter(selected);
        keys.map(|name| Key { from: Some(index), name }).collect()
    }

    /// Keys of the target that are there because of these sources, and the database that they come from.
    pub(super) fn of_target(&self, page: Page) -> Option<(u32, Vec<Vec<u8>>)> {
        let db = self.setup.selection.source_db(page.db)?;
        let owner = match self.plan.backward {
            Backward::All => Owner::Everything,
            Backward::Of(index) => self.setup.owners.get(index).cloned().unwrap_or_default(),
            Backward::None => return None,
        };
        let ours = |name: &Vec<u8>| owner.may_own(name) && self.setup.selection.holds(page.db, name);
        Some((db, page.keys.into_iter().filter(ours).collect()))
    }

    pub(super) async fn settle(&mut self) -> Result<()> {
        let suspects = std::mem::replace(&mut self.suspects, self.tally.suspects());
        let Self { lane, follow, pace, tally, plan, .. } = self;
        let busy = Busy { faces: plan.faces.as_ref(), rounds: plan.rounds };
        Box::pin(settle(lane, suspects, follow, &busy, pace, tally)).await
    }

    pub(super) async fn open_lane(&self) -> Result<Lane> {
        let sources = connect(&self.plan.sources).await?;
        let target = Servers::open(&self.plan.target, Side::Target).await?;
        Ok(Lane { sources, target, setup: self.setup.clone() })
    }

    pub(super) fn step(&self, step: &str) {
        self.tally.update(|progress| progress.step = step.to_owned());
    }

    pub(super) fn report(&self, took: Duration) -> Report {
        let Tally { counts, differences, unsettled, unsettled_keys, unknown, held, .. } = &self.tally;
        let outcome = match () {
            () if !counts.is_empty() => Outcome::Differs,
            () if *unsettled_keys > 0 || *unknown > 0 => Outcome::Undecided,
            () => Outcome::Equal,
        };
        let mut notes = Vec::new();
        if *held > 0 && self.setup.understands_held() {
            notes.push(format!(
                "{held} keys of the target carry expiries that a running task holds back: complete the task before clients switch"
            ));
        }
        if *unknown > 0 {
            notes.push(format!("{unknown} keys have types whose values these two servers do not let us compare"));
        }
        Report {
            mode: self.plan.mode,
            outcome,
            progress: self.tally.progress(),
            counts: counts.clone(),
            differences: differences.clone(),
            unsettled: unsettled.clone(),
            unsettled_keys: *unsettled_keys,
            incomparable_keys: *unknown,
            held_keys: *held,
            notes,
            took,
            versions: (self.setup.source.version.to_string(), self.setup.target.version.to_string()),
            tolerance: self.setup.tolerance,
        }
    }
}

async fn connect(parts: &[Part]) -> Result<Vec<Servers>> {
    let mut sources = Vec::new();
    for part in parts {
        sources.push(Servers::open(&part.servers, Side::Source).await?);
    }
    Ok(sources)
}

/// What every source can do.
async fn abilities(sources: &mut [Servers]) -> Result<Abilities> {
    let mut least: Option<Abilities> = None;
    for source in sources {
        let found = source.abilities().await?;
        least = Some(match least {
            Some(least) => Abilities {
                version: if found.version.takes_all_of(&least.version) { least.version } else { found.version },
                memory_usage: found.memory_usage && least.memory_usage,
            },
            None => found,
        });
    }
    least.ok_or_else(|| Error::new(Code::InvalidRequest, "no source to compare with"))
}
