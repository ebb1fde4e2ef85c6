//! Coordinators over a real etcd: any of them serves, one leads, and the death of one, or of etcd, stops no data.

use std::io::Write as _;

use anyhow::{Context as _, Result, ensure};
use dts_tests::etcd::Etcd;
use dts_tests::load::Load;
use dts_tests::oracle::assert_equal;
use dts_tests::port::free_port;
use dts_tests::server::Server;
use serde_json::{Value, json};

use crate::fleet::{Role, grpcurl, role, signal};
use crate::until;

/// Coordinators of one etcd.
pub(crate) struct Control {
    dir: tempfile::TempDir,
    etcd: Etcd,
    pub(crate) addresses: Vec<String>,
    pub(crate) coordinators: Vec<Option<Role>>,
    task: String,
}

impl Control {
    pub(crate) fn start(members: usize, coordinators: usize) -> Result<Self> {
        let (dir, etcd) = (tempfile::tempdir()?, Etcd::start(members)?);
        std::fs::File::create(dir.path().join("seal"))?.write_all(&[7; 32])?;
        let addresses = (0..coordinators).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let mut control = Self { dir, etcd, addresses, coordinators: Vec::new(), task: String::new() };
        for at in 0..coordinators {
            let started = control.coordinator(at)?;
            control.coordinators.push(Some(started));
        }
        until("a leader", || Ok(control.leader().is_ok()))?;
        Ok(control)
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn coordinator(&self, at: usize) -> Result<Role> {
        role(&[
            "coordinator",
            "--listen",
            &self.addresses[at],
            "--etcd",
            &self.etcd.endpoints().join(","),
            "--seal-key-file",
            &self.path("seal"),
            "--leader-ttl",
            "2s",
            "--agent-ttl",
            "6s",
        ])
    }

    /// How many servers tasks keep for themselves.
    pub(crate) fn locks(&self) -> Result<usize> {
        Ok(self.etcd.ctl(&["get", "/dts/lock/", "--prefix", "--keys-only"])?.split_whitespace().count())
    }

    pub(crate) fn agent(&self, name: &str) -> Result<Role> {
        role(&["agent", "--name", name, "--coordinator", &self.addresses.join(","), "--state-dir", &self.path(name)])
    }

    /// Index of the coordinator that leads, by what etcd holds.
    pub(crate) fn leader(&self) -> Result<usize> {
        let found = self.etcd.ctl(&["get", "/dts/leader", "--print-value-only"])?;
        let leads = |address: &String| found.trim().ends_with(&format!("//{address}"));
        self.addresses.iter().position(leads).context("nobody leads")
    }

    pub(crate) fn create(&mut self, at: usize, source: &Server, target: &Server) -> Result<()> {
        let spec = json!({"spec": {
            "name": "fleet", "mode": "MODE_SYNC",
            "sources": [{"host": "127.0.0.1", "port": source.port}],
            "target": {"host": "127.0.0.1", "port": target.port},
        }});
        let mut created = String::new();
        // It may not have heard yet who leads.
        until("a task", || {
            match grpcurl(&self.addresses[at], &["-d", &spec.to_string(), "dts.v1.TaskService/CreateTask"]) {
                Ok(text) => {
                    created = text;
                    Ok(true)
                }
                Err(error) if error.to_string().contains("no coordinator leads") => Ok(false),
                Err(error) => Err(error),
            }
        })?;
        self.task = json!({"id": serde_json::from_str::<Value>(&created)?["id"]}).to_string();
        Ok(())
    }

    pub(crate) fn call(&self, at: usize, method: &str) -> Result<String> {
        grpcurl(&self.addresses[at], &["-d", &self.task, &format!("dts.v1.TaskService/{method}")])
    }

    pub(crate) fn get(&self, at: usize) -> Result<Value> {
        Ok(serde_json::from_str(&self.call(at, "GetTask")?)?)
    }

    pub(crate) fn follows(&self, at: usize, agent: &str) -> Result<()> {
        until(agent, || {
            let task = self.get(at);
            Ok(task.is_ok_and(|task| task["shards"][0]["agentId"] == agent && task["readyToComplete"] == true))
        })
    }

    pub(crate) fn completed(&self, at: usize) -> Result<()> {
        until("completion", || {
            // Not allowed while the task is interrupted, and when it is completing already.
            let _asked_or_refused = self.call(at, "CompleteTask");
            Ok(self.get(at).is_ok_and(|task| task["state"] == "TASK_STATE_COMPLETED"))
        })
    }
}

pub(crate) fn servers() -> Result<(Server, Server)> {
    let backlog = ["--repl-backlog-size", "64mb", "--repl-diskless-sync-delay", "0"];
    Ok((Server::start("redis-7.0", &backlog)?, Server::start("redis-7.0", &[])?))
}

/// Waits until what the source holds now is on the target, whoever is there to say so.
fn flows(source: &Server, target: &Server, mark: &str) -> Result<()> {
    redis::cmd("SET").arg(mark).arg(1).exec(&mut source.connect()?)?;
    let mut asked = target.connect()?;
    until("data to flow", || Ok(redis::cmd("EXISTS").arg(mark).query(&mut asked)?))
}

#[test]
fn a_task_is_made_and_completed_through_followers_and_outlives_two_leaders() -> Result<()> {
    let (source, target) = servers()?;
    let load = Load::start(&source)?;
    let mut control = Control::start(1, 3)?;
    let _agent = control.agent("only")?;
    let follower = (control.leader()? + 1) % 3;
    control.create(follower, &source, &target)?;
    control.call(follower, "StartTask")?;
    control.follows(follower, "only")?;
    let epoch = control.get(follower)?["shards"][0]["epoch"].clone();
    for round in 0..2 {
        // kill -9
        let leader = control.leader()?;
        control.coordinators[leader] = None;
        flows(&source, &target, &format!("round {round}"))?;
        until("another leader", || Ok(control.leader().is_ok_and(|now| now != leader)))?;
        let other = (0..3).find(|at| control.coordinators[*at].is_some()).context("one is left")?;
        control.follows(other, "only")?;
    }
    let left = (0..3).find(|at| control.coordinators[*at].is_some()).context("one is left")?;
    ensure!(control.get(left)?["shards"][0]["epoch"] == epoch, "the shard was claimed anew though its agent stayed");
    ensure!(source.info("sync_full")? == "1", "it copied again");
    load.stop()?;
    control.completed(left)?;
    assert_equal(&source, &target)
}

#[test]
fn a_watch_through_a_follower_says_that_the_leader_is_lost_and_goes_on_at_the_next() -> Result<()> {
    let (source, target) = servers()?;
    let mut control = Control::start(1, 2)?;
    let leader = control.leader()?;
    let follower = 1 - leader;
    control.create(follower, &source, &target)?;
    let addresses = control.addresses[follower].clone();
    let mut watch = std::process::Command::new(dts_tests::dts::binary()?)
        .args(["task", "watch", "--json", "--coordinator", &addresses])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()?;
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().context("stdout")?));
    ensure!(lines.next().context("a first state")??.contains("CREATED"));
    control.coordinators[leader] = None;
    until("another leader", || Ok(control.leader().is_ok_and(|now| now == follower)))?;
    let _agent = control.agent("only")?;
    until("a start", || Ok(control.call(follower, "StartTask").is_ok()))?;
    let seen = lines.map_while(Result::ok).find(|line| line.contains("INCR_SYNC"));
    watch.kill()?;
    watch.wait()?;
    ensure!(seen.is_some(), "the watch did not go on");
    Ok(())
}

