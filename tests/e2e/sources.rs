//! Sources that make us wait, that speak less than others, or that become another server while we read them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dts_tests::dts::Dts;
use dts_tests::load::{Load, fill_small};
use dts_tests::oracle::assert_equal;
use dts_tests::proxy::Proxy;
use dts_tests::server::{Server, signal};
use serde_json::Value;

use crate::{CAUGHT_UP, complete, state, until};

const AT_ONCE: [&str; 2] = ["--repl-diskless-sync-delay", "0"];

fn keys(server: &Server, count: u32) -> Result<()> {
    let mut pipe = redis::pipe();
    for i in 0..count {
        pipe.cmd("SET").arg(format!("k{i}")).arg(i).ignore();
    }
    Ok(pipe.query(&mut server.connect()?)?)
}

fn config(server: &Server, name: &str, value: &str) -> Result<()> {
    Ok(redis::cmd("CONFIG").arg("SET").arg(name).arg(value).exec(&mut server.connect()?)?)
}

/// Waits until the operator is told that the source is busy, in words that hold `why`.
fn wait_for_reason(dts: &Dts, why: &str) -> Result<Value> {
    dts.wait_for(why, |event| {
        event["code"] == "SOURCE_BUSY" && event["message"].as_str().is_some_and(|message| message.contains(why))
    })
}

fn completes_equal(dts: Dts, state: &std::path::Path, source: &Server, target: &Server) -> Result<()> {
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    complete(state)?;
    ensure!(dts.end()?.0 == Some(0));
    assert_equal(source, target)
}

#[test]
fn a_source_that_loads_its_data_is_waited_for_by_name() -> Result<()> {
    // 30 000 keys at a millisecond each, unless it is told to go faster.
    let slow = ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"];
    let mut source = Server::start("redis-7.0", &slow)?;
    let target = Server::start("redis-7.0", &[])?;
    keys(&source, 30_000)?;
    redis::cmd("SAVE").exec(&mut source.connect()?)?;
    source.crash_and_restart()?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
    wait_for_reason(&dts, "LOADING")?;
    config(&source, "key-load-delay", "0")?;
    completes_equal(dts, &state, &source, &target)
}

#[test]
fn a_replica_that_has_lost_its_master_is_waited_for_until_it_has_it_again() -> Result<()> {
    for (version, options, why) in [
        ("redis-2.8", &[][..], "not connected with my master"),
        ("redis-3.2", &[], "not connected with my master"),
        ("redis-7.0", &[], "NOMASTERLINK"),
        ("redis-7.0", &["--replica-serve-stale-data", "no"], "MASTERDOWN"),
        ("valkey-9.1", &[], "NOMASTERLINK"),
    ] {
        let mut master = Server::start(version, &[])?;
        let replica = Server::start(version, options)?;
        let target = Server::start(version, &[])?;
        keys(&master, 100)?;
        replica.follow(&master)?;
        // A child that served the replica may still be there.
        until("a save", || Ok(redis::cmd("SAVE").exec(&mut master.connect()?).is_ok()))?;
        master.kill()?;
        until("a lost link", || Ok(replica.info("master_link_status")? == "down"))?;
        let (_dir, state) = state()?;
        let dts = Dts::migrate(&replica.url(), &target.url(), &state, &[])?;
        // The check sees it first; a source that loses its master later says it in its own words.
        dts.wait_for("the lost master by name", |event| {
            let message = event["message"].as_str().unwrap_or_default();
            event["code"] == "SOURCE_BUSY" && (message.contains(why) || message.contains("link to its master is down"))
        })
        .context(version)?;
        master.restart()?;
        dts.wait_for("a stream", |event| event["ready_to_complete"] == true).context(version)?;
        redis::cmd("SET").arg("later").arg("yes").exec(&mut master.connect()?)?;
        until("the last write", || Ok(redis::cmd("EXISTS").arg("later").query::<bool>(&mut target.connect()?)?))?;
        completes_equal(dts, &state, &master, &target).context(version)?;
    }
    Ok(())
}

