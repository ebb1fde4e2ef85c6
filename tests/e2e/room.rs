//! Targets without room, and such that forget.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use dts_tests::dts::Dts;
use dts_tests::load::Load;
use dts_tests::oracle::assert_equal;
use dts_tests::server::Server;

use crate::{complete, state, until};

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
fn a_target_that_forgot_its_last_moments_is_brought_up_from_where_it_says_it_is() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0", "--repl-backlog-size", "64mb"])?;
    let mut target = Server::start("redis-7.0", &[])?;
    let load = Load::start(&source)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    redis::cmd("SAVE").exec(&mut target.connect()?)?;
    let rounds = load.rounds();
    until("changes that will be forgotten", || Ok(load.rounds() > rounds + 300))?;
    target.crash_and_restart()?;
    load.stop()?;
    complete(&state)?;
    let (code, events) = dts.end()?;
    ensure!(code == Some(0), "{:?}", events.last());
    ensure!(source.info("sync_full")? == "1", "the position was on the target: no copy was needed");
    assert_equal(&source, &target)
}

#[test]
fn a_target_that_forgot_everything_is_copied_again() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let mut target = Server::start("redis-7.0", &[])?;
    let load = Load::start(&source)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    target.crash_and_restart()?;
    until("a second copy", || Ok(source.info("sync_full")? == "2"))?;
    load.stop()?;
    complete(&state)?;
    ensure!(dts.end()?.0 == Some(0));
    assert_equal(&source, &target)
}

/// The append-only file that is written to.
fn append_only_file(server: &Server) -> Result<PathBuf> {
    let files = std::fs::read_dir(server.dir().join("appendonlydir"))?.map(|entry| Ok(entry?.path()));
    let files = files.collect::<std::io::Result<Vec<_>>>()?;
    files.into_iter().find(|path| path.to_string_lossy().ends_with(".incr.aof")).context("no append-only file")
}

#[test]
fn what_a_target_with_a_file_of_one_second_forgot_is_given_again_though_the_source_has_forgotten_it_too() -> Result<()>
{
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0", "--repl-backlog-size", "16kb"])?;
    let mut target = Server::start("redis-7.0", &["--appendonly", "yes", "--appendfsync", "everysec"])?;
    let load = Load::start(&source)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    // What a host that loses its power leaves of the file: the last second is not on the disk.
    let file = append_only_file(&target)?;
    let kept = std::fs::metadata(&file)?.len();
    let offset: u64 = source.info("master_repl_offset")?.parse()?;
    until("the source to forget as well", || {
        Ok(source.info("repl_backlog_first_byte_offset")?.parse::<u64>()? > offset + 20_000)
    })?;
    let of = |event: &serde_json::Value| event["shards"][0]["replay"].clone();
    let shown = dts.wait_for("the window", |event| {
        of(event)["window_bytes"].as_u64() > Some(20_000) && of(event)["target_keeps"] == "everysec"
    })?;
    ensure!(of(&shown)["loss_ms"] == 2000, "{}", of(&shown));
    target.kill()?;
    std::fs::File::options().write(true).open(&file)?.set_len(kept)?;
    target.restart()?;
    load.stop()?;
    complete(&state)?;
    let (code, events) = dts.end()?;
    ensure!(code == Some(0), "{:?}", events.last());
    ensure!(source.info("sync_full")? == "1", "the agent still had it: no copy was needed");
    assert_equal(&source, &target)
}
