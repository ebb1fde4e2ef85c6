//! However a task ends, and wherever it stood: nothing of it is left on source, target, in the store, or with its agents.

use anyhow::{Context as _, Result, ensure};
use dts_tests::etcd::Etcd;
use dts_tests::load::Load;
use dts_tests::server::Server;
use serde_json::{Value, json};

use crate::life::{Desk, spec};
use crate::{keys_of_ours, until};

struct World {
    etcd: Etcd,
    desk: Desk,
    source: Server,
    target: Server,
    users: Vec<String>,
    load: Option<Load>,
}

fn users(server: &Server) -> Result<Vec<String>> {
    Ok(redis::cmd("ACL").arg("LIST").query(&mut server.connect()?)?)
}

/// Connections to a server beside the one that asks and those of the test itself.
fn connections(server: &Server, own: usize) -> Result<usize> {
    let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut server.connect()?)?;
    Ok(list.lines().count().saturating_sub(own + 1))
}

impl World {
    fn start() -> Result<Self> {
        let etcd = Etcd::start(1)?;
        let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
        let target = Server::start("redis-7.0", &[])?;
        let mut admin = target.connect()?;
        for user in ["task", "app"] {
            redis::cmd("ACL").arg("SETUSER").arg(user).arg(&["on", ">pw", "~*", "&*", "+@all"]).exec(&mut admin)?;
        }
        // So much that a slow copy is not done at once.
        let mut pipe = redis::pipe();
        for i in 0..5000_u32 {
            let value: String =
                (0..128).map(|j| format!("{:08x}", (i * 128 + j).wrapping_mul(2_654_435_761))).collect();
            pipe.cmd("SET").arg(format!("filled:{i}")).arg(value).ignore();
        }
        pipe.query::<()>(&mut source.connect()?)?;
        let mut desk = Desk::over(&etcd)?;
        desk.agent("only")?;
        let (users, load) = (users(&target)?, Some(Load::start(&source)?));
        Ok(Self { etcd, desk, source, target, users, load })
    }

    /// A new task that takes rights from others, with so many bytes a second.
    fn begin(&mut self, rate: u64) -> Result<()> {
        redis::cmd("FLUSHALL").exec(&mut self.target_as_task()?)?;
        let mut asked = spec(&self.source, &self.target);
        asked["targetGuard"] = json!("TARGET_GUARD_ACL");
        asked["target"]["credential"] = json!({"username": "task", "password": "pw"});
        asked["limits"] = json!({"writeBytesPerSecond": rate, "retryWindowSeconds": 1});
        self.desk.create(&asked)
    }

    fn start_task(&self) -> Result<()> {
        self.desk.call("StartTask", json!({"acknowledgeWarnings": true})).map(drop)
    }

    fn target_as_task(&self) -> Result<redis::Connection> {
        let client = redis::Client::open(format!("redis://task:pw@127.0.0.1:{}", self.target.port))?;
        Ok(client.get_connection()?)
    }

    fn is_kept(&self) -> Result<()> {
        until("the target to be kept", || {
            Ok(self.desk.get()?["shards"][0]["status"]["guard"]["level"] == "TARGET_GUARD_ACL")
        })
    }

    fn follows(&self) -> Result<()> {
        until("to catch up", || Ok(self.desk.get()?["readyToComplete"] == true))
    }

    /// Nothing is left anywhere but the task's own record; then that is deleted.
    fn is_clean(&self, after: &str) -> Result<()> {
        let own = usize::from(self.load.is_some());
        until("no connection", || Ok(connections(&self.source, own)? == 0 && connections(&self.target, 0)? == 0))
            .with_context(|| format!("after {after}"))?;
        ensure!(keys_of_ours(&self.target)? == 0, "{after}: keys of ours are left");
        ensure!(users(&self.target)? == self.users, "{after}: {:#?}", users(&self.target)?);
        ensure!(self.etcd.ctl(&["get", "/dts/lock/", "--prefix", "--keys-only"])?.trim().is_empty(), "{after}: locks");
        until("no files", || Ok(self.desk.files()?.is_empty()))
            .with_context(|| format!("{after}: {:?}", self.desk.files()))?;
        if self.desk.get().is_ok() {
            self.desk.call("DeleteTask", json!({}))?;
        }
        let left = self.etcd.ctl(&["get", "/dts/", "--prefix", "--keys-only"])?;
        ensure!(!left.contains(&self.desk.task), "{after}: the store still has {left}");
        Ok(())
    }
}