#[test]
fn a_replicas_stream_begins_in_the_database_that_its_master_has_selected() -> Result<()> {
    for version in ["redis-3.2", "redis-4.0", "redis-5.0", "redis-7.0", "redis-8.10", "valkey-9.1"] {
        let master = Server::start(version, &AT_ONCE)?;
        let replica = Server::start(version, &AT_ONCE)?;
        let target = Server::start(version, &[])?;
        keys(&master, 100)?;
        replica.follow(&master)?;
        // From here on the master says nothing but this: its stream has no SELECT when we come in.
        let stop = Arc::new(AtomicBool::new(false));
        let mut connection = master.connect()?;
        let stopped = stop.clone();
        let writer = std::thread::spawn(move || -> Result<()> {
            redis::cmd("SELECT").arg(5).exec(&mut connection)?;
            while !stopped.load(Ordering::Relaxed) {
                redis::cmd("INCR").arg("counter").exec(&mut connection)?;
                redis::cmd("LPUSH").arg("list").arg("x").exec(&mut connection)?;
            }
            Ok(())
        });
        let (_dir, state) = state()?;
        let dts = Dts::migrate(&replica.url(), &target.url(), &state, &[])?;
        let streaming = dts.wait_for("commands", |event| event["applied_commands"].as_u64() > Some(1000));
        stop.store(true, Ordering::Relaxed);
        writer.join().map_err(|_| anyhow::anyhow!("the writer broke"))??;
        streaming.context(version)?;
        until("the replica to have all", || {
            let count = |server: &Server| -> Result<u64> {
                let mut connection = server.connect()?;
                redis::cmd("SELECT").arg(5).exec(&mut connection)?;
                Ok(redis::cmd("GET").arg("counter").query(&mut connection)?)
            };
            Ok(count(&master)? == count(&replica)?)
        })?;
        completes_equal(dts, &state, &master, &target).context(version)?;
    }
    Ok(())
}

#[test]
fn payloads_from_disk_and_from_a_socket_are_taken_and_never_a_second_channel() -> Result<()> {
    let (socket, disk) = (("--repl-diskless-sync", "yes"), ("--repl-diskless-sync", "no"));
    for (version, payload, more) in [
        ("redis-2.8", None, &[][..]),
        ("redis-3.0", Some(socket), &[]),
        ("redis-4.0", Some(disk), &[]),
        ("redis-6.2", Some(socket), &[]),
        ("redis-7.0", Some(disk), &[]),
        ("redis-8.2", Some(socket), &["--repl-rdb-channel", "yes"]),
        ("redis-8.2", Some(disk), &["--repl-rdb-channel", "yes"]),
        ("valkey-8.1", Some(socket), &["--dual-channel-replication-enabled", "yes"]),
        ("valkey-9.1", Some(disk), &["--dual-channel-replication-enabled", "yes"]),
    ] {
        let mut options = more.to_vec();
        if let Some((name, value)) = payload {
            options.extend([name, value, AT_ONCE[0], AT_ONCE[1]]);
        }
        let source = Server::start(version, &options)?;
        let target = Server::start(version, &[])?;
        fill_small(&source, !version.starts_with("redis-2") && !["redis-3.0", "redis-4.0"].contains(&version))?;
        let load = Load::start(&source)?;
        let (_dir, state) = state()?;
        let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
        let ready = dts.wait_for("a stream", |event| event["ready_to_complete"] == true).context(version)?;
        let sized = ready["snapshot_total_bytes"].as_u64() > Some(0);
        ensure!(sized == (payload != Some(socket)), "{version} {payload:?}: {ready}");
        ensure!(source.info("connected_slaves")? == "1" && source.info("sync_full")? == "1", "{version}");
        load.stop()?;
        complete(&state)?;
        ensure!(dts.end()?.0 == Some(0));
        assert_equal(&source, &target).context(version)?;
    }
    Ok(())
}

#[test]
fn what_we_say_during_a_snapshot_and_behind_it_is_understood_by_a_source_that_reads_it_all_at_once() -> Result<()> {
    for version in ["redis-2.8", "redis-3.2"] {
        let source = Server::start(version, &[])?;
        let target = Server::start(version, &[])?;
        keys(&source, 100)?;
        let load = Load::start(&source)?;
        let proxy = Proxy::before(&source)?;
        proxy.weather.gather_ms.store(60, Ordering::Relaxed);
        let (_dir, state) = state()?;
        let dts = Dts::migrate(&proxy.url(), &target.url(), &state, &[])?;
        dts.wait_for("a stream", |event| {
            assert_ne!(event["event"], "retrying", "{version}: {event}");
            event["applied_commands"].as_u64() > Some(500)
        })?;
        load.stop()?;
        completes_equal(dts, &state, &source, &target).context(version)?;
    }
    Ok(())
}

