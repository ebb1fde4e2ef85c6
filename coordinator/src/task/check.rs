//! From what agents report of their shards to one run: items over all shards, and what they mean for the task. Pure.

use dts_proto::v1::{
    Acknowledgement, CheckFinding, CheckItem, CheckKind, CheckOutcome, CheckReport, CheckResult, CheckRun, CheckState,
    CheckSummary, Reason, Severity,
};

/// Findings of an item that are kept.
const FINDINGS: usize = 8;
/// Runs of a task that are kept.
const RUNS: u64 = 20;
/// What standby agents find.
const STANDBY: (&str, &str) = ("agent.standby", "other agents could take over: they reach source and target");

/// What an agent reports of a shard.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Who.
    pub agent_id: String,
    /// It would not run the shard now.
    pub standby: bool,
    /// What.
    pub report: CheckReport,
}

/// The items of a run: everybody's findings, then the coordinator's own. What was acknowledged before stays so.
pub fn collect(run: &mut CheckRun, seen: &[Seen], own: Vec<CheckResult>, acknowledged: &[CheckItem]) {
    run.items.clear();
    run.figures.clear();
    for Seen { agent_id, report, .. } in seen.iter().filter(|seen| !seen.standby) {
        for result in &report.results {
            put(run, result, report.shard_index, agent_id);
        }
        run.figures.extend(report.figures.clone());
    }
    if run.state() != CheckState::Running {
        put_standby(run, seen);
    }
    for result in own {
        put(run, &result, 0, "");
    }
    run.figures.sort_by_key(|figures| figures.shard_index);
    for item in &mut run.items {
        let held = acknowledged.iter().find(|before| before.id == item.id);
        item.acknowledgement = held.and_then(|before| before.acknowledgement.clone());
        item.needs_acknowledgement = needs_acknowledgement(item);
    }
}

fn put(run: &mut CheckRun, result: &CheckResult, shard_index: u32, agent_id: &str) {
    let at = match run.items.iter().position(|item| item.id == result.id) {
        Some(at) => at,
        None => {
            let (id, title) = (result.id.clone(), result.title.clone());
            let (outcome, severity) = (result.outcome, result.severity);
            run.items.push(CheckItem { id, title, severity, outcome, ..CheckItem::default() });
            run.items.len() - 1
        }
    };
    let item = &mut run.items[at];
    // The same item may warn of one shard and block another.
    if worse(result.outcome(), result.severity()) >= worse(item.outcome(), item.severity()) {
        (item.outcome, item.severity) = (result.outcome, result.severity);
    }
    item.took_ms = item.took_ms.max(result.took_ms);
    if result.message.is_empty() {
        return;
    }
    let finding = CheckFinding {
        shard_index,
        agent_id: agent_id.to_owned(),
        outcome: result.outcome,
        code: result.code.clone(),
        message: result.message.clone(),
        fix: result.fix.clone(),
    };
    // What did not pass is kept before notes of what did.
    let place = match result.outcome() {
        CheckOutcome::Passed => item.findings.len(),
        _ => item.findings.iter().take_while(|found| found.outcome() != CheckOutcome::Passed).count(),
    };
    item.findings.insert(place, finding);
    if item.findings.len() > FINDINGS {
        item.findings.pop();
        item.more_findings += 1;
    }
}

/// A run that has not looked yet may still fail; severities count down from what blocks.
fn worse(outcome: CheckOutcome, severity: Severity) -> (u8, i32) {
    let rank = match outcome {
        CheckOutcome::Passed => 0,
        CheckOutcome::Unspecified => 1,
        CheckOutcome::Unknown => 2,
        CheckOutcome::Failed => 3,
    };
    (rank, -i32::from(severity))
}

fn put_standby(run: &mut CheckRun, seen: &[Seen]) {
    let (id, title) = STANDBY;
    let mut others: Vec<&str> = seen.iter().filter(|seen| seen.standby).map(|seen| seen.agent_id.as_str()).collect();
    others.sort_unstable();
    others.dedup();
    let result = |severity: Severity, outcome: CheckOutcome, message: String, fix: &str| CheckResult {
        id: id.into(),
        title: title.into(),
        severity: severity.into(),
        outcome: outcome.into(),
        message,
        fix: fix.into(),
        ..CheckResult::default()
    };
    if others.is_empty() {
        let alone = "no other agent is connected: if this one dies, the task waits until it is back";
        let fix = "start a second agent that reaches both";
        put(run, &result(Severity::Informs, CheckOutcome::Failed, alone.into(), fix), 0, "");
        return;
    }
    let mut all_well = true;
    for Seen { agent_id, report, .. } in seen.iter().filter(|seen| seen.standby) {
        for found in report.results.iter().filter(|found| found.outcome() == CheckOutcome::Failed) {
            all_well = false;
            let (message, fix) = (format!("{}: {}", found.id, found.message), found.fix.as_str());
            put(run, &result(Severity::Informs, CheckOutcome::Failed, message, fix), report.shard_index, agent_id);
        }
    }
    if all_well {
        let message = format!("standing by: {}", others.join(", "));
        put(run, &result(Severity::Informs, CheckOutcome::Passed, message, ""), 0, "");
    }
}