#[test]
fn a_leader_that_was_frozen_past_its_lease_changes_nothing_when_it_wakes() -> Result<()> {
    let (source, target) = servers()?;
    let load = Load::start(&source)?;
    let mut control = Control::start(1, 2)?;
    let agent = control.agent("only")?;
    let leader = control.leader()?;
    let other = 1 - leader;
    control.create(leader, &source, &target)?;
    control.call(leader, "StartTask")?;
    control.follows(leader, "only")?;
    signal(control.coordinators[leader].as_ref().context("it runs")?, "-STOP")?;
    until("another leader", || Ok(control.leader().is_ok_and(|now| now == other)))?;
    control.follows(other, "only")?;
    let epoch = control.get(other)?["shards"][0]["epoch"].clone();
    // For the one that wakes all agents are long gone, and its world is an old one.
    signal(control.coordinators[leader].as_ref().context("it runs")?, "-CONT")?;
    until("the frozen one to follow", || {
        Ok(control.get(leader).is_ok_and(|task| task["shards"][0]["epoch"] == epoch))
    })?;
    ensure!(control.leader()? == other, "two lead");
    flows(&source, &target, "after")?;
    ensure!(control.get(other)?["shards"][0]["epoch"] == epoch, "the one that woke has written");
    load.stop()?;
    control.completed(leader)?;
    drop(agent);
    assert_equal(&source, &target)
}

#[test]
fn etcd_may_be_away_for_longer_than_every_lease_and_the_data_flows() -> Result<()> {
    let (source, target) = servers()?;
    let load = Load::start(&source)?;
    let mut control = Control::start(1, 2)?;
    let _agent = control.agent("only")?;
    control.create(0, &source, &target)?;
    control.call(0, "StartTask")?;
    control.follows(0, "only")?;
    control.etcd.kill(0)?;
    until("the leases to end", || {
        let refused = control.call(0, "PauseTask").err().map(|error| error.to_string()).unwrap_or_default();
        ensure!(refused.contains("Unavailable"), "{refused}");
        Ok(refused.contains("lead"))
    })?;
    flows(&source, &target, "without etcd")?;
    control.etcd.restart(0)?;
    control.follows(0, "only")?;
    control.follows(1, "only")?;
    load.stop()?;
    control.completed(1)?;
    ensure!(source.info("sync_full")? == "1", "it copied again");
    assert_equal(&source, &target)
}

#[test]
fn an_agent_dies_under_a_fleet_of_three_etcds_that_loses_its_leader() -> Result<()> {
    let (source, target) = servers()?;
    let load = Load::start(&source)?;
    let mut control = Control::start(3, 2)?;
    let first = control.agent("first")?;
    control.create(1, &source, &target)?;
    control.call(1, "StartTask")?;
    control.follows(1, "first")?;
    let _second = control.agent("second")?;
    until("a leading etcd", || Ok(control.etcd.leader().is_ok()))?;
    let member = control.etcd.leader()?;
    control.etcd.kill(member)?;
    drop(first);
    control.follows(0, "second")?;
    load.stop()?;
    control.completed(1)?;
    assert_equal(&source, &target)
}

#[test]
fn a_coordinator_with_another_sealing_key_refuses_to_start() -> Result<()> {
    let control = Control::start(1, 1)?;
    std::fs::File::create(control.dir.path().join("other"))?.write_all(&[8; 32])?;
    let output = std::process::Command::new(dts_tests::dts::binary()?)
        .args(["coordinator", "--listen", "127.0.0.1:0", "--etcd", &control.etcd.endpoints().join(",")])
        .args(["--seal-key-file", &control.path("other")])
        .output()?;
    ensure!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("SECRET_UNAVAILABLE"));
    Ok(())
}
