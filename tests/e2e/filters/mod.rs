//! Filters, maps of databases, policies: judged by an oracle that applies the filter itself.

mod flush;
pub(crate) mod module;
mod traffic;

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use dts_tests::dts::{Dts, binary};
use dts_tests::oracle::assert_selected;
use dts_tests::server::Server;

use self::traffic::{Kind, Traffic};
use crate::{CAUGHT_UP, complete, state};

const QUICK: &[&str] = &["--repl-diskless-sync-delay", "0", "--repl-backlog-size", "64mb"];

/// Kills a migration now and then under traffic, then completes it.
fn survive(source: &Server, target: &Server, state: &Path, flags: &[&str], kills: u64, kind: Kind) -> Result<()> {
    let traffic = Traffic::start(source, kind)?;
    traffic.wait_for(300)?;
    for kill in 0..kills {
        let dts = Dts::migrate(&source.url(), &target.url(), state, flags)?;
        if kill < 2 {
            dts.wait_for("a report of the copy", |event| event["copy_number"].as_u64() > Some(0))?;
        } else {
            dts.wait_for_phase("INCR_SYNC")?;
            traffic.wait_for(100)?;
        }
        dts.kill()?;
    }
    let dts = Dts::migrate(&source.url(), &target.url(), state, flags)?;
    let ready = dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    traffic.wait_for(300)?;
    let later = dts.wait_for("filtered commands", |event| event["filtered_commands"].as_u64() > Some(0))?;
    ensure!(ready["skipped_commands"] == 0 && later["skipped_commands"] == 0, "{later}");
    traffic.stop()?;
    complete(state)?;
    ensure!(dts.end()?.0 == Some(0));
    Ok(())
}

#[test]
fn names_and_mapped_databases_survive_kills_under_traffic_over_the_border() -> Result<()> {
    for (version, kills) in [("redis-7.0", 6), ("redis-6.2", 2), ("redis-8.10", 2)] {
        let source = Server::start(version, QUICK)?;
        let target = Server::start("redis-8.10", &[])?;
        let (_dir, state) = state()?;
        let flags = [
            "--include-prefix",
            "in:",
            "--exclude-key",
            "*[67]",
            "--include-db",
            "0",
            "--include-db",
            "1",
            "--include-db",
            "2",
            "--map-db",
            "0:3",
            "--map-db",
            "1:0",
        ];
        survive(&source, &target, &state, &flags, kills, Kind::Names)?;
        let rule = |db: u32, key: &[u8], _: &str| {
            let named = key.starts_with(b"in:") && !key.ends_with(b"6") && !key.ends_with(b"7");
            [3, 0, 2].get(usize::try_from(db).ok()?).copied().filter(|_| named)
        };
        let held = assert_selected(&source, &target, rule, |_, _| false)?;
        ensure!(held > 5, "{held} keys say little");
    }
    Ok(())
}

#[test]
fn a_filter_by_type_follows_keys_that_change_their_type() -> Result<()> {
    let source = Server::start("redis-7.0", QUICK)?;
    for target in ["redis-7.0", "redis-8.10"] {
        let target = Server::start(target, &[])?;
        let (_dir, state) = state()?;
        let flags = ["--include-type", "hash", "--include-type", "set", "--include-type", "zset"];
        survive(&source, &target, &state, &flags, 4, Kind::Types)?;
        let rule = |db: u32, _: &[u8], kind: &str| ["hash", "set", "zset"].contains(&kind).then_some(db);
        let held = assert_selected(&source, &target, rule, |_, _| false)?;
        ensure!(held > 5, "{held} keys say little");
    }
    Ok(())
}

#[test]
fn a_repeated_copy_sweeps_what_the_task_moves_and_nothing_else() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0", "--repl-backlog-size", "16kb"])?;
    let target = Server::start("redis-7.0", &[])?;
    let mut connection = source.connect()?;
    for i in 0..200 {
        redis::cmd("SET").arg(format!("in:{i}")).arg(i).exec(&mut connection)?;
    }
    let (_dir, state) = state()?;
    let flags = ["--include-key", "in:*", "--map-db", "0:1", "--map-db", "1:0"];
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &flags)?;
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    dts.kill()?;
    let mut there = target.connect()?;
    redis::cmd("SET").arg("foreign").arg(1).exec(&mut there)?;
    redis::pipe().cmd("SELECT").arg(1).cmd("SET").arg("foreign").arg(1).exec(&mut there)?;
    for i in 0..50 {
        redis::cmd("DEL").arg(format!("in:{i}")).exec(&mut connection)?;
    }
    for filler in ["x", "y"] {
        redis::cmd("SET").arg("overrun").arg(filler.repeat(100_000)).exec(&mut connection)?;
    }
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &flags)?;
    let swept =
        dts.wait_for("a second copy", |event| event["copy_number"] == 2 && event["ready_to_complete"] == true)?;
    ensure!(swept["swept_keys"] == 50 && swept["filtered_keys"] == 1, "{swept}");
    dts.kill()?;
    let rule = |db: u32, key: &[u8], _: &str| (db == 0 && key.starts_with(b"in:")).then_some(1);
    let foreign = |_: u32, key: &[u8]| key == b"foreign" || key.starts_with(b"__dts:");
    ensure!(assert_selected(&source, &target, rule, foreign)? == 150);
    let kept: u64 = redis::cmd("EXISTS").arg("foreign").query(&mut there)?;
    ensure!(kept == 1, "a key that the filter excludes was swept");
    Ok(())
}

