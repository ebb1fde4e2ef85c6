//! A task's life, state by state, as somebody with grpcurl or the CLI leads it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use dts_tests::etcd::Etcd;
use dts_tests::load::Load;
use dts_tests::oracle::assert_equal;
use dts_tests::server::Server;
use serde_json::{Value, json};

use crate::fleet::{Role, grpcurl, role};
use crate::{keys_of_ours, until};

/// A coordinator with one agent, and one task.
pub(crate) struct Desk {
    dir: tempfile::TempDir,
    pub(crate) address: String,
    coordinator: Option<Role>,
    pub(crate) agents: Vec<Role>,
    pub(crate) task: String,
    /// Of coordinators with an etcd.
    store: Vec<String>,
}

impl Desk {
    pub(crate) fn start() -> Result<Self> {
        let mut desk = Self::without_agents()?;
        desk.agent("only")?;
        Ok(desk)
    }

    pub(crate) fn without_agents() -> Result<Self> {
        let mut desk = Self::new(Vec::new())?;
        desk.restart()?;
        Ok(desk)
    }

    /// Without agents, over an etcd.
    pub(crate) fn over(etcd: &Etcd) -> Result<Self> {
        let mut desk = Self::new(vec!["--etcd".into(), etcd.endpoints().join(",")])?;
        std::fs::write(desk.path("seal"), [7; 32])?;
        desk.store.extend(["--seal-key-file".into(), desk.path("seal")]);
        desk.restart()?;
        Ok(desk)
    }

    fn new(store: Vec<String>) -> Result<Self> {
        let (dir, address) = (tempfile::tempdir()?, format!("127.0.0.1:{}", dts_tests::port::free_port()));
        Ok(Self { dir, address, coordinator: None, agents: Vec::new(), task: String::new(), store })
    }

    /// What agents keep of shards and checks.
    pub(crate) fn files(&self) -> Result<Vec<PathBuf>> {
        let mut all = Vec::new();
        for agent in std::fs::read_dir(self.dir.path())? {
            for of in ["shards", "checks"] {
                let Ok(found) = std::fs::read_dir(agent.as_ref().map_or(PathBuf::new(), |agent| agent.path()).join(of))
                else {
                    continue;
                };
                all.extend(found.map_while(std::result::Result::ok).map(|entry| entry.path()));
            }
        }
        Ok(all)
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// Ends the coordinator as a crash would.
    pub(crate) fn stop(&mut self) {
        self.coordinator = None;
    }

    /// Ends the coordinator as a crash would, and starts it again.
    pub(crate) fn restart(&mut self) -> Result<()> {
        self.coordinator = None;
        let mut arguments = vec!["coordinator", "--listen", &self.address, "--agent-ttl", "4s"];
        let state = self.path("c");
        if self.store.is_empty() {
            arguments.extend(["--state-dir", &state]);
        }
        arguments.extend(self.store.iter().map(String::as_str));
        self.coordinator = Some(role(&arguments)?);
        until("the coordinator", || Ok(grpcurl(&self.address, &["list"]).is_ok()))
    }

    pub(crate) fn agent(&mut self, name: &str) -> Result<()> {
        let agent = role(&["agent", "--name", name, "--coordinator", &self.address, "--state-dir", &self.path(name)])?;
        self.agents.push(agent);
        let is_there = |agents: String| agents.contains(&format!("\"{name}\"")) && agents.contains("\"alive\": true");
        until("the agent", || Ok(grpcurl(&self.address, &["dts.v1.FleetService/ListAgents"]).is_ok_and(is_there)))
    }

    /// An agent that says all that it can in a file.
    pub(crate) fn talking_agent(&mut self, name: &str, log: &Path) -> Result<()> {
        self.talking_agent_at(&self.address.clone(), name, log)
    }

    /// The same, with another way to the coordinator.
    pub(crate) fn talking_agent_at(&mut self, address: &str, name: &str, log: &Path) -> Result<()> {
        let state = self.path(name);
        let mut command = Command::new(dts_tests::dts::binary()?);
        command
            .args(["agent", "--name", name, "--coordinator", address, "--state-dir", &state])
            .env("DTS_LOG", "trace");
        self.agents.push(Role::logging(&mut command, log)?);
        until("the agent", || {
            Ok(grpcurl(&self.address, &["dts.v1.FleetService/ListAgents"])?.contains("\"alive\": true"))
        })
    }

    /// Everything below the directories of coordinator and agents.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn create(&mut self, spec: &Value) -> Result<()> {
        let created = self.ask("CreateTask", json!({ "spec": spec }))?;
        self.task = created["id"].as_str().context("an id")?.to_owned();
        Ok(())
    }

