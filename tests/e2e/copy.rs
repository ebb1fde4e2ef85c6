//! One version into another, under traffic.

use anyhow::{Result, ensure};
use dts_tests::dts::Dts;
use dts_tests::load::{Load, fill};
use dts_tests::oracle::assert_equal;
use dts_tests::server::Server;

use crate::{complete, keys_of_ours, state};

/// Migrates, completes, and compares.
fn moves_everything(from: &str, to: &str, streams: bool) -> Result<()> {
    let (source, target) = (Server::start(from, &[])?, Server::start(to, &[])?);
    fill(&source, streams)?;
    let load = Load::start(&source)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
    dts.wait_for_phase("INCR_SYNC")?;
    load.stop()?;
    complete(&state)?;
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
