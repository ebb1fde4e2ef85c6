//! Switching clients over: nothing that the source acknowledged is missing on the target, and whatever goes wrong before the decision sends everything back.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use dts_tests::cluster::Cluster;
use dts_tests::load::{Load, fill_small};
use dts_tests::oracle::{assert_equal, assert_equal_nodes};
use dts_tests::port::free_port;
use dts_tests::server::Server;
use redis::Connection;
use serde_json::{Value, json};

use crate::fleet::{Role, grpcurl, role};
use crate::until;

/// Coordinator and agent with one task.
pub(crate) struct Site {
    dir: tempfile::TempDir,
    address: String,
    pub(crate) coordinator: Option<Role>,
    pub(crate) agent: Option<Role>,
    pub(crate) id: String,
}

pub(crate) fn endpoint(server: &Server) -> Value {
    json!({"host": "127.0.0.1", "port": server.port})
}

impl Site {
    pub(crate) fn start() -> Result<Self> {
        let address = format!("127.0.0.1:{}", free_port());
        let mut site = Self { dir: tempfile::tempdir()?, address, coordinator: None, agent: None, id: String::new() };
        site.coordinate()?;
        site.act("one")?;
        Ok(site)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn coordinate(&mut self) -> Result<()> {
        let state = self.path("c").display().to_string();
        let options = ["coordinator", "--listen", &self.address, "--state-dir", &state, "--agent-ttl", "2s"];
        self.coordinator = Some(role(&options)?);
        Ok(())
    }

    pub(crate) fn act(&mut self, name: &str) -> Result<()> {
        let state = self.path(name).display().to_string();
        let options = ["agent", "--name", name, "--coordinator", &self.address, "--state-dir", &state];
        self.agent = Some(role(&options)?);
        Ok(())
    }

    pub(crate) fn call(&self, method: &str, body: &Value) -> Result<Value> {
        let text = grpcurl(&self.address, &["-d", &body.to_string(), &format!("dts.v1.{method}")])?;
        Ok(serde_json::from_str(&text)?)
    }

    /// A synchronisation that follows its source.
    pub(crate) fn follow(&mut self, sources: &Value, target: &Value, more: &Value) -> Result<()> {
        let mut spec = json!({"name": "switched", "mode": "MODE_SYNC", "sources": sources, "target": target});
        for (name, value) in more.as_object().into_iter().flatten() {
            spec[name] = value.clone();
        }
        until("a task", || {
            let made = self.call("TaskService/CreateTask", &json!({"spec": spec, "request_id": "once"}));
            self.id = made.ok().and_then(|task| task["id"].as_str().map(str::to_owned)).unwrap_or_default();
            Ok(!self.id.is_empty())
        })?;
        self.call("TaskService/StartTask", &json!({"id": self.id, "acknowledge_warnings": true}))?;
        self.until_state("TASK_STATE_INCR_SYNC")
    }

    pub(crate) fn task(&self, id: &str) -> Result<Value> {
        self.call("TaskService/GetTask", &json!({ "id": id }))
    }

    pub(crate) fn until_state(&self, state: &str) -> Result<()> {
        until(state, || Ok(self.task(&self.id).is_ok_and(|task| task["state"] == state)))
    }

    pub(crate) fn begin(&self, spec: &Value) -> Result<Value> {
        let request = json!({"task_id": self.id, "spec": spec, "requested_by": "test"});
        let mut begun = Value::Null;
        // A task that is taken up again may be interrupted for a moment.
        until("a switch-over", || {
            let asked = self.call("SwitchOverService/StartSwitchOver", &request);
            begun = asked.unwrap_or_default();
            Ok(!begun.is_null())
        })?;
        Ok(begun)
    }

    pub(crate) fn now(&self) -> Result<Value> {
        self.call("SwitchOverService/GetSwitchOver", &json!({"task_id": self.id}))
    }

    pub(crate) fn until_phase(&self, phases: &[&str]) -> Result<Value> {
        let mut now = Value::Null;
        let ended = until(&phases.join(", "), || {
            now = self.now().unwrap_or_default();
            let phase = now["phase"].as_str().unwrap_or_default();
            Ok(phases.iter().any(|wanted| phase == format!("SWITCH_OVER_PHASE_{wanted}")))
        });
        ended.with_context(|| format!("{now:#}"))?;
        Ok(now)
    }

    /// From its beginning to its end.
    pub(crate) fn switch(&self, spec: &Value) -> Result<Value> {
        self.begin(spec)?;
        self.until_phase(&["DONE", "RETURNED", "REHEARSED"])
    }
}

/// Appends numbers to a list until it is refused; knows how many were acknowledged.
pub(crate) struct Writer {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    thread: JoinHandle<String>,
}

impl Writer {
    pub(crate) fn start(mut connection: Connection, key: &str) -> Self {
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted, key) = (stop.clone(), acknowledged.clone(), key.to_owned());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let number = counted.load(Ordering::Relaxed);
                let asked = redis::cmd("RPUSH").arg(&key).arg(number).query::<u64>(&mut connection);
                match asked {
                    Ok(_) => counted.store(number + 1, Ordering::Relaxed),
                    Err(error) => return error.to_string(),
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            String::new()
        });
        Self { stop, acknowledged, thread }
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until it is acknowledged more.
    pub(crate) fn pass(&self) -> Result<()> {
        let before = self.acknowledged();
        until("a write that is acknowledged", || Ok(self.acknowledged() > before + 20))
    }

