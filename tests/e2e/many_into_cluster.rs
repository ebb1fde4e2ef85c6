//! Many sources into one Redis Cluster: nothing of one shard may touch what is another's, in whatever slot it lies.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use dts_tests::cluster::Cluster;
use dts_tests::dts::Dts;
use dts_tests::oracle::assert_equal_nodes;
use dts_tests::port::free_port;
use dts_tests::server::Server;
use dts_tests::spread::{Divided, Spread, client_of, fill};
use serde_json::Value;

use crate::discover::{Program, codis_group, codis_topology};
use crate::{complete, keys_of_ours, state, until};

const SOURCE: &[&str] = &["--repl-backlog-size", "32mb"];
const CLUSTER: &[&str] = &["--source-kind", "cluster"];

fn migrate(sources: &[&Server], target: &Cluster, state: &Path, more: &[&str]) -> Result<Dts> {
    let urls: Vec<String> = sources.iter().map(|source| source.url()).collect();
    let (first, others) = urls.split_first().context("no source")?;
    let mut arguments: Vec<&str> = others.iter().flat_map(|url| ["--source", url.as_str()]).collect();
    arguments.extend(more);
    Dts::migrate(first, &target.url(), state, &arguments)
}

fn streams(dts: &Dts) -> Result<Value> {
    dts.wait_for("a stream of all shards", |event| event["ready_to_complete"] == true)
}

fn ends_equal(dts: Dts, state: &Path, sources: &[&Server], target: &Cluster) -> Result<()> {
    complete(state)?;
    let (code, events) = dts.end()?;
    ensure!(code == Some(0), "{:?}", events.last());
    let masters = target.masters()?;
    for node in &masters {
        ensure!(keys_of_ours(node)? == 0, "keys of ours are left");
    }
    assert_equal_nodes(sources, &masters)
}

#[test]
fn a_cluster_goes_into_a_cluster_through_kills_with_nothing_lost_doubled_or_stale() -> Result<()> {
    let cluster = Cluster::start("redis-7.0", 3, 0, SOURCE)?;
    // Other borders between the masters than the source has.
    let target = Cluster::start("redis-7.0", 4, 0, &[])?;
    let mut client = client_of(&cluster)?;
    fill(&mut client, 5000)?;
    let load = Spread::start(client);
    let (_dir, state) = state()?;
    let masters = cluster.masters()?;
    for kill in 0..6 {
        let dts = migrate(&masters, &target, &state, CLUSTER)?;
        if kill < 3 {
            dts.wait_for("a report of a copy", |event| event["copy_number"].as_u64() > Some(0))?;
        } else {
            dts.wait_for_phase("INCR_SYNC")?;
            load.more(100);
        }
        dts.kill()?;
    }
    let dts = migrate(&masters, &target, &state, CLUSTER)?;
    let seen = streams(&dts)?;
    ensure!(seen["shards"].as_array().is_some_and(|shards| shards.len() == 3), "{seen}");
    load.more(100);
    load.stop()?;
    let copies: u32 = masters.iter().map(|node| Ok(node.info("sync_full")?.parse::<u32>()?)).sum::<Result<u32>>()?;
    ensure!(copies <= 4 * 3, "streams were not gone on with: {copies} copies");
    ends_equal(dts, &state, &masters, &target)
}

fn clusters_of(name: &str) -> Result<()> {
    let cluster = Cluster::start(name, 3, 0, &[])?;
    let target = Cluster::start(if name == "redis-3.0" { "redis-5.0" } else { name }, 3, 0, &[])?;
    let mut client = client_of(&cluster)?;
    fill(&mut client, 2000)?;
    let load = Spread::start(client);
    let (_dir, state) = state()?;
    let masters = cluster.masters()?;
    let dts = migrate(&masters, &target, &state, CLUSTER)?;
    streams(&dts)?;
    load.more(100);
    load.stop()?;
    ends_equal(dts, &state, &masters, &target)
}