    /// Any call, with this request.
    pub(crate) fn ask(&self, method: &str, request: Value) -> Result<Value> {
        let answer = grpcurl(&self.address, &["-d", &request.to_string(), &format!("dts.v1.TaskService/{method}")])?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// Where its coordinator is.
    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    /// A call of any service.
    pub(crate) fn any(&self, method: &str, request: &Value) -> Result<Value> {
        let answer = grpcurl(&self.address, &["-d", &request.to_string(), &format!("dts.v1.{method}")])?;
        Ok(serde_json::from_str(&answer)?)
    }

    /// True if the coordinator's store holds this in clear.
    pub(crate) fn stored(&self, text: &str) -> Result<bool> {
        let store = std::fs::read(Path::new(&self.path("c")).join("store.redb"))?;
        Ok(store.windows(text.len()).any(|bytes| bytes == text.as_bytes()))
    }

    /// A call about the task.
    pub(crate) fn call(&self, method: &str, more: Value) -> Result<Value> {
        let mut request = json!({ "id": self.task });
        for (key, value) in more.as_object().context("an object")? {
            request[key] = value.clone();
        }
        self.ask(method, request)
    }

    pub(crate) fn get(&self) -> Result<Value> {
        self.call("GetTask", json!({}))
    }

    pub(crate) fn becomes(&self, state: &str) -> Result<Value> {
        let mut last = Value::Null;
        let waited = until(state, || {
            last = self.get()?;
            Ok(last["state"] == format!("TASK_STATE_{state}"))
        });
        waited.with_context(|| format!("it is {last}"))?;
        Ok(last)
    }

    /// The last run, once it has ended.
    pub(crate) fn run(&self) -> Result<Value> {
        let mut run = Value::Null;
        until("the run's end", || {
            run = self.call("GetCheck", json!({}))?;
            Ok(run["state"] != "CHECK_STATE_RUNNING")
        })?;
        Ok(run)
    }
}

pub(crate) fn spec(source: &Server, target: &Server) -> Value {
    json!({
        "name": "life", "mode": "MODE_SYNC",
        "sources": [{"host": "127.0.0.1", "port": source.port}],
        "target": {"host": "127.0.0.1", "port": target.port},
    })
}

/// The item of a run.
pub(crate) fn item<'a>(run: &'a Value, id: &str) -> Result<&'a Value> {
    let items = run["items"].as_array().context("no items")?;
    items.iter().find(|item| item["id"] == id).with_context(|| format!("no {id} in {run}"))
}

fn servers() -> Result<(Server, Server)> {
    let options = ["--repl-backlog-size", "64mb", "--repl-diskless-sync-delay", "0"];
    Ok((Server::start("redis-7.0", &options)?, Server::start("redis-7.0", &[])?))
}

