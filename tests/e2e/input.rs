//! What a user may do wrong, and how one stops it.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use dts_tests::dts::{Dts, binary};
use dts_tests::server::Server;

use crate::{CAUGHT_UP, state};

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
