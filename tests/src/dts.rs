//! The `dts` binary as a user runs it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Nothing that a test waits for takes longer.
fn patience() -> Duration {
    if std::env::var_os("DTS_LONG").is_some() { 5 * crate::PATIENCE } else { crate::PATIENCE }
}

/// A running `dts migrate --json`.
pub struct Dts {
    child: Child,
    events: Receiver<Value>,
}

/// Its binary, built beside the tests.
pub fn binary() -> Result<PathBuf> {
    let here = std::env::current_exe()?;
    let dir = here.ancestors().find(|dir| dir.join("dts").is_file()).context("dts is not built: run `make build`")?;
    Ok(dir.join("dts"))
}

impl Dts {
    /// Starts a migration.
    pub fn migrate(source: &str, target: &str, state_dir: &Path, more: &[&str]) -> Result<Self> {
        Self::migrate_under(&[], source, target, state_dir, more)
    }

    /// Starts a migration by a wrapper that takes the command line of the program behind its own.
    pub fn migrate_under(
        wrapper: &[&str],
        source: &str,
        target: &str,
        state_dir: &Path,
        more: &[&str],
    ) -> Result<Self> {
        Self::run(wrapper, &[&["--source", source], more].concat(), target, state_dir)
    }

    /// Starts a migration from whatever the arguments name.
    pub fn begin(sources: &[&str], target: &str, state_dir: &Path) -> Result<Self> {
        Self::run(&[], sources, target, state_dir)
    }

    fn run(wrapper: &[&str], sources: &[&str], target: &str, state_dir: &Path) -> Result<Self> {
        let mut command = match wrapper {
            [] => Command::new(binary()?),
            [program, arguments @ ..] => {
                let mut command = Command::new(program);
                command.args(arguments).arg(binary()?);
                command
            }
        };
        command.args(["migrate", "--json", "--target", target, "--state-dir"]).arg(state_dir);
        command.args(sources).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let (sender, events) = channel();
        let stdout = BufReader::new(child.stdout.take().context("stdout")?);
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).unwrap_or(Value::String(line))).is_err() {
                    return;
                }
            }
        });
        let mut child_log = child.stderr.take().context("stderr")?;
        std::thread::spawn(move || {
            // Read so that the pipe never fills; shown when a test fails.
            let mut text = String::new();
            let _ = child_log.read_to_string(&mut text);
            println!("{text}");
        });
        Ok(Self { child, events })
    }

    /// Waits for an event that fits.
    pub fn wait_for(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Instant::now() + patience();
        let mut last = Value::Null;
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) if fits(&event) => return Ok(event),
                Ok(event) => last = event,
                Err(RecvTimeoutError::Timeout) => bail!("no {what} within {} s, last {last}", patience().as_secs()),
                Err(RecvTimeoutError::Disconnected) => bail!("dts ended before {what}, last {last}"),
            }
        }
    }

    /// Waits for a phase.
    pub fn wait_for_phase(&self, phase: &str) -> Result<Value> {
        self.wait_for(phase, |event| event["phase"] == phase)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// True once it has ended by itself.
    pub fn has_ended(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_some())
    }

    /// Ends it as a crash would.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Waits for its end; gives the exit code and the events that were not read.
    pub fn end(mut self) -> Result<(Option<i32>, Vec<Value>)> {
        let deadline = Instant::now() + patience();
        let mut events = Vec::new();
        loop {
            match self.events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(event) => events.push(event),
                Err(RecvTimeoutError::Disconnected) => return Ok((self.child.wait()?.code(), events)),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("dts did not end within {} s, last {:?}", patience().as_secs(), events.last())
                }
            }
        }
    }
}

impl Drop for Dts {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
