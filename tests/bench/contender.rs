//! Who is measured, and how each is started.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use dts_tests::distance::Distance;
use dts_tests::server::Server;

/// Nothing that is measured here takes longer.
const PATIENCE: Duration = Duration::from_secs(900);
const POLL: Duration = Duration::from_millis(5);

/// One who copies.
pub(crate) enum Contender {
    /// The target as a replica of the source.
    Native,
    /// Ours.
    Dts { program: PathBuf },
    /// A command with `{source}` and `{target}` (as `host:port`) in it.
    Template { name: String, command: String },
}

/// One who was started.
pub(crate) struct Started {
    child: Option<Child>,
    _state: tempfile::TempDir,
    _line: Option<Distance>,
}

impl Contender {
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Native => "REPLICAOF".into(),
            Self::Dts { .. } => "dts".into(),
            Self::Template { name, .. } => name.clone(),
        }
    }

    /// Starts it; `once`: it may end by itself when all is copied. The servers are `apart` by a round trip: a tool runs near the source,
    /// a replica is the target.
    pub(crate) fn start(&self, source: &Server, target: &Server, once: bool, apart: Duration) -> Result<Started> {
        let state = tempfile::tempdir()?;
        let far = if matches!(self, Self::Native) { source } else { target };
        let line = if apart.is_zero() { None } else { Some(Distance::to(far.port, apart)?) };
        let far = line.as_ref().map_or(far.port, |line| line.port);
        let child = match self {
            Self::Native => {
                replicaof(target, "127.0.0.1", &far.to_string())?;
                None
            }
            Self::Dts { program } => {
                let mut command = Command::new(program);
                let to = format!("redis://127.0.0.1:{far}");
                command.args(["migrate", "--source", &source.url(), "--target", &to, "--state-dir"]);
                command.arg(state.path().join("state")).args(["--mode", if once { "migrate" } else { "sync" }]);
                Some(quiet(&mut command)?)
            }
            Self::Template { command, .. } => {
                let place = |port: u16| format!("127.0.0.1:{port}");
                let line = command.replace("{source}", &place(source.port)).replace("{target}", &place(far));
                let mut command = Command::new("sh");
                command.current_dir(state.path()).args(["-c", &format!("exec {line}")]);
                Some(quiet(&mut command)?)
            }
        };
        Ok(Started { child, _state: state, _line: line })
    }

    /// Waits until all of the source's keys are on the target.
    pub(crate) fn wait_for_copy(
        &self,
        started: &mut Started,
        source: &Server,
        target: &Server,
        once: bool,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let keys = keys(source)?;
        let mut connection = target.connect()?;
        loop {
            ensure!(Instant::now() < deadline, "{} did not copy within {} s", self.name(), PATIENCE.as_secs());
            let over = match self {
                Self::Native => {
                    let info: String = redis::cmd("INFO").arg("replication").query(&mut connection)?;
                    info.contains("master_link_status:up")
                }
                Self::Dts { .. } if once => match started.ended()? {
                    Some(true) => true,
                    Some(false) => bail!("dts failed"),
                    None => false,
                },
                _ => {
                    ensure!(started.ended()? != Some(false), "{} failed", self.name());
                    // Our own record is a key too.
                    redis::cmd("DBSIZE").query::<u64>(&mut connection)? >= keys
                }
            };
            if over {
                return Ok(());
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Started {
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether it ended, and well.
    fn ended(&mut self) -> Result<Option<bool>> {
        match &mut self.child {
            Some(child) => Ok(child.try_wait()?.map(|status| status.success())),
            None => Ok(None),
        }
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn quiet(command: &mut Command) -> Result<Child> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("starting a tool")
}

fn replicaof(target: &Server, host: &str, port: &str) -> Result<()> {
    redis::cmd("SLAVEOF").arg(host).arg(port).exec(&mut target.connect()?)?;
    Ok(())
}

pub(crate) fn keys(server: &Server) -> Result<u64> {
    Ok(redis::cmd("DBSIZE").query(&mut server.connect()?)?)
}