    /// How many were acknowledged, and why it ended.
    pub(crate) fn end(self) -> Result<(u64, String)> {
        self.stop.store(true, Ordering::Relaxed);
        let why = self.thread.join().map_err(|_| anyhow!("the writer broke"))?;
        Ok((self.acknowledged.load(Ordering::Relaxed), why))
    }
}

/// Everything that was acknowledged is there, once, in its order.
pub(crate) fn holds(connection: &mut Connection, key: &str, acknowledged: u64) -> Result<()> {
    let found: Vec<u64> = redis::cmd("LRANGE").arg(key).arg(0).arg(-1).query(connection)?;
    ensure!(found.iter().copied().eq(0..found.len() as u64), "{key}: out of order");
    ensure!(found.len() as u64 >= acknowledged, "{key}: {acknowledged} acknowledged, {} are there", found.len());
    Ok(())
}

fn is_refused(connection: &mut Connection) -> bool {
    redis::cmd("SET").arg("later").arg(1).exec(connection).is_err_and(|error| error.to_string().contains("permission"))
}

fn two(version: &str) -> Result<(Server, Server)> {
    let (source, target) = (Server::start(version, &[])?, Server::start("redis-7.0", &[])?);
    fill_small(&source, true)?;
    Ok((source, target))
}

#[test]
fn a_switch_over_under_traffic_loses_nothing_that_was_acknowledged_and_closes_the_source() -> Result<()> {
    let (source, target) = two("redis-6.2")?;
    let mut site = Site::start()?;
    site.follow(&json!([endpoint(&source)]), &endpoint(&target), &json!({}))?;
    let (load, writer) = (Load::start(&source)?, Writer::start(source.connect()?, "acknowledged"));
    let rehearsed = site.switch(&json!({"rehearse": true, "verify": "VERIFY_MODE_FULL"}))?;
    let needs = rehearsed["shards"][0]["needs"].as_array().context("needs")?;
    let steps: Vec<&str> = needs.iter().filter_map(|need| need["step"].as_str()).collect();
    ensure!(steps == ["hold", "drain", "close"], "{rehearsed:#}");
    ensure!(needs.iter().all(|need| need["missing"].is_null()), "{rehearsed:#}");
    writer.pass()?;

    let done = site.switch(&json!({"verify": "VERIFY_MODE_FULL", "verify_before": "VERIFY_MODE_KEYS"}))?;
    ensure!(done["phase"] == "SWITCH_OVER_PHASE_DONE", "{done:#}");
    let shard = &done["shards"][0];
    ensure!(shard["closed"] == true && shard["method"] == "pause" && shard["reached"] == true, "{done:#}");
    for gap in [&done["writeGapMs"], &shard["writeGapMs"]] {
        ensure!(gap.as_str().and_then(|gap| gap.parse::<u64>().ok()) > Some(0), "{done:#}");
    }
    let (acknowledged, why) = writer.end()?;
    ensure!(why.contains("permission"), "who waited is refused: {why}");
    ensure!(load.stop().is_err(), "so is everybody else, in scripts and transactions too");
    holds(&mut target.connect()?, "acknowledged", acknowledged)?;
    assert_equal(&source, &target)?;
    let task = site.task(&site.id)?;
    ensure!(task["state"] == "TASK_STATE_COMPLETED", "{task:#}");
    ensure!(task["completion"]["outcome"] == "COMPLETION_OUTCOME_VERIFIED", "{task:#}");

    let mut old = source.connect()?;
    ensure!(is_refused(&mut old), "the source is closed");
    let user = &shard["closedUsers"][0];
    let mut open = redis::cmd("ACL");
    open.arg("SETUSER").arg(user["name"].as_str()).arg("-@all");
    user["commands"].as_str().context("commands")?.split(' ').for_each(|word| {
        open.arg(word);
    });
    open.exec(&mut old)?;
    ensure!(!is_refused(&mut old), "as the report says");
    Ok(())
}