#[test]
fn a_source_without_psync_is_read_by_sync_and_one_without_both_is_refused_by_name() -> Result<()> {
    for version in ["redis-2.8", "redis-3.2", "redis-7.0", "redis-8.10", "valkey-9.1"] {
        let target = Server::start(version, &[])?;
        let without = Server::start(version, &["--rename-command", "PSYNC", "", "--rename-command", "SYNC", ""])?;
        let (_dir, refused) = state()?;
        let dts = Dts::migrate(&without.url(), &target.url(), &refused, &[])?;
        let failed = dts.wait_for("its end", |event| event["event"] == "failed").context(version)?;
        ensure!(failed["code"] == "SOURCE_NO_REPLICATION", "{version}: {failed}");

        let source = Server::start(version, &["--rename-command", "PSYNC", ""])?;
        let target = Server::start(version, &[])?;
        fill_small(&source, false)?;
        let load = Load::start(&source)?;
        let (_dir, synced) = state()?;
        let dts = Dts::migrate(&source.url(), &target.url(), &synced, &[])?;
        dts.wait_for("a stream", |event| event["applied_commands"].as_u64() > Some(1000)).context(version)?;
        load.stop()?;
        completes_equal(dts, &synced, &source, &target).context(version)?;
    }
    Ok(())
}

#[test]
fn a_user_who_may_sync_but_not_psync_copies_and_one_who_may_neither_is_named() -> Result<()> {
    let source = Server::start("redis-7.0", &AT_ONCE)?;
    let target = Server::start("redis-7.0", &[])?;
    keys(&source, 100)?;
    let mut connection = source.connect()?;
    // Where there are no offsets, completion finds its place in the stream by a message.
    let rights = ["+ping", "+replconf", "+info", "+time", "+config|get", "+command", "+publish", "&*"];
    for (user, more) in [("syncs", "+sync"), ("reads", "+get")] {
        let mut set = redis::cmd("ACL");
        set.arg("SETUSER").arg(user).arg("on").arg(">secret").arg("~*").arg(&rights).arg(more);
        set.exec(&mut connection)?;
    }
    let url = |user: &str| format!("redis://{user}:secret@127.0.0.1:{}", source.port);
    let (_dir, refused) = state()?;
    let dts = Dts::migrate(&url("reads"), &target.url(), &refused, &[])?;
    let failed = dts.wait_for("its end", |event| event["event"] == "failed")?;
    ensure!(failed["code"] == "SOURCE_PERMISSION", "{failed}");
    let target = Server::start("redis-7.0", &[])?;
    let (_dir, synced) = state()?;
    let dts = Dts::migrate(&url("syncs"), &target.url(), &synced, CAUGHT_UP)?;
    ensure!(dts.end()?.0 == Some(0));
    assert_equal(&source, &target)
}

#[test]
fn a_source_that_saves_for_somebody_else_is_waited_for_and_says_so() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync", "no", "--rdb-key-save-delay", "1000"])?;
    let target = Server::start("redis-7.0", &[])?;
    keys(&source, 1000)?;
    redis::cmd("BGSAVE").exec(&mut source.connect()?)?;
    config(&source, "rdb-key-save-delay", "0")?;
    // It saves for as long as we want.
    let saves = source.child().context("a child")?;
    signal("-STOP", saves)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
    let told = wait_for_reason(&dts, "to begin its snapshot")?;
    ensure!(source.info("rdb_bgsave_in_progress")? == "1", "{told}");
    signal("-CONT", saves)?;
    // It was waited for: nothing was interrupted, and nothing tried again.
    let ready = dts.wait_for("a stream", |event| {
        assert_ne!(event["shard_phase"], "RETRYING", "{event}");
        event["ready_to_complete"] == true
    })?;
    ensure!(source.info("sync_full")? == "1", "{ready}");
    completes_equal(dts, &state, &source, &target)
}

#[test]
fn a_source_whose_bgsave_fails_is_asked_less_and_less_often() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync", "no", "--enable-protected-configs", "yes"])?;
    let target = Server::start("redis-7.0", &[])?;
    keys(&source, 100)?;
    std::fs::remove_dir_all(source.dir())?;
    let (_dir, state) = state()?;
    let begun = Instant::now();
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
    wait_for_reason(&dts, "BGSAVE may have failed")?;
    // At 0, then after at least 0.5, 1 and 2 s.
    until("a fourth snapshot", || Ok(source.info("sync_full")?.parse::<u32>()? >= 4))?;
    ensure!(begun.elapsed() >= Duration::from_millis(3400), "four snapshots in {:?}", begun.elapsed());
    std::fs::create_dir(source.dir())?;
    config(&source, "dir", &source.dir().to_string_lossy())?;
    completes_equal(dts, &state, &source, &target)
}

