//! What an agent does by itself that no coordinator hears of.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dts_tests::cluster::Cluster;
use dts_tests::oracle::assert_equal;
use dts_tests::proxy::Proxy;
use dts_tests::server::Server;
use serde_json::{Value, json};

use crate::fleet::signal;
use crate::life::{Desk, spec};
use crate::until;

const SOURCE: &[&str] = &["--repl-diskless-sync-delay", "0", "--enable-debug-command", "local"];

/// Frozen in the middle of a task, woken when all is over, the target perhaps is emptied for something else, and nobody tells it.
fn wakes_when_all_is_over(asked: &Value, source: &Server, targets: &[&Server], emptied: bool) -> Result<()> {
    redis::cmd("FLUSHALL").exec(&mut source.connect()?)?;
    redis::cmd("DEBUG").arg("POPULATE").arg(500).exec(&mut source.connect()?)?;
    let keys = || -> Result<u64> {
        targets.iter().map(|target| Ok(redis::cmd("DBSIZE").query::<u64>(&mut target.connect()?)?)).sum()
    };
    let mut desk = Desk::without_agents()?;
    let logs = tempfile::tempdir()?;
    let log = logs.path().join("first");
    let way = Proxy::before_port(desk.address.rsplit(':').next().context("a port")?.parse()?)?;
    desk.talking_agent_at(&format!("127.0.0.1:{}", way.port), "first", &log)?;
    desk.create(asked)?;
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    until("to catch up", || Ok(desk.get()?["readyToComplete"] == true))?;
    way.weather.silent.store(true, Ordering::Relaxed);
    signal(&desk.agents[0], "-STOP")?;
    desk.agent("second")?;
    until("a takeover", || {
        let task = desk.get()?;
        Ok(task["shards"][0]["agentId"] == "second" && task["readyToComplete"] == true)
    })?;
    until("completion", || {
        let _asked_or_refused = desk.call("CompleteTask", json!({}));
        Ok(desk.get()?["state"] == "TASK_STATE_COMPLETED")
    })?;
    ensure!(keys()? == 500);
    for target in targets.iter().filter(|_| emptied) {
        redis::cmd("FLUSHALL").exec(&mut target.connect()?)?;
    }
    desk.stop();
    desk.agents.truncate(1);
    signal(&desk.agents[0], "-CONT")?;
    redis::cmd("SET").arg("later").arg(1).exec(&mut source.connect()?)?;
    let (halts, ends) = match emptied {
        true => ("COORDINATOR_LOST", "SHARD_PHASE_STOPPED"),
        false => ("TARGET_NOT_EMPTY", "SHARD_PHASE_FAILED"),
    };
    let says = || Ok(std::fs::read_to_string(&log)?.contains(halts));
    until("the woken agent to halt", says).with_context(|| std::fs::read_to_string(&log).unwrap_or_default())?;
    let left = if emptied { 0 } else { 500 };
    ensure!(keys()? == left, "it begins a copy that nobody asked for");
    // It is told in the end, and puts down what it held.
    way.weather.silent.store(false, Ordering::Relaxed);
    desk.restart()?;
    let told = || {
        let log = std::fs::read_to_string(&log)?;
        Ok(log.contains(ends) && log.matches("registered").count() > 1)
    };
    until("the woken agent to be told", told)?;
    ensure!(keys()? == left, "it writes what nobody asked for");
    Ok(())
}

#[test]
fn an_agent_that_wakes_when_the_task_is_over_touches_no_server_full_or_emptied_since() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", SOURCE)?, Server::start("redis-7.0", &[])?);
    for emptied in [false, true] {
        redis::cmd("FLUSHALL").exec(&mut target.connect()?)?;
        wakes_when_all_is_over(&spec(&source, &target), &source, &[&target], emptied)?;
    }
    Ok(())
}

#[test]
fn an_agent_that_wakes_when_the_task_is_over_touches_no_cluster_full_or_emptied_since() -> Result<()> {
    let (source, cluster) = (Server::start("redis-7.0", SOURCE)?, Cluster::start("redis-7.0", 3, 0, &[])?);
    for emptied in [false, true] {
        for master in cluster.masters()? {
            redis::cmd("FLUSHALL").exec(&mut master.connect()?)?;
        }
        wakes_when_all_is_over(&spec(&source, &cluster.nodes[0]), &source, &cluster.masters()?, emptied)?;
    }
    Ok(())
}

#[test]
fn a_target_that_lost_all_is_filled_again_when_a_coordinator_says_that_the_shard_is_still_ours() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", SOURCE)?, Server::start("redis-7.0", &[])?);
    redis::cmd("DEBUG").arg("POPULATE").arg(500).exec(&mut source.connect()?)?;
    let keys = || -> Result<u64> { Ok(redis::cmd("DBSIZE").query(&mut target.connect()?)?) };
    let mut desk = Desk::without_agents()?;
    let logs = tempfile::tempdir()?;
    let log = logs.path().join("first");
    desk.talking_agent("first", &log)?;
    desk.create(&spec(&source, &target))?;
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    until("to catch up", || Ok(desk.get()?["readyToComplete"] == true))?;
    desk.stop();
    // With a record it goes on by itself, for as long as it takes.
    let says = || -> Result<bool> { Ok(std::fs::read_to_string(&log)?.contains("COORDINATOR_LOST")) };
    let on = |number: u64| -> Result<()> {
        redis::cmd("SET").arg("on").arg(number).exec(&mut source.connect()?)?;
        until("what was written", || {
            Ok(redis::cmd("GET").arg("on").query::<Option<u64>>(&mut target.connect()?)? == Some(number))
        })
    };
    let begun = Instant::now();
    let mut number = 0;
    // Longer than the lease of 4 s.
    while begun.elapsed() < Duration::from_secs(5) {
        number += 1;
        on(number)?;
    }
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").query::<redis::Value>(&mut target.connect()?)?;
    on(number + 1)?;
    ensure!(!says()?, "it waits for a coordinator though its record stands");
    redis::cmd("FLUSHALL").exec(&mut target.connect()?)?;
    redis::cmd("SET").arg("on").arg(0).exec(&mut source.connect()?)?;
    until("the agent to wait", says)?;
    ensure!(keys()? == 0);
    desk.restart()?;
    until("all of it again", || Ok(desk.get()?["readyToComplete"] == true && keys()? > 500))?;
    desk.call("CompleteTask", json!({}))?;
    until("completion", || Ok(desk.get()?["state"] == "TASK_STATE_COMPLETED"))?;
    assert_equal(&source, &target)
}
