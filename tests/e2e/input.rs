//! What a user may do wrong, and how one stops it.

use std::process::Command;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, ensure};
use dts_tests::dts::{Dts, binary};
use dts_tests::oracle::assert_equal;
use dts_tests::proxy::Proxy;
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
    ensure!(dts.end()?.0 == Some(0));
    ensure!(source.info("sync_full")? == "1", "it did not go on");
    assert_equal(&source, &target)
}

#[test]
fn users_with_just_the_rights_that_are_needed_suffice() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", &[])?, Server::start("redis-7.0", &[])?);
    redis::cmd("SET").arg("a").arg(1).exec(&mut source.connect()?)?;
    redis::cmd("RPUSH").arg("list").arg(1).arg(2).exec(&mut source.connect()?)?;
    let user = |server: &Server, rights: &str| -> Result<()> {
        let mut command = redis::cmd("ACL");
        command.arg("SETUSER").arg("mover").arg("on").arg(">pa:ss@word");
        Ok(rights.split(' ').fold(&mut command, |command, right| command.arg(right)).exec(&mut server.connect()?)?)
    };
    user(&source, "+psync +replconf +ping +info +time")?;
    user(&target, "~* &* +@all -@dangerous +restore +info +keys +flushall +flushdb +swapdb")?;
    let (dir, state) = state()?;
    let file = dir.path().join("password");
    std::fs::write(&file, "pa:ss@word\n")?;
    let file = file.display().to_string();
    let url = |server: &Server| format!("redis://mover@127.0.0.1:{}", server.port);
    let passwords = ["--source-password-file", &file, "--target-password-file", &file, "--mode", "migrate"];
    let dts = Dts::migrate(&url(&source), &url(&target), &state, &passwords)?;
    let (code, events) = dts.end()?;
    ensure!(code == Some(0), "{:?}", events.last());
    assert_equal(&source, &target)?;

    user(&source, "-psync")?;
    let (_dir, state) = crate::state()?;
    redis::cmd("FLUSHALL").exec(&mut target.connect()?)?;
    let dts = Dts::migrate(&url(&source), &url(&target), &state, &passwords)?;
    let failed = dts.wait_for("a refusal", |event| event["event"] == "failed")?;
    ensure!(failed["code"] == "SOURCE_PERMISSION", "{failed}");
    Ok(())
}

#[test]
fn a_disk_that_takes_no_more_ends_with_its_name_and_nothing_is_lost() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    let proxy = Proxy::before(&target)?;
    let mut connection = source.connect()?;
    let (_dir, state) = state()?;
    // Files of this process may grow to 8 MiB; beyond, a write fails as on a full volume.
    let dts = Dts::migrate_under(
        &["sh", "-c", "trap '' XFSZ; ulimit -f 16384; exec \"$0\" \"$@\""],
        &source.url(),
        &proxy.url(),
        &state,
        &["--spool-memory", "1MiB"],
    )?;
    dts.wait_for_phase("INCR_SYNC")?;
    proxy.weather.silent.store(true, Ordering::Relaxed);
    let value = "v".repeat(100_000);
    for i in 0..200 {
        redis::cmd("SET").arg(format!("k{i}")).arg(&value).exec(&mut connection)?;
    }
    let failed = dts.wait_for("a full disk", |event| event["event"] == "failed")?;
    ensure!(["AGENT_DISK", "SPOOL_FULL"].contains(&failed["code"].as_str().unwrap_or_default()), "{failed}");
    ensure!(failed["message"].as_str().is_some_and(|message| message.contains(".spool")), "{failed}");
    proxy.weather.silent.store(false, Ordering::Relaxed);
    ensure!(dts.end()?.0 == Some(1));
    let dts = Dts::migrate(&source.url(), &proxy.url(), &state, CAUGHT_UP)?;
    ensure!(dts.end()?.0 == Some(0));
    assert_equal(&source, &target)
}
