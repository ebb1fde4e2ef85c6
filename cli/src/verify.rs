//! `dts verify`: compares two Redis by itself, with no task. What is proved: docs/verification.md.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};
use comfy_table::Table;
use dts_agent::compare::{self, Backward, Difference, Follow, Keeper, Mode, Outcome, Plan, Progress, Rate, Report};
use dts_agent::endpoint::Side;
use dts_agent::topology::Topology;
use dts_common::selection::Selection;
use dts_proto::v1::TaskSpec;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::argv;
use crate::selection::Selecting;
use crate::serve::until_signal;
use crate::show::{bytes, parse_bytes};
use crate::sources::{self, Sources};
use crate::tls::TlsArguments;
use crate::{COMPLETED, DIFFERS, FAILED, STOPPED, UNDECIDED, USAGE};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    sources: Sources,
    /// `redis://[user:password@]host:port`; `rediss://` for TLS. Of a cluster any node.
    #[arg(long)]
    target: String,
    /// How thoroughly to look.
    #[arg(long, value_enum, default_value_t = Thoroughness::Full)]
    mode: Thoroughness,
    /// Mode `sample`: so many picks of each side.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(1..))]
    sample: u64,
    /// How fast both sides are read: keys a second (`5000`) or bytes a second (`20MiB`); may be given once for each.
    #[arg(long, value_parser = rate)]
    rate: Vec<RateBound>,
    /// How far apart two expiries may be. Default: 1 s, or 5 s where the source is older than 7.0.
    #[arg(long, value_parser = humantime::parse_duration)]
    ttl_tolerance: Option<Duration>,
    /// Keys that differ are looked at again so often, with growing pauses, before they count as different.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=20))]
    rounds: u32,
    /// Differences that are listed; all are counted.
    #[arg(long, default_value_t = 1000)]
    max_differences: usize,
    /// Show the data that differs, cut to a few bytes; else only what it is.
    #[arg(long)]
    show_values: bool,
    /// One JSON object on stdout instead of tables.
    #[arg(long)]
    json: bool,
    /// Where suspects go that are too many for memory.
    #[arg(long, default_value_os_t = std::env::temp_dir())]
    scratch_dir: PathBuf,
    /// Take the source's password from a file; DTS_SOURCE_PASSWORD works too.
    #[arg(long)]
    source_password_file: Option<String>,
    /// Take the target's password from a file; DTS_TARGET_PASSWORD works too.
    #[arg(long)]
    target_password_file: Option<String>,
    #[command(flatten)]
    tls: TlsArguments,
    #[command(flatten)]
    selecting: Selecting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Thoroughness {
    /// How many keys each database has.
    Count,
    /// Of every key: existence, type, expiry.
    Keys,
    /// Everything of some keys that are picked by chance.
    Sample,
    /// Everything of every key.
    Full,
}

impl From<Thoroughness> for Mode {
    fn from(mode: Thoroughness) -> Self {
        match mode {
            Thoroughness::Count => Self::Count,
            Thoroughness::Keys => Self::Keys,
            Thoroughness::Sample => Self::Sample,
            Thoroughness::Full => Self::Full,
        }
    }
}

/// One bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RateBound {
    Keys(u64),
    Bytes(u64),
}

/// A plain number is keys, one with a unit bytes.
pub(crate) fn rate(text: &str) -> Result<RateBound, String> {
    match text.parse() {
        Ok(keys) => Ok(RateBound::Keys(keys)),
        Err(_) => parse_bytes(text).map(RateBound::Bytes),
    }
}

pub(crate) fn bounds(given: &[RateBound]) -> Rate {
    given.iter().fold(Rate::default(), |bounds, one| match one {
        RateBound::Keys(keys_per_second) => Rate { keys_per_second: *keys_per_second, ..bounds },
        RateBound::Bytes(bytes_per_second) => Rate { bytes_per_second: *bytes_per_second, ..bounds },
    })
}

