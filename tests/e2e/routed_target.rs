//! An endpoint that routes by itself as the target: a real twemproxy in front of real servers.

use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, ensure};
use dts_tests::cluster::Cluster;
use dts_tests::dts::Dts;
use dts_tests::oracle::assert_equal_nodes;
use dts_tests::port::free_port;
use dts_tests::proxy::Proxy;
use dts_tests::server::Server;
use dts_tests::spread::{Client as _, Divided, Spread, client_of, fill};

use serde_json::{Value, json};

use crate::discover::{Program, codis_group, codis_topology};
use crate::fleet::{Fleet, grpcurl};
use crate::{complete, keys_of_ours, state, until};

const SOURCE: &[&str] = &["--repl-diskless-sync-delay", "0"];
const ENDPOINT: &[&str] = &["--target-kind", "endpoint"];

/// Three servers behind a proxy that has two connections to each: what is sent to it at once has no order.
pub(crate) struct Routed {
    servers: Vec<Server>,
    pub(crate) port: u16,
    _dir: tempfile::TempDir,
    _proxy: Program,
}

impl Routed {
    pub(crate) fn start() -> Result<Self> {
        let servers = (0..3).map(|_| Server::start("redis-7.0", &[])).collect::<Result<Vec<_>>>()?;
        let (dir, port) = (tempfile::tempdir()?, free_port());
        let mut text = format!(
            "p:\n  listen: 127.0.0.1:{port}\n  hash: murmur\n  distribution: ketama\n  redis: true\n  server_connections: 2\n  servers:\n"
        );
        for server in &servers {
            text += &format!("   - 127.0.0.1:{}:1\n", server.port);
        }
        let file = dir.path().join("nutcracker.yml");
        std::fs::write(&file, text)?;
        let config = file.to_str().context("a path")?;
        let proxy = Program::start("nutcracker", &["-c", config, "-s", &free_port().to_string()])?;
        until("the proxy", || Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()))?;
        Ok(Self { servers, port, _dir: dir, _proxy: proxy })
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn ends_equal(&self, dts: Dts, state: &Path, sources: &[&Server]) -> Result<()> {
        complete(state)?;
        let (code, events) = dts.end()?;
        ensure!(code == Some(0), "{:?}", events.last());
        let servers: Vec<&Server> = self.servers.iter().collect();
        for server in &servers {
            ensure!(keys_of_ours(server)? == 0, "keys of ours are left");
        }
        assert_equal_nodes(sources, &servers)
    }
}

fn streams(dts: &Dts) -> Result<()> {
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true).map(drop)
}

#[test]
fn a_server_goes_through_a_proxy_with_every_command_in_the_order_of_its_key() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", SOURCE)?, Routed::start()?);
    let mut client = Divided::among(&[&source], |_| 0)?;
    fill(&mut client, 3000)?;
    let load = Spread::start(client);
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, ENDPOINT)?;
    let warned = dts.wait_for("a warning", |event| event["event"] == "warning")?;
    ensure!(warned["message"].as_str().is_some_and(|said| said.starts_with("AT LEAST ONCE")), "{warned}");
    streams(&dts)?;
    load.more(300);
    // Cut into commands of one key.
    let mut connection = source.connect()?;
    redis::cmd("MSET").arg("m:1").arg(1).arg("m:2").arg(2).arg("m:3").arg(3).exec(&mut connection)?;
    redis::cmd("SADD").arg("s:1").arg("a").arg("b").exec(&mut connection)?;
    redis::cmd("SMOVE").arg("s:1").arg("s:2").arg("a").exec(&mut connection)?;
    redis::cmd("DEL").arg("m:1").arg("m:2").exec(&mut connection)?;
    redis::pipe().atomic().incr("m:3", 1).incr("m:4", 1).exec(&mut connection)?;
    load.stop()?;
    target.ends_equal(dts, &state, &[&source])
}

#[test]
fn a_cluster_goes_through_a_proxy() -> Result<()> {
    let (source, target) = (Cluster::start("redis-7.0", 3, 0, SOURCE)?, Routed::start()?);
    let mut client = client_of(&source)?;
    fill(&mut client, 2000)?;
    let load = Spread::start(client);
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, ENDPOINT)?;
    streams(&dts)?;
    load.more(200);
    load.stop()?;
    target.ends_equal(dts, &state, &source.masters()?)
}

