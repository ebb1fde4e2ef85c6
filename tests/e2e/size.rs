//! Keys of any size pass in the memory that was promised. `DTS_LONG=1`: 10 M elements a key, 512 MB a string.

use anyhow::{Result, ensure};
use dts_tests::dts::Dts;
use dts_tests::server::Server;
use dts_tests::usage::Watch;

use crate::{complete, state};

/// What an agent may take: 64 MiB and its spool's memory (MISSION: 64 MiB + the configured spool memory).
const SPOOL_MIB: u32 = 16;
/// The agent's bound, and something for the coordinator that runs in the same process.
const MOST_MIB: u32 = 64 + SPOOL_MIB + 16;

fn is_long() -> bool {
    std::env::var_os("DTS_LONG").is_some()
}

/// One key of every type that has elements.
fn fill_large(server: &Server, elements: u64) -> Result<()> {
    const STEP: u64 = 100_000;
    const FILL: &str = "for i = tonumber(ARGV[1]), tonumber(ARGV[2]) do \
        local e = 'element:' .. i \
        redis.call('HSET', 'hash', e, i) redis.call('RPUSH', 'list', e) redis.call('SADD', 'set', e) \
        redis.call('SADD', 'numbers', i * 7) redis.call('ZADD', 'zset', i / 8, e) redis.call('XADD', 'stream', i .. '-1', 'f', e) end";
    let mut connection = server.connect()?;
    for first in (0..elements).step_by(usize::try_from(STEP)?) {
        let last = (first + STEP).min(elements) - 1;
        redis::cmd("EVAL").arg(FILL).arg(0).arg(first + 1).arg(last + 1).exec(&mut connection)?;
    }
    redis::cmd("XGROUP").arg("CREATE").arg("stream").arg("group").arg("0").exec(&mut connection)?;
    let mut read = redis::cmd("XREADGROUP");
    read.arg("GROUP").arg("group").arg("me").arg("COUNT").arg(elements / 10).arg("STREAMS").arg("stream").arg(">");
    read.query::<redis::Value>(&mut connection)?;
    Ok(())
}

/// Redis's own digest of all that a server holds; the values of the stream's groups are not in it.
fn digest(server: &Server) -> Result<(String, redis::Value)> {
    let mut connection = server.connect()?;
    connection.set_read_timeout(None)?;
    let pending = redis::cmd("XPENDING").arg("stream").arg("group").query(&mut connection)?;
    Ok((redis::cmd("DEBUG").arg("DIGEST").query(&mut connection)?, pending))
}

#[test]
fn keys_of_many_elements_and_huge_strings_pass_in_bounded_memory() -> Result<()> {
    let (elements, huge) = if is_long() { (10_000_000, 512 << 20) } else { (300_000, 150 << 20) };
    // A command larger than the limit of the output buffer makes a source drop every replica, not only us.
    let limit = ["--client-output-buffer-limit", "replica", "0", "0", "0"];
    let options = ["--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0", "--rdbcompression", "no"];
    let options: Vec<&str> = options.into_iter().chain(limit).collect();
    let (source, target) = (Server::start("redis-7.0", &options)?, Server::start("redis-7.0", &options)?);
    fill_large(&source, elements)?;
    let mut connection = source.connect()?;
    connection.set_write_timeout(None)?;
    redis::cmd("SETRANGE").arg("huge").arg(huge - 1).arg("x").exec(&mut connection)?;
    let (_dir, state) = state()?;
    let memory = format!("{SPOOL_MIB}MiB");
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &["--spool-memory", &memory])?;
    let watch = Watch::start(dts.pid());
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;

    // The same again as commands of the stream: alone, in a transaction, with an expiry behind the value.
    let value = vec![b'v'; huge];
    redis::cmd("SET").arg("sent").arg(&value).exec(&mut connection)?;
    let half = &value[..huge / 2];
    redis::cmd("SET").arg("expires").arg(half).arg("PX").arg(10_000_000).exec(&mut connection)?;
    redis::cmd("SET").arg("expires").arg(half).arg("KEEPTTL").exec(&mut connection)?;
    redis::cmd("APPEND").arg("expires").arg("tail").exec(&mut connection)?;
    redis::pipe()
        .atomic()
        .incr("n", 1)
        .cmd("RPUSH")
        .arg("parts")
        .arg(half)
        .arg("b")
        .incr("n", 1)
        .exec(&mut connection)?;
    complete(&state)?;
    let (code, events) = dts.end()?;
    ensure!(code == Some(0), "{:?}", events.last());
    let (_, peak) = watch.stop();
    println!("peak of the agent: {peak:.0} MiB");
    ensure!(peak > 1.0 && peak < f64::from(MOST_MIB), "{peak} MiB");
    let (left, right) = (digest(&source)?, digest(&target)?);
    ensure!(left == right, "{left:?} and {right:?}");
    let ttl = |server: &Server| -> Result<i64> {
        Ok(redis::cmd("PEXPIRETIME").arg("expires").query(&mut server.connect()?)?)
    };
    ensure!(ttl(&source)? == ttl(&target)? && ttl(&target)? > 0);
    Ok(())
}