#[test]
fn from_the_form_to_the_end_step_by_step_with_a_coordinator_that_dies_at_every_step() -> Result<()> {
    let (source, target) = servers()?;
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("100mb").exec(&mut target.connect()?)?;
    redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("allkeys-lru").exec(&mut target.connect()?)?;
    let load = Load::start(&source)?;
    let mut desk = Desk::start()?;
    // A name first, then the servers.
    desk.create(&json!({"name": "life"}))?;
    let refused = desk.call("TestConnectivity", json!({})).unwrap_err().to_string();
    ensure!(refused.contains("spec.target"), "{refused}");
    let edit = |desk: &Desk, spec: Value, paths: &str| {
        desk.call("UpdateTask", json!({"spec": spec, "updateMask": {"paths": paths.split(',').collect::<Vec<_>>()}}))
    };
    edit(&desk, spec(&source, &target), "sources,target,mode")?;
    desk.restart()?;
    ensure!(desk.get()?["state"] == "TASK_STATE_CREATED");
    let refused = desk.call("RunCheck", json!({})).unwrap_err().to_string();
    ensure!(refused.contains("TASK_ACTION_CHECK is not allowed in TASK_STATE_CREATED; allowed:"), "{refused}");
    until("an agent", || Ok(desk.call("TestConnectivity", json!({})).is_ok()))?;
    desk.becomes("CONFIGURED")?;
    desk.restart()?;
    ensure!(desk.get()?["state"] == "TASK_STATE_CONFIGURED");
    until("an agent", || Ok(desk.call("RunCheck", json!({})).is_ok()))?;
    desk.restart()?;
    let task = desk.becomes("CHECK_PASSED")?;
    ensure!(task["check"]["unacknowledged"] == json!(["dst.eviction"]), "{task}");
    let refused = desk.call("StartTask", json!({})).unwrap_err().to_string();
    ensure!(refused.contains("the check warns of dst.eviction"), "{refused}");
    desk.call("Acknowledge", json!({"by": "me", "reason": "a test"}))?;
    let at = "2100-01-01T08:00[Asia/Shanghai]";
    let armed = desk.call("ScheduleTask", json!({"startAt": at}))?;
    ensure!(armed["state"] == "TASK_STATE_SCHEDULED" && armed["schedule"]["at"] == "2100-01-01T00:00:00Z", "{armed}");
    desk.restart()?;
    ensure!(desk.get()?["schedule"]["startAt"] == at);
    // An edit voids check, acknowledgement and schedule, and keeps the test: the servers are the same.
    edit(&desk, json!({"name": "another"}), "name")?;
    let task = desk.get()?;
    ensure!(
        task["state"] == "TASK_STATE_CONFIGURED" && task["check"].is_null() && task["schedule"].is_null(),
        "{task}"
    );
    until("an agent", || Ok(desk.call("RunCheck", json!({})).is_ok()))?;
    let task = desk.becomes("CHECK_PASSED")?;
    ensure!(task["check"]["unacknowledged"] == json!(["dst.eviction"]), "an acknowledgement outlived an edit: {task}");
    desk.call("Acknowledge", json!({}))?;
    // A time that is past is now.
    let started = desk.call("ScheduleTask", json!({"startAt": "2001-01-01T00:00Z"}))?;
    ensure!(started["schedule"]["note"].as_str().is_some_and(|note| note.contains("is past")), "{started}");
    desk.restart()?;
    desk.becomes("INCR_SYNC")?;
    desk.call("PauseTask", json!({}))?;
    desk.restart()?;
    ensure!(desk.get()?["state"] == "TASK_STATE_PAUSED");
    until("an agent", || Ok(desk.call("ResumeTask", json!({})).is_ok()))?;
    desk.restart()?;
    until("to catch up", || Ok(desk.get()?["readyToComplete"] == true))?;
    load.stop()?;
    desk.call("CompleteTask", json!({}))?;
    desk.restart()?;
    desk.becomes("COMPLETED")?;
    assert_equal(&source, &target)?;
    ensure!(keys_of_ours(&target)? == 0);
    let events = desk.call("ListTaskEvents", json!({}))?.to_string();
    for told in [
        r#"acknowledged by \"me\": a test"#,
        "changes are being applied",
        "pause was asked for",
        "everything was moved",
    ] {
        ensure!(events.contains(told), "{told}: {events}");
    }
    ensure!(desk.call("ListChecks", json!({}))?["runs"].as_array().is_some_and(|runs| runs.len() == 3));
    // What is over can be had again.
    let clone = desk.call("CloneTask", json!({"requestId": "once"}))?;
    ensure!(clone["spec"]["name"] == "another (clone)" && clone["state"] == "TASK_STATE_CREATED", "{clone}");
    ensure!(desk.call("CloneTask", json!({"requestId": "once"}))?["id"] == clone["id"]);
    desk.call("DeleteTask", json!({}))?;
    desk.restart()?;
    ensure!(desk.get().is_err());
    Ok(())
}

#[test]
fn a_scheduled_task_starts_when_its_coordinator_is_back_and_late() -> Result<()> {
    let (source, target) = servers()?;
    let mut desk = Desk::start()?;
    desk.create(&spec(&source, &target))?;
    desk.call("TestConnectivity", json!({}))?;
    desk.becomes("CONFIGURED")?;
    desk.call("RunCheck", json!({}))?;
    desk.becomes("CHECK_PASSED")?;
    let soon = std::time::SystemTime::now() + std::time::Duration::from_secs(2);
    let seconds = soon.duration_since(std::time::UNIX_EPOCH)?.as_secs();
    let at = Command::new("date").args(["-u", "-d", &format!("@{seconds}"), "+%Y-%m-%dT%H:%M:%SZ"]).output()?;
    let at = String::from_utf8(at.stdout)?.trim().to_owned();
    desk.call("ScheduleTask", json!({"startAt": at}))?;
    desk.becomes("INCR_SYNC")?;
    Ok(())
}

#[test]
fn a_start_without_a_check_tests_and_checks_first_and_stops_at_what_blocks_or_warns() -> Result<()> {
    let (source, target) = servers()?;
    redis::cmd("SET").arg("somebody's").arg(1).exec(&mut target.connect()?)?;
    let mut desk = Desk::start()?;
    desk.create(&spec(&source, &target))?;
    desk.call("StartTask", json!({}))?;
    let failed = desk.becomes("CHECK_FAILED")?;
    ensure!(failed["reason"]["code"] == "TARGET_NOT_EMPTY", "{failed}");
    ensure!(keys_of_ours(&target)? == 0 && source.info("sync_full")? == "0", "it touched the servers");
    redis::cmd("FLUSHALL").exec(&mut target.connect()?)?;
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("100mb").exec(&mut target.connect()?)?;
    redis::cmd("CONFIG").arg("SET").arg("maxmemory-policy").arg("allkeys-lru").exec(&mut target.connect()?)?;
    desk.call("StartTask", json!({}))?;
    until("a word", || Ok(desk.get()?["reason"]["code"] == "ACKNOWLEDGEMENT_NEEDED"))?;
    ensure!(desk.get()?["state"] == "TASK_STATE_CHECK_PASSED");
    let explained = desk.call("ExplainTask", json!({}))?;
    ensure!(explained["waitsFor"] == "somebody to acknowledge dst.eviction", "{explained}");
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    desk.becomes("INCR_SYNC")?;
    // Nobody else gets these servers.
    desk.create(&spec(&source, &target))?;
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    let failed = desk.becomes("CHECK_FAILED")?;
    ensure!(failed["reason"].to_string().contains("INSTANCE_BUSY") || failed["reason"]["code"] == "TARGET_NOT_EMPTY");
    ensure!(item(&desk.run()?, "task.alone")?["outcome"] == "CHECK_OUTCOME_FAILED");
    Ok(())
}

