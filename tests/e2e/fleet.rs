//! Coordinator and agents as processes of their own, administered by a client of somebody else.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dts_tests::distance::Distance;
use dts_tests::dts::binary;
use dts_tests::load::Load;
use dts_tests::oracle::assert_equal;
use dts_tests::port::free_port;
use dts_tests::proxy::Proxy;
use dts_tests::server::{Server, root};

use crate::{state, until};

/// A process of ours, ended with its owner.
pub(crate) struct Role(Child);

impl Role {
    pub(crate) fn spawn(command: &mut Command) -> Result<Self> {
        Ok(Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
    }

    /// With everything that it says in this file.
    pub(crate) fn logging(command: &mut Command, file: &Path) -> Result<Self> {
        let file = std::fs::File::create(file)?;
        Ok(Self(command.stdout(file.try_clone()?).stderr(file).spawn()?))
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn role(arguments: &[&str]) -> Result<Role> {
    program(&binary()?, arguments)
}

/// A program of somebody else.
pub(crate) fn program(path: &Path, arguments: &[&str]) -> Result<Role> {
    program_in(Path::new("."), path, arguments)
}

/// The same, at home in this directory.
pub(crate) fn program_in(dir: &Path, path: &Path, arguments: &[&str]) -> Result<Role> {
    let mut command = Command::new(path);
    command.current_dir(dir).args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
    Ok(Role(command.spawn().with_context(|| format!("{}: run `make setup`", path.display()))?))
}

pub(crate) fn grpcurl(address: &str, arguments: &[&str]) -> Result<String> {
    let (data, call) = arguments.split_at(arguments.len() - 1);
    let program = root().join(".fleet/grpcurl/bin/grpcurl");
    let mut command = Command::new(program);
    command.args(["-plaintext", "-max-time", "10"]).args(data).arg(address).args(call);
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A coordinator with a task on it, as processes of their own.
pub(crate) struct Fleet {
    dir: tempfile::TempDir,
    pub(crate) address: String,
    pub(crate) coordinator: Option<Role>,
    task: String,
}

impl Fleet {
    pub(crate) fn start() -> Result<Self> {
        let (dir, _) = state()?;
        let port = free_port();
        let mut fleet = Self { dir, address: format!("127.0.0.1:{port}"), coordinator: None, task: String::new() };
        fleet.start_coordinator()?;
        Ok(fleet)
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    /// A directory for an agent to live in.
    pub(crate) fn home(&self, name: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(format!("home of {name}"));
        std::fs::create_dir(&path)?;
        Ok(path)
    }

    pub(crate) fn agent_at(&self, id: &str, home: &Path) -> Result<Role> {
        let (url, dir) = (self.url(), self.path(id));
        let mut command = Command::new(binary()?);
        command.args(["agent", "--name", id, "--coordinator", &url, "--state-dir", &dir]).current_dir(home);
        Role::spawn(&mut command)
    }

    /// A file beside the state of coordinator and agents.
    pub(crate) fn file(&self, name: &str, content: &str) -> Result<String> {
        std::fs::write(self.dir.path().join(name), content)?;
        Ok(self.path(name))
    }

    pub(crate) fn start_coordinator(&mut self) -> Result<()> {
        let role = role(&["coordinator", "--listen", &self.address, "--state-dir", &self.path("c")])?;
        self.coordinator = Some(role);
        until("the coordinator", || Ok(grpcurl(&self.address, &["list"]).is_ok()))
    }

    pub(crate) fn agent(&self, id: &str) -> Result<Role> {
        self.agent_with(id, &[])
    }

    pub(crate) fn agent_with(&self, id: &str, options: &[&str]) -> Result<Role> {
        let (url, dir) = (self.url(), self.path(id));
        role(&[&["agent", "--id", id, "--coordinator", &url, "--state-dir", &dir], options].concat())
    }

    /// An agent that knows the coordinator at another address only.
    pub(crate) fn agent_via(&self, id: &str, url: &str) -> Result<Role> {
        role(&["agent", "--id", id, "--coordinator", url, "--state-dir", &self.path(id)])
    }

    /// Starts the task, whatever the checks warn of.
    pub(crate) fn start_acknowledged(&self) -> Result<()> {
        let mut request: serde_json::Value = serde_json::from_str(&self.task)?;
        request["acknowledge_warnings"] = true.into();
        grpcurl(&self.address, &["-d", &request.to_string(), "dts.v1.TaskService/StartTask"]).map(drop)
    }

    pub(crate) fn create(&mut self, source: &Server, target: &Server) -> Result<()> {
        self.create_between(source.port, target.port)
    }

    fn create_between(&mut self, source: u16, target: u16) -> Result<()> {
        let spec = serde_json::json!({"spec": {
            "name": "by grpcurl", "mode": "MODE_SYNC",
            "sources": [{"host": "127.0.0.1", "port": source}],
            "target": {"host": "127.0.0.1", "port": target},
        }});
        let created = grpcurl(&self.address, &["-d", &spec.to_string(), "dts.v1.TaskService/CreateTask"])?;
        let created: serde_json::Value = serde_json::from_str(&created)?;
        self.adopt(&created["id"]);
        Ok(())
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Administers a task that somebody else has created.
    pub(crate) fn adopt(&mut self, id: &serde_json::Value) {
        self.task = serde_json::json!({ "id": id }).to_string();
    }

    pub(crate) fn call(&self, method: &str) -> Result<String> {
        grpcurl(&self.address, &["-d", &self.task, &format!("dts.v1.TaskService/{method}")])
    }

    pub(crate) fn get(&self) -> Result<serde_json::Value> {
        Ok(serde_json::from_str(&self.call("GetTask")?)?)
    }

    /// Waits until this agent follows the source.
    pub(crate) fn follows(&self, agent: &str) -> Result<()> {
        until(agent, || {
            let task = self.get()?;
            Ok(task["shards"][0]["agentId"] == agent && task["readyToComplete"] == true)
        })
    }

    pub(crate) fn completed(&self) -> Result<()> {
        until("completion", || {
            // Not allowed while the task is interrupted, and when it is completing already.
            let _asked_or_refused = self.call("CompleteTask");
            Ok(self.get()?["state"] == "TASK_STATE_COMPLETED")
        })
    }
}

pub(crate) fn signal(role: &Role, name: &str) -> Result<()> {
    let sent = Command::new("kill").args([name, &role.0.id().to_string()]).status()?;
    ensure!(sent.success());
    Ok(())
}

#[test]
fn an_agent_that_was_frozen_past_its_lease_is_refused_by_the_target() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-backlog-size", "64mb", "--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    let load = Load::start(&source)?;
    let mut fleet = Fleet::start()?;
    let first = fleet.agent("first")?;
    fleet.create(&source, &target)?;
    fleet.call("StartTask")?;
    fleet.follows("first")?;
    signal(&first, "-STOP")?;
    let _second = fleet.agent("second")?;
    fleet.follows("second")?;
    // It wakes with batches in its hands, and a source that still feeds it.
    signal(&first, "-CONT")?;
    let rounds = load.rounds();
    until("more traffic", || Ok(load.rounds() > rounds + 1000))?;
    load.stop()?;
    fleet.completed()?;
    ensure!(fleet.get()?["shards"][0]["agentId"] == "second");
    assert_equal(&source, &target)
}

#[test]
fn an_agent_that_writes_all_the_time_and_hears_nothing_is_taken_over_from() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-backlog-size", "64mb", "--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    let mut fleet = Fleet::start()?;
    let port = fleet.address.rsplit_once(':').context("a port")?.1.parse()?;
    let between = Proxy::before_port(port)?;
    let first = fleet.agent_via("first", &format!("http://127.0.0.1:{}", between.port))?;
    // A claim takes several round trips, the first agent's transactions one each.
    let far = Distance::to(target.port, Duration::from_millis(20))?;
    fleet.create_between(source.port, far.port)?;
    fleet.call("StartTask")?;
    fleet.follows("first")?;
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|threads| -> Result<()> {
        let mut connection = source.connect()?;
        let (stop, count) = (&stop, &count);
        threads.spawn(move || {
            while !stop.load(Ordering::Relaxed) && redis::cmd("INCR").arg("counter").exec(&mut connection).is_ok() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        });
        let taken_over = || -> Result<()> {
            between.weather.silent.store(true, Ordering::Relaxed);
            let _second = fleet.agent("second")?;
            let mut last = serde_json::Value::Null;
            let seen = until("the other agent", || {
                let task = fleet.get()?;
                ensure!(task["state"] != "TASK_STATE_FAILED" && task["state"] != "TASK_STATE_NEEDS_DECISION", "{task}");
                let shard = &task["shards"][0];
                last = shard.clone();
                let follows = ["SHARD_PHASE_CATCHING_UP", "SHARD_PHASE_STREAMING"]
                    .contains(&shard["status"]["phase"].as_str().unwrap_or_default());
                Ok(shard["agentId"] == "second" && follows)
            });
            seen.with_context(|| format!("{last}"))?;
            stop.store(true, Ordering::Relaxed);
            fleet.completed()
        };
        let done = taken_over();
        stop.store(true, Ordering::Relaxed);
        done
    })?;
    drop(first);
    let found: u64 = redis::cmd("GET").arg("counter").query(&mut target.connect()?)?;
    ensure!(found == count.load(Ordering::Relaxed), "{found} of {count:?}");
    assert_equal(&source, &target)
}

#[test]
fn an_agent_of_another_version_is_refused_by_name() -> Result<()> {
    let fleet = Fleet::start()?;
    let register = |version: u32| {
        let first = serde_json::json!({"register": {
            "agent_id": "old", "instance_id": "1", "version": "0.0.1", "protocol_version": version,
        }});
        grpcurl(&fleet.address, &["-max-time", "2", "-d", &first.to_string(), "dts.v1.AgentService/Session"])
    };
    for other in [dts_proto::PROTOCOL_VERSION - 1, dts_proto::PROTOCOL_VERSION + 1] {
        let refused = register(other).err().context("it was taken")?.to_string();
        ensure!(
            refused.contains("FailedPrecondition") && refused.contains("use an agent of this version"),
            "{refused}"
        );
    }
    Ok(())
}

#[test]
fn a_coordinator_that_dies_stops_no_shard_and_finds_everything_again() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    let mut fleet = Fleet::start()?;
    let _agent = fleet.agent("only")?;
    fleet.create(&source, &target)?;
    fleet.call("StartTask")?;
    fleet.follows("only")?;
    let epoch = fleet.get()?["shards"][0]["epoch"].clone();
    // kill -9
    fleet.coordinator = None;
    redis::cmd("SET").arg("meanwhile").arg(1).exec(&mut source.connect()?)?;
    let mut asked = target.connect()?;
    until("a change without a coordinator", || Ok(redis::cmd("EXISTS").arg("meanwhile").query(&mut asked)?))?;
    fleet.start_coordinator()?;
    fleet.follows("only")?;
    ensure!(fleet.get()?["shards"][0]["epoch"] == epoch, "the agent was there all the time");
    ensure!(source.info("sync_full")? == "1", "it copied again");
    fleet.completed()?;
    assert_equal(&source, &target)
}

#[test]
fn a_third_party_client_administers_separate_coordinator_and_agents_through_failover() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-backlog-size", "64mb", "--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    let load = Load::start(&source)?;
    let mut fleet = Fleet::start()?;
    let first = fleet.agent("first")?;
    let listed = grpcurl(&fleet.address, &["list"])?;
    for service in ["dts.v1.TaskService", "dts.v1.FleetService", "dts.v1.AgentService", "grpc.health.v1.Health"] {
        ensure!(listed.contains(service), "{listed}");
    }
    fleet.create(&source, &target)?;
    fleet.call("StartTask")?;
    fleet.follows("first")?;
    let epoch = fleet.get()?["shards"][0]["epoch"].clone();
    let copies = source.info("sync_full")?;
    let _second = fleet.agent("second")?;
    // kill -9
    drop(first);
    fleet.follows("second")?;
    ensure!(fleet.get()?["shards"][0]["epoch"] != epoch);
    ensure!(source.info("sync_full")? == copies, "the second agent copied again");
    load.stop()?;
    fleet.completed()?;
    let watched = Command::new(root().join(".fleet/grpcurl/bin/grpcurl"))
        .args(["-plaintext", "-max-time", "2", "-d", &fleet.task, &fleet.address, "dts.v1.TaskService/WatchTask"])
        .output()?;
    ensure!(String::from_utf8_lossy(&watched.stdout).contains("TASK_STATE_COMPLETED"), "the watch did not see the end");
    assert_equal(&source, &target)
}

#[test]
fn the_options_of_the_all_in_one_example_start_coordinator_and_agent() -> Result<()> {
    let (dir, _) = state()?;
    let port = free_port();
    let mut roles = Vec::new();
    for name in ["coordinator", "agent"] {
        let text = std::fs::read_to_string(root().join("deploy/examples/all-in-one").join(name).with_extension("env"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("DTS_OPTIONS="));
        let line = line.with_context(|| format!("{name} has no options"))?;
        let line = line.replace("/var/lib", &dir.path().display().to_string()).replace("7711", &port.to_string());
        roles.push(role(&std::iter::once(name).chain(line.split(' ')).collect::<Vec<_>>())?);
    }
    until("the agent to register", || {
        let agents = grpcurl(&format!("127.0.0.1:{port}"), &["dts.v1.FleetService/ListAgents"]);
        Ok(agents.is_ok_and(|agents| agents.contains("\"local\"") && agents.contains("\"alive\": true")))
    })
}