#[test]
fn nothing_is_left_wherever_a_task_ends() -> Result<()> {
    let mut world = World::start()?;
    world.begin(0)?;
    world.is_clean("a draft")?;
    world.begin(0)?;
    world.desk.call("TestConnectivity", json!({}))?;
    world.desk.becomes("CONFIGURED")?;
    world.desk.call("RunCheck", json!({}))?;
    world.desk.becomes("CHECK_PASSED")?;
    world.is_clean("a check")?;

    // In the copy, with an agent that dies before.
    for dies in [false, true] {
        world.begin(200_000)?;
        world.start_task()?;
        world.is_kept()?;
        ensure!(world.desk.get()?["state"] == "TASK_STATE_FULL_SYNC", "it was copied too soon");
        if dies {
            world.desk.agents.clear();
            world.desk.agent("other")?;
        }
        world.desk.call("CancelTask", json!({}))?;
        world.desk.becomes("CANCELLED")?;
        if dies {
            // What it has left goes when it is back.
            world.desk.agent("only")?;
        }
        world.is_clean(if dies { "a copy whose agent died" } else { "a copy" })?;
    }

    // In the stream, by everybody's ways out.
    world.begin(0)?;
    world.start_task()?;
    world.is_kept()?;
    world.follows()?;
    world.desk.call("PauseTask", json!({}))?;
    world.desk.call("CancelTask", json!({}))?;
    world.desk.becomes("CANCELLED")?;
    world.is_clean("a pause")?;

    world.begin(0)?;
    world.start_task()?;
    world.is_kept()?;
    world.follows()?;
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").exec(&mut world.target_as_task()?)?;
    world.desk.becomes("NEEDS_DECISION")?;
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0").exec(&mut world.target_as_task()?)?;
    world.desk.call("CancelTask", json!({}))?;
    world.desk.becomes("CANCELLED")?;
    world.is_clean("a failure that somebody gave up on")?;

    world.begin(0)?;
    world.start_task()?;
    world.is_kept()?;
    world.follows()?;
    if let Some(load) = world.load.take() {
        load.stop()?;
    }
    world.desk.call("CompleteTask", json!({}))?;
    world.desk.becomes("COMPLETED")?;
    world.is_clean("a completion")
}

#[test]
fn a_failed_task_that_ran_takes_its_records_along_when_it_is_deleted() -> Result<()> {
    let mut world = World::start()?;
    world.begin(0)?;
    world.start_task()?;
    world.is_kept()?;
    world.follows()?;
    // Somebody claims the target under a later epoch, and is gone: the record says who has it.
    let key = format!("__dts:{}:0:position", world.desk.task);
    let forged = |connection: &mut redis::Connection| -> Result<()> {
        let record: String = redis::cmd("GET").arg(&key).query(connection)?;
        let epoch = world.desk.get()?["shards"][0]["epoch"].as_str().context("an epoch")?.to_owned();
        let (at, later) = (record.find(&epoch).context("the epoch in the record")?, epoch.parse::<u64>()? + 1);
        let record = format!("{}{later}{}", &record[..at], &record[at + epoch.len()..]);
        Ok(redis::cmd("SET").arg(&key).arg(record).exec(connection)?)
    };
    forged(&mut world.target_as_task()?)?;
    let failed = world.desk.becomes("FAILED")?;
    ensure!(failed["reason"]["code"] == "FENCED", "{failed}");
    ensure!(keys_of_ours(&world.target)? > 0, "nothing to take along");
    world.desk.call("DeleteTask", json!({}))?;
    until("the task to be gone", || Ok(world.desk.get().is_err()))?;
    if let Some(load) = world.load.take() {
        load.stop()?;
    }
    world.is_clean("a failed task that was deleted")
}

#[test]
fn a_server_is_free_for_the_next_task_as_soon_as_one_has_ended() -> Result<()> {
    let mut world = World::start()?;
    let mut last = Value::Null;
    for _ in 0..2 {
        world.begin(0)?;
        world.start_task()?;
        world.follows()?;
        world.desk.call("CancelTask", json!({}))?;
        last = world.desk.becomes("CANCELLED")?;
    }
    ensure!(last["reason"].is_null(), "{last}");
    Ok(())
}
