//! Many sources into one target: nothing of one shard may touch what is another's.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use dts_tests::cluster::Cluster;
use dts_tests::dts::Dts;
use dts_tests::oracle::assert_equal_nodes;
use dts_tests::server::Server;
use dts_tests::spread::{Divided, Spread, client_of, fill};
use serde_json::Value;

use crate::{complete, keys_of_ours, state, until};

const SOURCE: &[&str] = &["--repl-backlog-size", "32mb", "--repl-diskless-sync-delay", "0"];
const CLUSTER: &[&str] = &["--source-kind", "cluster"];

/// Starts with all of these as sources.
fn migrate(sources: &[&Server], target: &Server, state: &Path, more: &[&str]) -> Result<Dts> {
    let urls: Vec<String> = sources.iter().map(|source| source.url()).collect();
    let (first, others) = urls.split_first().context("no source")?;
    let mut arguments: Vec<&str> = others.iter().flat_map(|url| ["--source", url.as_str()]).collect();
    arguments.extend(more);
    Dts::migrate(first, &target.url(), state, &arguments)
}

fn streams(dts: &Dts) -> Result<Value> {
    dts.wait_for("a stream of all shards", |event| event["ready_to_complete"] == true)
}

/// Completes and compares.
fn ends_equal(dts: Dts, state: &Path, sources: &[&Server], target: &Server) -> Result<()> {
    complete(state)?;
    let (code, events) = dts.end()?;
    ensure!(code == Some(0), "{:?}", events.last());
    ensure!(keys_of_ours(target)? == 0, "keys of ours are left");
    assert_equal_nodes(sources, &[target])
}

fn refused(sources: &[&Server], target: &Server, more: &[&str]) -> Result<String> {
    let (_dir, state) = state()?;
    let dts = migrate(sources, target, &state, more)?;
    let (code, events) = dts.end()?;
    ensure!(code == Some(1), "{events:?}");
    let failed = events.iter().find(|event| event["event"] == "failed").context("no word of why")?;
    let keys: usize = redis::cmd("DBSIZE").query(&mut target.connect()?)?;
    ensure!(keys == 0, "something was written");
    Ok(format!("{} {}", failed["code"], failed["message"]))
}