pub(crate) async fn run(arguments: Arguments, secrets: argv::Secrets) -> u8 {
    let stop = match until_signal() {
        Ok(stop) => stop,
        Err(error) => return failed(&error),
    };
    let sides = match Sides::new(&arguments, &secrets).await {
        Ok(sides) => sides,
        Err(error) => {
            eprintln!("dts: {error:#}");
            return USAGE;
        }
    };
    let plan = match sides.plan(&arguments).await {
        Ok(plan) => plan,
        Err(error) => return failed(&error),
    };
    let (shown, seen) = watch::channel(Progress::default());
    let teller = tokio::spawn(tell(seen, !arguments.json && std::io::stderr().is_terminal()));
    let compared = tokio::select! {
        report = Box::pin(compare::run(&plan, Follow::Unknown, shown, Keeper::default())) => Some(report),
        () = stop.cancelled() => None,
    };
    teller.abort();
    match compared {
        None => STOPPED,
        Some(Err(error)) => {
            failed(&anyhow::anyhow!("{}: {} \u{2014} {}", error.code.as_str(), error.for_operator(), error.code.fix()))
        }
        Some(Ok(report)) => {
            if arguments.json {
                println!("{}", as_json(&report, arguments.show_values));
            } else {
                println!("{}", as_text(&report, arguments.show_values));
            }
            match report.outcome {
                Outcome::Equal => COMPLETED,
                Outcome::Differs => DIFFERS,
                Outcome::Undecided => UNDECIDED,
            }
        }
    }
}

fn failed(error: &anyhow::Error) -> u8 {
    eprintln!("dts: {error:#}");
    FAILED
}

/// What the arguments mean.
struct Sides {
    topology: Topology,
    target: dts_agent::endpoint::Endpoint,
    selection: Selection,
}

impl Sides {
    async fn new(arguments: &Arguments, given: &argv::Secrets) -> Result<Self> {
        let (file, tls) = (arguments.source_password_file.as_deref(), &arguments.tls);
        let found = arguments.sources.resolve(|option, url| sources::login(option, url, given, file, tls)).await?;
        if !found.about.is_empty() && !arguments.json {
            sources::tell(&found, false);
        }
        let mut siblings = Vec::new();
        for (url, password) in found.urls {
            let mut endpoint = sources::login("source", &url, given, file, tls).context("--source")?;
            endpoint.password = password.map(Into::into).or(endpoint.password);
            siblings.push(endpoint);
        }
        let wire = found.topology.unwrap_or_default();
        let resolve = dts_agent::secret::Secrets::default();
        let sentinels = wire.sentinels.iter().map(|at| resolve.resolve(at)).collect::<Result<_, _>>()?;
        let target = sources::login_at_target(&arguments.target, given, arguments.target_password_file.as_deref(), tls);
        let mut spec = TaskSpec::default();
        arguments.selecting.put(&mut spec)?;
        Ok(Self {
            topology: Topology::new(&wire, siblings, sentinels)?,
            target: target.context("--target")?,
            selection: Selection::new(spec.filter.as_ref(), &spec.db_map, spec.on_flush)?,
        })
    }

    async fn plan(self, arguments: &Arguments) -> Result<Plan> {
        let explain = |error: dts_common::error::Error| {
            anyhow::anyhow!("{}: {} \u{2014} {}", error.code.as_str(), error.for_operator(), error.code.fix())
        };
        let sources = compare::parts(&self.topology).await.map_err(explain)?;
        Ok(Plan {
            forward: (0..sources.len()).collect(),
            sources,
            backward: Backward::All,
            target: compare::whole(&self.target, Side::Target).await.map_err(explain)?,
            selection: std::sync::Arc::new(self.selection),
            mode: arguments.mode.into(),
            sample: arguments.sample,
            rate: bounds(&arguments.rate),
            tolerance: arguments.ttl_tolerance,
            rounds: arguments.rounds,
            most_listed: arguments.max_differences,
            task_runs: false,
            faces: None,
            scratch: arguments.scratch_dir.clone(),
        })
    }
}

/// Says how far it is, every second on a terminal, else every ten.
async fn tell(mut seen: watch::Receiver<Progress>, often: bool) {
    let every = Duration::from_secs(if often { 1 } else { 10 });
    loop {
        tokio::time::sleep(every).await;
        let now = seen.borrow_and_update().clone();
        eprintln!(
            "{}: {} of about {} keys of the source, {} of the target, {} read, {} suspects, {} differences",
            now.step,
            now.source_keys,
            now.expected_keys,
            now.target_keys,
            bytes(now.bytes),
            now.suspects,
            now.differences
        );
    }
}

