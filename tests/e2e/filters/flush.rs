//! FLUSHALL and FLUSHDB of the source.

use anyhow::{Result, ensure};
use dts_tests::dts::Dts;
use dts_tests::server::Server;

use super::QUICK;
use crate::{state, until};

fn size(server: &Server, db: u32) -> Result<u64> {
    let mut connection = server.connect()?;
    redis::cmd("SELECT").arg(db).exec(&mut connection)?;
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query(&mut connection)?;
    Ok(keys.iter().filter(|key| !key.starts_with("__dts:")).count().try_into()?)
}

#[test]
fn a_flush_under_a_filter_empties_what_the_task_moves_and_leaves_what_is_not_its_own() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", QUICK)?, Server::start("redis-7.0", &[])?);
    let mut connection = source.connect()?;
    for db in [0, 1] {
        redis::cmd("SELECT").arg(db).exec(&mut connection)?;
        for i in 0..3000 {
            redis::cmd("SET").arg(format!("in:{i}")).arg(i).exec(&mut connection)?;
        }
    }
    let (_dir, state) = state()?;
    let flags = ["--include-key", "in:*", "--map-db", "1:5", "--map-db", "5:1"];
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &flags)?;
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    let mut there = target.connect()?;
    for db in [0, 5] {
        redis::pipe().cmd("SELECT").arg(db).cmd("SET").arg("foreign").arg(1).exec(&mut there)?;
    }
    redis::pipe().cmd("SELECT").arg(1).cmd("FLUSHDB").cmd("INCR").arg("in:new").exec(&mut connection)?;
    until("db 5 to be emptied", || Ok(size(&target, 5)? == 2))?;
    ensure!(size(&target, 0)? == 3001, "the other database was emptied too");
    redis::pipe()
        .cmd("FLUSHALL")
        .cmd("INCR")
        .arg("in:new")
        .cmd("FLUSHDB")
        .cmd("INCR")
        .arg("in:new")
        .exec(&mut connection)?;
    until("both to be emptied", || Ok(size(&target, 0)? == 1 && size(&target, 5)? == 2))?;
    redis::cmd("SELECT").arg(5).exec(&mut there)?;
    let counted: u64 = redis::cmd("GET").arg("in:new").query(&mut there)?;
    ensure!(counted == 1, "{counted}");
    dts.kill()
}

#[test]
fn a_flush_stops_the_task_before_it_and_is_ignored_if_asked() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", QUICK)?, Server::start("redis-7.0", &[])?);
    let mut connection = source.connect()?;
    redis::cmd("SET").arg("kept").arg(1).exec(&mut connection)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &["--on-flush", "stop"])?;
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    redis::pipe().cmd("FLUSHALL").cmd("SET").arg("after").arg(1).exec(&mut connection)?;
    let (code, events) = dts.end()?;
    ensure!(code == Some(1) && events.iter().any(|event| event["code"] == "FLUSH_STOPPED"), "{events:?}");
    ensure!(size(&target, 0)? == 1, "the flush reached the target");
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &["--on-flush", "ignore"])?;
    dts.wait_for("the flush that was left out", |event| event["skipped_commands"] == 1)?;
    until("what came after the flush", || Ok(size(&target, 0)? == 2))?;
    dts.kill()
}
