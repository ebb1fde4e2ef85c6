//! End to end: real servers, the real binary, an oracle of its own.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dts_tests::dts::{Dts, binary};
use dts_tests::load::{Load, fill};
use dts_tests::oracle::assert_equal;
use dts_tests::server::{Server, root};

const CAUGHT_UP: &[&str] = &["--complete-when", "caught-up"];

fn state() -> Result<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("state");
    Ok((dir, path))
}

fn keys_of_ours(target: &Server) -> Result<usize> {
    let found: Vec<String> = redis::cmd("KEYS").arg("__dts:*").query(&mut target.connect()?)?;
    Ok(found.len())
}

/// Migrates, completes, and compares.
fn moves_everything(from: &str, to: &str, streams: bool) -> Result<()> {
    let (source, target) = (Server::start(from, &[])?, Server::start(to, &[])?);
    fill(&source, streams)?;
    let load = Load::start(&source)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
    dts.wait_for_phase("INCR_SYNC")?;
    load.stop()?;
    let completed = Command::new(binary()?).args(["task", "complete", "--state-dir"]).arg(&state).output()?;
    ensure!(completed.status.success(), "{}", String::from_utf8_lossy(&completed.stderr));
    let (code, events) = dts.end()?;
    ensure!(code == Some(0), "exit {code:?}, {:?}", events.last());
    assert_equal(&source, &target)?;
    ensure!(keys_of_ours(&target)? == 0, "a key of ours is left");
    ensure!(source.info("connected_slaves")? == "0", "a connection of ours is left");
    Ok(())
}

#[test]
fn redis_7_0_moves_into_redis_7_0_under_traffic() -> Result<()> {
    moves_everything("redis-7.0", "redis-7.0", true)
}

#[test]
fn redis_3_2_moves_into_redis_7_0_under_traffic() -> Result<()> {
    moves_everything("redis-3.2", "redis-7.0", false)
}

#[test]
fn redis_5_0_moves_into_valkey_9_1_under_traffic() -> Result<()> {
    moves_everything("redis-5.0", "valkey-9.1", true)
}

#[test]
fn redis_6_2_moves_into_redis_8_2_under_traffic() -> Result<()> {
    moves_everything("redis-6.2", "redis-8.2", true)
}

#[test]
fn valkey_9_1_moves_into_valkey_9_1_under_traffic() -> Result<()> {
    moves_everything("valkey-9.1", "valkey-9.1", true)
}

#[test]
fn twenty_kills_lose_nothing_and_double_nothing() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0", "--repl-backlog-size", "64mb"])?;
    let target = Server::start("redis-7.0", &[])?;
    fill(&source, true)?;
    let load = Load::start(&source)?;
    let (_dir, state) = state()?;
    for kill in 0..20 {
        let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
        // The first kills hit the full copy, the others the stream.
        if kill < 6 {
            dts.wait_for("a report of the copy", |event| event["copy_number"].as_u64() > Some(0))?;
        } else {
            dts.wait_for_phase("INCR_SYNC")?;
            let goal = load.rounds() + 20 * kill;
            while load.rounds() < goal {
                std::thread::yield_now();
            }
        }
        dts.kill()?;
    }
    load.stop()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, CAUGHT_UP)?;
    dts.wait_for_phase("INCR_SYNC")?;
    let completed = Command::new(binary()?).args(["task", "complete", "--state-dir"]).arg(&state).output()?;
    ensure!(completed.status.success(), "{}", String::from_utf8_lossy(&completed.stderr));
    ensure!(dts.end()?.0 == Some(0));
    assert_equal(&source, &target)
}

#[test]
fn a_continued_stream_needs_no_second_copy_and_a_lost_one_leaves_no_stale_key() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0", "--repl-backlog-size", "16kb"])?;
    let target = Server::start("redis-7.0", &[])?;
    let mut connection = source.connect()?;
    let (_dir, state) = state()?;
    for i in 0..1000 {
        redis::cmd("SET").arg(format!("k{i}")).arg(i).exec(&mut connection)?;
    }
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
    dts.wait_for_phase("INCR_SYNC")?;
    dts.kill()?;
    let copies = source.info("sync_full")?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    ensure!(source.info("sync_full")? == copies, "it copied again");
    dts.kill()?;
    for i in 0..500 {
        redis::cmd("DEL").arg(format!("k{i}")).exec(&mut connection)?;
    }
    redis::cmd("SET").arg("overrun").arg("x".repeat(100_000)).exec(&mut connection)?;
    redis::cmd("DEL").arg("overrun").exec(&mut connection)?;
    redis::cmd("SET").arg("overrun").arg("y".repeat(100_000)).exec(&mut connection)?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
    let swept =
        dts.wait_for("a second copy", |event| event["copy_number"] == 2 && event["ready_to_complete"] == true)?;
    ensure!(swept["swept_keys"] == 500, "{swept}");
    dts.kill()?;
    let kept: usize = redis::cmd("EXISTS").arg("k0").arg("k499").arg("k500").query(&mut target.connect()?)?;
    ensure!(kept == 1, "{kept}");
    Ok(())
}