fn as_json(report: &Report, values: bool) -> Value {
    let listed = |differences: &[Difference]| {
        differences.iter().map(|difference| one_as_json(difference, values)).collect::<Vec<_>>()
    };
    json!({
        "event": "verification",
        "outcome": report.outcome.as_str(),
        "mode": report.mode.as_str(),
        "source_version": report.versions.0,
        "target_version": report.versions.1,
        "source_keys": report.progress.source_keys,
        "target_keys": report.progress.target_keys,
        "compared_keys": report.progress.compared_keys,
        "bytes": report.progress.bytes,
        "milliseconds": u64::try_from(report.took.as_millis()).unwrap_or(u64::MAX),
        "ttl_tolerance_ms": u64::try_from(report.tolerance.as_millis()).unwrap_or(u64::MAX),
        "counts": report.counts,
        "differences": listed(&report.differences),
        "unsettled_keys": report.unsettled_keys,
        "unsettled": listed(&report.unsettled),
        "incomparable_keys": report.incomparable_keys,
        "held_keys": report.held_keys,
        "notes": report.notes,
    })
}

fn one_as_json(difference: &Difference, values: bool) -> Value {
    let Difference { db, target_db, key, finding } = difference;
    let mut shown = json!({
        "db": db,
        "target_db": target_db,
        "key": key.escape_ascii().to_string(),
        "kind": finding.kind.as_str(),
        "source": finding.source,
        "target": finding.target,
    });
    if let (true, Some((source, target)), Some(fields)) = (values, &finding.values, shown.as_object_mut()) {
        fields.insert("source_value".into(), json!(source));
        fields.insert("target_value".into(), json!(target));
    }
    shown
}

fn as_text(report: &Report, values: bool) -> String {
    let mut text = format!(
        "{}: {} ({}) and {} ({}), mode {}\n",
        report.outcome.as_str().to_uppercase(),
        "source",
        report.versions.0,
        "target",
        report.versions.1,
        report.mode.as_str()
    );
    text += &format!(
        "keys {} and {}, compared {}, read {} in {:.1} s, expiries within {} ms\n",
        report.progress.source_keys,
        report.progress.target_keys,
        report.progress.compared_keys,
        bytes(report.progress.bytes),
        report.took.as_secs_f64(),
        report.tolerance.as_millis()
    );
    for (kind, count) in &report.counts {
        text += &format!("{kind}: {count}\n");
    }
    for note in &report.notes {
        text += &format!("note: {note}\n");
    }
    for (what, listed) in [("", &report.differences), ("changed too often to be judged:\n", &report.unsettled)] {
        if !listed.is_empty() {
            text += what;
            text += &format!("{}\n", table(listed, values));
        }
    }
    let listed = u64::try_from(report.differences.len()).unwrap_or(u64::MAX);
    let all: u64 = report.counts.values().sum();
    if all > listed {
        text += &format!("{} more are not listed: --max-differences\n", all - listed);
    }
    text.trim_end().to_owned()
}

fn table(differences: &[Difference], values: bool) -> Table {
    let mut table = Table::new();
    let mut head = vec!["db", "key", "kind", "source", "target"];
    if values {
        head.extend(["source's data", "target's data"]);
    }
    table.set_header(head);
    for Difference { db, target_db, key, finding } in differences {
        let db = if db == target_db { db.to_string() } else { format!("{db} -> {target_db}") };
        let mut row = vec![
            db,
            key.escape_ascii().to_string(),
            finding.kind.as_str().to_owned(),
            finding.source.clone(),
            finding.target.clone(),
        ];
        if values {
            let (source, target) = finding.values.clone().unwrap_or_default();
            row.extend([source, target]);
        }
        table.add_row(row);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_rate_is_keys_and_one_with_a_unit_is_bytes() {
        let both = bounds(&[rate("500").unwrap(), rate("2MiB").unwrap()]);
        assert_eq!(both, Rate { keys_per_second: 500, bytes_per_second: 2 << 20 });
        assert!(rate("fast").is_err());
    }
}