#[test]
fn every_other_kind_of_source_goes_through_a_proxy() -> Result<()> {
    let pair = [Server::start("redis-7.0", SOURCE)?, Server::start("redis-7.0", SOURCE)?];
    let mut client = Divided::among(&[&pair[0], &pair[1]], codis_group)?;
    fill(&mut client, 500)?;
    let alone = Server::start("redis-7.0", SOURCE)?;
    fill(&mut Divided::among(&[&alone], |_| 0)?, 500)?;
    let (dir, port) = (tempfile::tempdir()?, free_port());
    let file = |name: &str, text: String| -> Result<String> {
        let path = dir.path().join(name);
        std::fs::write(&path, text)?;
        Ok(path.to_str().context("a path")?.to_owned())
    };
    let watch = format!("sentinel monitor main 127.0.0.1 {} 1", alone.port);
    let config =
        file("sentinel.conf", format!("port {port}\nbind 127.0.0.1\ndir {}\n{watch}\n", dir.path().display()))?;
    let _sentinel = Program::start("redis-server", &[&config, "--sentinel"])?;
    until("the sentinel", || Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()))?;
    let ring = format!("p:\n  redis: true\n  hash: fnv1a_64\n  servers:\n   - 127.0.0.1:{}:1\n", alone.port);
    let both: Vec<&Server> = pair.iter().collect();
    for (entries, sources) in [
        (vec![pair[0].url(), pair[1].url()], both.clone()),
        (vec![format!("redis://127.0.0.1:{port}")], vec![&alone]),
        (vec![file("nutcracker.yml", ring)?], vec![&alone]),
        (vec![file("topom.json", codis_topology(&pair))?], both),
    ] {
        let target = Routed::start()?;
        let (_dir, state) = state()?;
        let mut arguments: Vec<&str> = entries.iter().flat_map(|entry| ["--source", entry.as_str()]).collect();
        arguments.extend(ENDPOINT);
        let dts = Dts::begin(&arguments, &target.url(), &state)?;
        streams(&dts).with_context(|| format!("{entries:?}"))?;
        target.ends_equal(dts, &state, &sources).with_context(|| format!("{entries:?}"))?;
    }
    Ok(())
}

#[test]
fn an_agent_that_no_coordinator_hears_writes_nothing_past_its_lease_where_nothing_fences_it() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", SOURCE)?, Routed::start()?);
    let mut fleet = Fleet::start()?;
    let port = fleet.address.rsplit_once(':').context("a port")?.1.parse()?;
    let between = Proxy::before_port(port)?;
    let _agent = fleet.agent_via("only", &format!("http://127.0.0.1:{}", between.port))?;
    let spec = json!({"spec": {
        "name": "unfenced", "mode": "MODE_SYNC", "sources": [{"host": "127.0.0.1", "port": source.port}],
        "target": {"host": "127.0.0.1", "port": target.port, "routes": true},
    }});
    let created = grpcurl(&fleet.address, &["-d", &spec.to_string(), "dts.v1.TaskService/CreateTask"])?;
    fleet.adopt(&serde_json::from_str::<Value>(&created)?["id"]);
    fleet.start_acknowledged()?;
    fleet.follows("only")?;
    let mut writes = source.connect()?;
    let mut reads = target.servers.iter().map(Server::connect).collect::<Result<Vec<_>>>()?;
    let mut arrived = || -> Result<u64> {
        let found = reads.iter_mut().map(|server| Ok(redis::cmd("GET").arg("counter").query::<Option<u64>>(server)?));
        Ok(found.collect::<Result<Vec<_>>>()?.into_iter().flatten().max().unwrap_or(0))
    };
    let mut count = 0;
    let mut write = |count: &mut u64| -> Result<()> {
        *count += 1;
        Ok(redis::cmd("INCR").arg("counter").exec(&mut writes)?)
    };
    write(&mut count)?;
    until("a write", || Ok(arrived()? == 1))?;
    between.weather.silent.store(true, Ordering::Relaxed);
    // Every write that arrives is followed by another, until one does not arrive for longer than any before.
    let mut waits = 0;
    until("a write that does not arrive", || {
        if arrived()? == count {
            write(&mut count)?;
            waits = 0;
        }
        waits += 1;
        Ok(waits > 50)
    })?;
    let stopped = arrived()?;
    ensure!(stopped + 1 == count, "{stopped} of {count}");
    between.weather.silent.store(false, Ordering::Relaxed);
    until("the last write", || Ok(arrived()? == count))?;
    fleet.follows("only")?;
    fleet.completed()?;
    assert_equal_nodes(&[&source], &target.servers.iter().collect::<Vec<_>>())
}

