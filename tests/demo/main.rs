//! The main job, live: a source under traffic, an empty target, `dts migrate` between them, and both compared at the end.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dts_tests::dts::binary;
use dts_tests::load::{Load, fill};
use dts_tests::oracle::assert_equal;
use dts_tests::server::Server;

fn main() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    println!("source {} (with traffic), target {} (empty)", source.url(), target.url());
    fill(&source, true)?;
    let load = Load::start(&source)?;
    let state = tempfile::tempdir()?;
    let mut migration = Command::new(binary()?)
        .args(["migrate", "--source", &source.url(), "--target", &target.url(), "--state-dir"])
        .arg(state.path())
        .spawn()?;
    // Traffic goes on through the whole copy; it ends when the operator switches, and not before the target follows.
    let deadline = Instant::now() + Duration::from_secs(120);
    let mut asked = source.connect()?;
    while load.rounds() < 5000 || !follows(&mut asked)? {
        ensure!(migration.try_wait()?.is_none() && Instant::now() < deadline, "the migration did not come to follow");
        std::thread::sleep(Duration::from_millis(100));
    }
    load.stop()?;
    println!("traffic stopped: completing, if a verification of every value finds both sides equal");
    let complete = || {
        Command::new(binary()?)
            .args(["task", "complete", "--verify", "full", "--state-dir"])
            .arg(state.path())
            .output()
            .map_err(anyhow::Error::from)
    };
    while !complete()?.status.success() {
        ensure!(migration.try_wait()?.is_none() && Instant::now() < deadline, "the migration cannot be completed");
        std::thread::sleep(Duration::from_millis(100));
    }
    let status = migration.wait()?;
    ensure!(status.success(), "dts migrate ended with {status}");
    assert_equal(&source, &target)?;
    let keys: u64 = redis::cmd("DBSIZE").query(&mut target.connect()?)?;
    println!("equal: every key, value and expiry of all databases, {keys} keys in db 0");
    Ok(())
}

/// True once the source sends its stream to somebody.
fn follows(source: &mut redis::Connection) -> Result<bool> {
    let replication: String = redis::cmd("INFO").arg("replication").query(source)?;
    Ok(replication.contains("state=online"))
}
