//! A cluster as the target.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use dts_tests::cluster::Cluster;
use dts_tests::dts::Dts;
use dts_tests::load::fill_small;
use dts_tests::oracle::assert_equal_nodes;
use dts_tests::server::Server;
use dts_tests::spread_load::SpreadLoad;

use crate::{complete, keys_of_ours, state, until};

#[test]
fn the_cluster_of_the_tests_moves_slots_and_fails_over_without_losing_a_key() -> Result<()> {
    let cluster = Cluster::start("redis-6.2", 3, 1, &[])?;
    let server = Server::start("redis-6.2", &[])?;
    for i in 0..300 {
        let key = format!("key:{i}");
        cluster.query::<()>(key.as_bytes(), redis::cmd("SET").arg(&key).arg(i))?;
        redis::cmd("SET").arg(&key).arg(i).exec(&mut server.connect()?)?;
    }
    let slot = cluster.slot(b"key:0")?;
    let to = (cluster.owner(slot)? + 1) % 3;
    cluster.move_slots([slot], to)?;
    cluster.until_ok()?;
    ensure!(cluster.owner(slot)? == to);
    cluster.failover(to)?;
    ensure!(cluster.owner(slot)? != to);
    assert_equal_nodes(&[&server], &cluster.masters()?)?;
    redis::cmd("SET").arg("key:7").arg("other").exec(&mut server.connect()?)?;
    ensure!(assert_equal_nodes(&[&server], &cluster.masters()?).is_err());
    Ok(())
}

const SOURCE: &[&str] = &["--repl-diskless-sync-delay", "0", "--repl-backlog-size", "64mb"];

/// Lets everything written so far arrive, ends the task, and compares.
fn ends_equal(source: &Server, cluster: &Cluster, dts: Dts, state: &Path) -> Result<()> {
    dts.wait_for_phase("INCR_SYNC")?;
    complete(state)?;
    let (code, events) = dts.end()?;
    ensure!(code == Some(0), "{:?}", events.last());
    let masters = cluster.masters()?;
    assert_equal_nodes(&[source], &masters)?;
    for node in masters {
        ensure!(keys_of_ours(node)? == 0, "keys of ours are left");
    }
    Ok(())
}

fn moves_with_traffic(name: &str) -> Result<()> {
    let source = Server::start(if name.starts_with("valkey") { "redis-7.0" } else { name }, SOURCE)?;
    let cluster = Cluster::start(name, 3, 0, &[])?;
    fill_one_database(&source)?;
    let load = SpreadLoad::start(&source, true)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &cluster.url(), &state, &[])?;
    dts.wait_for_phase("INCR_SYNC")?;
    load.pass(300);
    load.stop()?;
    ends_equal(&source, &cluster, dts, &state)
}

fn fill_one_database(server: &Server) -> Result<()> {
    fill_small(server, true)?;
    let mut connection = server.connect()?;
    for db in [3, 9] {
        redis::cmd("SELECT").arg(db).exec(&mut connection)?;
        redis::cmd("FLUSHDB").exec(&mut connection)?;
    }
    Ok(())
}

#[test]
fn a_cluster_gets_what_a_standalone_has_with_commands_over_slots_6_2() -> Result<()> {
    moves_with_traffic("redis-6.2")
}

#[test]
fn a_cluster_gets_what_a_standalone_has_with_commands_over_slots_7_0() -> Result<()> {
    moves_with_traffic("redis-7.0")
}

#[test]
fn a_cluster_gets_what_a_standalone_has_with_commands_over_slots_8_2() -> Result<()> {
    moves_with_traffic("redis-8.2")
}

#[test]
fn a_cluster_gets_what_a_standalone_has_with_commands_over_slots_valkey_9_1() -> Result<()> {
    moves_with_traffic("valkey-9.1")
}