#[test]
fn a_switch_over_that_is_late_or_finds_a_difference_goes_back_and_the_synchronisation_goes_on() -> Result<()> {
    let (source, target) = two("redis-7.0")?;
    let mut site = Site::start()?;
    site.follow(&json!([endpoint(&source)]), &endpoint(&target), &json!({}))?;
    let writer = Writer::start(source.connect()?, "acknowledged");
    redis::cmd("SET").arg("string:7").arg("corrupt").exec(&mut target.connect()?)?;
    let returned = site.switch(&json!({"verify": "VERIFY_MODE_FULL"}))?;
    ensure!(returned["phase"] == "SWITCH_OVER_PHASE_RETURNED", "{returned:#}");
    ensure!(returned["summary"].as_str().is_some_and(|why| why.contains("found differences")), "{returned:#}");
    writer.pass()?;
    redis::cmd("SET").arg("string:7").arg("value 7").exec(&mut source.connect()?)?;

    // The target takes nothing: the barrier cannot be reached.
    target.freeze(true)?;
    let returned = site.switch(&json!({"hold_for_ms": 1500}))?;
    ensure!(returned["phase"] == "SWITCH_OVER_PHASE_RETURNED", "{returned:#}");
    writer.pass()?;
    target.freeze(false)?;
    until("the source is let go", || Ok(site.now()?["shards"][0]["freed"] == true))?;
    ensure!(!is_refused(&mut source.connect()?), "nobody was closed out");

    let done = site.switch(&json!({"verify": "VERIFY_MODE_FULL"}))?;
    ensure!(done["phase"] == "SWITCH_OVER_PHASE_DONE", "{done:#}");
    holds(&mut target.connect()?, "acknowledged", writer.end()?.0)?;
    assert_equal(&source, &target)
}

