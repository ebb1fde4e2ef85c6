//! Everything that runs: servers, etcd, coordinators, agents, and the one task.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dts_tests::cluster::Cluster;
use dts_tests::dts::binary;
use dts_tests::etcd::Etcd;
use dts_tests::server::{Server, root, signal};
use dts_tests::spread_load::SpreadLoad;
use serde_json::{Value, json};

use crate::net::{HUB, Net, address};
use crate::{Plan, users};

/// The hosts of ours, in the order of their addresses.
pub(crate) const HOSTS: [&str; 5] = ["c1", "c2", "a1", "a2", "a3"];
const PORT: u16 = 7711;
/// An agent that is silent for so long is replaced.
pub(crate) const AGENT_TTL: Duration = Duration::from_secs(2);
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
/// Of an agent's disk: more than an agent needs to be given a shard.
const DISK: &str = "size=300m";
const PATIENCE: Duration = Duration::from_secs(120);

/// Where the data goes.
pub(crate) enum Target {
    Standalone(Box<Server>),
    Cluster(Cluster),
}

/// The world.
pub(crate) struct World {
    pub(crate) net: Net,
    pub(crate) source: Server,
    pub(crate) target: Target,
    pub(crate) etcd: Etcd,
    processes: Vec<(&'static str, Option<Child>)>,
    pub(crate) dir: tempfile::TempDir,
    /// The task writes as a user of the target for every epoch.
    pub(crate) users: bool,
    unfenced: bool,
    task: String,
}

impl World {
    /// Starts everything, and the task.
    pub(crate) fn start(plan: &Plan, net: Net) -> Result<Self> {
        let open = ["--bind", "0.0.0.0", "--protected-mode", "no"];
        let long = ["--repl-backlog-size", "64mb", "--repl-diskless-sync-delay", "0"];
        let durable = ["--appendonly", "yes", "--appendfsync", "everysec"];
        let source = Server::start("redis-7.0", &[&open[..], &long[..]].concat())?;
        let people = if plan.users { &users::OPTIONS[..] } else { &[] };
        let target = if plan.cluster {
            let announced = ["--cluster-announce-ip", HUB];
            Target::Cluster(Cluster::start("redis-7.0", 3, 1, &[&open[..], &announced, people].concat())?)
        } else {
            Target::Standalone(Box::new(Server::start("redis-7.0", &[&open[..], &durable, people].concat())?))
        };
        let etcd = Etcd::start_at(HUB, 3)?;
        let dir = tempfile::tempdir()?;
        std::fs::write(dir.path().join("seal.key"), [7; 32])?;
        let processes = HOSTS.iter().map(|host| (*host, None)).collect();
        let (users, unfenced) = (plan.users, plan.unfenced);
        let mut world = Self { net, source, target, etcd, processes, dir, users, unfenced, task: String::new() };
        ensure!(Path::new(FAKETIME).exists(), "no {FAKETIME}: run `make setup`");
        for host in HOSTS {
            if host.starts_with('a') {
                let at = world.dir.path().join(host);
                std::fs::create_dir(&at)?;
                let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", DISK, "tmpfs"]).arg(&at).status()?;
                ensure!(mounted.success(), "mount");
            }
            world.run(host)?;
        }
        world.create()?;
        Ok(world)
    }

    /// Starts what runs on a host, if it does not.
    pub(crate) fn run(&mut self, host: &str) -> Result<()> {
        let at = HOSTS.iter().position(|known| *known == host).context("a host")?;
        if self.processes[at].1.is_some() {
            return Ok(());
        }
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let arguments: Vec<String> = if host.starts_with('c') {
            let listen = format!("{}:{PORT}", address(at));
            let (etcd, seal) = (self.etcd.endpoints().join(","), path("seal.key"));
            let words = ["coordinator", "--listen", &listen, "--etcd", &etcd, "--seal-key-file", &seal];
            let times = ["--leader-ttl", "2s", "--agent-ttl", "2s"];
            words.into_iter().chain(times).map(str::to_owned).collect()
        } else {
            let coordinators = [0, 1].map(|at| format!("http://{}:{PORT}", address(at))).join(",");
            let words = ["agent", "--name", host, "--coordinator", &coordinators, "--state-dir", &path(host)];
            words.map(str::to_owned).to_vec()
        };
        std::fs::write(path(&format!("{host}.clock")), "+0")?;
        let log = File::options().create(true).append(true).open(path(&format!("{host}.log")))?;
        let mut command = self.net.command(host, &binary()?);
        command.args(arguments).stdout(Stdio::null()).stderr(log);
        // The time of day comes from a file; how time passes does not.
        command.env("LD_PRELOAD", FAKETIME).env("FAKETIME_TIMESTAMP_FILE", path(&format!("{host}.clock")));
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        if self.unfenced {
            command.env("DTS_UNFENCED_FOR_TESTS", "1");
        }
        self.processes[at].1 = Some(command.spawn()?);
        Ok(())
    }

    /// Sets a host's time of day so many seconds away from the right one.
    pub(crate) fn set_clock(&self, host: &str, seconds: i64) -> Result<()> {
        Ok(std::fs::write(self.dir.path().join(format!("{host}.clock")), format!("{seconds:+}"))?)
    }

    /// Fills an agent's disk, or gives the room back.
    pub(crate) fn fill_disk(&self, host: &str, full: bool) -> Result<()> {
        let path = self.dir.path().join(host).join("filler");
        if !full {
            return Ok(std::fs::remove_file(path)?);
        }
        let mut file = File::create(path)?;
        // Until there is no room.
        while file.write_all(&[0; 64 << 10]).is_ok() {}
        Ok(())
    }