#[test]
fn a_cluster_of_3_0_goes_into_one_of_5_0() -> Result<()> {
    clusters_of("redis-3.0")
}

#[test]
fn a_cluster_of_6_2_goes_into_a_cluster() -> Result<()> {
    clusters_of("redis-6.2")
}

#[test]
fn a_cluster_of_8_2_goes_into_a_cluster() -> Result<()> {
    clusters_of("redis-8.2")
}

#[test]
fn a_cluster_of_valkey_9_1_goes_into_a_cluster() -> Result<()> {
    clusters_of("valkey-9.1")
}

#[test]
fn a_flush_of_one_master_deletes_its_keys_and_no_others_on_a_cluster() -> Result<()> {
    let cluster = Cluster::start("redis-7.0", 3, 0, SOURCE)?;
    let target = Cluster::start("redis-7.0", 3, 0, &[])?;
    let mut client = client_of(&cluster)?;
    fill(&mut client, 3000)?;
    let load = Spread::start(client);
    let (_dir, state) = state()?;
    let masters = cluster.masters()?;
    let dts = migrate(&masters, &target, &state, CLUSTER)?;
    streams(&dts)?;
    redis::cmd("FLUSHALL").exec(&mut masters[1].connect()?)?;
    load.more(50);
    // Killed behind it, too: slots that went further are not emptied again.
    dts.kill()?;
    redis::cmd("FLUSHALL").exec(&mut masters[1].connect()?)?;
    load.more(50);
    let dts = migrate(&masters, &target, &state, CLUSTER)?;
    streams(&dts)?;
    redis::cmd("FLUSHALL").exec(&mut masters[2].connect()?)?;
    load.more(50);
    load.stop()?;
    ends_equal(dts, &state, &masters, &target)
}

#[test]
fn slots_that_move_at_the_source_and_at_the_target_lose_nothing_and_bring_nothing_back() -> Result<()> {
    let cluster = Cluster::start("redis-7.0", 3, 0, SOURCE)?;
    let target = Cluster::start("redis-7.0", 3, 0, &[])?;
    let mut client = client_of(&cluster)?;
    fill(&mut client, 4000)?;
    let load = Spread::start(client);
    let (_dir, state) = state()?;
    let masters = cluster.masters()?;
    let dts = migrate(&masters, &target, &state, CLUSTER)?;
    dts.wait_for("a report of a copy", |event| event["copy_number"].as_u64() > Some(0))?;
    cluster.move_slots(0..60, 1)?;
    target.move_slots(100..160, 1)?;
    streams(&dts)?;
    let slot = cluster.slot(b"fill:1")?;
    let owner = cluster.owner(slot)?;
    cluster.move_slots([slot], (owner + 1) % 3)?;
    cluster.move_slots(30..40, 2)?;
    target.move_slots(20..50, 2)?;
    cluster.move_slots(40..60, 0)?;
    dts.wait_for("a copy after the last move", |event| {
        let again = |shard: &Value| shard["copy_number"].as_u64() > Some(1);
        event["ready_to_complete"] == true && event["shards"].as_array().is_some_and(|shards| shards.iter().all(again))
    })?;
    load.more(100);
    load.stop()?;
    ends_equal(dts, &state, &masters, &target)
}

