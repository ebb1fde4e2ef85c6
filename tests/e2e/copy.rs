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

/// A key of every type that was idle for a different time, or used differently often; one too large for a single RESTORE.
fn fill_by_use(server: &Server, option: &str, of: impl Fn(u64) -> u64) -> Result<Vec<&'static str>> {
    let mut connection = server.connect()?;
    for line in [
        "SET string value",
        "SET number 12",
        "RPUSH list a b c",
        "HSET hash f v g w",
        "SADD set a b c",
        "SADD integers 1 2 3",
        "ZADD zset 1 a 2 b",
        "XADD stream 1-1 f v",
        "SET expires value PX 100000000",
    ] {
        let mut words = line.split(' ');
        let mut command = redis::cmd(words.next().unwrap_or_default());
        command.arg(words.collect::<Vec<_>>());
        command.exec(&mut connection)?;
    }
    let keys = vec!["string", "number", "list", "hash", "set", "integers", "zset", "stream", "expires"];
    for (key, at) in keys.iter().zip(1..) {
        let dump: Vec<u8> = redis::cmd("DUMP").arg(key).query(&mut connection)?;
        let ttl: u64 = redis::cmd("PTTL").arg(key).query::<i64>(&mut connection)?.try_into().unwrap_or(0);
        redis::cmd("RESTORE")
            .arg(key)
            .arg(ttl)
            .arg(dump)
            .arg("REPLACE")
            .arg(option)
            .arg(of(at))
            .exec(&mut connection)?;
    }
    Ok(keys)
}

/// `OBJECT question`, which does not count as a use.
fn by_use(server: &Server, question: &str, keys: &[&str]) -> Result<Vec<i64>> {
    let mut connection = server.connect()?;
    keys.iter().map(|key| Ok(redis::cmd("OBJECT").arg(question).arg(key).query(&mut connection)?)).collect()
}

fn moves_by_use(from: &str, to: &str, policy: &str, keys: impl Fn(&Server) -> Result<Vec<&'static str>>) -> Result<()> {
    let options = ["--maxmemory-policy", policy];
    let (source, target) = (Server::start(from, &options)?, Server::start(to, &options)?);
    let keys = keys(&source)?;
    let question = if policy.ends_with("lru") { "IDLETIME" } else { "FREQ" };
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &["--mode", "migrate"])?;
    let (code, events) = dts.end()?;
    ensure!(code == Some(0), "{:?}", events.last());
    // An idle time goes on while it is copied and read; how often a key is used fades by one a minute. A target before 7.2
    // takes the exact expiry that it is given at the end for a use.
    let keys: Vec<&str> = keys.into_iter().filter(|key| *key != "expires" || !to.ends_with("7.0")).collect();
    let (left, right) = (by_use(&source, question, &keys)?, by_use(&target, question, &keys)?);
    let room = if question == "IDLETIME" { 60 } else { 2 };
    let near = |(left, right): (&i64, &i64)| (left - right).abs() <= room;
    ensure!(left.iter().zip(&right).all(near), "{policy}, {from} to {to}: {keys:?}: {left:?} and {right:?}");
    assert_equal(&source, &target)
}

#[test]
fn how_long_a_key_of_any_type_was_idle_is_copied() -> Result<()> {
    for (from, to) in [("redis-5.0", "redis-7.0"), ("redis-7.0", "redis-8.10"), ("valkey-8.1", "valkey-9.1")] {
        moves_by_use(from, to, "allkeys-lru", |source| fill_by_use(source, "IDLETIME", |at| 10_000 * at))?;
    }
    Ok(())
}

#[test]
fn how_often_a_key_of_any_type_was_used_is_copied() -> Result<()> {
    for (from, to) in [("redis-5.0", "redis-7.0"), ("redis-7.0", "redis-8.10"), ("valkey-8.1", "valkey-9.1")] {
        moves_by_use(from, to, "allkeys-lfu", |source| fill_by_use(source, "FREQ", |at| 20 * at))?;
    }
    Ok(())
}
