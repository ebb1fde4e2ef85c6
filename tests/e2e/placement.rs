//! Who runs what: labels, what agents measure, drains, cordons and pins, by the command line and real servers under traffic.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use dts_tests::dts::binary;
use dts_tests::load::Load;
use dts_tests::oracle::assert_equal;
use dts_tests::server::Server;
use dts_tests::tls::{Authority, TlsServer};
use serde_json::Value;

use crate::control::{Control, servers};
use crate::fleet::Fleet;
use crate::until;

/// Whether it went well, and what was said.
fn dts(coordinator: &str, words: &[&str]) -> Result<(bool, String)> {
    let output = Command::new(binary()?).args(words).args(["--coordinator", coordinator]).output()?;
    let said = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8(said)?))
}

fn well(coordinator: &str, words: &[&str]) -> Result<String> {
    let (well, said) = dts(coordinator, words)?;
    ensure!(well, "{words:?}: {said}");
    Ok(said)
}

/// The agents, as `dts fleet list --json` tells them.
fn agents(coordinator: &str) -> Result<Vec<Value>> {
    let said = well(coordinator, &["fleet", "list", "--json"])?;
    Ok(said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

fn agent(coordinator: &str, name: &str) -> Result<Value> {
    agents(coordinator)?.into_iter().find(|agent| agent["id"] == name).with_context(|| format!("no agent {name}"))
}

fn registered(coordinator: &str, names: &[&str]) -> Result<()> {
    until("the agents to register", || {
        let ready = |name: &&str| agent(coordinator, name).is_ok_and(|agent| agent["connected"] == true);
        Ok(names.iter().all(ready))
    })
}

#[test]
fn a_drained_agent_hands_over_at_once_and_nothing_is_copied_again_lost_or_done_twice() -> Result<()> {
    let (source, target) = servers()?;
    let load = Load::start(&source)?;
    let mut fleet = Fleet::start()?;
    let _agents = [fleet.agent("first")?, fleet.agent("second")?];
    let at = fleet.address.clone();
    registered(&at, &["first", "second"])?;
    fleet.create(&source, &target)?;
    fleet.call("StartTask")?;
    until("a stream", || Ok(fleet.get()?["readyToComplete"] == true))?;
    let copies = source.info("sync_full")?;
    for _ in 0..4 {
        let before = fleet.get()?["shards"][0].clone();
        let from = before["agentId"].as_str().context("an agent")?.to_owned();
        let to = if from == "first" { "second" } else { "first" };
        let said = well(&at, &["fleet", "drain", &from])?;
        ensure!(said.contains("draining, 0 shards"), "{said}");
        fleet.follows(to)?;
        ensure!(fleet.get()?["shards"][0]["epoch"] != before["epoch"]);
        well(&at, &["fleet", "uncordon", &from])?;
        let rounds = load.rounds();
        until("traffic", || Ok(load.rounds() > rounds + 200))?;
        ensure!(fleet.get()?["shards"][0]["agentId"] == to, "it went back though nothing asked for it");
    }
    ensure!(source.info("sync_full")? == copies, "it copied again");
    load.stop()?;
    fleet.completed()?;
    assert_equal(&source, &target)
}

#[test]
fn a_drain_a_cordon_and_a_pin_outlive_the_coordinator_that_leads() -> Result<()> {
    let (source, target) = servers()?;
    let load = Load::start(&source)?;
    let mut control = Control::start(1, 2)?;
    let _agents = [control.agent("a")?, control.agent("b")?, control.agent("c")?];
    let both = control.addresses.join(",");
    registered(&both, &["a", "b", "c"])?;
    control.create(0, &source, &target)?;
    let id = control.get(0)?["id"].as_str().context("an id")?.to_owned();
    well(&both, &["fleet", "pin", &id, "b"])?;
    control.call(0, "StartTask")?;
    control.follows(0, "b")?;
    let copies = source.info("sync_full")?;
    well(&both, &["fleet", "cordon", "a"])?;
    // Everybody else is out of the question, so it stays, and says why.
    let (drained, said) = dts(&both, &["fleet", "drain", "b"])?;
    ensure!(!drained && said.contains("stays: b: it is being drained"), "{said}");
    let leader = control.leader()?;
    control.coordinators[leader] = None;
    until("another leader", || Ok(control.leader().is_ok_and(|now| now != leader)))?;
    let left = control.addresses[1 - leader].clone();
    control.follows(1 - leader, "b")?;
    registered(&left, &["a", "b", "c"])?;
    for (name, state) in [("a", "cordoned"), ("b", "draining"), ("c", "ready")] {
        ensure!(agent(&left, name)?["state"] == state, "{name}: {}", agent(&left, name)?);
    }
    // Without the pin it goes where it may.
    well(&left, &["fleet", "unpin", &id])?;
    control.follows(1 - leader, "c")?;
    ensure!(agent(&left, "b")?["shards"] == 0);
    // A pin is the more particular word: the cordon does not hold it.
    well(&left, &["fleet", "pin", &id, "a", "--shard", "0"])?;
    control.follows(1 - leader, "a")?;
    ensure!(source.info("sync_full")? == copies, "it copied again");
    load.stop()?;
    control.completed(1 - leader)?;
    assert_equal(&source, &target)
}

#[test]
fn a_shard_that_nobody_can_take_says_why_and_goes_to_who_can() -> Result<()> {
    let (source, target) = servers()?;
    redis::cmd("SET").arg("a").arg(1).exec(&mut source.connect()?)?;
    let mut fleet = Fleet::start()?;
    let at = fleet.address.clone();
    let _far = fleet.agent_with("far", &["--label", "region=two,network=vpn|dc"])?;
    let _other = fleet.agent_with("other", &["--label", "region=one,network=public", "--max-shards", "4"])?;
    registered(&at, &["far", "other"])?;
    let (from, to) = (source.url(), target.url());
    let create = ["task", "create", "--json", "--start", "--name", "n", "--source", &from, "--target", &to];
    let created = well(&at, &[&create[..], &["--source-region", "one", "--source-network", "vpn"]].concat())?;
    fleet.adopt(&serde_json::from_str::<Value>(created.lines().next().context("a task")?)?["id"]);
    let said = well(&at, &["task", "get"])?;
    for why in [
        "agent far: it is in region two, and the source in one",
        "agent other: its label network does not name vpn, by which the source is reached",
        "NO_AGENT: no agent can take it: far: ",
    ] {
        ensure!(said.contains(why), "{said}");
    }
    let task = fleet.get()?;
    ensure!(task["state"] == "TASK_STATE_CHECKING" && task["reason"]["code"] == "NO_AGENT", "{task}");
    let _near = fleet.agent_with("near", &["--label", "region=one", "--label", "network=vpn"])?;
    fleet.follows("near")?;
    ensure!(fleet.get()?["reason"].is_null(), "{}", fleet.get()?);
    fleet.completed()?;
    assert_equal(&source, &target)
}

#[test]
fn a_source_on_a_cvm_is_not_moved_across_regions() -> Result<()> {
    let fleet = Fleet::start()?;
    let create =
        ["task", "create", "--name", "n", "--source", "redis://127.0.0.1:1", "--target", "redis://127.0.0.1:2"];
    let cvm = ["--source-network", "cvm", "--source-region", "one", "--target-region"];
    let (created, said) = dts(&fleet.address, &[&create[..], &cvm, &["two"]].concat())?;
    ensure!(!created && said.contains("CROSS_REGION"), "{said}");
    let (created, said) = dts(&fleet.address, &[&create[..], &["--source-network", "cvm"]].concat())?;
    ensure!(!created && said.contains("needs the region"), "{said}");
    well(&fleet.address, &[&create[..], &cvm, &["one"]].concat())?;
    Ok(())
}

#[test]
fn a_task_goes_to_the_agent_that_gets_into_its_servers() -> Result<()> {
    let source = Server::start("redis-7.0", &["--requirepass", "geheim", "--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    let mut fleet = Fleet::start()?;
    let at = fleet.address.clone();
    let file = fleet.file("password", "geheim\n")?;
    let _without = fleet.agent("a")?;
    let _with = fleet.agent_with("b", &["--secret", &format!("vault=file:{file}")])?;
    registered(&at, &["a", "b"])?;
    let spec = serde_json::json!({"spec": {
        "name": "n", "mode": "MODE_SYNC",
        "sources": [{"host": "127.0.0.1", "port": source.port, "credential": {"agentSecret": "vault"}}],
        "target": {"host": "127.0.0.1", "port": target.port},
    }});
    let created = crate::fleet::grpcurl(&at, &["-d", &spec.to_string(), "dts.v1.TaskService/CreateTask"])?;
    fleet.adopt(&serde_json::from_str::<Value>(&created)?["id"]);
    // Nobody has to wait: what is not measured yet is measured first.
    fleet.call("StartTask")?;
    fleet.follows("b")?;
    let said = well(&at, &["fleet", "list", "--ways"])?;
    ensure!(said.contains("a -> source 0 of") && said.contains("SECRET_UNAVAILABLE"), "{said}");
    ensure!(!said.contains("geheim"));
    let way = &agent(&at, "b")?["ways"][0];
    ensure!(way["reached"] == true && way["round_trip_us"].as_u64() > Some(0), "{way}");
    fleet.completed()
}

#[test]
fn a_shard_whose_agent_is_cut_off_goes_to_one_that_gets_through() -> Result<()> {
    let authority = Authority::new("servers")?;
    let shown = authority.server(&["127.0.0.1"])?;
    let backlog = ["--repl-backlog-size", "64mb", "--repl-diskless-sync-delay", "0"];
    let source = TlsServer::start("redis-7.0", &shown, &authority, false, &backlog)?;
    let target = Server::start("redis-7.0", &[])?;
    redis::cmd("SET").arg("a").arg(1).exec(&mut source.plain.connect()?)?;
    let mut fleet = Fleet::start()?;
    let at = fleet.address.clone();
    // The same name of a file is another file for each of them.
    let [here, there] = ["a", "b"].map(|name| fleet.home(name));
    let (here, there) = (here?, there?);
    for home in [&here, &there] {
        std::fs::copy(&authority.file, home.join("ca.pem"))?;
    }
    let _agents = [fleet.agent_at("a", &here)?, fleet.agent_at("b", &there)?];
    registered(&at, &["a", "b"])?;
    let (from, to) = (source.url(), target.url());
    let create =
        ["task", "create", "--json", "--name", "n", "--source", &from, "--target", &to, "--source-tls-ca", "ca.pem"];
    let id = serde_json::from_str::<Value>(well(&at, &create)?.lines().next().context("a task")?)?["id"].clone();
    fleet.adopt(&id);
    well(&at, &["fleet", "pin", id.as_str().context("an id")?, "a"])?;
    fleet.call("StartTask")?;
    fleet.follows("a")?;
    well(&at, &["fleet", "unpin", id.as_str().context("an id")?])?;
    let copies = source.plain.info("sync_full")?;
    // From now on this host believes nobody; what is open goes on.
    std::fs::write(here.join("ca.pem"), Authority::new("other")?.pem())?;
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("replica").exec(&mut source.plain.connect()?)?;
    fleet.follows("b")?;
    redis::cmd("SET").arg("b").arg(2).exec(&mut source.plain.connect()?)?;
    ensure!(source.plain.info("sync_full")? == copies, "it copied again");
    fleet.completed()?;
    assert_equal(&source.plain, &target)
}
