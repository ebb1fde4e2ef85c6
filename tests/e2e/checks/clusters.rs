//! What only clusters and endpoints that route have.

use anyhow::{Context as _, Result, ensure};
use dts_tests::cluster::Cluster;
use dts_tests::server::Server;
use serde_json::{Value, json};

use super::{again, checked, failed, passed, severity};
use crate::life::{Desk, spec};
use crate::routed_target::Routed;

fn at(port: u16) -> Value {
    json!({"host": "127.0.0.1", "port": port})
}

/// Slot 0 is on its way, as the first node sees it, or is not any more.
fn moves(cluster: &Cluster, begun: bool) -> Result<()> {
    let mut first = cluster.nodes.first().context("a node")?.connect()?;
    let second: String = redis::cmd("CLUSTER").arg("MYID").query(&mut cluster.nodes[1].connect()?)?;
    let mut command = redis::cmd("CLUSTER");
    command.arg("SETSLOT").arg(0);
    if begun { command.arg("MIGRATING").arg(second) } else { command.arg("STABLE") }.exec(&mut first)?;
    Ok(())
}

#[test]
fn slots_that_are_missing_or_move_and_commands_that_a_cluster_refuses_are_named() -> Result<()> {
    let (source, target) = (Cluster::start("redis-7.0", 2, 0, &[])?, Cluster::start("redis-7.0", 2, 0, &[])?);
    let mut desk = Desk::start()?;
    let nodes: Vec<Value> = source.nodes.iter().map(|node| at(node.port)).collect();
    let mut asked = json!({
        "name": "clusters", "mode": "MODE_SYNC", "sources": nodes, "target": at(target.nodes[0].port),
        "topology": {"kind": "SOURCE_KIND_CLUSTER"},
    });
    let run = checked(&mut desk, &asked)?;
    passed(&run, &["src.topology", "src.slots", "dst.role", "dst.slots", "src.cross_slot", "dst.fence"])?;
    moves(&source, true)?;
    let run = again(&desk)?;
    failed(&run, &["src.slots"])?;
    passed(&run, &["src.topology"])?;
    moves(&source, false)?;
    moves(&target, true)?;
    let run = again(&desk)?;
    failed(&run, &["dst.slots"])?;
    passed(&run, &["src.reach"])?;
    moves(&target, false)?;
    asked["sources"] = json!([at(source.nodes[0].port)]);
    let run = checked(&mut desk, &asked)?;
    failed(&run, &["src.topology"])?;

    let single = Server::start("redis-7.0", &[])?;
    let mut connection = single.connect()?;
    let mut asked = spec(&single, &single);
    asked["target"] = at(target.nodes[0].port);
    passed(&checked(&mut desk, &asked)?, &["src.cross_slot"])?;
    redis::cmd("RENAME").arg("nothing").arg("b").exec(&mut connection).unwrap_err();
    redis::cmd("SWAPDB").arg(0).arg(1).exec(&mut connection)?;
    let run = again(&desk)?;
    failed(&run, &["src.cross_slot"])?;
    ensure!(severity(&run, "src.cross_slot")? == "WARNS", "{run}");
    Ok(())
}

#[test]
fn an_endpoint_that_routes_has_no_fence_and_says_so() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", &[])?, Routed::start()?);
    let mut asked = spec(&source, &source);
    asked["target"] = json!({"host": "127.0.0.1", "port": target.port, "routes": true});
    let run = checked(&mut Desk::start()?, &asked)?;
    failed(&run, &["dst.fence"])?;
    ensure!(severity(&run, "dst.fence")? == "INFORMS", "{run}");
    Ok(())
}
