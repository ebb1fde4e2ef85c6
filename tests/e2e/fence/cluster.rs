//! A cluster: every node has the user that writes, and none keeps another one.

use anyhow::{Context as _, Result, ensure};
use dts_tests::cluster::Cluster;
use dts_tests::oracle::assert_equal_nodes;
use dts_tests::server::Server;
use dts_tests::spread::{Spread, client_of, fill};
use dts_tests::spread_load::SpreadLoad;
use serde_json::{Value, json};

use super::{SOURCE, completed, connections, fenced, follows, ours, people, user};
use crate::fleet::signal;
use crate::life::Desk;
use crate::{keys_of_ours, until};

/// A cluster with a replica of every master, and the users everywhere.
fn peopled_cluster() -> Result<Cluster> {
    let cluster = Cluster::start("redis-7.0", 3, 1, &[])?;
    cluster.nodes.iter().try_for_each(people)?;
    Ok(cluster)
}

fn left(cluster: &Cluster) -> Result<Vec<String>> {
    Ok(cluster.nodes.iter().map(ours).collect::<Result<Vec<_>>>()?.concat())
}

fn ends_equal(desk: &Desk, source: &Server, cluster: &Cluster) -> Result<()> {
    completed(desk)?;
    ensure!(left(cluster)?.is_empty(), "users are left: {:?}", left(cluster)?);
    let masters = cluster.masters()?;
    for node in &masters {
        ensure!(keys_of_ours(node)? == 0, "keys of ours are left");
    }
    assert_equal_nodes(&[source], &masters)
}

#[test]
fn on_a_cluster_a_successor_removes_the_users_of_a_frozen_agent_from_every_node() -> Result<()> {
    let (source, cluster) = (Server::start("redis-7.0", SOURCE)?, peopled_cluster()?);
    let load = SpreadLoad::start(&source, false)?;
    let mut desk = Desk::start()?;
    desk.create(&fenced(&source, &cluster.nodes[0]))?;
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    follows(&desk, "only")?;
    ensure!(desk.get()?["shards"][0]["status"]["fence"] == "F4");
    let first = user(&desk)?;
    let masters = cluster.masters()?;
    for master in &masters {
        ensure!(ours(master)? == [first.clone()] && connections(master, &first)? > 0, "{:?}", ours(master)?);
    }
    signal(&desk.agents[0], "-STOP")?;
    desk.agent("second")?;
    follows(&desk, "second")?;
    let second = user(&desk)?;
    for node in &cluster.nodes {
        ensure!(!ours(node)?.contains(&first) && connections(node, &first)? == 0, "{:?}", ours(node)?);
    }
    signal(&desk.agents[0], "-CONT")?;
    load.pass(100);
    until("one user", || {
        Ok(masters.iter().map(|master| ours(master)).all(|found| found.is_ok_and(|is| is == [second.clone()])))
    })?;
    load.stop()?;
    ends_equal(&desk, &source, &cluster)
}

#[test]
fn a_promoted_replica_gets_the_user_and_a_demoted_master_does_not_keep_it() -> Result<()> {
    let (source, mut cluster) = (Server::start("redis-7.0", SOURCE)?, peopled_cluster()?);
    let load = SpreadLoad::start(&source, false)?;
    let mut desk = Desk::start()?;
    desk.create(&fenced(&source, &cluster.nodes[0]))?;
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    follows(&desk, "only")?;
    for master in 0..2 {
        let replica = cluster.replica_of(master)?;
        cluster.failover(master)?;
        load.pass(50);
        until("the user", || Ok(ours(&cluster.nodes[replica])? == [user(&desk)?]))?;
    }
    // The next agent finds users of the one that died also where nobody writes now.
    desk.agents.clear();
    desk.agent("second")?;
    follows(&desk, "second")?;
    let now = user(&desk)?;
    ensure!(left(&cluster)?.iter().all(|name| *name == now), "{:?}", left(&cluster)?);
    // And a master that dies.
    let replica = cluster.replica_of(2)?;
    cluster.nodes[2].kill()?;
    until("the replica is a master", || Ok(cluster.nodes[replica].info("role")? == "master"))?;
    load.pass(50);
    until("the user", || Ok(ours(&cluster.nodes[replica])? == [now.clone()]))?;
    cluster.nodes[2].restart()?;
    people(&cluster.nodes[2])?;
    cluster.until_ok()?;
    load.stop()?;
    ends_equal(&desk, &source, &cluster)
}

#[test]
fn every_shard_of_a_cluster_writes_as_a_user_of_its_own_while_slots_move_between_them() -> Result<()> {
    let (source, cluster) = (Cluster::start("redis-7.0", 2, 0, &[])?, peopled_cluster()?);
    let mut client = client_of(&source)?;
    fill(&mut client, 2000)?;
    let load = Spread::start(client);
    let mut desk = Desk::start()?;
    let mut asked = fenced(&source.nodes[0], &cluster.nodes[0]);
    let nodes = source.nodes.iter().map(|node| json!({"host": "127.0.0.1", "port": node.port}));
    asked["sources"] = nodes.collect();
    asked["topology"] = json!({"kind": "SOURCE_KIND_CLUSTER"});
    desk.create(&asked)?;
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    let ready = |desk: &Desk| until("all shards", || Ok(desk.get()?["readyToComplete"] == true));
    let of_now = |desk: &Desk| -> Result<Vec<String>> {
        let task = desk.get()?;
        let shards = task["shards"].as_array().context("shards")?;
        let name = |(index, shard): (usize, &Value)| {
            format!("dts:{}:{index}:{}", desk.task, shard["epoch"].as_str().unwrap_or("?"))
        };
        Ok(shards.iter().enumerate().map(name).collect())
    };
    ready(&desk)?;
    let found = left(&cluster)?;
    ensure!(of_now(&desk)?.iter().all(|user| found.contains(user)), "{found:?}");
    source.move_slots(0..300, 1)?;
    load.more(50);
    ready(&desk)?;
    desk.agents.clear();
    desk.agent("second")?;
    until("the second agent", || {
        Ok(desk.get()?["shards"].as_array().is_some_and(|all| all.iter().all(|shard| shard["agentId"] == "second")))
    })?;
    ready(&desk)?;
    let now = of_now(&desk)?;
    until("users of now only", || Ok(left(&cluster)?.iter().all(|user| now.contains(user))))?;
    load.stop()?;
    ready(&desk)?;
    completed(&desk)?;
    ensure!(left(&cluster)?.is_empty(), "users are left: {:?}", left(&cluster)?);
    assert_equal_nodes(&source.masters()?, &cluster.masters()?)
}
