//! The turn of a way back, cut off in its middle; and what moves on a cluster that is followed back.

use anyhow::{Context as _, Result, ensure};
use dts_tests::cluster::Cluster;
use dts_tests::dts::Dts;
use dts_tests::oracle::assert_equal_values;
use dts_tests::server::Server;
use dts_tests::spread::client_of;
use redis::Connection;
use serde_json::{Value, json};

use crate::fleet::signal;
use crate::switch_over::Site;
use crate::way_back_cluster::{Side, Traffic, begin, exact, follows_back, no_copy, returns};
use crate::{state, until};

/// Switched over until records of the way back begin to stand on the old side.
fn in_the_middle(site: &Site, old: &Side) -> Result<()> {
    let mut seen: Vec<Connection> = old.masters()?.into_iter().map(Server::connect).collect::<Result<_>>()?;
    site.begin(&json!({"keep_way_back": true}))?;
    until("records of the way back", || {
        for connection in &mut seen {
            let found: (String, Vec<String>) =
                redis::cmd("SCAN").arg(0).arg("MATCH").arg("__dts:*").arg("COUNT").arg(100_000).query(connection)?;
            if !found.1.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

fn goes_on(site: &mut Site, old: &Side, new: &Side, traffic: Traffic) -> Result<()> {
    let done = site.until_phase(&["DONE"])?;
    let told = traffic.refused()?;
    exact(new, &told)?;
    let traffic = Traffic::start(new, told)?;
    follows_back(site, &done, new)?;
    returns(site, old, new, traffic)
}

#[test]
fn a_turn_whose_agent_and_coordinator_are_killed_in_its_middle_is_made_by_those_that_come() -> Result<()> {
    let (old, new) = (Side::cluster("redis-7.0", 3, 0)?, Side::cluster("redis-7.0", 3, 0)?);
    let mut site = Site::start()?;
    let traffic = begin(&mut site, &old, &new)?;
    in_the_middle(&site, &old)?;
    (site.agent, site.coordinator) = (None, None);
    let left = old.of_ours()?;
    ensure!(left > 0, "there were records");
    site.coordinate()?;
    site.act("two")?;
    goes_on(&mut site, &old, &new, traffic)
}

#[test]
fn an_agent_that_is_frozen_in_the_turn_and_wakes_after_it_changes_nothing() -> Result<()> {
    let (old, new) = (Side::cluster("redis-7.0", 2, 0)?, Side::cluster("redis-7.0", 3, 0)?);
    let mut site = Site::start()?;
    let traffic = begin(&mut site, &old, &new)?;
    in_the_middle(&site, &old)?;
    let frozen = site.agent.take().context("an agent")?;
    signal(&frozen, "-STOP")?;
    site.act("two")?;
    let done = site.until_phase(&["DONE"])?;
    let told = traffic.refused()?;
    let traffic = Traffic::start(&new, told)?;
    signal(&frozen, "-CONT")?;
    follows_back(&mut site, &done, &new)?;
    returns(&site, &old, &new, traffic)
}

#[test]
fn a_master_of_the_new_side_that_fails_over_is_followed_back_at_its_replica_without_a_copy() -> Result<()> {
    let old = Side::cluster("redis-7.0", 3, 0)?;
    let cluster = Cluster::start("redis-7.0", 3, 1, &["--repl-backlog-size", "16mb"])?;
    let new = Side::Cluster(cluster);
    let Side::Cluster(cluster) = &new else { return Ok(()) };
    let mut site = Site::start()?;
    let traffic = begin(&mut site, &old, &new)?;
    let done = site.switch(&json!({"keep_way_back": true}))?;
    let told = traffic.refused()?;
    follows_back(&mut site, &done, &new)?;
    let traffic = Traffic::start(&new, told)?;
    traffic.pass()?;
    // Clients of this kind do not follow: they have come to their end before.
    let told = traffic.end()?;
    cluster.failover(0)?;
    let traffic = Traffic::start(&new, told)?;
    traffic.pass()?;
    site.until_state("TASK_STATE_INCR_SYNC")?;
    no_copy(&site)?;
    returns(&site, &old, &new, traffic)
}

#[test]
fn slots_of_the_old_side_may_move_while_it_follows() -> Result<()> {
    let (old, new) = (Side::cluster("redis-7.0", 3, 0)?, Side::cluster("redis-7.0", 2, 0)?);
    let Side::Cluster(cluster) = &old else { return Ok(()) };
    let mut site = Site::start()?;
    let traffic = begin(&mut site, &old, &new)?;
    let done = site.switch(&json!({"keep_way_back": true}))?;
    let traffic = Traffic::start(&new, traffic.refused()?)?;
    follows_back(&mut site, &done, &new)?;
    // Whoever moves them has to be let in for that: MIGRATE writes.
    let users = |rule: &str| {
        let mut user = redis::cmd("ACL");
        user.arg("SETUSER").arg("default").arg(rule);
        cluster.nodes.iter().try_for_each(|node| Ok::<_, anyhow::Error>(user.exec(&mut node.connect()?)?))
    };
    users("+@all")?;
    for tag in ["a", "b", "c"] {
        let slot = cluster.slot(tag.as_bytes())?;
        cluster.move_slots(slot..=slot, (cluster.owner(slot)? + 1) % 3)?;
        traffic.pass()?;
    }
    cluster.until_ok()?;
    users("-@write")?;
    no_copy(&site)?;
    site.until_state("TASK_STATE_INCR_SYNC")?;
    returns(&site, &old, &new, traffic)
}

#[test]
fn slots_of_the_new_side_that_move_end_the_way_back_by_name_and_it_copies_only_when_told() -> Result<()> {
    let (old, new) = (Side::cluster("redis-7.0", 3, 0)?, Side::cluster("redis-7.0", 3, 0)?);
    let Side::Cluster(cluster) = &new else { return Ok(()) };
    let mut site = Site::start()?;
    let traffic = begin(&mut site, &old, &new)?;
    let done = site.switch(&json!({"keep_way_back": true}))?;
    traffic.refused()?;
    follows_back(&mut site, &done, &new)?;
    let copies = || -> Result<u32> { new.masters()?.iter().map(|of| Ok(of.info("sync_full")?.parse::<u32>()?)).sum() };
    let before = copies()?;
    site.call("TaskService/PauseTask", &json!({"id": site.id}))?;
    site.until_state("TASK_STATE_PAUSED")?;
    cluster.move_slots(0..40, 1)?;
    let mut client = client_of(cluster)?;
    dts_tests::spread::fill(&mut client, 2500)?;
    site.call("TaskService/ResumeTask", &json!({"id": site.id}))?;
    site.until_state("TASK_STATE_NEEDS_DECISION")?;
    let task = site.task(&site.id)?;
    ensure!(task["reason"]["code"] == "WAY_BACK_LOST", "{task:#}");
    ensure!(copies()? == before, "nothing is copied without being told");
    site.call("TaskService/ResyncTask", &json!({"id": site.id}))?;
    site.until_state("TASK_STATE_INCR_SYNC")?;
    ensure!(copies()? > before, "copied, as it was told");
    let (left, right) = (new.masters()?, old.masters()?);
    until("the old side is what the new one is", || Ok(assert_equal_values(&left, &right).is_ok()))
}

#[test]
fn clients_go_there_and_back_and_there_again_each_time_with_a_way_back() -> Result<()> {
    let (old, new) = (Side::cluster("redis-7.0", 2, 0)?, Side::server("redis-7.0")?);
    let mut site = Site::start()?;
    let mut traffic = begin(&mut site, &old, &new)?;
    for (from, to) in [(&old, &new), (&new, &old), (&old, &new)] {
        let done = site.switch(&json!({"verify": "VERIFY_MODE_FULL", "keep_way_back": true}))?;
        let told = traffic.refused()?;
        exact(to, &told)?;
        traffic = Traffic::start(to, told)?;
        follows_back(&mut site, &done, to)?;
        ensure!(Traffic::start(from, Traffic::nothing())?.refused().is_ok(), "one side is open at a time");
    }
    returns(&site, &old, &new, traffic)
}

#[test]
fn a_turn_that_cannot_be_made_keeps_clients_waiting_for_half_a_minute_and_not_for_ever() -> Result<()> {
    let (old, new) = (Side::server("redis-6.2")?, Side::cluster("redis-7.0", 3, 0)?);
    let Side::Server(server) = &old else { return Ok(()) };
    let mut site = Site::start()?;
    let traffic = begin(&mut site, &old, &new)?;
    // This version does not tell beforehand.
    redis::cmd("ACL").arg("SETUSER").arg("dts").arg("-set").exec(&mut server.connect()?)?;
    let done = site.switch(&json!({"keep_way_back": true}))?;
    ensure!(done["phase"] == "SWITCH_OVER_PHASE_DONE", "{done:#}");
    let why = done["summary"].as_str().unwrap_or_default();
    ensure!(why.contains("there is no way back") && why.contains("permission"), "{done:#}");
    exact(&new, &traffic.refused()?)?;
    let back = site.task(done["wayBackTaskId"].as_str().context("a task")?)?;
    ensure!(back["state"] == "TASK_STATE_CREATED", "it is not begun: {back:#}");
    ensure!(old.of_ours()? + new.of_ours()? == 0, "keys of ours are left");
    Ok(())
}

#[test]
fn two_clusters_between_which_a_change_would_go_round_for_ever_end_before_it_is_done_twice() -> Result<()> {
    let (one, other) = (Cluster::start("redis-7.0", 3, 0, &[])?, Cluster::start("redis-7.0", 3, 0, &[])?);
    let (_dir, there) = state()?;
    let (_other_dir, back) = state()?;
    let migrate = |from: &Cluster, to: &Cluster, state: &std::path::Path| -> Result<Dts> {
        let urls: Vec<String> = from.masters()?.iter().map(|master| master.url()).collect();
        let more: Vec<&str> = urls[1..].iter().flat_map(|url| ["--source", url.as_str()]).collect();
        Dts::migrate(&urls[0], &to.url(), state, &[&more[..], &["--source-kind", "cluster"]].concat())
    };
    let mut first = migrate(&one, &other, &there)?;
    first.wait_for_phase("INCR_SYNC")?;
    let mut second = migrate(&other, &one, &back)?;
    let round = |event: &Value| event.to_string().contains("GOES_ROUND");
    let follows = second.wait_for("both ways", |event| event["phase"] == "INCR_SYNC" || round(event))?;
    let mut increment = redis::cmd("INCR");
    one.query::<u64>(b"once", increment.arg("once"))?;
    until("the end of one", || Ok(first.has_ended()? || second.has_ended()?))?;
    let ended = if first.has_ended()? { first } else { second };
    let (_, events) = ended.end()?;
    ensure!(round(&follows) || events.iter().any(round), "{events:#?}");
    let count = |cluster: &Cluster| -> Result<u64> {
        let mut get = redis::cmd("GET");
        Ok(cluster.query::<Option<u64>>(b"once", get.arg("once"))?.unwrap_or(0))
    };
    ensure!(count(&one)? == 1 && count(&other)? <= 1, "done twice");
    Ok(())
}