#[test]
fn a_command_over_the_border_stops_by_name_and_is_left_out_if_asked() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", QUICK)?, Server::start("redis-7.0", &[])?);
    let mut connection = source.connect()?;
    redis::cmd("SET").arg("out").arg(1).exec(&mut connection)?;
    let (_dir, state) = state()?;
    let flags = ["--include-key", "in*"];
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &flags)?;
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    redis::cmd("RENAME").arg("out").arg("in").exec(&mut connection)?;
    redis::cmd("SET").arg("in2").arg(1).exec(&mut connection)?;
    let (code, events) = dts.end()?;
    let failed = events.iter().find(|event| event["event"] == "failed").cloned().unwrap_or_default();
    ensure!(code == Some(1) && failed["code"] == "FILTER_BORDER", "{failed}");
    ensure!(failed["message"].as_str().is_some_and(|message| message.contains("RENAME")), "{failed}");
    // Another filter is another task; another policy is not.
    let other = Dts::migrate(&source.url(), &target.url(), &state, &["--include-key", "x*"])?;
    ensure!(other.end()?.0 == Some(2));
    let flags = ["--include-key", "in*", "--on-border", "skip"];
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &flags)?;
    dts.wait_for("the command that was left out", |event| {
        event["ready_to_complete"] == true && event["skipped_commands"] == 1
    })?;
    let there: (u64, u64) =
        redis::pipe().cmd("EXISTS").arg("in").cmd("EXISTS").arg("in2").query(&mut target.connect()?)?;
    ensure!(there == (0, 1), "{there:?}");
    dts.kill()
}

#[test]
fn a_task_shows_what_it_moves_and_refuses_what_cannot_be_meant() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", QUICK)?, Server::start("redis-7.0", &[])?);
    let (_dir, state) = state()?;
    let flags = ["--include-type", "hash", "--map-db", "0:1", "--map-db", "1:0", "--on-flush", "stop"];
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &flags)?;
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    let asked = Command::new(binary()?).args(["task", "get", "--json", "--state-dir"]).arg(&state).output()?;
    let shown: serde_json::Value = serde_json::from_slice(&asked.stdout)?;
    let expected = serde_json::json!({"types": ["hash"], "db_map": {"0": 1, "1": 0}, "on_flush": "STOP"});
    ensure!(shown["selection"] == expected, "{shown}");
    dts.kill()?;
    for wrong in [["--map-db", "0:1"], ["--include-type", "hashes"], ["--exclude-command", "NONSENSE"]] {
        let (_dir, state) = crate::state()?;
        let dts = Dts::migrate(&source.url(), &target.url(), &state, &wrong)?;
        ensure!(dts.end()?.0 == Some(2), "{wrong:?}");
    }
    Ok(())
}

#[test]
fn a_script_of_an_old_source_stops_a_task_with_a_map_unless_it_is_trusted() -> Result<()> {
    let (source, target) = (Server::start("redis-3.2", &[])?, Server::start("redis-7.0", &[])?);
    let mut connection = source.connect()?;
    let (_dir, state) = state()?;
    let map = ["--map-db", "0:1", "--map-db", "1:0"];
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &map)?;
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    for _ in 0..2 {
        let script = "return redis.call('INCR', KEYS[1])";
        redis::cmd("EVAL").arg(script).arg(1).arg("counted").exec(&mut connection)?;
    }
    let (code, events) = dts.end()?;
    ensure!(code == Some(1) && events.iter().any(|event| event["code"] == "FILTER_BORDER"), "{events:?}");
    let trusting = [map.as_slice(), &["--trust-scripts"], CAUGHT_UP].concat();
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &trusting)?;
    ensure!(dts.end()?.0 == Some(0));
    let rule = |db: u32, _: &[u8], _: &str| Some(if db < 2 { 1 - db } else { db });
    ensure!(assert_selected(&source, &target, rule, |_, _| false)? == 1);
    Ok(())
}

#[test]
fn a_map_to_a_database_that_the_target_lacks_is_refused_before_anything_is_written() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", QUICK)?, Server::start("redis-7.0", &["--databases", "4"])?);
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &["--map-db", "0:9", "--map-db", "9:0"])?;
    let (code, events) = dts.end()?;
    ensure!(code == Some(1) && events.iter().any(|event| event["code"] == "TARGET_UNSUPPORTED"), "{events:?}");
    ensure!(crate::keys_of_ours(&target)? == 0);
    Ok(())
}