#[test]
fn a_hold_outlives_neither_agent_nor_coordinator_and_both_come_back_to_a_synchronisation() -> Result<()> {
    let (source, target) = two("redis-7.0")?;
    let mut site = Site::start()?;
    site.follow(&json!([endpoint(&source)]), &endpoint(&target), &json!({}))?;
    let writer = Writer::start(source.connect()?, "acknowledged");
    writer.pass()?;
    target.freeze(true)?;
    site.begin(&json!({"hold_for_ms": 600_000}))?;
    until("a hold", || Ok(site.now()?["shards"][0]["heldAt"].is_string()))?;
    // Dead, both, with writes held for ten minutes if nothing ended that by itself.
    (site.agent, site.coordinator) = (None, None);
    writer.pass()?;
    target.freeze(false)?;
    site.coordinate()?;
    site.act("two")?;
    let returned = site.until_phase(&["RETURNED"])?;
    ensure!(returned["summary"].as_str().is_some_and(|why| why.contains("lost")), "{returned:#}");
    writer.pass()?;
    site.until_state("TASK_STATE_INCR_SYNC")?;
    until("the source is let go", || Ok(site.now()?["shards"][0]["freed"] == true))?;
    let done = site.switch(&json!({"verify": "VERIFY_MODE_KEYS"}))?;
    ensure!(done["phase"] == "SWITCH_OVER_PHASE_DONE", "{done:#}");
    holds(&mut target.connect()?, "acknowledged", writer.end()?.0)?;
    assert_equal(&source, &target)
}

#[test]
fn writes_that_are_held_by_refusing_them_come_back_whoever_dies_and_a_source_of_6_0_is_switched_over() -> Result<()> {
    let (source, target) = two("redis-6.0")?;
    let mut site = Site::start()?;
    site.follow(&json!([endpoint(&source)]), &endpoint(&target), &json!({}))?;
    let returned = site.switch(&json!({}))?;
    let why = returned["summary"].as_str().unwrap_or_default().to_owned();
    ensure!(returned["phase"] == "SWITCH_OVER_PHASE_RETURNED" && why.contains("--hold-by acl"), "{returned:#}");

    // Both die while writes are refused, for ten minutes if nobody came; and before that anybody tells of it.
    let (acl, again) = (json!({"hold_method": "HOLD_METHOD_ACL", "hold_for_ms": 600_000}), source.connect()?);
    target.freeze(true)?;
    let writer = Writer::start(again, "acknowledged");
    writer.pass()?;
    site.begin(&acl)?;
    until("a refusal", || Ok(is_refused(&mut source.connect()?)))?;
    (site.agent, site.coordinator) = (None, None);
    target.freeze(false)?;
    site.coordinate()?;
    site.act("two")?;
    let returned = site.until_phase(&["RETURNED"])?;
    ensure!(returned["summary"].as_str().is_some_and(|why| why.contains("lost")), "{returned:#}");
    until("the source is let go", || Ok(site.now()?["shards"][0]["freed"] == true))?;
    ensure!(!is_refused(&mut source.connect()?), "its users can write again");
    let first = writer.end()?.0;
    site.until_state("TASK_STATE_INCR_SYNC")?;

    // Late: goes back by itself.
    target.freeze(true)?;
    redis::cmd("SET").arg("unconfirmed").arg(1).exec(&mut source.connect()?)?;
    let returned = site.switch(&json!({"hold_method": "HOLD_METHOD_ACL", "hold_for_ms": 1500}))?;
    ensure!(returned["phase"] == "SWITCH_OVER_PHASE_RETURNED", "{returned:#}");
    target.freeze(false)?;
    until("the source is let go", || Ok(site.now()?["shards"][0]["freed"] == true))?;
    ensure!(!is_refused(&mut source.connect()?), "its users can write again");
    site.until_state("TASK_STATE_INCR_SYNC")?;

    let (load, writer) = (Load::start(&source)?, Writer::start(source.connect()?, "more"));
    writer.pass()?;
    let done = site.switch(&json!({"hold_method": "HOLD_METHOD_ACL", "verify": "VERIFY_MODE_FULL"}))?;
    ensure!(done["phase"] == "SWITCH_OVER_PHASE_DONE", "{done:#}");
    ensure!(done["shards"][0]["method"] == "acl" && done["shards"][0]["closed"] == true, "{done:#}");
    let (acknowledged, why) = writer.end()?;
    ensure!(why.contains("permission") && load.stop().is_err() && is_refused(&mut source.connect()?), "{why}");
    holds(&mut target.connect()?, "acknowledged", first)?;
    holds(&mut target.connect()?, "more", acknowledged)?;
    assert_equal(&source, &target)
}

