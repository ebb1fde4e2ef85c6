//! `dts verify --mode full` against a client that reads both sides by pipelines and compares nothing.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use dts_tests::server::Server;
use dts_tests::usage::{Watch, cpu_seconds};
use redis::{Connection, Value};

use crate::Plan;
use crate::contender::{Contender, keys};
use crate::report::Table;

const MB: f64 = 1e6;

pub(crate) fn run(plan: &Plan) -> Result<Table> {
    let source = Server::start(&plan.server, &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start(&plan.server, &["--repl-diskless-sync-delay", "0"])?;
    plan.dataset.fill(&source)?;
    target.follow(&source)?;
    redis::cmd("SLAVEOF").arg("NO").arg("ONE").exec(&mut target.connect()?)?;
    let title = format!(
        "Verification of {} {}, every value, {}, {} rounds, medians",
        plan.dataset.keys,
        plan.dataset.name(),
        plan.server,
        plan.rounds
    );
    let columns = ["wall s", "keys/s", "MB/s", "tool CPU s", "source CPU s", "target CPU s", "tool peak MiB"];
    let mut table = Table::new(title, &columns).against("reading");
    let count = keys(&source)? as f64;
    for round in 0..plan.rounds {
        for contender in ["reading both sides", "dts verify"] {
            let cpu = |server: &Server| cpu_seconds(server.pid()).unwrap_or(0.0);
            let before = (cpu(&source), cpu(&target), cpu_seconds(std::process::id()).unwrap_or(0.0));
            let begun = Instant::now();
            let (bytes, tool_cpu, peak) = match contender {
                "dts verify" => by_dts(plan, &source, &target)?,
                _ => {
                    let bytes = by_reading(&source, &target)?;
                    let own = cpu_seconds(std::process::id()).unwrap_or(0.0);
                    (bytes, own - before.2, 0.0)
                }
            };
            let wall = begun.elapsed().as_secs_f64();
            let figures = [
                wall,
                count / wall,
                bytes / MB / wall,
                tool_cpu,
                cpu(&source) - before.0,
                cpu(&target) - before.1,
                peak,
            ];
            table.add(contender, &figures);
            eprintln!("verification, round {}: {contender} {wall:.2} s", round + 1);
        }
    }
    Ok(table)
}

/// Bytes of both sides, CPU seconds, peak MiB.
fn by_dts(plan: &Plan, source: &Server, target: &Server) -> Result<(f64, f64, f64)> {
    let ours = |contender: &Contender| match contender {
        Contender::Dts { program } => Some(program.clone()),
        _ => None,
    };
    let program = plan.contenders.iter().find_map(ours).context("no dts to measure")?;
    let mut command = Command::new(program);
    command.args(["verify", "--json", "--source", &source.url(), "--target", &target.url()]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let watch = Watch::start(child.id());
    let output = child.wait_with_output()?;
    let (cpu, peak) = watch.stop();
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).context("no report")?;
    ensure!(report["outcome"] == "equal", "{report:#}");
    Ok((report["bytes"].as_f64().context("bytes")?, cpu, peak))
}

/// Both sides at the same time, each by one connection.
fn by_reading(source: &Server, target: &Server) -> Result<f64> {
    let read = |server: &Server| -> Result<std::thread::JoinHandle<Result<u64>>> {
        let connection = server.connect()?;
        Ok(std::thread::spawn(move || everything(connection)))
    };
    let (left, right) = (read(source)?, read(target)?);
    let bytes =
        |thread: std::thread::JoinHandle<Result<u64>>| thread.join().map_err(|_| anyhow::anyhow!("reading broke"))?;
    Ok((bytes(left)? + bytes(right)?) as f64)
}

/// Type, expiry and value of every key of db 0, a page at a time.
fn everything(mut connection: Connection) -> Result<u64> {
    let (mut cursor, mut bytes) = (0u64, 0);
    loop {
        let mut scan = redis::cmd("SCAN");
        let (next, names): (u64, Vec<Vec<u8>>) = scan.arg(cursor).arg("COUNT").arg(1000).query(&mut connection)?;
        let mut kinds = redis::pipe();
        for name in &names {
            kinds.cmd("TYPE").arg(name).cmd("PTTL").arg(name);
        }
        let kinds: Vec<Value> = kinds.query(&mut connection)?;
        let mut values = redis::pipe();
        for (name, kind) in names.iter().zip(kinds.iter().step_by(2)) {
            match kind {
                Value::SimpleString(kind) if kind == "string" => values.cmd("GET").arg(name),
                Value::SimpleString(kind) if kind == "list" => values.cmd("LRANGE").arg(name).arg(0).arg(-1),
                Value::SimpleString(kind) if kind == "set" => values.cmd("SMEMBERS").arg(name),
                Value::SimpleString(kind) if kind == "hash" => values.cmd("HGETALL").arg(name),
                Value::SimpleString(kind) if kind == "zset" => {
                    values.cmd("ZRANGE").arg(name).arg(0).arg(-1).arg("WITHSCORES")
                }
                _ => values.cmd("DUMP").arg(name),
            };
        }
        let values: Vec<Value> = values.query(&mut connection)?;
        bytes += values.iter().map(size).sum::<u64>();
        cursor = next;
        if cursor == 0 {
            return Ok(bytes);
        }
    }
}

/// Without what the protocol adds.
fn size(value: &Value) -> u64 {
    match value {
        Value::BulkString(bytes) => bytes.len() as u64,
        Value::Array(values) => values.iter().map(size).sum(),
        _ => 8,
    }
}
