//! Side by side, in one run: full copy and incremental sync by native `REPLICAOF`, by `dts`, and by other tools; verification
//! against reading both sides.

mod cluster;
mod contender;
mod dataset;
mod full;
mod incremental;
mod report;
mod verify;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use contender::Contender;
use dataset::Dataset;

/// What to measure.
struct Plan {
    dataset: Dataset,
    rounds: usize,
    commands: u64,
    server: String,
    /// By so long a round trip.
    apart: Duration,
    contenders: Vec<Contender>,
    json: Option<PathBuf>,
    only: Option<String>,
}

impl Plan {
    fn distance(&self) -> String {
        if self.apart.is_zero() { String::new() } else { format!(", {} ms apart", self.apart.as_millis()) }
    }
}

const USAGE: &str = "bench [--keys N] [--dataset mixed|values-1k] [--rounds N] [--commands N] [--server redis-7.0] [--apart MS] \
    [--dts PATH] [--only full|incremental|verify|cluster] [--tool NAME='command {source} {target}']… [--json FILE]";

fn plan() -> Result<Plan> {
    let (mut keys, mut kind) = (300_000, "mixed".to_owned());
    let mut dts = None;
    let mut tools = Vec::new();
    let mut plan = Plan {
        dataset: Dataset::new("mixed", 0)?,
        rounds: 3,
        commands: 1_000_000,
        server: "redis-7.0".into(),
        apart: Duration::ZERO,
        contenders: Vec::new(),
        json: None,
        only: None,
    };
    let mut arguments = std::env::args().skip(1);
    while let Some(name) = arguments.next() {
        let value = arguments.next().with_context(|| format!("{name} needs a value\n{USAGE}"))?;
        match name.as_str() {
            "--keys" => keys = value.parse()?,
            "--dataset" => kind = value,
            "--rounds" => plan.rounds = value.parse()?,
            "--commands" => plan.commands = value.parse()?,
            "--server" => plan.server = value,
            "--apart" => plan.apart = Duration::from_millis(value.parse()?),
            "--dts" => dts = Some(PathBuf::from(value)),
            "--only" => plan.only = Some(value),
            "--json" => plan.json = Some(value.into()),
            "--tool" => {
                let (name, command) = value.split_once('=').with_context(|| format!("--tool NAME=COMMAND\n{USAGE}"))?;
                tools.push(Contender::Template { name: name.into(), command: command.into() });
            }
            _ => bail!("what is {name}?\n{USAGE}"),
        }
    }
    plan.dataset = Dataset::new(&kind, keys)?;
    let dts = match dts {
        Some(path) => path,
        None => dts_tests::dts::binary()?,
    };
    plan.contenders = vec![Contender::Native, Contender::Dts { program: dts }];
    plan.contenders.extend(tools);
    Ok(plan)
}

fn main() -> Result<()> {
    let plan = plan()?;
    let wanted = |what: &str| plan.only.as_deref().is_none_or(|only| only == what);
    let mut tables = Vec::new();
    if wanted("full") {
        tables.push(full::run(&plan)?);
    }
    if wanted("incremental") {
        tables.push(incremental::run(&plan)?);
    }
    if wanted("verify") {
        tables.push(verify::run(&plan)?);
    }
    // Takes many servers, and is run by itself.
    if plan.only.as_deref() == Some("cluster") {
        tables.extend(cluster::run(&plan)?);
    }
    for table in &tables {
        println!("{}", table.text());
    }
    if let Some(path) = &plan.json {
        let tables: Vec<_> = tables.iter().map(report::Table::json).collect();
        std::fs::write(path, serde_json::to_string_pretty(&tables)?)?;
        println!("written: {}", path.display());
    }
    Ok(())
}