#[test]
fn what_is_decided_is_carried_to_its_end_by_whoever_is_left() -> Result<()> {
    let (source, target) = two("redis-7.0")?;
    // Their expiries have to be restored one by one: there is time to die.
    let script = "for i = 1, 60000 do redis.call('SET', 'expiring:many:' .. i, i, 'PX', 100000000) end";
    redis::cmd("EVAL").arg(script).arg(0).exec(&mut source.connect()?)?;
    let mut site = Site::start()?;
    site.follow(&json!([endpoint(&source)]), &endpoint(&target), &json!({}))?;
    let writer = Writer::start(source.connect()?, "acknowledged");
    writer.pass()?;
    site.begin(&json!({}))?;
    site.until_phase(&["COMPLETING", "DONE"])?;
    (site.agent, site.coordinator) = (None, None);
    ensure!(is_refused(&mut source.connect()?), "it is closed");
    site.coordinate()?;
    site.act("two")?;
    site.until_phase(&["DONE"])?;
    holds(&mut target.connect()?, "acknowledged", writer.end()?.0)?;
    assert_equal(&source, &target)
}

#[test]
fn every_master_of_a_source_cluster_is_held_and_closed() -> Result<()> {
    let source = Cluster::start("redis-7.0", 3, 0, &[])?;
    let target = Server::start("redis-7.0", &[])?;
    let keys = ["a", "b", "c", "d", "e", "f"];
    let mut site = Site::start()?;
    let masters: Vec<Value> = source.masters()?.into_iter().map(endpoint).collect();
    let kind = json!({"topology": {"kind": "SOURCE_KIND_CLUSTER"}});
    site.follow(&json!(masters), &endpoint(&target), &kind)?;
    let writers: Vec<(&str, Writer)> = keys
        .iter()
        .map(|key| Ok((*key, Writer::start(source.connect_for(key.as_bytes())?, key))))
        .collect::<Result<_>>()?;
    for (_, writer) in &writers {
        writer.pass()?;
    }
    let done = site.switch(&json!({"verify": "VERIFY_MODE_FULL"}))?;
    ensure!(done["phase"] == "SWITCH_OVER_PHASE_DONE", "{done:#}");
    ensure!(done["shards"].as_array().is_some_and(|shards| shards.iter().all(|shard| shard["closed"] == true)));
    for (key, writer) in writers {
        let (acknowledged, why) = writer.end()?;
        ensure!(why.contains("permission"), "{key}: {why}");
        holds(&mut target.connect()?, key, acknowledged)?;
    }
    assert_equal_nodes(&source.masters()?, &[&target])
}

#[test]
fn a_source_that_cannot_hold_writes_is_switched_over_once_its_writers_have_stopped() -> Result<()> {
    let (source, target) = two("redis-5.0")?;
    let mut site = Site::start()?;
    site.follow(&json!([endpoint(&source)]), &endpoint(&target), &json!({}))?;
    let writer = Writer::start(source.connect()?, "acknowledged");
    let returned = site.switch(&json!({}))?;
    let why = returned["summary"].as_str().unwrap_or_default().to_owned();
    ensure!(returned["phase"] == "SWITCH_OVER_PHASE_RETURNED" && why.contains("--writers-stopped"), "{returned:#}");
    writer.pass()?;
    let returned = site.switch(&json!({"writers_stopped": true}))?;
    ensure!(returned["phase"] == "SWITCH_OVER_PHASE_RETURNED", "a writer that was not stopped is seen: {returned:#}");
    writer.pass()?;
    until("the source is let go", || Ok(site.now()?["shards"][0]["freed"] == true))?;
    let (acknowledged, _) = writer.end()?;
    let done = site.switch(&json!({"writers_stopped": true, "verify": "VERIFY_MODE_FULL"}))?;
    ensure!(done["phase"] == "SWITCH_OVER_PHASE_DONE", "{done:#}");
    holds(&mut target.connect()?, "acknowledged", acknowledged)?;
    assert_equal(&source, &target)
}
