//! Bad networks on either side.

use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dts_tests::dts::{Dts, binary};
use dts_tests::load::{Load, fill};
use dts_tests::oracle::assert_equal;
use dts_tests::proxy::Proxy;
use dts_tests::server::Server;

use crate::{complete, keys_of_ours, state, until};

#[test]
fn a_slow_target_fills_the_spool_and_not_the_source() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    let proxy = Proxy::before(&target)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &proxy.url(), &state, &["--spool-memory", "4MiB"])?;
    // A source sends nothing before it has seen its child end: until then it keeps everything.
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    proxy.weather.upload.store(200_000, Ordering::Relaxed);
    let mut connection = source.connect()?;
    let value = "v".repeat(10_000);
    let mut most = 0;
    for i in 0..5000 {
        redis::cmd("SET").arg(format!("k{i}")).arg(&value).exec(&mut connection)?;
        if i % 100 == 0 {
            let clients: String = redis::cmd("CLIENT").arg("LIST").arg("TYPE").arg("replica").query(&mut connection)?;
            let held = clients.split(' ').find_map(|field| field.strip_prefix("omem=")?.parse::<u64>().ok());
            most = most.max(held.unwrap_or(0));
        }
    }
    // 50 MB went by, 200 KB/s passed: the rest is neither in the source nor in the agent's memory.
    let spooled = dts.wait_for("a spool on disk", |event| event["spool_disk_bytes"].as_u64() > Some(20 << 20))?;
    ensure!(spooled["spool_memory_bytes"].as_u64() <= Some(4 << 20), "{spooled}");
    ensure!(most < 8 << 20, "the source held {most} bytes for its replica");
    proxy.weather.upload.store(0, Ordering::Relaxed);
    complete(&state)?;
    ensure!(dts.end()?.0 == Some(0));
    assert_equal(&source, &target)
}

#[test]
fn a_target_that_stands_still_costs_the_source_no_memory() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &["--spool-memory", "4MiB"])?;
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    target.freeze(true)?;
    let still = Duration::from_secs(if std::env::var_os("DTS_LONG").is_some() { 60 } else { 6 });
    let (mut connection, value, begun, mut most, mut i) = (source.connect()?, "v".repeat(10_000), Instant::now(), 0, 0);
    while begun.elapsed() < still {
        redis::cmd("SET").arg(format!("k{}", i % 5000)).arg(&value).exec(&mut connection)?;
        std::thread::sleep(Duration::from_millis(1));
        i += 1;
        if i % 100 == 0 {
            let clients: String = redis::cmd("CLIENT").arg("LIST").arg("TYPE").arg("replica").query(&mut connection)?;
            let held = clients.split(' ').find_map(|field| field.strip_prefix("omem=")?.parse::<u64>().ok());
            most = most.max(held.context("no replica")?);
        }
    }
    ensure!(most < 8 << 20, "the source held {most} bytes for its replica");
    target.freeze(false)?;
    complete(&state)?;
    ensure!(dts.end()?.0 == Some(0));
    ensure!(source.info("sync_full")? == "1", "it copied again");
    assert_equal(&source, &target)
}

#[test]
fn a_source_that_closes_in_the_middle_of_the_copy_is_copied_again() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    fill(&source, true)?;
    let load = Load::start(&source)?;
    let proxy = Proxy::before(&source)?;
    proxy.weather.cut_after.store(20 << 20, Ordering::Relaxed);
    proxy.weather.cuts.store(2, Ordering::Relaxed);
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&proxy.url(), &target.url(), &state, &[])?;
    let copied = dts.wait_for("a third copy", |event| {
        event["copy_number"] == 3 && event["ready_to_complete"].as_bool() == Some(true)
    })?;
    ensure!(proxy.weather.done.load(Ordering::Relaxed) == 2, "{copied}");
    load.stop()?;
    complete(&state)?;
    ensure!(dts.end()?.0 == Some(0));
    assert_equal(&source, &target)
}

#[test]
fn a_stream_that_breaks_again_and_again_goes_on_where_it_was() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0", "--repl-backlog-size", "64mb"])?;
    let target = Server::start("redis-7.0", &[])?;
    let proxy = Proxy::before(&source)?;
    let load = Load::start(&source)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&proxy.url(), &target.url(), &state, &[])?;
    dts.wait_for_phase("INCR_SYNC")?;
    proxy.weather.cut_after.store(100_000, Ordering::Relaxed);
    proxy.weather.cuts.store(10, Ordering::Relaxed);
    until("ten cuts", || Ok(proxy.weather.done.load(Ordering::Relaxed) == 10))?;
    load.stop()?;
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true && event["lag_bytes"] == 0)?;
    complete(&state)?;
    ensure!(dts.end()?.0 == Some(0));
    ensure!(source.info("sync_full")? == "1", "it copied again");
    assert_equal(&source, &target)
}

