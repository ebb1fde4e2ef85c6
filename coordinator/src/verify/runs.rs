//! The verification runs of a task: one at a time, the last few kept. Pure.

use std::time::SystemTime;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{
    Difference, Verification, VerifyCursor, VerifyOrder, VerifyOutcome, VerifyProgress, VerifyReport, VerifyShard,
    VerifySpec, VerifyState,
};

/// Runs that are kept.
const KEPT: usize = 10;
/// Differences that are kept of a run.
const MOST_LISTED: u32 = 1000;
/// Kinds of differences that copying a key again mends.
const REPAIRED: [&str; 7] = ["missing", "extra", "type", "value", "ttl", "group", "unsettled"];

/// The runs of one task, oldest first.
#[derive(Clone, Debug, Default)]
pub struct Runs(Vec<Verification>);

/// What a report changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Figures at most.
    Nothing,
    /// A shard's part has ended.
    Shard,
    /// With it the run.
    Run,
}

impl Runs {
    /// As they were stored.
    pub fn stored(&mut self, run: Verification) {
        self.0.push(run);
        self.0.sort_by_key(|run| run.number);
    }

    /// All of them.
    pub fn all(&self) -> &[Verification] {
        &self.0
    }

    /// By its number; 0: the last one.
    pub fn get(&self, number: u64) -> Option<&Verification> {
        match number {
            0 => self.0.last(),
            number => self.0.iter().find(|run| run.number == number),
        }
    }

    fn running(&mut self) -> Option<&mut Verification> {
        self.0.iter_mut().find(|run| run.state() == VerifyState::Running)
    }

    /// Begins the next one; gives it, and those that are forgotten for it.
    pub fn start(
        &mut self,
        task_id: &str,
        spec: VerifySpec,
        shards: impl Iterator<Item = u32>,
        requested_by: String,
    ) -> Result<(Verification, Vec<u64>)> {
        if let Some(run) = self.running() {
            let message = format!("verification {} of this task goes on", run.number);
            return Err(Error::new(Code::ActionNotAllowed, message));
        }
        let waiting = |index| VerifyShard { index, state: VerifyState::Running.into(), ..VerifyShard::default() };
        let run = Verification {
            task_id: task_id.to_owned(),
            number: self.0.last().map_or(1, |run| run.number + 1),
            spec: Some(spec),
            state: VerifyState::Running.into(),
            started_at: Some(SystemTime::now().into()),
            requested_by,
            shards: shards.map(waiting).collect(),
            ..Verification::default()
        };
        self.0.push(run.clone());
        let forgotten = self.0.len().saturating_sub(KEPT);
        let forgotten = self.0.drain(..forgotten).map(|run| run.number).collect();
        Ok((run, forgotten))
    }

    /// What the holder of a shard is told.
    pub fn order(&self, index: u32, epoch: u64) -> Option<VerifyOrder> {
        let run = self.0.iter().find(|run| run.state() == VerifyState::Running)?;
        let open = |shard: &&VerifyShard| shard.index == index && shard.state() == VerifyState::Running;
        let part = run.shards.iter().find(open)?;
        // Whoever wrote the cursor knows it.
        let resume = part.cursor.as_ref().filter(|cursor| cursor.epoch != epoch).map(|_| part.clone());
        let shards = u32::try_from(run.shards.len()).unwrap_or(1).max(1);
        let most_listed = (MOST_LISTED / shards).max(1);
        let of = run.spec.unwrap_or_default().repair_of;
        let found = self.0.iter().filter(|run| of > 0 && run.number == of).flat_map(|run| &run.shards);
        let repair = found.filter(|shard| shard.index == index).flat_map(|shard| &shard.differences);
        let repair = repair.filter(|found| REPAIRED.contains(&found.kind.as_str())).cloned().collect();
        Some(VerifyOrder { number: run.number, spec: run.spec, most_listed, repair, resume })
    }

    /// What it takes to repair what a run found; number 0: the last one.
    pub fn repair(&self, number: u64) -> Result<VerifySpec> {
        let wrong = |what: String| Err(Error::new(Code::InvalidRequest, what));
        let Some(run) = self.get(number) else { return wrong("there is no such verification".into()) };
        let mut found = run.shards.iter().flat_map(|shard| &shard.differences);
        if run.state() != VerifyState::Done || !found.any(|found| REPAIRED.contains(&found.kind.as_str())) {
            return wrong(format!("verification {} lists nothing that can be repaired", run.number));
        }
        Ok(VerifySpec { repair_of: run.number, ..run.spec.unwrap_or_default() })
    }