    /// Lets the task go on if it has stopped for a person to look at.
    pub(crate) fn start_again(&self) -> Result<()> {
        self.until("its start", |world| {
            if world.ask("GetTask")?["state"] == "TASK_STATE_NEEDS_DECISION" {
                world.ask("ResumeTask")?;
            }
            Ok(())
        })
    }

    fn pid(&self, host: &str) -> Result<u32> {
        let found = self.processes.iter().find(|(name, _)| *name == host);
        found.and_then(|(_, child)| Some(child.as_ref()?.id())).with_context(|| format!("{host} does not run"))
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, host: &str) -> Result<()> {
        let found = self.processes.iter_mut().find(|(name, _)| *name == host);
        if let Some(mut child) = found.and_then(|(_, child)| child.take()) {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGSTOP, SIGCONT.
    pub(crate) fn freeze(&self, host: &str, frozen: bool) -> Result<()> {
        signal(if frozen { "-STOP" } else { "-CONT" }, self.pid(host)?)
    }

    /// Asks any coordinator that answers.
    pub(crate) fn call(&self, service: &str, method: &str, request: &Value) -> Result<Value> {
        let mut said = String::new();
        for at in [0, 1] {
            let mut command = Command::new(root().join(".fleet/grpcurl/bin/grpcurl"));
            command.args(["-plaintext", "-max-time", "3", "-d", &request.to_string()]);
            command.arg(format!("{}:{PORT}", address(at))).arg(format!("dts.v1.{service}/{method}"));
            let output = command.output().context("grpcurl: run `make setup`")?;
            if output.status.success() {
                return Ok(serde_json::from_slice(&output.stdout)?);
            }
            said = String::from_utf8_lossy(&output.stderr).into_owned();
        }
        bail!("{method}: {said}")
    }

    fn create(&mut self) -> Result<()> {
        let target = match &self.target {
            Target::Standalone(server) => server.port,
            Target::Cluster(cluster) => cluster.nodes[0].port,
        };
        let mut spec = json!({"request_id": "chaos", "spec": {
            "name": "chaos", "mode": "MODE_SYNC",
            "sources": [{"host": HUB, "port": self.source.port}],
            "target": {"host": HUB, "port": target},
            "limits": {"retry_window_seconds": 300, "spool_memory_bytes": 1 << 20},
        }});
        if self.users {
            spec["spec"]["target_fence"] = json!("TARGET_FENCE_USER");
            spec["spec"]["target"]["credential"] = users::credential();
        }
        let created = self.until("a task", |world| world.call("TaskService", "CreateTask", &spec))?;
        self.task = created["id"].as_str().context("an id")?.to_owned();
        self.until("its start", |world| world.ask("StartTask").map(drop))
    }

    /// The id of the task.
    pub(crate) fn task(&self) -> &str {
        &self.task
    }

    /// Asks something of the task.
    pub(crate) fn ask(&self, method: &str) -> Result<Value> {
        self.call("TaskService", method, &json!({"id": self.task}))
    }

    /// Until it succeeds.
    pub(crate) fn until<T>(&self, what: &str, mut attempt: impl FnMut(&Self) -> Result<T>) -> Result<T> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match attempt(self) {
                Ok(done) => return Ok(done),
                Err(error) if Instant::now() > deadline => {
                    return Err(error.context(format!("{what}: not within {} s\n{}", PATIENCE.as_secs(), self.logs())));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        }
    }

    /// Until the shard follows the source.
    pub(crate) fn until_streaming(&self, after: &str) -> Result<()> {
        self.until(after, |world| {
            let task = world.ask("GetTask")?;
            ensure!(task["readyToComplete"] == true, "{task}");
            Ok(())
        })
    }

    /// The agent that holds the shard.
    pub(crate) fn holder(&self) -> Result<&'static str> {
        let holder = self.until("a holder", |world| {
            let task = world.ask("GetTask")?;
            Ok(task["shards"][0]["agentId"].as_str().context("nobody holds the shard")?.to_owned())
        })?;
        HOSTS.into_iter().find(|host| **host == holder).context("an agent of another name")
    }

    /// Traffic on the source.
    pub(crate) fn load(&self) -> Result<SpreadLoad> {
        // What a cluster can only do by its effect comes faster here than it can be done, and there has to be an end.
        SpreadLoad::start(&self.source, matches!(self.target, Target::Standalone(_)))
    }

    /// The servers that hold the target's keys.
    pub(crate) fn target_nodes(&self) -> Result<Vec<&Server>> {
        match &self.target {
            Target::Standalone(server) => Ok(vec![server]),
            Target::Cluster(cluster) => cluster.masters(),
        }
    }

    /// Replicas too.
    pub(crate) fn all_target_nodes(&self) -> Vec<&Server> {
        match &self.target {
            Target::Standalone(server) => vec![server],
            Target::Cluster(cluster) => cluster.nodes.iter().collect(),
        }
    }

    /// The last words of every process of ours.
    fn logs(&self) -> String {
        let mut all = String::new();
        for host in HOSTS {
            let path: PathBuf = self.dir.path().join(format!("{host}.log"));
            let text = std::fs::read_to_string(path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            all += &format!("--- {host}\n{}\n", lines[lines.len().saturating_sub(12)..].join("\n"));
        }
        all
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for host in HOSTS {
            // It may have ended by itself.
            let _ = self.kill(host);
            if host.starts_with('a') {
                let _unmounted_with_the_namespace = Command::new("umount").arg(self.dir.path().join(host)).status();
            }
        }
    }
}