fn needs_acknowledgement(item: &CheckItem) -> bool {
    let is = (item.severity(), item.outcome());
    matches!(is, (Severity::Warns, CheckOutcome::Failed) | (Severity::Blocks, CheckOutcome::Unknown))
}

/// The first item that keeps the task from starting for good; `None`: the run passes.
pub fn failure(run: &CheckRun) -> Option<Reason> {
    let blocks = |item: &&CheckItem| item.severity() == Severity::Blocks && item.outcome() == CheckOutcome::Failed;
    let item = run.items.iter().find(blocks)?;
    let finding = item.findings.first().cloned().unwrap_or_default();
    Some(Reason {
        scope: scope(&finding.code),
        retry: false,
        message: match run.items.iter().filter(blocks).count() {
            1 => finding.message,
            more => format!("{} (and {} more: see the check)", finding.message, more - 1),
        },
        code: finding.code,
        fix: finding.fix,
    })
}

fn scope(code: &str) -> String {
    let row = dts_common::error::Code::ALL.iter().find(|row| row.as_str() == code);
    row.map_or("user", |row| row.scope().as_str()).to_owned()
}

/// Ids of items that have to be acknowledged, and are not.
pub fn unacknowledged(run: &CheckRun) -> Vec<String> {
    let open = |item: &&CheckItem| item.needs_acknowledgement && item.acknowledgement.is_none();
    run.items.iter().filter(open).map(|item| item.id.clone()).collect()
}

/// Acknowledges the named items, or all; gives those that were. A name that needs nothing is an error of the caller's: given back.
pub fn acknowledge(run: &mut CheckRun, named: &[String], note: &Acknowledgement) -> Result<Vec<String>, String> {
    let open = unacknowledged(run);
    let known = |id: &String| run.items.iter().any(|item| item.id == *id && item.needs_acknowledgement);
    if let Some(wrong) = named.iter().find(|id| !known(id)) {
        return Err(wrong.clone());
    }
    let taken: Vec<String> = open.into_iter().filter(|id| named.is_empty() || named.contains(id)).collect();
    for item in run.items.iter_mut().filter(|item| taken.contains(&item.id)) {
        item.acknowledgement = Some(note.clone());
    }
    Ok(taken)
}

/// What a task shows of its last run.
pub fn summary(run: &CheckRun) -> CheckSummary {
    let count = |outcome: CheckOutcome| {
        u32::try_from(run.items.iter().filter(|item| item.outcome() == outcome).count()).unwrap_or(u32::MAX)
    };
    CheckSummary {
        run: run.number,
        kind: run.kind,
        state: run.state,
        passed: count(CheckOutcome::Passed),
        failed: count(CheckOutcome::Failed),
        unknown: count(CheckOutcome::Unknown),
        unacknowledged: if run.kind() == CheckKind::Check { unacknowledged(run) } else { Vec::new() },
    }
}

/// Where the runs of a task are stored by themselves.
pub fn runs(task: &str) -> String {
    format!("run/{task}/")
}

/// Of one run; they sort by number.
pub fn run_key(task: &str, number: u64) -> String {
    format!("{}{number:010}", runs(task))
}

/// What is stored and deleted when a new run begins.
pub fn kept(task: &str, last: Option<&CheckRun>) -> Vec<(String, Option<Vec<u8>>)> {
    let Some(last) = last else { return Vec::new() };
    let stored = (run_key(task, last.number), Some(prost::Message::encode_to_vec(last)));
    let old = last.number.checked_sub(RUNS).map(|old| (run_key(task, old), None));
    std::iter::once(stored).chain(old).collect()
}

