//! Incremental sync under the fastest load that a pipelining client puts on the source: how far behind when it ends.

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dts_tests::server::Server;
use dts_tests::usage::{Watch, cpu_seconds};

use crate::Plan;
use crate::report::Table;

const PATIENCE: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(1);

pub(crate) fn run(plan: &Plan) -> Result<Table> {
    let title = format!(
        "Incremental: {} pipelined SETs of 100 B, {}{}, {} rounds, medians",
        plan.commands,
        plan.server,
        plan.distance(),
        plan.rounds
    );
    let columns = [
        "load k/s",
        "lag at end ms",
        "tool CPU s",
        "source CPU s",
        "target CPU s",
        "tool peak MiB",
        "source replica buffer MiB",
    ];
    let mut table = Table::new(title, &columns);
    for round in 0..plan.rounds {
        for contender in &plan.contenders {
            let source = Server::start(&plan.server, &["--repl-diskless-sync-delay", "0"])?;
            let target = Server::start(&plan.server, &[])?;
            redis::cmd("SET").arg("first").arg(1).exec(&mut source.connect()?)?;
            let mut started = contender.start(&source, &target, false, plan.apart)?;
            contender.wait_for_copy(&mut started, &source, &target, false)?;
            wait_for_mark(&source, &target, "ready")?;
            let cpu = |server: &Server| cpu_seconds(server.pid()).unwrap_or(0.0);
            let before = (cpu(&source), cpu(&target), started.pid().and_then(cpu_seconds).unwrap_or(0.0));
            let watch = started.pid().map(Watch::start);
            let buffer = Buffer::watch(&source)?;
            let begun = Instant::now();
            load(&source, plan.commands)?;
            let loaded = begun.elapsed().as_secs_f64();
            let lag = wait_for_mark(&source, &target, "end")?;
            let after = (cpu(&source), cpu(&target));
            let (tool_cpu, tool_peak) = watch.map(Watch::stop).unwrap_or_default();
            let rate = f64::from(u32::try_from(plan.commands)?) / loaded / 1000.0;
            let lag_ms = lag.as_secs_f64() * 1000.0;
            eprintln!("incremental, round {}: {} {rate:.0} k/s, {lag_ms:.0} ms behind", round + 1, contender.name());
            table.add(
                &contender.name(),
                &[rate, lag_ms, tool_cpu - before.2, after.0 - before.0, after.1 - before.1, tool_peak, buffer.stop()],
            );
        }
    }
    Ok(table)
}

fn load(source: &Server, commands: u64) -> Result<()> {
    let status = Command::new("redis-benchmark")
        .args(["-p", &source.port.to_string(), "-t", "set", "-P", "16", "-n", &commands.to_string()])
        .args(["-r", "1000000", "-d", "100", "-q"])
        .stdout(Stdio::null())
        .status()
        .context("redis-benchmark: run `make setup`")?;
    ensure!(status.success(), "redis-benchmark failed");
    Ok(())
}

/// Sets a key on the source and waits until the target has it.
fn wait_for_mark(source: &Server, target: &Server, mark: &str) -> Result<Duration> {
    let (mut from, mut to) = (source.connect()?, target.connect()?);
    let begun = Instant::now();
    redis::cmd("SET").arg(mark).arg(1).exec(&mut from)?;
    while !redis::cmd("EXISTS").arg(mark).query::<bool>(&mut to)? {
        ensure!(begun.elapsed() < PATIENCE, "the change did not come within {} s", PATIENCE.as_secs());
        std::thread::sleep(POLL);
    }
    Ok(begun.elapsed())
}

/// The largest output buffer that the source held for a replica.
struct Buffer {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl Buffer {
    fn watch(source: &Server) -> Result<Self> {
        let mut connection = source.connect()?;
        let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, seen) = (stop.clone(), most.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut connection).unwrap_or_default();
                let held = list.lines().filter(|line| line.contains("flags=S")).filter_map(|line| {
                    line.split(' ').find_map(|field| field.strip_prefix("omem=")?.parse::<u64>().ok())
                });
                seen.fetch_max(held.max().unwrap_or(0), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        Ok(Self { stop, most, thread })
    }

    fn stop(self) -> f64 {
        self.stop.store(true, Ordering::Relaxed);
        let _ended = self.thread.join();
        f64::from(u32::try_from(self.most.load(Ordering::Relaxed) >> 10).unwrap_or(u32::MAX)) / 1024.0
    }
}