#[test]
fn kills_of_the_agent_lose_nothing_and_double_nothing_on_a_cluster() -> Result<()> {
    let source = Server::start("redis-7.0", SOURCE)?;
    let cluster = Cluster::start("redis-7.0", 3, 0, &[])?;
    fill_one_database(&source)?;
    let load = SpreadLoad::start(&source, true)?;
    let (_dir, state) = state()?;
    for kill in 0..8 {
        let dts = Dts::migrate(&source.url(), &cluster.url(), &state, &[])?;
        // The first kills hit the full copy, the others the stream.
        if kill < 2 {
            dts.wait_for("a report of the copy", |event| event["copy_number"].as_u64() > Some(0))?;
        } else {
            dts.wait_for_phase("INCR_SYNC")?;
            load.pass(20 * kill);
        }
        dts.kill()?;
    }
    let copies: u32 = source.info("sync_full")?.parse()?;
    ensure!(copies <= 4, "the stream was not gone on with: {copies} copies");
    load.stop()?;
    let dts = Dts::migrate(&source.url(), &cluster.url(), &state, &[])?;
    ends_equal(&source, &cluster, dts, &state)
}

#[test]
fn slots_that_move_during_copy_and_stream_keep_everything() -> Result<()> {
    let source = Server::start("redis-7.0", SOURCE)?;
    let cluster = Cluster::start("redis-7.0", 3, 0, &[])?;
    fill_one_database(&source)?;
    let load = SpreadLoad::start(&source, true)?;
    let hot = cluster.slot(b"counter:hot")?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &cluster.url(), &state, &[])?;
    dts.wait_for("a report of the copy", |event| event["copy_number"].as_u64() > Some(0))?;
    cluster.move_slots((0..200).map(|slot| slot * 20), 2)?;
    dts.wait_for_phase("INCR_SYNC")?;
    let to = (cluster.owner(hot)? + 1) % 3;
    // The busiest slot stays half way for a while.
    cluster.begin_move(hot, to)?;
    load.pass(50);
    while cluster.move_some(hot, to)? > 0 {}
    load.pass(50);
    cluster.end_move(hot, to)?;
    cluster.move_slots((0..200).map(|slot| slot * 20), 1)?;
    load.pass(50);
    load.stop()?;
    ends_equal(&source, &cluster, dts, &state)
}

#[test]
fn a_graceful_failover_of_every_master_keeps_everything() -> Result<()> {
    let source = Server::start("redis-7.0", SOURCE)?;
    let cluster = Cluster::start("redis-7.0", 3, 1, &[])?;
    let load = SpreadLoad::start(&source, false)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &cluster.url(), &state, &[])?;
    dts.wait_for_phase("INCR_SYNC")?;
    for master in 0..3 {
        load.pass(50);
        cluster.failover(master)?;
        // Time for a look at who writes.
        for _ in 0..3 {
            dts.wait_for("a report", |event| event["guard"].is_object())?;
        }
    }
    load.pass(50);
    load.stop()?;
    // What a replica applies is not somebody else's.
    let seen = dts.wait_for("a guard", |event| event["guard"].is_object())?;
    ensure!(seen["guard"]["foreign_writes"] == 0, "{seen}");
    ends_equal(&source, &cluster, dts, &state)
}

#[test]
fn a_master_that_dies_with_writes_that_its_replica_does_not_have_loses_nothing_for_us() -> Result<()> {
    let source = Server::start("redis-7.0", SOURCE)?;
    let mut cluster = Cluster::start("redis-7.0", 3, 1, &[])?;
    let load = SpreadLoad::start(&source, false)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &cluster.url(), &state, &[])?;
    dts.wait_for("a stream that has caught up", |event| event["ready_to_complete"] == true)?;
    let hot = cluster.owner(cluster.slot(b"counter:hot")?)?;
    let replica = cluster.replica_of(hot)?;
    // The replica hears nothing for a while: what the master confirms meanwhile is lost with it.
    let pause = cluster.nodes[replica].pid().to_string();
    ensure!(Command::new("kill").args(["-STOP", &pause]).status()?.success());
    load.pass(150);
    cluster.nodes[hot].kill()?;
    ensure!(Command::new("kill").args(["-CONT", &pause]).status()?.success());
    until("the replica is a master", || Ok(cluster.nodes[replica].info("role")? == "master"))?;
    load.pass(50);
    load.stop()?;
    cluster.nodes[hot].restart()?;
    cluster.until_ok()?;
    ends_equal(&source, &cluster, dts, &state)
}

