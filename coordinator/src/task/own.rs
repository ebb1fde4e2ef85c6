//! Items of a check that only the coordinator can look at: docs/checks.md is compared with the table.

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{CheckOutcome, CheckResult, Figures, Network, Severity, TaskSpec};

/// Id, severity, what holds if it passes, what to do if it does not.
const TABLE: &[(&str, Severity, &str, &str)] = &[
    (
        "agent.answers",
        Severity::Blocks,
        "an agent looked at every shard",
        "start an agent that fits, or mend the one that does not answer",
    ),
    (
        "net.region",
        Severity::Blocks,
        "an agent stands where source and target allow one, and the source may be moved there",
        "start an agent with the labels that the message names, or correct region and network of the server",
    ),
    (
        "task.alone",
        Severity::Blocks,
        "no other task that runs has one of the servers",
        "wait for that task, or cancel it; sources may be shared (share_sources)",
    ),
    (
        "dst.memory",
        Severity::Warns,
        "the target has the memory for the source's data",
        "raise maxmemory of the target, or take a larger one",
    ),
];

fn result(id: &str) -> CheckResult {
    let row = TABLE.iter().find(|(of, ..)| *of == id).unwrap_or(&TABLE[0]);
    let (id, severity, title, fix) = *row;
    CheckResult {
        id: id.into(),
        title: title.into(),
        severity: severity.into(),
        outcome: CheckOutcome::Failed.into(),
        fix: fix.into(),
        ..CheckResult::default()
    }
}

fn passed(id: &str, message: String) -> CheckResult {
    CheckResult { outcome: CheckOutcome::Passed.into(), fix: String::new(), message, ..result(id) }
}

fn failed(id: &str, error: &Error) -> CheckResult {
    CheckResult { code: error.code.as_str().into(), message: error.message.clone(), ..result(id) }
}

/// Shards whose agents never said that they were done.
pub fn answers(silent: &[u32]) -> Option<CheckResult> {
    let shards: Vec<String> = silent.iter().map(u32::to_string).collect();
    let message = format!("no agent has answered for shard {}", shards.join(", "));
    (!silent.is_empty()).then(|| failed("agent.answers", &Error::new(Code::NoAgent, message)))
}

/// One task an instance.
pub fn alone(conflict: Result<()>) -> CheckResult {
    match conflict {
        Ok(()) => passed("task.alone", String::new()),
        Err(error) => failed("task.alone", &error),
    }
}

/// `refused`: why nobody takes a shard, if that is so.
pub fn region(spec: &TaskSpec, refused: Option<String>) -> CheckResult {
    if let Some(why) = refused {
        return failed("net.region", &Error::new(Code::NoAgent, why));
    }
    let network = |network: Network| network.as_str_name().trim_start_matches("NETWORK_").to_lowercase();
    let said = |end: &dts_proto::v1::Endpoint| match (end.region.as_str(), end.network()) {
        ("", Network::Unspecified) => "nothing said".to_owned(),
        (region, Network::Unspecified) => region.to_owned(),
        ("", by) => network(by),
        (region, by) => format!("{region} by {}", network(by)),
    };
    let mut sources: Vec<String> = spec.sources.iter().map(said).collect();
    sources.dedup();
    sources.truncate(4);
    let target = spec.target.as_ref().map(said).unwrap_or_default();
    passed("net.region", format!("source: {}; target: {target}", sources.join(", ")))
}

/// What all shards bring together; each by itself was looked at by its agent.
pub fn memory(figures: &[Figures]) -> Option<CheckResult> {
    let needs: u64 = figures.iter().map(|of| of.source_memory_bytes).sum();
    let has = figures.iter().map(|of| of.target_memory_limit_bytes).max().unwrap_or(0);
    let message = format!("the data of {} shards takes {needs} bytes, the target has {has}", figures.len());
    let short = figures.len() > 1 && has > 0 && has < needs / 10 * 11;
    short.then(|| CheckResult { message, ..result("dst.memory") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_coordinators_items_are_documented() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/checks.md");
        let text = std::fs::read_to_string(path).unwrap();
        for (id, severity, title, remedy) in TABLE {
            let severity = severity.as_str_name().trim_start_matches("SEVERITY_").to_lowercase();
            let found = text.lines().any(|line| {
                line.starts_with(&format!("| `{id}` | {severity} | "))
                    && line.ends_with(&format!(" | {title} | {remedy} |"))
            });
            assert!(found, "docs/checks.md lacks {id}");
        }
    }

    #[test]
    fn shards_that_fit_one_by_one_may_not_fit_together() {
        let of = |data| Figures { source_memory_bytes: data, target_memory_limit_bytes: 100, ..Figures::default() };
        assert!(memory(&[of(60), of(60)]).is_some_and(|found| found.outcome() == CheckOutcome::Failed));
        assert!(memory(&[of(40), of(40)]).is_none());
        let unlimited = Figures { target_memory_limit_bytes: 0, ..of(60) };
        assert!(memory(&[unlimited.clone(), unlimited]).is_none());
    }
}