/// Deletes all of them.
pub fn forgotten(task: &str, last: Option<&CheckRun>) -> Vec<(String, Option<Vec<u8>>)> {
    let last = last.map_or(0, |last| last.number);
    (last.saturating_sub(RUNS + 1)..last).map(|number| (run_key(task, number), None)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(id: &str, severity: Severity, outcome: CheckOutcome) -> CheckResult {
        CheckResult {
            id: id.into(),
            severity: severity.into(),
            outcome: outcome.into(),
            message: "m".into(),
            code: "SOURCE_AUTH".into(),
            ..CheckResult::default()
        }
    }

    fn seen(agent: &str, shard_index: u32, standby: bool, results: Vec<CheckResult>) -> Seen {
        let report = CheckReport { shard_index, done: true, results, ..CheckReport::default() };
        Seen { agent_id: agent.into(), standby, report }
    }

    fn run_of(seen: &[Seen]) -> CheckRun {
        let mut run =
            CheckRun { state: CheckState::Passed.into(), kind: CheckKind::Check.into(), ..CheckRun::default() };
        collect(&mut run, seen, Vec::new(), &[]);
        run
    }

    #[test]
    fn the_worst_shard_decides_an_item() {
        let of = |outcomes: [CheckOutcome; 2]| {
            let shards = (0..).zip(outcomes);
            let seen: Vec<Seen> = shards
                .map(|(shard, outcome)| seen("a", shard, false, vec![result("x", Severity::Blocks, outcome)]))
                .collect();
            run_of(&seen).items[0].clone()
        };
        use CheckOutcome as O;
        assert_eq!(of([O::Passed, O::Failed]).outcome(), O::Failed);
        assert_eq!(of([O::Failed, O::Passed]).findings[0].outcome(), O::Failed);
        assert_eq!(of([O::Passed, O::Failed]).findings[0].outcome(), O::Failed);
        assert_eq!(of([O::Unknown, O::Passed]).outcome(), O::Unknown);
    }

    #[test]
    fn what_blocks_fails_the_run_and_what_warns_or_is_unknown_asks_for_a_word() {
        use CheckOutcome as O;
        let run = run_of(&[seen(
            "a",
            0,
            false,
            vec![
                result("fine", Severity::Blocks, O::Passed),
                result("hidden", Severity::Blocks, O::Unknown),
                result("risky", Severity::Warns, O::Failed),
                result("hidden-risk", Severity::Warns, O::Unknown),
                result("note", Severity::Informs, O::Failed),
            ],
        )]);
        assert_eq!(failure(&run), None);
        assert_eq!(unacknowledged(&run), ["hidden", "risky"]);
        let failed = run_of(&[seen("a", 0, false, vec![result("bad", Severity::Blocks, O::Failed)])]);
        let reason = failure(&failed).unwrap();
        assert_eq!((reason.code.as_str(), reason.scope.as_str()), ("SOURCE_AUTH", "source"));
    }

    #[test]
    fn an_acknowledgement_stays_with_its_item_and_names_are_checked() {
        let seen = [seen("a", 0, false, vec![result("risky", Severity::Warns, CheckOutcome::Failed)])];
        let mut run = run_of(&seen);
        let note = Acknowledgement { by: "me".into(), ..Acknowledgement::default() };
        assert_eq!(acknowledge(&mut run, &["nothing".into()], &note), Err("nothing".into()));
        assert_eq!(acknowledge(&mut run, &[], &note), Ok(vec!["risky".into()]));
        assert!(unacknowledged(&run).is_empty());
        let mut again = run.clone();
        collect(&mut again, &seen, Vec::new(), &run.items);
        assert!(unacknowledged(&again).is_empty(), "a second check forgot it");
    }

    #[test]
    fn a_standby_that_does_not_reach_a_server_is_named() {
        let bad = vec![result("src.reach", Severity::Blocks, CheckOutcome::Failed)];
        let run = run_of(&[seen("a", 0, false, Vec::new()), seen("b", 0, true, bad)]);
        let item = run.items.iter().find(|item| item.id == "agent.standby").unwrap();
        assert!(item.outcome() == CheckOutcome::Failed && item.findings[0].agent_id == "b");
        assert_eq!(failure(&run), None, "it blocks nothing");
        let alone = run_of(&[seen("a", 0, false, Vec::new())]);
        assert!(unacknowledged(&alone).is_empty());
    }

    #[test]
    fn findings_are_bounded() {
        let shards = 0..100;
        let seen: Vec<Seen> = shards
            .map(|shard| seen("a", shard, false, vec![result("x", Severity::Warns, CheckOutcome::Failed)]))
            .collect();
        let item = &run_of(&seen).items[0];
        assert_eq!((item.findings.len(), item.more_findings), (FINDINGS, 92));
    }
}