#[test]
fn a_frozen_agent_writes_nothing_after_another_has_taken_over() -> Result<()> {
    let source = Server::start("redis-7.0", SOURCE)?;
    let cluster = Cluster::start("redis-7.0", 3, 0, &[])?;
    let load = SpreadLoad::start(&source, true)?;
    let (_dir, state) = state()?;
    let frozen = Dts::migrate(&source.url(), &cluster.url(), &state, &[])?;
    frozen.wait_for_phase("INCR_SYNC")?;
    load.pass(50);
    let pid = frozen.pid().to_string();
    ensure!(Command::new("kill").args(["-STOP", &pid]).status()?.success());
    // The successor has the same task, from a copy of its state, and does not know that the other lives.
    let (_other_dir, other) = state_copy(&state)?;
    let dts = Dts::migrate(&source.url(), &cluster.url(), &other, &[])?;
    dts.wait_for_phase("INCR_SYNC")?;
    load.pass(50);
    ensure!(Command::new("kill").args(["-CONT", &pid]).status()?.success());
    // It may end at once, by itself: somebody else holds the target.
    frozen.wait_for("its end", |event| event["code"] == "FENCED" || event["phase"] == "INTERRUPTED")?;
    load.pass(50);
    frozen.kill()?;
    load.stop()?;
    ends_equal(&source, &cluster, dts, &other)
}

fn state_copy(state: &Path) -> Result<(tempfile::TempDir, std::path::PathBuf)> {
    let dir = tempfile::tempdir()?;
    let copy = dir.path().join("state");
    ensure!(Command::new("cp").arg("-r").arg(state).arg(&copy).status()?.success());
    Ok((dir, copy))
}

#[test]
fn what_a_cluster_cannot_do_stops_the_shard_by_name_or_is_left_out_and_counted() -> Result<()> {
    for skip in [false, true] {
        let source = Server::start("redis-7.0", SOURCE)?;
        let cluster = Cluster::start("redis-7.0", 3, 0, &[])?;
        let (_dir, state) = state()?;
        let more: &[&str] = if skip { &["--skip-cross-slot"] } else { &[] };
        let dts = Dts::migrate(&source.url(), &cluster.url(), &state, more)?;
        dts.wait_for_phase("INCR_SYNC")?;
        let mut connection = source.connect()?;
        redis::cmd("SET").arg("before").arg(1).exec(&mut connection)?;
        redis::cmd("SORT").arg("nothing").arg("BY").arg("weight_*").arg("STORE").arg("before").exec(&mut connection)?;
        redis::cmd("RPUSH").arg("unsorted").arg(1).arg(2).exec(&mut connection)?;
        redis::cmd("SORT").arg("unsorted").arg("BY").arg("weight_*").arg("STORE").arg("x").exec(&mut connection)?;
        redis::cmd("FLUSHALL").exec(&mut connection)?;
        redis::cmd("SET").arg("after").arg(1).exec(&mut connection)?;
        if skip {
            ends_equal(&source, &cluster, dts, &state)?;
        } else {
            let failed = dts.wait_for("its failure", |event| event["event"] == "failed")?;
            ensure!(failed.to_string().contains("SORT"), "{failed}");
        }
    }
    Ok(())
}

#[test]
fn a_source_with_other_databases_is_refused_before_anything_is_written() -> Result<()> {
    let source = Server::start("redis-7.0", SOURCE)?;
    let cluster = Cluster::start("redis-7.0", 3, 0, &[])?;
    let mut connection = source.connect()?;
    redis::cmd("SELECT").arg(4).exec(&mut connection)?;
    redis::cmd("SET").arg("k").arg(1).exec(&mut connection)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &cluster.url(), &state, &[])?;
    let failed = dts.wait_for("its failure", |event| event["event"] == "failed")?;
    ensure!(failed.to_string().contains("db4"), "{failed}");
    ensure!(cluster.key_count()? == 0);
    Ok(())
}