    /// What the holder of a shard says of it.
    pub fn take(&mut self, index: u32, epoch: u64, report: VerifyReport) -> Taken {
        let Some(run) = self.running().filter(|run| run.number == report.number) else { return Taken::Nothing };
        let Some(mut part) = report.shard else { return Taken::Nothing };
        let Some(shard) = run.shards.iter_mut().find(|shard| shard.index == index) else { return Taken::Nothing };
        if shard.state() != VerifyState::Running {
            return Taken::Nothing;
        }
        let ended = part.state() != VerifyState::Running;
        let known = shard.cursor.take();
        match &mut part.cursor {
            _ if ended => part.cursor = None,
            // An agent that goes on where another one was repeats its words before it has own ones.
            Some(cursor) if known.as_ref().is_none_or(|known| !is_same_place(known, cursor)) => cursor.epoch = epoch,
            Some(cursor) => cursor.epoch = known.as_ref().map_or(epoch, |known| known.epoch),
            None if known.is_some() => {
                part = VerifyShard { cursor: known.clone(), error: part.error, ..shard.clone() };
            }
            None => {}
        }
        let moved = part.cursor.is_some() && part.cursor != known;
        *shard = VerifyShard { index, ..part };
        sum(run);
        if !ended {
            return if moved { Taken::Shard } else { Taken::Nothing };
        }
        if run.shards.iter().any(|shard| shard.state() == VerifyState::Running) {
            return Taken::Shard;
        }
        let failed = run.shards.iter().any(|shard| shard.state() == VerifyState::Failed);
        run.set_outcome(outcome(&run.shards));
        end(run, if failed { VerifyState::Failed } else { VerifyState::Done });
        Taken::Run
    }

    /// Ends the run with this number, or the one that goes on; false if there is nothing to end.
    pub fn cancel(&mut self, number: u64) -> Option<u64> {
        let run = self.running().filter(|run| number == 0 || run.number == number)?;
        end(run, VerifyState::Cancelled);
        Some(run.number)
    }
}

fn is_same_place(one: &VerifyCursor, other: &VerifyCursor) -> bool {
    VerifyCursor { epoch: 0, ..one.clone() } == VerifyCursor { epoch: 0, ..other.clone() }
}

fn end(run: &mut Verification, state: VerifyState) {
    run.set_state(state);
    run.ended_at = Some(SystemTime::now().into());
    for shard in run.shards.iter_mut().filter(|shard| shard.state() == VerifyState::Running) {
        shard.set_state(state);
    }
}

/// A difference anywhere is one; equal are only all.
fn outcome(shards: &[VerifyShard]) -> VerifyOutcome {
    let any = |outcome| shards.iter().any(|shard| shard.outcome() == outcome);
    if any(VerifyOutcome::Differs) {
        VerifyOutcome::Differs
    } else if shards.iter().all(|shard| shard.outcome() == VerifyOutcome::Equal) {
        VerifyOutcome::Equal
    } else {
        VerifyOutcome::Undecided
    }
}

fn sum(run: &mut Verification) {
    let mut all = VerifyProgress::default();
    for part in run.shards.iter().filter_map(|shard| shard.progress) {
        all.source_keys += part.source_keys;
        all.expected_keys += part.expected_keys;
        all.target_keys += part.target_keys;
        all.compared_keys += part.compared_keys;
        all.bytes += part.bytes;
        all.suspects += part.suspects;
        all.differences += part.differences;
        all.unsettled_keys += part.unsettled_keys;
        all.incomparable_keys += part.incomparable_keys;
        all.held_keys += part.held_keys;
    }
    run.progress = Some(all);
}

/// A run as it is answered: differences are asked for by pages.
pub fn shown(run: &Verification) -> Verification {
    let mut run = run.clone();
    for shard in &mut run.shards {
        shard.differences.clear();
        shard.cursor = None;
    }
    run
}