#[test]
fn bad_input_gets_its_error_and_exit_code() -> Result<()> {
    let source = Server::start("redis-7.0", &["--requirepass", "hunter2"])?;
    let target = Server::start("redis-7.0", &[])?;
    redis::cmd("SET").arg("mine").arg(1).exec(&mut target.connect()?)?;
    let wrong_password = format!("redis://:wrong@127.0.0.1:{}", source.port);
    let right_password = format!("redis://:hunter2@127.0.0.1:{}", source.port);
    let nobody = "redis://127.0.0.1:1".to_owned();
    for (from, code) in [
        (&wrong_password, "SOURCE_AUTH"),
        (&nobody, "SOURCE_UNREACHABLE"),
        (&right_password, "TARGET_NOT_EMPTY"),
        (&target.url(), "SAME_INSTANCE"),
    ] {
        let (_dir, state) = state()?;
        let dts = Dts::migrate(from, &target.url(), &state, &["--retry-window", "1s"])?;
        let failed = dts.wait_for(code, |event| event["event"] == "failed")?;
        ensure!(failed["code"] == code, "{failed}");
        ensure!(dts.end()?.0 == Some(1));
    }
    let usage = Command::new(binary()?).args(["migrate", "--source", "http://x", "--target", "redis://y"]).output()?;
    ensure!(usage.status.code() == Some(2));
    Ok(())
}

#[test]
fn a_full_target_is_named_and_the_same_command_goes_on_when_it_has_room() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &["--maxmemory", "3mb"])?;
    let mut connection = source.connect()?;
    for i in 0..100 {
        redis::cmd("SET").arg(format!("k{i}")).arg("v".repeat(100_000)).exec(&mut connection)?;
    }
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &["--mode", "migrate"])?;
    let failed = dts.wait_for("TARGET_FULL", |event| event["event"] == "failed")?;
    ensure!(failed["code"] == "TARGET_FULL", "{failed}");
    ensure!(dts.end()?.0 == Some(1));
    redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0").exec(&mut target.connect()?)?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &["--mode", "migrate"])?;
    ensure!(dts.end()?.0 == Some(0));
    assert_equal(&source, &target)
}

#[test]
fn a_signal_stops_it_resumably_and_no_password_shows() -> Result<()> {
    let source = Server::start("redis-7.0", &["--requirepass", "hunter2", "--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    redis::cmd("SET").arg("a").arg(1).exec(&mut source.connect()?)?;
    let (_dir, state) = state()?;
    let from = format!("redis://:hunter2@127.0.0.1:{}", source.port);
    let dts = Dts::migrate(&from, &target.url(), &state, &[])?;
    dts.wait_for_phase("INCR_SYNC")?;
    let arguments = std::fs::read_to_string(format!("/proc/{}/cmdline", dts.pid()))?;
    ensure!(arguments.contains("migrate") && !arguments.contains("hunter2"), "{arguments}");
    ensure!(!std::fs::read(state.join("store.redb"))?.windows(7).any(|window| window == b"hunter2"));
    let killed = Command::new("kill").args(["-TERM", &dts.pid().to_string()]).status()?;
    ensure!(killed.success());
    let (code, events) = dts.end()?;
    ensure!(code == Some(3), "{code:?}");
    let stopped = events.last().context("no event")?;
    ensure!(stopped["event"] == "stopped" && !stopped.to_string().contains("hunter2"), "{stopped}");
    let dts = Dts::migrate(&from, &target.url(), &state, CAUGHT_UP)?;
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    Ok(())
}

#[test]
fn a_source_that_knows_only_sync_is_moved() -> Result<()> {
    let source = Server::start("redis-7.0", &["--rename-command", "PSYNC", "", "--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    redis::cmd("SET").arg("a").arg(1).exec(&mut source.connect()?)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &["--mode", "migrate"])?;
    let (code, events) = dts.end()?;
    ensure!(code == Some(0), "{:?}", events.last());
    assert_equal(&source, &target)
}

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

fn until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done()? {
        ensure!(Instant::now() < deadline, "{what} took too long");
        std::thread::yield_now();
    }
    Ok(())
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