#[test]
fn a_snapshot_that_is_killed_each_time_is_begun_less_and_less_often() -> Result<()> {
    let source = Server::start("redis-7.0", &[&AT_ONCE[..], &["--rdb-key-save-delay", "1000"]].concat())?;
    let target = Server::start("redis-7.0", &[])?;
    keys(&source, 20_000)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
    let mut pauses = Vec::new();
    let mut killed: Option<Instant> = None;
    for _ in 0..4 {
        let mut child = None;
        until("a snapshot", || {
            child = source.child();
            Ok(child.is_some())
        })?;
        pauses.extend(killed.map(|at| at.elapsed()));
        signal("-KILL", child.context("a child")?)?;
        until("its end", || Ok(source.child() != child))?;
        killed = Some(Instant::now());
    }
    // The pauses double from 1 s on; jitter takes a half at most.
    for (pause, least) in pauses.iter().zip([450, 950, 1950]) {
        ensure!(*pause >= Duration::from_millis(least), "{pauses:?}");
    }
    config(&source, "rdb-key-save-delay", "0")?;
    completes_equal(dts, &state, &source, &target)
}

#[test]
fn the_stream_goes_on_without_a_copy_when_the_sources_replica_takes_over() -> Result<()> {
    for version in ["redis-4.0", "redis-7.0", "valkey-9.1"] {
        let mut master = Server::start(version, &AT_ONCE)?;
        let replica = Server::start(version, &AT_ONCE)?;
        let target = Server::start(version, &[])?;
        fill_small(&master, false)?;
        replica.follow(&master)?;
        let proxy = Proxy::before(&master)?;
        let (_dir, state) = state()?;
        let dts = Dts::migrate(&proxy.url(), &target.url(), &state, &[])?;
        dts.wait_for("a stream", |event| event["ready_to_complete"] == true).context(version)?;
        // The same traffic begins on one and then on the other: without what cannot be begun twice.
        let load = Load::start_as(&master, 400)?;
        until("traffic", || Ok(load.rounds() > 200))?;
        load.stop()?;
        until("the replica to have all", || {
            Ok(replica.info("slave_repl_offset")? == master.info("master_repl_offset")?)
        })?;
        master.kill()?;
        proxy.lead_to(&replica);
        redis::cmd("SLAVEOF").arg("NO").arg("ONE").exec(&mut replica.connect()?)?;
        let load = Load::start_as(&replica, 400)?;
        until("traffic on the new master", || Ok(load.rounds() > 200))?;
        load.stop()?;
        completes_equal(dts, &state, &replica, &target).context(version)?;
        ensure!(replica.info("sync_full")? == "0", "{version}: it copied again");
    }
    Ok(())
}

#[test]
fn writes_that_only_the_dead_master_had_do_not_stay_on_the_target() -> Result<()> {
    let mut master = Server::start("redis-7.0", &AT_ONCE)?;
    let replica = Server::start("redis-7.0", &AT_ONCE)?;
    let target = Server::start("redis-7.0", &[])?;
    fill_small(&master, true)?;
    replica.follow(&master)?;
    let proxy = Proxy::before(&master)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&proxy.url(), &target.url(), &state, &[])?;
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    replica.freeze(true)?;
    let mut connection = master.connect()?;
    redis::cmd("SET").arg("never on the replica").arg("1").exec(&mut connection)?;
    redis::cmd("DEL").arg("list:large").exec(&mut connection)?;
    redis::cmd("SET").arg("string:7").arg("of the dead").exec(&mut connection)?;
    let mut asked = target.connect()?;
    until("the target to have it", || {
        Ok(redis::cmd("GET").arg("string:7").query::<String>(&mut asked)? == "of the dead")
    })?;
    // What the frozen one has in its socket must not reach it.
    config(&master, "client-output-buffer-limit", "replica 1 1 1")?;
    master.kill()?;
    proxy.lead_to(&replica);
    replica.freeze(false)?;
    redis::cmd("SLAVEOF").arg("NO").arg("ONE").exec(&mut replica.connect()?)?;
    redis::cmd("SET").arg("later").arg("1").exec(&mut replica.connect()?)?;
    completes_equal(dts, &state, &replica, &target)
}
