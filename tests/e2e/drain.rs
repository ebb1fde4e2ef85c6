//! Agents that are drained in the middle of a full copy, and such that write a cluster.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use dts_tests::cluster::Cluster;
use dts_tests::dts::binary;
use dts_tests::load::Load;
use dts_tests::oracle::{assert_equal, assert_equal_nodes};
use dts_tests::server::Server;
use dts_tests::spread_load::SpreadLoad;
use serde_json::Value;

use crate::control::servers;
use crate::fleet::Fleet;
use crate::until;

fn dts(fleet: &Fleet, words: &[&str]) -> Result<String> {
    let output = Command::new(binary()?).args(words).args(["--coordinator", &fleet.address]).output()?;
    ensure!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn two_agents(fleet: &Fleet) -> Result<[crate::fleet::Role; 2]> {
    let agents = [fleet.agent("first")?, fleet.agent("second")?];
    until("the agents to register", || {
        let said = dts(fleet, &["fleet", "list"])?;
        Ok(["first", "second"].iter().all(|name| said.contains(name)))
    })?;
    Ok(agents)
}

fn create(fleet: &mut Fleet, source: &Server, target: &str) -> Result<()> {
    let words = ["task", "create", "--json", "--name", "n", "--source", &source.url(), "--target", target];
    let created: Value = serde_json::from_str(&dts(fleet, &words)?)?;
    fleet.adopt(&created["id"]);
    Ok(())
}

/// Whatever the check warns of.
fn start(fleet: &Fleet) -> Result<()> {
    dts(fleet, &["task", "start", "--acknowledge"]).map(drop)
}

fn holder(fleet: &Fleet) -> Result<String> {
    Ok(fleet.get()?["shards"][0]["agentId"].as_str().context("an agent")?.to_owned())
}

/// What the target holds, in bytes of the source's stream.
fn applied(fleet: &Fleet) -> Result<u64> {
    Ok(fleet.get()?["shards"][0]["status"]["stream"]["appliedOffset"].as_str().unwrap_or("0").parse()?)
}

fn other(name: &str) -> &'static str {
    if name == "first" { "second" } else { "first" }
}

#[test]
fn an_agent_that_is_drained_in_a_full_copy_leaves_it_to_another_and_no_stale_key() -> Result<()> {
    let (source, target) = servers()?;
    let mut writer = source.connect()?;
    for i in 0..3000 {
        redis::cmd("SET").arg(format!("big:{i}")).arg("v".repeat(2000)).exec(&mut writer)?;
    }
    let mut fleet = Fleet::start()?;
    let _agents = two_agents(&fleet)?;
    create(&mut fleet, &source, &target.url())?;
    // Slow enough to be caught in the middle: about 6 s for the whole of it.
    dts(&fleet, &["task", "limit", "--write-rate", "1MiB"])?;
    start(&fleet)?;
    let copied = |fleet: &Fleet| -> Result<u64> {
        let task = fleet.get()?;
        let keys = task["shards"][0]["status"]["snapshot"]["appliedKeys"].as_str().unwrap_or("0").parse()?;
        Ok(if task["state"] == "TASK_STATE_FULL_SYNC" { keys } else { 0 })
    };
    until("a part of the copy", || Ok(copied(&fleet)? > 100))?;
    // Not before: the check would say, rightly, that the limit is too low for it.
    let load = Load::start(&source)?;
    let from = holder(&fleet)?;
    dts(&fleet, &["fleet", "drain", &from])?;
    let to = other(&from);
    ensure!(holder(&fleet)? == to, "it is not with {to}");
    dts(&fleet, &["task", "limit", "--write-rate", "0"])?;
    // The first copy brought some of these; the source loses them before the second copy, or during it.
    for i in 0..1000 {
        redis::cmd("DEL").arg(format!("big:{i}")).exec(&mut writer)?;
    }
    fleet.follows(to)?;
    let copies = fleet.get()?["shards"][0]["status"]["snapshot"]["copyNumber"].as_str().map(str::to_owned);
    ensure!(copies.as_deref() == Some("2"), "{copies:?}");
    load.stop()?;
    fleet.completed()?;
    assert_equal(&source, &target)
}

#[test]
fn drained_agents_hand_a_cluster_over_without_another_copy_and_nothing_is_lost_or_done_twice() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0", "--repl-backlog-size", "64mb"])?;
    let cluster = Cluster::start("redis-7.0", 3, 0, &[])?;
    let load = SpreadLoad::start(&source, true)?;
    let mut fleet = Fleet::start()?;
    let _agents = two_agents(&fleet)?;
    create(&mut fleet, &source, &cluster.url())?;
    start(&fleet)?;
    // Under this traffic it may never be less than a second behind.
    let begun = source.info("master_repl_offset")?.parse()?;
    until("a stream", || Ok(applied(&fleet)? > begun))?;
    let copies = source.info("sync_full")?;
    for _ in 0..3 {
        let from = holder(&fleet)?;
        load.pass(100);
        dts(&fleet, &["fleet", "drain", &from])?;
        ensure!(holder(&fleet)? == other(&from), "it is not with the other");
        let begun = source.info("master_repl_offset")?.parse()?;
        until("the other to write", || Ok(applied(&fleet)? > begun))?;
        dts(&fleet, &["fleet", "uncordon", &from])?;
        load.pass(100);
    }
    ensure!(source.info("sync_full")? == copies, "it copied again");
    load.stop()?;
    fleet.completed()?;
    assert_equal_nodes(&[&source], &cluster.masters()?)
}