#[test]
fn lost_replies_of_the_target_double_nothing() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    fill(&source, true)?;
    let proxy = Proxy::before(&target)?;
    proxy.weather.cut_after.store(150_000, Ordering::Relaxed);
    proxy.weather.cuts.store(15, Ordering::Relaxed);
    let load = Load::start(&source)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &proxy.url(), &state, &[])?;
    until("every cut", || Ok(proxy.weather.done.load(Ordering::Relaxed) == 15))?;
    load.stop()?;
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    complete(&state)?;
    ensure!(dts.end()?.0 == Some(0));
    assert_equal(&source, &target)?;
    ensure!(keys_of_ours(&target)? == 0);
    Ok(())
}

#[test]
fn altered_bytes_of_a_snapshot_are_noticed_and_copied_again() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    fill(&source, true)?;
    let proxy = Proxy::before(&source)?;
    // In the middle of a value: only the checksum can tell.
    proxy.weather.alter_at.store(50 << 20, Ordering::Relaxed);
    proxy.weather.alterations.store(1, Ordering::Relaxed);
    let (_dir, first) = state()?;
    let dts = Dts::migrate(&proxy.url(), &target.url(), &first, &["--mode", "migrate"])?;
    ensure!(dts.end()?.0 == Some(0));
    ensure!(proxy.weather.done.load(Ordering::Relaxed) == 1);
    ensure!(source.info("sync_full")? == "2", "the damage was not noticed");
    assert_equal(&source, &target)
}

