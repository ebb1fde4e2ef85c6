//! Every item of a check, both ways, at real servers that are made good and bad for it.

mod clusters;
mod hosts;
mod pair;
mod plan;
mod reload;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Result, anyhow, ensure};
use dts_tests::server::Server;
use serde_json::{Value, json};

use crate::life::{Desk, item};

/// Writes values of 2 KB to one server until it goes.
struct Writer {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Writer {
    /// A value every so many ms.
    fn start(server: &Server, pause_ms: u64) -> Result<Self> {
        let mut connection = server.connect()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            for number in 0_u32.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                redis::cmd("SET").arg(number % 1000).arg("v".repeat(2000)).exec(&mut connection)?;
                std::thread::sleep(Duration::from_millis(pause_ms));
            }
            Ok(())
        });
        Ok(Self { stop, thread: Some(thread) })
    }

    fn stop(mut self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(()), |thread| thread.join().map_err(|_| anyhow!("the writer broke"))?)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn config(server: &Server, name: &str, value: &str) -> Result<()> {
    Ok(redis::cmd("CONFIG").arg("SET").arg(name).arg(value).exec(&mut server.connect()?)?)
}

/// A new task of this spec, tested and checked; gives the check.
fn checked(desk: &mut Desk, spec: &Value) -> Result<Value> {
    desk.create(spec)?;
    desk.call("TestConnectivity", json!({}))?;
    let tested = desk.run()?;
    ensure!(tested["state"] == "CHECK_STATE_PASSED", "{tested}");
    again(desk)
}

fn again(desk: &Desk) -> Result<Value> {
    desk.call("RunCheck", json!({}))?;
    desk.run()
}

/// A new task whose connectivity test is all that is asked for.
fn tested(desk: &mut Desk, spec: &Value) -> Result<Value> {
    desk.create(spec)?;
    desk.call("TestConnectivity", json!({}))?;
    desk.run()
}

/// These items have failed, say why, and what to do.
fn failed(run: &Value, ids: &[&str]) -> Result<()> {
    for id in ids {
        let found = item(run, id)?;
        let said = &found["findings"][0];
        ensure!(found["outcome"] == "CHECK_OUTCOME_FAILED", "{id}: {found}");
        ensure!(said["message"].is_string() && said["fix"].is_string(), "{id} says nothing: {found}");
    }
    Ok(())
}

fn passed(run: &Value, ids: &[&str]) -> Result<()> {
    for id in ids {
        let found = item(run, id)?;
        ensure!(found["outcome"] == "CHECK_OUTCOME_PASSED", "{id}: {found}");
    }
    Ok(())
}

fn severity(run: &Value, id: &str) -> Result<String> {
    Ok(item(run, id)?["severity"].as_str().unwrap_or_default().trim_start_matches("SEVERITY_").to_owned())
}

/// An object of a C source in this directory.
fn compiled(dir: &Path, source: &str) -> Result<String> {
    let (code, object) = (dir.join("made.c"), dir.join("made.so"));
    std::fs::write(&code, source)?;
    let mut gcc = std::process::Command::new("gcc");
    let done = gcc.args(["-shared", "-fPIC", "-w", "-o"]).arg(&object).arg(&code).arg("-ldl").status()?;
    ensure!(done.success(), "gcc");
    Ok(object.display().to_string())
}