#[test]
fn kills_and_a_server_that_is_away_lose_nothing_and_what_may_be_twice_is_named() -> Result<()> {
    let (source, mut target) = (Server::start("redis-7.0", SOURCE)?, Routed::start()?);
    let mut client = Divided::among(&[&source], |_| 0)?;
    fill(&mut client, 500)?;
    let (_dir, state) = state()?;
    let mut dts = Dts::migrate(&source.url(), &target.url(), &state, ENDPOINT)?;
    streams(&dts)?;
    for kill in 0..3 {
        for i in 0..2000 {
            let key = format!("safe:{}", i % 300);
            client.send(&key, redis::cmd("HSET").arg(&key).arg(i % 7).arg(kill * 10_000 + i))?;
        }
        dts.kill()?;
        dts = Dts::migrate(&source.url(), &target.url(), &state, ENDPOINT)?;
        streams(&dts)?;
    }
    ensure!(source.info("sync_full")? == "1", "it copied again");
    // One of the servers, none that has a record of ours, is away for a while with what it holds.
    let ours = target.servers.iter().map(keys_of_ours).collect::<Result<Vec<_>>>()?;
    let away = ours.iter().position(|keys| *keys == 0).context("a server without a record")?;
    redis::cmd("SAVE").exec(&mut target.servers[away].connect()?)?;
    target.servers[away].kill()?;
    for i in 0..300 {
        let key = format!("counted:{i}");
        client.send(&key, redis::cmd("INCR").arg(&key))?;
    }
    dts.wait_for("the outage", |event| event["event"] == "retrying")?;
    target.servers[away].restart()?;
    let seen = dts.wait_for("what is at risk", |event| event["at_risk_commands"]["INCR"].as_u64() > Some(0))?;
    ensure!(seen["exactly_once"] == false, "{seen}");
    streams(&dts)?;
    // The proxy said of each that it did not arrive: here, none was applied twice.
    target.ends_equal(dts, &state, &[&source])
}

#[test]
fn what_cannot_be_given_to_a_proxy_is_refused_by_name() -> Result<()> {
    for (command, name) in [(["RENAME", "a", "b"], "RENAME"), (["XADD", "s", "1-1"], "XADD")] {
        let (source, target) = (Server::start("redis-7.0", SOURCE)?, Routed::start()?);
        let (_dir, state) = state()?;
        let mut connection = source.connect()?;
        redis::cmd("SET").arg("a").arg(1).exec(&mut connection)?;
        let dts = Dts::migrate(&source.url(), &target.url(), &state, ENDPOINT)?;
        streams(&dts)?;
        let mut sent = redis::cmd(command[0]);
        sent.arg(&command[1..]);
        if name == "XADD" {
            sent.arg("field").arg("value");
        }
        sent.exec(&mut connection)?;
        let failed = dts.wait_for("a refusal", |event| event["event"] == "failed")?;
        let said = failed["message"].as_str().unwrap_or_default();
        ensure!(failed["code"] == "TARGET_UNSUPPORTED" && said.contains(name), "{failed}");
        ensure!(dts.end()?.0 == Some(1));
        if name == "RENAME" {
            let skip = [ENDPOINT, &["--skip-cross-slot"]].concat();
            let dts = Dts::migrate(&source.url(), &target.url(), &state, &skip)?;
            streams(&dts)?;
        }
    }
    let (source, target) = (Server::start("redis-7.0", SOURCE)?, Routed::start()?);
    redis::cmd("SET").arg("theirs").arg(1).exec(&mut target.servers[2].connect()?)?;
    let (_dir, first) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &first, ENDPOINT)?;
    let failed = dts.wait_for("a refusal", |event| event["event"] == "failed")?;
    ensure!(failed["code"] == "TARGET_NOT_EMPTY", "{failed}");
    // Without a word of what it is it is no server.
    let (_dir, second) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &second, &["--retry-window", "1s"])?;
    let failed = dts.wait_for("a refusal", |event| event["event"] == "failed")?;
    ensure!(failed.to_string().contains("--target-kind endpoint"), "{failed}");
    Ok(())
}

#[test]
fn a_copy_that_would_have_to_be_repeated_is_not_and_says_why() -> Result<()> {
    let options = ["--repl-diskless-sync-delay", "0", "--repl-backlog-size", "16kb"];
    let (source, target) = (Server::start("redis-7.0", &options)?, Routed::start()?);
    let (_dir, state) = state()?;
    let mut connection = source.connect()?;
    redis::cmd("SET").arg("a").arg(1).exec(&mut connection)?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, ENDPOINT)?;
    streams(&dts)?;
    dts.kill()?;
    for _ in 0..2 {
        redis::cmd("SET").arg("overrun").arg("x".repeat(100_000)).exec(&mut connection)?;
    }
    let dts = Dts::migrate(&source.url(), &target.url(), &state, ENDPOINT)?;
    let failed = dts.wait_for("a refusal", |event| event["event"] == "failed")?;
    ensure!(failed["code"] == "COPY_NOT_REPEATABLE", "{failed}");
    // With empty servers it begins anew.
    for server in &target.servers {
        redis::cmd("FLUSHALL").exec(&mut server.connect()?)?;
    }
    drop(dts);
    let dts = Dts::migrate(&source.url(), &target.url(), &state, ENDPOINT)?;
    streams(&dts)?;
    target.ends_equal(dts, &state, &[&source])
}