#[test]
fn a_snapshot_that_is_always_damaged_and_what_is_no_redis_end_with_their_names() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    let numbers: String = (0..5000).map(|i: u64| format!("{:x}", i.wrapping_mul(0x9E37_79B9_7F4A_7C15))).collect();
    redis::cmd("SET").arg("a").arg(numbers).exec(&mut source.connect()?)?;
    let proxy = Proxy::before(&source)?;
    proxy.weather.alter_at.store(2000, Ordering::Relaxed);
    proxy.weather.alterations.store(u64::MAX, Ordering::Relaxed);
    let (_dir, first) = state()?;
    let dts = Dts::migrate(&proxy.url(), &target.url(), &first, &["--retry-window", "2s"])?;
    let failed = dts.wait_for("its end", |event| event["event"] == "failed")?;
    let code = failed["code"].as_str().unwrap_or_default();
    ensure!(["SNAPSHOT_CORRUPT", "SOURCE_PROTOCOL"].contains(&code), "{failed}");
    ensure!(dts.end()?.0 == Some(1));

    let web = std::net::TcpListener::bind("127.0.0.1:0")?;
    let port = web.local_addr()?.port();
    std::thread::spawn(move || {
        for mut client in web.incoming().map_while(Result::ok) {
            // A client that hung up needs no answer.
            let _ = std::io::Write::write_all(&mut client, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let (_dir, second) = state()?;
    let dts = Dts::migrate(&format!("redis://127.0.0.1:{port}"), &target.url(), &second, &["--retry-window", "1s"])?;
    let failed = dts.wait_for("its end", |event| event["event"] == "failed")?;
    ensure!(["SOURCE_PROTOCOL", "SOURCE_LOST"].contains(&failed["code"].as_str().unwrap_or_default()), "{failed}");
    ensure!(dts.end()?.0 == Some(1));
    Ok(())
}

#[test]
fn a_full_spool_stops_with_its_name_and_the_same_command_goes_on() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    let proxy = Proxy::before(&target)?;
    let (_dir, state) = state()?;
    let small = ["--spool-memory", "1MiB", "--spool-disk", "4MiB", "--retry-window", "2s"];
    let dts = Dts::migrate(&source.url(), &proxy.url(), &state, &small)?;
    dts.wait_for_phase("INCR_SYNC")?;
    proxy.weather.silent.store(true, Ordering::Relaxed);
    let mut connection = source.connect()?;
    let value = "v".repeat(100_000);
    for i in 0..300 {
        redis::cmd("SET").arg(format!("k{i}")).arg(&value).exec(&mut connection)?;
    }
    let failed = dts.wait_for("a full spool", |event| event["event"] == "failed")?;
    ensure!(failed["code"] == "SPOOL_FULL", "{failed}");
    proxy.weather.silent.store(false, Ordering::Relaxed);
    ensure!(dts.end()?.0 == Some(1));
    let dts = Dts::migrate(&source.url(), &proxy.url(), &state, &["--complete-when", "caught-up"])?;
    ensure!(dts.end()?.0 == Some(0));
    assert_equal(&source, &target)
}

#[test]
fn a_ttl_that_the_source_refreshes_does_not_die_on_a_target_that_lags() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    let proxy = Proxy::before(&target)?;
    let mut connection = source.connect()?;
    for i in 0..100 {
        // A hash: a death on the target would show as missing fields even if the key came back.
        redis::cmd("HSET").arg(format!("session:{i}")).arg("begun").arg(i).exec(&mut connection)?;
        redis::cmd("PEXPIRE").arg(format!("session:{i}")).arg(1500).exec(&mut connection)?;
        redis::cmd("SET").arg(format!("dies:{i}")).arg(i).arg("PX").arg(500).exec(&mut connection)?;
    }
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &proxy.url(), &state, &[])?;
    let refresh = |connection: &mut redis::Connection, round: u32| -> Result<()> {
        for i in 0..100 {
            redis::cmd("HSET").arg(format!("session:{i}")).arg("seen").arg(round).exec(connection)?;
            redis::cmd("PEXPIRE").arg(format!("session:{i}")).arg(1500).exec(connection)?;
        }
        std::thread::sleep(Duration::from_millis(200));
        Ok(())
    };
    let begun = Instant::now();
    let mut round = 0;
    while begun.elapsed() < Duration::from_secs(6) {
        // For 4 of 6 s nothing reaches the target: longer than any of the expiries.
        let silent = (1..5).contains(&begun.elapsed().as_secs());
        proxy.weather.silent.store(silent, Ordering::Relaxed);
        refresh(&mut connection, round)?;
        round += 1;
    }
    let mut asked = target.connect()?;
    until("the target to have the last change", || {
        let seen: Option<u32> = redis::cmd("HGET").arg("session:99").arg("seen").query(&mut asked)?;
        refresh(&mut connection, round - 1)?;
        Ok(seen == Some(round - 1))
    })?;
    for i in 0..100 {
        let fields: Vec<String> = redis::cmd("HKEYS").arg(format!("session:{i}")).query(&mut asked)?;
        ensure!(fields.len() == 2, "session:{i} died on the target: {fields:?}");
        let dead: bool = redis::cmd("EXISTS").arg(format!("dies:{i}")).query(&mut asked)?;
        ensure!(!dead, "dies:{i} is dead on the source and alive on the target");
    }
    complete(&state)?;
    ensure!(dts.end()?.0 == Some(0));
    // What is left has its own, short, expiry again: it dies on the target by itself.
    until("the sessions to expire on the target", || Ok(redis::cmd("DBSIZE").query::<u64>(&mut asked)? == 0))
}

#[test]
fn a_rate_is_kept_until_the_operator_lifts_it() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    let mut connection = source.connect()?;
    for i in 0..1000 {
        redis::cmd("SET").arg(format!("k{i}")).arg(noise(20_000)).exec(&mut connection)?;
    }
    let (_dir, state) = state()?;
    let begun = Instant::now();
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &["--read-rate", "1MiB", "--write-rate", "1MiB"])?;
    let mut asked = target.connect()?;
    let mut size = || -> Result<u64> { Ok(redis::cmd("DBSIZE").query(&mut asked)?) };
    until("a part of the copy", || Ok(size()? > 100))?;
    let (there, took) = (size()?, begun.elapsed());
    // A second's worth may pass at once.
    let most = (took.as_millis() + 2000) * (1 << 20) / 20_000_000;
    ensure!(u128::from(there) <= most, "{there} values of 20 kB in {took:?} at 1 MiB a second");
    for side in ["--read-rate", "--write-rate"] {
        let told =
            Command::new(binary()?).args(["task", "limit", "--state-dir"]).arg(&state).args([side, "0"]).output()?;
        ensure!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    }
    dts.wait_for_phase("INCR_SYNC")?;
    complete(&state)?;
    ensure!(dts.end()?.0 == Some(0));
    assert_equal(&source, &target)
}

/// Bytes that LZF makes no shorter.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}
