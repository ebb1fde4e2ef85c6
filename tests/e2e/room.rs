//! Targets without room.

use anyhow::{Result, ensure};
use dts_tests::dts::Dts;
use dts_tests::oracle::assert_equal;
use dts_tests::server::Server;

use crate::state;

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
