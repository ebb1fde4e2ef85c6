//! Coordinator and agents as processes of their own, administered by a client of somebody else.

use std::process::{Child, Command, Stdio};

use anyhow::{Result, ensure};
use dts_tests::dts::binary;
use dts_tests::load::Load;
use dts_tests::oracle::assert_equal;
use dts_tests::server::{Server, root};

use crate::{state, until};

/// A process of ours, ended with its owner.
struct Role(Child);

impl Drop for Role {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn role(arguments: &[&str]) -> Result<Role> {
    Ok(Role(Command::new(binary()?).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?))
}

fn grpcurl(address: &str, arguments: &[&str]) -> Result<String> {
    let (data, call) = arguments.split_at(arguments.len() - 1);
    let program = root().join(".fleet/grpcurl/bin/grpcurl");
    let mut command = Command::new(program);
    command.args(["-plaintext", "-max-time", "10"]).args(data).arg(address).args(call);
    let output = command.output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

#[test]
fn a_third_party_client_administers_separate_coordinator_and_agents_through_failover() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-backlog-size", "512mb"])?;
    let target = Server::start("redis-7.0", &[])?;
    let load = Load::start(&source)?;
    let (dir, _) = state()?;
    let path = |name: &str| dir.path().join(name).display().to_string();
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let address = format!("127.0.0.1:{port}");
    let url = format!("http://{address}");
    let _coordinator = role(&["coordinator", "--listen", &address, "--state-dir", &path("c")])?;
    let agent = |id: &str| role(&["agent", "--id", id, "--coordinator", &url, "--state-dir", &path(id)]);
    let first = agent("first")?;
    until("the coordinator", || Ok(grpcurl(&address, &["list"]).is_ok()))?;
    let listed = grpcurl(&address, &["list"])?;
    for service in ["dts.v1.TaskService", "dts.v1.FleetService", "dts.v1.AgentService", "grpc.health.v1.Health"] {
        ensure!(listed.contains(service), "{listed}");
    }
    let spec = serde_json::json!({"spec": {
        "name": "by grpcurl", "mode": "MODE_SYNC",
        "sources": [{"host": "127.0.0.1", "port": source.port}], "target": {"host": "127.0.0.1", "port": target.port},
    }});
    let created = grpcurl(&address, &["-d", &spec.to_string(), "dts.v1.TaskService/CreateTask"])?;
    let created: serde_json::Value = serde_json::from_str(&created)?;
    let id = serde_json::json!({"id": created["id"]}).to_string();
    let call = |method: &str| grpcurl(&address, &["-d", &id, &format!("dts.v1.TaskService/{method}")]);
    let state_of = || -> Result<serde_json::Value> { Ok(serde_json::from_str(&call("GetTask")?)?) };
    call("StartTask")?;
    until("the copy", || Ok(state_of()?["state"] == "TASK_STATE_INCR_SYNC"))?;
    let epoch = state_of()?["shards"][0]["epoch"].clone();
    let copies = source.info("sync_full")?;
    let _second = agent("second")?;
    drop(first);
    until("the failover", || {
        let task = state_of()?;
        let moved = task["shards"][0]["agentId"] == "second" && task["state"] == "TASK_STATE_INCR_SYNC";
        Ok(moved && task["shards"][0]["epoch"] != epoch)
    })?;
    ensure!(source.info("sync_full")? == copies, "the second agent copied again");
    load.stop()?;
    call("CompleteTask")?;
    let watched = Command::new(root().join(".fleet/grpcurl/bin/grpcurl"))
        .args(["-plaintext", "-max-time", "5", "-d", &id, &address, "dts.v1.TaskService/WatchTask"])
        .output()?;
    ensure!(String::from_utf8_lossy(&watched.stdout).contains("TASK_STATE_COMPLETED"), "the watch did not see the end");
    assert_equal(&source, &target)
}
