//! The items of a check as data, and what looking at one finds. docs/checks.md is compared with the table.

use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{CheckOutcome, CheckResult, Severity};

/// One thing to look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    /// Frozen.
    pub(super) id: &'static str,
    /// What holds if it passes.
    pub(super) title: &'static str,
    /// What it means if it fails; a finding may be less severe.
    pub(super) severity: Severity,
    /// No look takes longer.
    pub(super) limit: Duration,
}

const fn item(id: &'static str, severity: Severity, seconds: u64, title: &'static str) -> Item {
    Item { id, title, severity, limit: Duration::from_secs(seconds) }
}

use Severity::{Blocks, Warns};

/// The connectivity test.
pub(super) const TEST: &[Item] = &[
    item("src.reach", Blocks, 25, "the source answers"),
    item("src.auth", Blocks, 25, "the source takes the login"),
    item("dst.reach", Blocks, 25, "the target answers"),
    item("dst.auth", Blocks, 25, "the target takes the login"),
];

/// What a check looks at besides: the first that blocks is the task's reason.
pub(super) const CHECK: &[Item] = &[
    item("src.topology", Blocks, 30, "the listed sources are the whole source, each part once"),
    item("id.distinct", Blocks, 15, "source and target are two independent instances"),
    item("src.running", Blocks, 15, "the source serves: it is not loading, its link and its last save are well"),
    item("src.rights", Blocks, 15, "the source knows SYNC or PSYNC and lets this user replicate"),
    item("dst.role", Blocks, 15, "the target is a master, or a cluster with an owner for every slot"),
    item("dst.empty", Blocks, 30, "the target is empty, or holds what this task began"),
    item("dst.databases", Blocks, 15, "every database of the source has a place on the target"),
    item("kind.version", Blocks, 15, "the target is at least of the source's version, or a downgrade is allowed"),
    item("dst.rights", Blocks, 15, "the target lets this user write, restore and use transactions"),
    item("dst.eviction", Warns, 15, "the target evicts no keys"),
];

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// It holds; perhaps with a note.
    Passed(String),
    /// It does not.
    Failed(Failure),
    /// Nobody can tell from here.
    Unknown(Failure),
}

/// Why not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// A row of the error table, if one fits.
    pub(super) code: Option<Code>,
    /// What was found.
    pub(super) message: String,
    /// What to do.
    pub(super) fix: String,
    /// Less, or more, than the item's own.
    pub(super) severity: Option<Severity>,
}

impl Found {
    /// It holds, and there is nothing to say.
    pub(super) fn fine() -> Self {
        Self::Passed(String::new())
    }

    /// It does not hold.
    pub(super) fn bad(message: impl Into<String>, fix: impl Into<String>) -> Self {
        Self::Failed(Failure { code: None, message: message.into(), fix: fix.into(), severity: None })
    }

    /// It cannot be told.
    pub(super) fn unknown(message: impl Into<String>) -> Self {
        let fix = "grant the right to ask, or make sure of it yourself".into();
        Self::Unknown(Failure { code: None, message: message.into(), fix, severity: None })
    }

    /// The same, meaning less or more.
    #[must_use]
    pub(super) fn weighing(mut self, severity: Severity) -> Self {
        if let Self::Failed(failure) | Self::Unknown(failure) = &mut self {
            failure.severity = Some(severity);
        }
        self
    }

    /// A gate of the pipeline: its error is the finding.
    pub(super) fn gate(passed: Result<()>) -> Self {
        match passed {
            Ok(()) => Self::fine(),
            Err(error) => Self::Failed(error.into()),
        }
    }

    /// What cannot be asked is not known.
    pub(super) fn asked(found: Result<Self>) -> Self {
        found.unwrap_or_else(|error| Self::unknown(error.for_operator()))
    }

    /// As it goes over the wire.
    pub(super) fn result(self, item: &Item, took: Duration) -> CheckResult {
        let took_ms = u32::try_from(took.as_millis()).unwrap_or(u32::MAX);
        let base = CheckResult {
            id: item.id.into(),
            title: item.title.into(),
            severity: item.severity.into(),
            took_ms,
            ..CheckResult::default()
        };
        let (outcome, failure) = match self {
            Self::Passed(message) => {
                return CheckResult { outcome: CheckOutcome::Passed.into(), message, ..base };
            }
            Self::Failed(failure) => (CheckOutcome::Failed, failure),
            Self::Unknown(failure) => (CheckOutcome::Unknown, failure),
        };
        CheckResult {
            outcome: outcome.into(),
            severity: failure.severity.unwrap_or(item.severity).into(),
            code: failure.code.map(|code| code.as_str().to_owned()).unwrap_or_default(),
            message: failure.message,
            fix: failure.fix,
            ..base
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let (code, message) = (error.code, error.for_operator());
        Self { code: Some(code), message, fix: code.fix().to_owned(), severity: None }
    }
}

/// True if waiting may mend everything that blocks.
pub(super) fn may_pass_by_itself(results: &[CheckResult]) -> bool {
    let blocks = |result: &&CheckResult| result.outcome() == CheckOutcome::Failed && result.severity() == Blocks;
    let mends = |result: &CheckResult| {
        let row = Code::ALL.iter().find(|row| row.as_str() == result.code);
        // A wrong certificate is wrong at once.
        row.is_some_and(|row| row.retry() && !matches!(row, Code::SourceTls | Code::TargetTls))
    };
    results.iter().any(|result| blocks(&result)) && results.iter().filter(blocks).all(mends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/checks.md");
        let text = std::fs::read_to_string(path).unwrap();
        let mut seen = std::collections::HashSet::new();
        for item in TEST.iter().chain(CHECK) {
            assert!(seen.insert(item.id), "{} stands twice", item.id);
            let severity = item.severity.as_str_name().trim_start_matches("SEVERITY_").to_lowercase();
            let row = format!("| `{}` | {severity} | {} |", item.id, item.title);
            assert!(text.lines().any(|line| line.starts_with(&row)), "docs/checks.md lacks: {row}");
        }
    }

    #[test]
    fn only_what_waiting_mends_is_waited_for() {
        let of = |codes: &[Code]| {
            let results: Vec<CheckResult> = codes
                .iter()
                .map(|code| Found::gate(Err(Error::new(*code, "m"))).result(&CHECK[0], Duration::ZERO))
                .collect();
            may_pass_by_itself(&results)
        };
        assert!(of(&[Code::SourceUnreachable, Code::TargetBusy]));
        assert!(!of(&[Code::SourceUnreachable, Code::TargetNotEmpty]) && !of(&[]) && !of(&[Code::SourceTls]));
    }
}
