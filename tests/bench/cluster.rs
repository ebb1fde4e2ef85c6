//! Clusters, and many sources on one agent: against as many native replications as there are sources, all at once.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dts_tests::cluster::Cluster;
use dts_tests::distance::Distance;
use dts_tests::server::Server;
use dts_tests::usage::{Watch, cpu_seconds};

use crate::Plan;
use crate::contender::Contender;
use crate::report::Table;

const MASTERS: usize = 3;
const GROWTH: [usize; 4] = [1, 2, 4, 8];
const PATIENCE: Duration = Duration::from_secs(900);
const POLL: Duration = Duration::from_millis(5);
const AT_ONCE: &[&str] = &["--repl-diskless-sync-delay", "0"];
const COLUMNS: [&str; 5] = ["wall s", "tool CPU s", "sources CPU s", "targets CPU s", "tool peak MiB"];

/// The tables.
pub(crate) fn run(plan: &Plan) -> Result<Vec<Table>> {
    let mut tables = vec![cluster_to_cluster(plan)?, standalone_to_cluster(plan)?];
    if plan.apart.is_zero() {
        tables.extend(growth(plan)?);
    }
    Ok(tables)
}

fn title(plan: &Plan, what: &str) -> String {
    let (data, distance) = (&plan.dataset, plan.distance());
    format!("{what}, {} {}, {}{distance}, {} rounds, medians", data.keys, data.name(), plan.server, plan.rounds)
}

fn cluster_to_cluster(plan: &Plan) -> Result<Table> {
    let source = Cluster::start(&plan.server, MASTERS, 0, &[])?;
    let masters = source.masters()?;
    let owns = |node: &usize, slot: u16| usize::from(slot) >= node * 16_384 / MASTERS;
    plan.dataset.fill_among(&masters, |key| (0..MASTERS).rev().find(|node| owns(node, slot(key))).unwrap_or(0))?;
    let mut table = Table::new(title(plan, "3-master cluster to 3-master cluster"), &COLUMNS);
    for round in 0..plan.rounds {
        table.add("REPLICAOF of each master", &native(plan, &masters)?);
        let target = Cluster::start(&plan.server, MASTERS, 0, &[])?;
        let targets = target.masters()?;
        let (_ways, url) = away(plan, &target)?;
        table.add("dts", &ours(plan, &[source.url()], &masters, &url, &targets)?);
        eprintln!("cluster to cluster, round {}", round + 1);
    }
    Ok(table)
}

fn standalone_to_cluster(plan: &Plan) -> Result<Table> {
    let source = Server::start(&plan.server, AT_ONCE)?;
    plan.dataset.fill(&source)?;
    let mut table = Table::new(title(plan, "Standalone to 3-master cluster"), &COLUMNS);
    for round in 0..plan.rounds {
        table.add("REPLICAOF", &native(plan, &[&source])?);
        let target = Cluster::start(&plan.server, MASTERS, 0, &[])?;
        let masters = target.masters()?;
        let (_ways, url) = away(plan, &target)?;
        table.add("dts", &ours(plan, &[source.url()], &[&source], &url, &masters)?);
        eprintln!("standalone to cluster, round {}", round + 1);
    }
    Ok(table)
}

/// Every node says that it is reached over the distance; where the first one is.
fn away(plan: &Plan, cluster: &Cluster) -> Result<(Vec<Distance>, String)> {
    if plan.apart.is_zero() {
        return Ok((Vec::new(), cluster.url()));
    }
    let ways = cluster.nodes.iter().map(|node| Distance::to(node.port, plan.apart)).collect::<Result<Vec<_>>>()?;
    for (node, way) in cluster.nodes.iter().zip(&ways) {
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("cluster-announce-bus-port").arg(node.port + 10_000);
        set.arg("cluster-announce-port").arg(way.port).exec(&mut node.connect()?)?;
    }
    until(|| {
        let known = |node: &Server| -> Result<bool> {
            let text: String = redis::cmd("CLUSTER").arg("NODES").query(&mut node.connect()?)?;
            Ok(ways.iter().all(|way| text.contains(&format!(":{}@", way.port))))
        };
        cluster.nodes.iter().try_fold(true, |all, node| Ok(all && known(node)?))
    })?;
    let url = format!("redis://127.0.0.1:{}", ways.first().context("no nodes")?.port);
    Ok((ways, url))
}