#[test]
fn masters_of_both_clusters_fail_over_without_a_new_copy() -> Result<()> {
    let cluster = Cluster::start("redis-7.0", 3, 1, SOURCE)?;
    let target = Cluster::start("redis-7.0", 3, 1, &[])?;
    let mut client = client_of(&cluster)?;
    fill(&mut client, 2000)?;
    let load = Spread::start(client);
    let (_dir, state) = state()?;
    let masters = cluster.masters()?;
    let dts = migrate(&masters, &target, &state, CLUSTER)?;
    streams(&dts)?;
    cluster.failover(0)?;
    target.failover(1)?;
    load.more(100);
    load.stop()?;
    cluster.until_even(1)?;
    let heir = cluster.nodes[cluster.replica_of(1)?].port;
    let status = std::process::Command::new("kill").args(["-KILL", &cluster.nodes[1].pid().to_string()]).status()?;
    ensure!(status.success());
    let load = Spread::start(client_of(&cluster)?);
    let address = format!("127.0.0.1:{heir}");
    let seen = dts.wait_for("the heir to be read", |event| {
        event["shards"][1]["reading_from"] == address && event["ready_to_complete"] == true
    })?;
    ensure!(seen["copy_number"] == 1, "{seen}");
    load.more(100);
    load.stop()?;
    cluster.until_ok()?;
    ends_equal(dts, &state, &cluster.masters()?, &target)
}

/// Keys by their last digit.
fn by_digit(key: &str) -> usize {
    key.bytes().last().map_or(0, |digit| usize::from(digit % 3))
}

#[test]
fn independent_servers_into_a_cluster_keep_apart_through_flushes_sweeps_and_kills() -> Result<()> {
    let options = &["--repl-backlog-size", "16kb", "--repl-diskless-sync-delay", "0"];
    let servers = (0..3).map(|_| Server::start("redis-7.0", options)).collect::<Result<Vec<_>>>()?;
    let sources: Vec<&Server> = servers.iter().collect();
    let target = Cluster::start("redis-7.0", 3, 0, &[])?;
    let mut client = Divided::among(&sources, by_digit)?;
    fill(&mut client, 3000)?;
    let (_dir, state) = state()?;
    let load = Spread::start(client);
    let dts = migrate(&sources, &target, &state, &[])?;
    streams(&dts)?;
    redis::cmd("FLUSHALL").exec(&mut sources[1].connect()?)?;
    load.more(100);
    dts.kill()?;
    // The backlogs are overrun meanwhile.
    load.more(1000);
    let dts = migrate(&sources, &target, &state, &[])?;
    let seen = streams(&dts)?;
    ensure!(seen["copy_number"] == 2, "{seen}");
    load.stop()?;
    ends_equal(dts, &state, &sources, &target)
}

#[test]
fn a_mapped_database_goes_into_a_cluster_and_others_stay_behind() -> Result<()> {
    let source = Server::start("redis-7.0", SOURCE)?;
    let target = Cluster::start("redis-7.0", 3, 0, &[])?;
    for db in [0, 3, 5] {
        let mut pipe = redis::pipe();
        pipe.cmd("SELECT").arg(db);
        for i in 0..100 {
            pipe.cmd("SET").arg(format!("k{i}")).arg(format!("{db}:{i}"));
        }
        pipe.query::<()>(&mut source.connect()?)?;
    }
    let (_dir, state) = state()?;
    let dts = migrate(&[&source], &target, &state, &["--include-db", "3", "--map-db", "3:0"])?;
    streams(&dts)?;
    redis::pipe().cmd("SELECT").arg(3).cmd("SET").arg("late").arg(1).query::<()>(&mut source.connect()?)?;
    redis::pipe().cmd("SELECT").arg(5).cmd("SET").arg("other").arg(1).query::<()>(&mut source.connect()?)?;
    complete(&state)?;
    ensure!(dts.end()?.0 == Some(0));
    ensure!(target.key_count()? == 101);
    for (key, value) in [("k7", "3:7"), ("late", "1")] {
        let found: Option<String> = target.query(key.as_bytes(), redis::cmd("GET").arg(key))?;
        ensure!(found.as_deref() == Some(value), "{key}: {found:?}");
    }
    Ok(())
}

fn discovers(entry: &str, target: &Cluster, state: &Path) -> Result<Dts> {
    Dts::begin(&["--discover", entry], &target.url(), state)
}

