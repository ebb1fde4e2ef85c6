//! What looking at an item finds.

use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{CheckOutcome, CheckResult, Severity};

use super::item::Item;

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

    /// It holds, and there is something to say.
    pub(super) fn noted(message: impl Into<String>) -> Self {
        Self::Passed(message.into())
    }

    /// It does not hold; what to do stands in the table.
    pub(super) fn bad(message: impl Into<String>) -> Self {
        Self::Failed(Failure { code: None, message: message.into(), fix: String::new(), severity: None })
    }

    /// With something better to do about it than what stands in the table.
    #[must_use]
    pub(super) fn mended_by(mut self, fix: &str) -> Self {
        if let Self::Failed(failure) = &mut self {
            failure.fix = fix.to_owned();
        }
        self
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
            fix: if failure.fix.is_empty() { item.remedy.to_owned() } else { failure.fix },
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
    let blocks =
        |result: &&CheckResult| result.outcome() == CheckOutcome::Failed && result.severity() == Severity::Blocks;
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
    use crate::check::item::CHECK;

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