#[test]
fn a_person_decides_about_what_does_not_mend_itself_and_a_resync_copies_again() -> Result<()> {
    let (source, target) = servers()?;
    redis::cmd("SET").arg("a").arg(1).exec(&mut source.connect()?)?;
    let mut desk = Desk::start()?;
    let mut asked = spec(&source, &target);
    asked["limits"] = json!({"retryWindowSeconds": 1});
    desk.create(&asked)?;
    desk.call("StartTask", json!({}))?;
    desk.becomes("INCR_SYNC")?;
    // A password that nobody knows of.
    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("new").exec(&mut target.connect()?)?;
    let login = redis::Client::open(format!("redis://:new@127.0.0.1:{}", target.port))?;
    redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("normal").exec(&mut login.get_connection()?)?;
    redis::cmd("SET").arg("b").arg(1).exec(&mut source.connect()?)?;
    let stopped = desk.becomes("NEEDS_DECISION")?;
    ensure!(stopped["reason"]["code"] == "TARGET_AUTH", "{stopped}");
    let mut allowed = stopped["allowedActions"].to_string();
    allowed.retain(|c| c.is_ascii_uppercase() || c == '_' || c == ',');
    ensure!(allowed.contains("RESUME") && allowed.contains("RESYNC") && allowed.contains("CANCEL"), "{allowed}");
    redis::cmd("CONFIG").arg("SET").arg("requirepass").arg("").exec(&mut login.get_connection()?)?;
    desk.call("ResumeTask", json!({}))?;
    until("to catch up", || Ok(desk.get()?["readyToComplete"] == true))?;
    ensure!(source.info("sync_full")? == "1", "it copied again though it was resumed");
    desk.call("PauseTask", json!({}))?;
    redis::cmd("DEL").arg("a").exec(&mut source.connect()?)?;
    desk.call("ResyncTask", json!({}))?;
    until("a second copy", || {
        let task = desk.get()?;
        Ok(task["readyToComplete"] == true && task["shards"][0]["status"]["snapshot"]["copyNumber"] == "2")
    })?;
    ensure!(source.info("sync_full")? == "2", "it did not copy again");
    let there: bool = redis::cmd("EXISTS").arg("a").query(&mut target.connect()?)?;
    ensure!(!there, "what the source no longer has is still there");
    desk.call("CompleteTask", json!({}))?;
    desk.becomes("COMPLETED")?;
    assert_equal(&source, &target)
}

#[test]
fn an_aborted_completion_goes_on_following_and_waits_to_be_asked_again() -> Result<()> {
    let (source, target) = servers()?;
    redis::cmd("SET").arg("kept").arg(1).arg("EX").arg(10_000).exec(&mut source.connect()?)?;
    let mut desk = Desk::start()?;
    desk.create(&spec(&source, &target))?;
    desk.call("StartTask", json!({}))?;
    until("to catch up", || Ok(desk.get()?["readyToComplete"] == true))?;
    // A target that stands still keeps the completion from ending.
    target.freeze(true)?;
    let edit = json!({"spec": {"completeWhenCaughtUp": true}, "updateMask": {"paths": ["complete_when_caught_up"]}});
    desk.call("UpdateTask", edit)?;
    desk.becomes("COMPLETING")?;
    let aborted = desk.call("AbortCompletion", json!({}))?;
    ensure!(aborted["state"] == "TASK_STATE_PREPARING", "{aborted}");
    target.freeze(false)?;
    until("a second copy", || {
        let task = desk.get()?;
        Ok(task["readyToComplete"] == true && task["shards"][0]["status"]["snapshot"]["copyNumber"] == "2")
    })?;
    ensure!(desk.get()?["state"] == "TASK_STATE_INCR_SYNC", "it completes though that was aborted");
    desk.call("CompleteTask", json!({}))?;
    desk.becomes("COMPLETED")?;
    assert_equal(&source, &target)
}