#[test]
fn codis_goes_into_a_cluster_and_a_flush_of_one_group_leaves_the_other() -> Result<()> {
    let servers = [Server::start("redis-3.2", &[])?, Server::start("redis-3.2", &[])?];
    let sources: Vec<&Server> = servers.iter().collect();
    let target = Cluster::start("redis-5.0", 3, 0, &[])?;
    let mut client = Divided::among(&sources, codis_group)?;
    fill(&mut client, 2000)?;
    let load = Spread::start(client);
    let (dir, state) = state()?;
    let saved = dir.path().join("topom.json");
    std::fs::write(&saved, codis_topology(&servers))?;
    let entry = saved.to_str().context("a path")?;
    let dts = discovers(entry, &target, &state)?;
    streams(&dts)?;
    dts.kill()?;
    let dts = discovers(entry, &target, &state)?;
    streams(&dts)?;
    redis::cmd("FLUSHALL").exec(&mut servers[0].connect()?)?;
    load.more(100);
    load.stop()?;
    ends_equal(dts, &state, &sources, &target)
}

#[test]
fn servers_behind_twemproxy_go_into_a_cluster() -> Result<()> {
    let servers = (0..3).map(|_| Server::start("redis-6.2", SOURCE)).collect::<Result<Vec<_>>>()?;
    let sources: Vec<&Server> = servers.iter().collect();
    let target = Cluster::start("redis-7.0", 3, 0, &[])?;
    let (dir, port) = (tempfile::tempdir()?, free_port());
    let config = dir.path().join("nutcracker.yml");
    let list: String = servers.iter().map(|server| format!("   - 127.0.0.1:{}:1\n", server.port)).collect();
    let text = format!(
        "pool:\n  listen: 127.0.0.1:{port}\n  hash: fnv1a_64\n  distribution: ketama\n  redis: true\n  servers:\n{list}"
    );
    std::fs::write(&config, text)?;
    let config = config.to_str().context("a path")?;
    let _proxy = Program::start("nutcracker", &["-c", config, "-s", &free_port().to_string()])?;
    until("the proxy", || Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()))?;
    // The proxy hangs up on what a client says of itself.
    let info = redis::IntoConnectionInfo::into_connection_info(format!("redis://127.0.0.1:{port}"))?;
    let settings = info.redis_settings().clone().set_skip_set_lib_name();
    let mut proxy = redis::Client::open(info.set_redis_settings(settings))?.get_connection()?;
    let mut write = |from: u32| -> Result<()> {
        for i in from..from + 300 {
            redis::cmd("INCRBY").arg(format!("counter:{}", i % 400)).arg(i).exec(&mut proxy)?;
            redis::cmd("RPUSH").arg(format!("list:{}", i % 90)).arg(i).exec(&mut proxy)?;
        }
        Ok(())
    };
    write(0)?;
    let (_dir, state) = state()?;
    let dts = discovers(config, &target, &state)?;
    streams(&dts)?;
    write(1000)?;
    ends_equal(dts, &state, &sources, &target)
}

#[test]
fn a_master_of_sentinels_goes_into_a_cluster() -> Result<()> {
    let master = Server::start("redis-7.0", SOURCE)?;
    let target = Cluster::start("redis-7.0", 3, 0, &[])?;
    let (dir, port) = (tempfile::tempdir()?, free_port());
    let config = dir.path().join("sentinel.conf");
    let at = dir.path().display();
    let text = format!("port {port}\nbind 127.0.0.1\ndir {at}\nsentinel monitor main 127.0.0.1 {} 1\n", master.port);
    std::fs::write(&config, text)?;
    let _sentinel = Program::start("redis-server", &[config.to_str().context("a path")?, "--sentinel"])?;
    until("the sentinel", || Ok(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()))?;
    let mut client = Divided::among(&[&master], |_| 0)?;
    fill(&mut client, 1000)?;
    let load = Spread::start(client);
    let (_dir, state) = state()?;
    let dts = discovers(&format!("redis://127.0.0.1:{port}"), &target, &state)?;
    streams(&dts)?;
    load.more(100);
    load.stop()?;
    ends_equal(dts, &state, &[&master], &target)
}