/// So many sources, an eighth of the keys on each, into one server.
fn growth(plan: &Plan) -> Result<Vec<Table>> {
    let most = GROWTH[GROWTH.len() - 1];
    let servers = (0..most).map(|_| Server::start(&plan.server, AT_ONCE)).collect::<Result<Vec<_>>>()?;
    let all: Vec<&Server> = servers.iter().collect();
    plan.dataset.fill_among(&all, |key| usize::from(slot(key)) % most)?;
    let what = |count: &usize| format!("{count} of 8 sources into one server, one agent; all 8");
    let mut tables: Vec<Table> = GROWTH.iter().map(|count| Table::new(title(plan, &what(count)), &COLUMNS)).collect();
    for round in 0..plan.rounds {
        for (count, table) in GROWTH.iter().zip(&mut tables) {
            let sources = &all[..*count];
            table.add("REPLICAOF of each", &native(plan, sources)?);
            let target = Server::start(&plan.server, AT_ONCE)?;
            let urls: Vec<String> = sources.iter().map(|source| source.url()).collect();
            table.add("dts", &ours(plan, &urls, sources, &target.url(), &[&target])?);
        }
        eprintln!("growth, round {}", round + 1);
    }
    Ok(tables)
}

/// A replica for each source, all begun at once.
fn native(plan: &Plan, sources: &[&Server]) -> Result<Vec<f64>> {
    let replicas = sources.iter().map(|_| Server::start(&plan.server, AT_ONCE)).collect::<Result<Vec<_>>>()?;
    let targets: Vec<&Server> = replicas.iter().collect();
    measure(sources, &targets, || {
        let mut ways = Vec::new();
        for (source, replica) in sources.iter().zip(&replicas) {
            let mut port = source.port;
            if !plan.apart.is_zero() {
                let way = Distance::to(port, plan.apart)?;
                port = way.port;
                ways.push(way);
            }
            redis::cmd("SLAVEOF").arg("127.0.0.1").arg(port).exec(&mut replica.connect()?)?;
        }
        for replica in &replicas {
            until(|| Ok(replica.info("master_link_status")? == "up"))?;
        }
        Ok((0.0, 0.0))
    })
}

fn ours(plan: &Plan, from: &[String], sources: &[&Server], to: &str, targets: &[&Server]) -> Result<Vec<f64>> {
    let program = plan.contenders.iter().find_map(|contender| match contender {
        Contender::Dts { program } => Some(program),
        _ => None,
    });
    let state = tempfile::tempdir()?;
    let mut command = Command::new(program.context("no dts")?);
    command.args(["migrate", "--mode", "migrate", "--target", to, "--state-dir"]).arg(state.path().join("state"));
    command.args(from.iter().flat_map(|url| ["--source", url.as_str()]));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let figures = measure(sources, targets, || {
        let mut child = command.spawn().context("dts")?;
        let watch = Watch::start(child.id());
        let ended = until(|| Ok(child.try_wait()?.is_some()));
        let used = watch.stop();
        let ended = ended.and_then(|()| whole(&mut child));
        ended.map(|()| used)
    })?;
    let count = |servers: &[&Server]| -> Result<u64> {
        servers.iter().map(|server| Ok(redis::cmd("DBSIZE").query::<u64>(&mut server.connect()?)?)).sum()
    };
    ensure!(count(targets)? == count(sources)?, "keys were lost");
    Ok(figures)
}

/// Whether it ended well; ends it if it did not.
fn whole(child: &mut Child) -> Result<()> {
    match child.try_wait()? {
        Some(status) => ensure!(status.success(), "dts failed"),
        None => child.kill()?,
    }
    Ok(())
}

fn measure(sources: &[&Server], targets: &[&Server], copy: impl FnOnce() -> Result<(f64, f64)>) -> Result<Vec<f64>> {
    let cpu = |servers: &[&Server]| servers.iter().filter_map(|server| cpu_seconds(server.pid())).sum::<f64>();
    let before = (cpu(sources), cpu(targets));
    let begun = Instant::now();
    let (tool_cpu, tool_peak) = copy()?;
    let wall = begun.elapsed().as_secs_f64();
    Ok(vec![wall, tool_cpu, cpu(sources) - before.0, cpu(targets) - before.1, tool_peak])
}

fn until(mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !done()? {
        ensure!(Instant::now() < deadline, "it took longer than {} s", PATIENCE.as_secs());
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// CRC-16 (XMODEM) of the name, modulo the slots. Our names have no tags.
fn slot(key: &str) -> u16 {
    let crc = key.bytes().fold(0u16, |crc, byte| {
        (0..8)
            .fold(crc ^ (u16::from(byte) << 8), |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 })
    });
    crc % 16_384
}
