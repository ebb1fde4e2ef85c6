//! Deaths at any moment: nothing lost, nothing twice, nothing stale.

use anyhow::{Result, ensure};
use dts_tests::dts::Dts;
use dts_tests::load::{Load, fill};
use dts_tests::oracle::assert_equal;
use dts_tests::server::Server;

use crate::{CAUGHT_UP, state};

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
    let library =
        |name: &str| format!("#!lua name={name}\nredis.register_function('f', function(keys) return '{name}' end)");
    redis::cmd("FUNCTION").arg("LOAD").arg(library("old")).exec(&mut connection)?;
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
    // The same function, in another library: the one that is gone stands in its way.
    redis::cmd("FUNCTION").arg("DELETE").arg("old").exec(&mut connection)?;
    redis::cmd("FUNCTION").arg("LOAD").arg(library("new")).exec(&mut connection)?;
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
    let called: String = redis::cmd("FCALL").arg("f").arg(0).query(&mut target.connect()?)?;
    ensure!(called == "new", "{called}");
    Ok(())
}
