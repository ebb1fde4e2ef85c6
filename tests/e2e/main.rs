//! End to end: real servers, the real binary, an oracle of its own.

mod alarms;
mod api_tls;
mod budgets;
mod chaos;
mod checks;
mod claims;
mod clean;
mod cluster_target;
mod command_line;
mod command_table;
mod console;
mod control;
mod copy;
mod crash;
mod deploy;
mod discover;
mod drain;
mod enrol;
mod fence;
mod filters;
mod fleet;
mod guard;
mod input;
mod json_api;
mod leash;
mod life;
mod many_into_cluster;
mod metrics;
mod modules;
mod network;
mod pending;
mod placement;
mod room;
mod routed_target;
mod scale;
mod size;
mod sources;
mod switch_over;
mod task_file;
mod tls;
mod topology;
mod traces;
mod verification;
mod verify;
mod versions;
mod walkthrough;
mod way_back;
mod way_back_cluster;
mod way_back_turn;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use dts_tests::dts::binary;
use dts_tests::server::Server;

const CAUGHT_UP: &[&str] = &["--complete-when", "caught-up"];

fn state() -> Result<(tempfile::TempDir, PathBuf)> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("state");
    Ok((dir, path))
}

fn keys_of_ours(target: &Server) -> Result<usize> {
    let found: Vec<String> = redis::cmd("KEYS").arg("__dts:*").query(&mut target.connect()?)?;
    Ok(found.len())
}

/// Asks for completion, as an operator does: again while the task is being interrupted.
fn complete(state: &Path) -> Result<()> {
    until("completing", || {
        let asked = Command::new(binary()?).args(["task", "complete", "--state-dir"]).arg(state).output()?;
        let said = String::from_utf8_lossy(&asked.stderr);
        ensure!(asked.status.success() || said.contains("ACTION_NOT_ALLOWED"), "{said}");
        Ok(asked.status.success())
    })
}

/// A test that failed while it held the lock has said so itself.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + dts_tests::PATIENCE;
    while !done()? {
        ensure!(Instant::now() < deadline, "{what} took too long");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