#[test]
fn a_cluster_goes_into_one_server_through_kills_with_nothing_lost_doubled_or_stale() -> Result<()> {
    let cluster = Cluster::start("redis-7.0", 3, 0, SOURCE)?;
    let target = Server::start("redis-7.0", &[])?;
    let mut client = client_of(&cluster)?;
    fill(&mut client, 5000)?;
    let load = Spread::start(client);
    let (_dir, state) = state()?;
    let masters = cluster.masters()?;
    for kill in 0..8 {
        let dts = migrate(&masters, &target, &state, CLUSTER)?;
        if kill < 4 {
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
    let sum: u64 =
        seen["shards"].as_array().into_iter().flatten().filter_map(|shard| shard["source_keys"].as_u64()).sum();
    ensure!(seen["source_keys"] == sum && sum > 0, "{seen}");
    load.stop()?;
    ends_equal(dts, &state, &masters, &target)
}

#[test]
fn a_shard_that_has_to_copy_again_sweeps_its_own_keys_and_no_others() -> Result<()> {
    let cluster = Cluster::start("redis-7.0", 3, 0, &["--repl-backlog-size", "16kb"])?;
    let target = Server::start("redis-7.0", &[])?;
    fill(&mut client_of(&cluster)?, 3000)?;
    let (_dir, state) = state()?;
    let masters = cluster.masters()?;
    let dts = migrate(&masters, &target, &state, CLUSTER)?;
    streams(&dts)?;
    dts.kill()?;
    // One of three forgets where the target was, and many of its keys.
    let slot_of_first = |key: &str| -> Result<bool> { Ok(cluster.owner(cluster.slot(key.as_bytes())?)? == 0) };
    let mut first = masters[0].connect()?;
    let (mut gone, mut filler) = (0, None);
    for i in 0..200 {
        let key = format!("fill:{i}");
        if slot_of_first(&key)? {
            gone += redis::cmd("DEL").arg(&key).query::<i32>(&mut first)?;
        } else if filler.is_none() && slot_of_first(&format!("filler:{i}"))? {
            filler = Some(format!("filler:{i}"));
        }
    }
    for _ in 0..3 {
        redis::cmd("SET").arg(&filler).arg("x".repeat(100_000)).exec(&mut first)?;
    }
    let dts = migrate(&masters, &target, &state, CLUSTER)?;
    let seen =
        dts.wait_for("a second copy", |event| event["copy_number"] == 2 && event["ready_to_complete"] == true)?;
    ensure!(gone > 20 && seen["swept_keys"] == gone, "{gone} {seen}");
    ensure!(seen["shards"][0]["copy_number"] == 2 && seen["shards"][1]["copy_number"] == 1, "{seen}");
    ends_equal(dts, &state, &masters, &target)
}

#[test]
fn a_flush_of_one_master_deletes_its_keys_and_no_others() -> Result<()> {
    let cluster = Cluster::start("redis-7.0", 3, 0, SOURCE)?;
    let target = Server::start("redis-7.0", &[])?;
    let mut client = client_of(&cluster)?;
    fill(&mut client, 3000)?;
    let load = Spread::start(client);
    let (_dir, state) = state()?;
    let masters = cluster.masters()?;
    let dts = migrate(&masters, &target, &state, CLUSTER)?;
    streams(&dts)?;
    redis::cmd("FLUSHALL").exec(&mut masters[1].connect()?)?;
    load.more(50);
    let in_a_group = "redis.call('FLUSHDB') return 1";
    redis::cmd("EVAL").arg(in_a_group).arg(0).exec(&mut masters[2].connect()?)?;
    let key = (0..).map(|i| format!("k{i}")).find(|key| cluster.slot(key.as_bytes()).is_ok_and(|slot| slot < 5000));
    let mut pipe = redis::pipe();
    pipe.atomic().cmd("SET").arg(&key).arg("before").cmd("FLUSHALL").cmd("INCR").arg(&key);
    pipe.query::<()>(&mut masters[0].connect()?)?;
    load.more(50);
    load.stop()?;
    ends_equal(dts, &state, &masters, &target)
}

#[test]
fn a_list_of_nodes_that_is_not_the_whole_cluster_is_refused_by_name_before_anything_is_written() -> Result<()> {
    let cluster = Cluster::start("redis-7.0", 3, 1, &[])?;
    let target = Server::start("redis-7.0", &[])?;
    let alone = Server::start("redis-7.0", &[])?;
    let nodes: Vec<&Server> = cluster.nodes.iter().collect();
    let said = refused(&nodes[..2], &target, CLUSTER)?;
    ensure!(said.contains("SOURCE_TOPOLOGY") && said.contains(&format!(":{}, of which", nodes[2].port)), "{said}");
    let said = refused(&nodes[..4], &target, CLUSTER)?;
    let both = [nodes[0].port, nodes[3].port].map(|port| format!(":{port}"));
    ensure!(said.contains("one master") && both.iter().all(|port| said.contains(port)), "{said}");
    let said = refused(&[nodes[0], nodes[1], &alone], &target, CLUSTER)?;
    ensure!(said.contains(&format!(":{} is not a node", alone.port)), "{said}");
    let said = refused(&[nodes[0]], &target, &["--source-kind", "standalone"])?;
    ensure!(said.contains("one node of a Redis Cluster with 3 masters"), "{said}");
    let (_dir, state) = state()?;
    let listed_twice = migrate(&[nodes[0], nodes[0]], &target, &state, CLUSTER)?.end()?;
    ensure!(listed_twice.0 == Some(2), "{listed_twice:?}");
    Ok(())
}

fn signal(server: &Server, name: &str) -> Result<()> {
    ensure!(Command::new("kill").args([name, &server.pid().to_string()]).status()?.success());
    Ok(())
}

/// Keys by their last digit, in several databases.
fn by_digit(key: &str) -> usize {
    key.bytes().last().map_or(0, |digit| usize::from(digit % 3))
}

#[test]
fn independent_servers_into_one_keep_apart_through_flushes_sweeps_and_kills() -> Result<()> {
    let options = &["--repl-backlog-size", "16kb", "--repl-diskless-sync-delay", "0"];
    let servers = (0..3).map(|_| Server::start("redis-7.0", options)).collect::<Result<Vec<_>>>()?;
    let sources: Vec<&Server> = servers.iter().collect();
    let target = Server::start("redis-7.0", &[])?;
    let mut client = Divided::among(&sources, by_digit)?;
    fill(&mut client, 3000)?;
    for (index, source) in sources.iter().enumerate() {
        let mut pipe = redis::pipe();
        pipe.cmd("SELECT").arg(4).ignore();
        for i in 0..50 {
            pipe.cmd("SET").arg(format!("db4:{index}:{i}")).arg(i).ignore();
        }
        pipe.query::<()>(&mut source.connect()?)?;
    }
    let (_dir, state) = state()?;
    let load = Spread::start(client);
    let dts = migrate(&sources, &target, &state, &[])?;
    streams(&dts)?;
    redis::cmd("FLUSHALL").exec(&mut sources[1].connect()?)?;
    redis::pipe().cmd("SELECT").arg(4).cmd("FLUSHDB").query::<()>(&mut sources[0].connect()?)?;
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
fn at_completion_an_independent_server_is_asked_for_many_of_its_keys_at_once() -> Result<()> {
    let (one, other) = (Server::start("redis-7.0", SOURCE)?, Server::start("redis-7.0", SOURCE)?);
    let target = Server::start("redis-7.0", &[])?;
    for (source, name) in [(&one, "one"), (&other, "other")] {
        let mut pipe = redis::pipe();
        for i in 0..2000 {
            pipe.cmd("SET").arg(format!("{name}:{i}")).arg(i).arg("EX").arg(100_000 + i);
        }
        pipe.exec(&mut source.connect()?)?;
    }
    let (_dir, state) = state()?;
    let dts = migrate(&[&one, &other], &target, &state, &[])?;
    streams(&dts)?;
    redis::cmd("CONFIG").arg("RESETSTAT").exec(&mut one.connect()?)?;
    ends_equal(dts, &state, &[&one, &other], &target)?;
    let stats: String = redis::cmd("INFO").arg("commandstats").query(&mut one.connect()?)?;
    let asked = stats.split_once("cmdstat_exists:calls=").and_then(|(_, calls)| calls.split(',').next());
    let asked: u32 = asked.context("it was not asked")?.parse()?;
    ensure!(asked < 100, "{asked} questions for 2000 keys");
    Ok(())
}

#[test]
fn one_server_given_twice_and_a_replica_beside_its_master_are_refused_by_name() -> Result<()> {
    let (one, replica) = (Server::start("redis-7.0", &[])?, Server::start("redis-7.0", &[])?);
    let target = Server::start("redis-7.0", &[])?;
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg(one.port).exec(&mut replica.connect()?)?;
    until("the replica", || Ok(replica.info("master_link_status")? == "up"))?;
    let said = refused(&[&one, &replica], &target, &[])?;
    let both = [one.port, replica.port].map(|port| format!(":{port}"));
    ensure!(said.contains("SOURCE_TOPOLOGY") && both.iter().all(|port| said.contains(port)), "{said}");
    Ok(())
}

#[test]
fn slots_that_move_between_masters_are_copied_again_and_no_key_vanishes_or_comes_back() -> Result<()> {
    let cluster = Cluster::start("redis-7.0", 3, 0, SOURCE)?;
    let target = Server::start("redis-7.0", &[])?;
    let mut client = client_of(&cluster)?;
    fill(&mut client, 4000)?;
    let load = Spread::start(client);
    let (_dir, state) = state()?;
    let masters = cluster.masters()?;
    let dts = migrate(&masters, &target, &state, CLUSTER)?;
    dts.wait_for("a report of a copy", |event| event["copy_number"].as_u64() > Some(0))?;
    // In the full phase, forth; in the incremental phase, on and back.
    cluster.move_slots(0..60, 1)?;
    streams(&dts)?;
    let slot = cluster.slot(b"fill:1")?;
    let owner = cluster.owner(slot)?;
    cluster.move_slots([slot], (owner + 1) % 3)?;
    cluster.move_slots(30..40, 2)?;
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
fn a_master_that_fails_over_is_followed_to_its_replica_without_a_new_copy() -> Result<()> {
    let cluster = Cluster::start("redis-7.0", 3, 1, SOURCE)?;
    let target = Server::start("redis-7.0", &[])?;
    let mut client = client_of(&cluster)?;
    fill(&mut client, 3000)?;
    let load = Spread::start(client);
    let (_dir, state) = state()?;
    let masters = cluster.masters()?;
    let dts = migrate(&masters, &target, &state, CLUSTER)?;
    streams(&dts)?;
    // One hands over, one dies, one stands still.
    cluster.failover(0)?;
    load.more(100);
    let heirs = [cluster.replica_of(1)?, cluster.replica_of(2)?].map(|heir| cluster.nodes[heir].port);
    let is_read = |shard: usize, port: u16| {
        let address = format!("127.0.0.1:{port}");
        dts.wait_for("the heir to be read", |event| {
            event["shards"][shard]["reading_from"] == address && event["ready_to_complete"] == true
        })
    };
    load.stop()?;
    cluster.until_even(1)?;
    signal(&cluster.nodes[1], "-KILL")?;
    let load = Spread::start(client_of(&cluster)?);
    is_read(1, heirs[0])?;
    load.more(100);
    load.stop()?;
    cluster.until_even(2)?;
    signal(&cluster.nodes[2], "-STOP")?;
    let seen = is_read(2, heirs[1])?;
    ensure!(seen["copy_number"] == 1, "{seen}");
    signal(&cluster.nodes[2], "-CONT")?;
    cluster.until_ok()?;
    fill(&mut client_of(&cluster)?, 100)?;
    ends_equal(dts, &state, &cluster.masters()?, &target)
}