/// A page of a run's differences from this place on, and where the next begins.
pub fn page(run: &Verification, from: usize, size: usize) -> (Vec<Difference>, Option<usize>) {
    let mut all = run.shards.iter().flat_map(|shard| &shard.differences).skip(from);
    let page: Vec<Difference> = all.by_ref().take(size).cloned().collect();
    let next = all.next().map(|_| from + page.len());
    (page, next)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(index: u32, state: VerifyState, outcome: VerifyOutcome) -> VerifyReport {
        let difference = Difference { shard_index: index, ..Difference::default() };
        let shard = VerifyShard {
            index,
            state: state.into(),
            outcome: outcome.into(),
            progress: Some(VerifyProgress { source_keys: 5, ..VerifyProgress::default() }),
            differences: vec![difference; 3],
            ..VerifyShard::default()
        };
        VerifyReport { number: 1, shard: Some(shard) }
    }

    fn started() -> Runs {
        let mut runs = Runs::default();
        runs.start("t", VerifySpec::default(), 0..2, "me".into()).unwrap();
        runs
    }

    #[test]
    fn a_run_ends_with_its_last_shard_and_differs_if_any_does() {
        use VerifyOutcome as O;
        for (first, second, all) in [
            (O::Equal, O::Equal, O::Equal),
            (O::Differs, O::Equal, O::Differs),
            (O::Undecided, O::Equal, O::Undecided),
            (O::Undecided, O::Differs, O::Differs),
        ] {
            let mut runs = started();
            assert!(runs.order(0, 5).is_some() && runs.order(2, 5).is_none());
            assert_eq!(runs.take(0, 5, part(0, VerifyState::Running, O::Unspecified)), Taken::Nothing);
            assert_eq!(runs.take(0, 5, part(0, VerifyState::Done, first)), Taken::Shard);
            assert_eq!(runs.take(0, 5, part(0, VerifyState::Done, O::Differs)), Taken::Nothing, "said once");
            assert!(runs.order(0, 5).is_none() && runs.order(1, 5).is_some());
            assert_eq!(runs.take(1, 5, part(1, VerifyState::Done, second)), Taken::Run);
            let run = runs.get(0).unwrap();
            assert_eq!((run.outcome(), run.state()), (all, VerifyState::Done));
            assert_eq!(run.progress.unwrap().source_keys, 10);
        }
    }

    #[test]
    fn another_agent_is_told_where_to_go_on_and_erases_nothing_before_it_has() {
        let mut runs = started();
        let at = |scan: &str| {
            let mut report = part(0, VerifyState::Running, VerifyOutcome::Unspecified);
            let cursor = VerifyCursor { version: 1, scan: scan.into(), ..VerifyCursor::default() };
            report.shard.as_mut().unwrap().cursor = Some(cursor);
            report
        };
        assert_eq!(runs.take(0, 5, at("17")), Taken::Shard, "to be stored");
        assert_eq!(runs.take(0, 5, at("17")), Taken::Nothing);
        assert_eq!(runs.order(0, 5).unwrap().resume, None, "it knows");
        let told = runs.order(0, 6).unwrap().resume.unwrap();
        assert_eq!((told.cursor.unwrap().scan, told.differences.len()), (b"17".to_vec(), 3));
        let nothing = VerifyShard { state: VerifyState::Running.into(), ..VerifyShard::default() };
        runs.take(0, 6, VerifyReport { number: 1, shard: Some(nothing) });
        runs.take(0, 6, at("17"));
        assert!(runs.order(0, 6).unwrap().resume.is_some(), "it has still to begin");
        assert_eq!(runs.get(1).unwrap().shards[0].differences.len(), 3);
        assert_eq!(runs.take(0, 6, at("40")), Taken::Shard);
        assert_eq!(runs.order(0, 6).unwrap().resume, None);
        assert_eq!(runs.take(0, 6, part(0, VerifyState::Done, VerifyOutcome::Equal)), Taken::Shard);
        assert!(shown(runs.get(1).unwrap()).shards[0].cursor.is_none());
    }

    #[test]
    fn one_run_at_a_time_and_the_last_ten_are_kept() {
        let mut runs = started();
        assert_eq!(
            runs.start("t", VerifySpec::default(), 0..2, String::new()).unwrap_err().code,
            Code::ActionNotAllowed
        );
        assert_eq!(runs.cancel(7), None);
        assert_eq!(runs.cancel(0), Some(1));
        for number in 2..=12 {
            let (run, forgotten) = runs.start("t", VerifySpec::default(), 0..2, String::new()).unwrap();
            assert_eq!((run.number, forgotten), (number, (number > 10).then(|| number - 10).into_iter().collect()));
            runs.cancel(number);
        }
        assert_eq!((runs.all().len(), runs.get(0).unwrap().number, runs.get(2)), (10, 12, None));
    }

    #[test]
    fn differences_come_by_pages() {
        let mut runs = started();
        runs.take(0, 5, part(0, VerifyState::Done, VerifyOutcome::Differs));
        runs.take(1, 5, part(1, VerifyState::Done, VerifyOutcome::Differs));
        let run = runs.get(1).unwrap();
        let (first, next) = page(run, 0, 4);
        let (second, end) = page(run, next.unwrap(), 4);
        assert_eq!((first.len(), second.len(), end), (4, 2, None));
        assert!(shown(run).shards.iter().all(|shard| shard.differences.is_empty()));
    }
}
