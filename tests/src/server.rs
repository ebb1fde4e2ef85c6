//! A real server of one version, on a port of its own, ended with its owner.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use redis::Connection;

use crate::port::free_port;

/// A server that never starts has wrong options.
const STARTS: usize = 10;

/// A link that breaks goes on where it was, however long a busy machine takes to bring it back. Tests that want a source
/// which forgets give it less.
const BACKLOG: [&str; 2] = ["--repl-backlog-size", "64mb"];

/// A running server.
pub struct Server {
    child: Child,
    command: Command,
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    password: Option<String>,
    dir: tempfile::TempDir,
}

/// The root of the checkout.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

impl Server {
    /// Starts a server of the fleet, for example `redis-6.2`; 7.0 is the system's own.
    pub fn start(name: &str, options: &[&str]) -> Result<Self> {
        let installed = root().join(".fleet").join(name).join("bin/redis-server");
        let program = if name == "redis-7.0" { PathBuf::from("redis-server") } else { installed };
        Self::start_program(&program, options)
    }

    /// Starts any server.
    pub fn start_program(program: &Path, options: &[&str]) -> Result<Self> {
        for _ in 0..STARTS {
            // Somebody may take the port between the look and the start.
            if let Some(server) = Self::try_start(program, options)? {
                return Ok(server);
            }
        }
        bail!("{} does not start with {options:?}", program.display())
    }

    fn try_start(program: &Path, options: &[&str]) -> Result<Option<Self>> {
        let port = free_port();
        let dir = tempfile::tempdir()?;
        let mut command = Command::new(program);
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--daemonize", "no"]);
        command.args(BACKLOG).args(options).current_dir(dir.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("{}: run `make setup`", program.display()))?;
        let password = options.iter().position(|option| *option == "--requirepass").and_then(|at| options.get(at + 1));
        let mut server = Self { child, command, port, password: password.map(|text| (*text).to_owned()), dir };
        Ok(server.is_ours()?.then_some(server))
    }

    /// Dies at once, and comes again with what its last SAVE left.
    pub fn crash_and_restart(&mut self) -> Result<()> {
        self.kill()?;
        self.restart()
    }

    /// Dies at once.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Comes again after its death.
    pub fn restart(&mut self) -> Result<()> {
        self.child = self.command.spawn()?;
        ensure!(self.is_ours()?, "somebody took port {}", self.port);
        Ok(())
    }

    /// Waits until it answers; false if it is somebody else who does, or its ports were taken.
    fn is_ours(&mut self) -> Result<bool> {
        let deadline = Instant::now() + crate::PATIENCE;
        loop {
            match self.connect() {
                Ok(mut connection) => {
                    let info: String = redis::cmd("INFO").arg("server").query(&mut connection)?;
                    return Ok(info.contains(&format!("process_id:{}\r", self.child.id())));
                }
                Err(error) => ensure!(Instant::now() < deadline, "{:?} does not start: {error}", self.command),
            }
            if self.child.try_wait()?.is_some() {
                return Ok(false);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Stops it where it is, as a machine that hangs does, or lets it go on.
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        signal(if frozen { "-STOP" } else { "-CONT" }, self.pid())
    }

    /// The process that it has forked, if there is one.
    pub fn child(&self) -> Option<u32> {
        let pid = self.pid();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_ascii_whitespace().next()?.parse().ok()
    }

    /// Makes it a replica of `master`, and waits until it is in step.
    pub fn follow(&self, master: &Server) -> Result<()> {
        redis::cmd("SLAVEOF").arg("127.0.0.1").arg(master.port).exec(&mut self.connect()?)?;
        let deadline = Instant::now() + crate::PATIENCE;
        while self.info("master_link_status")? != "up" {
            ensure!(Instant::now() < deadline, "no replica in time");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Where it keeps its files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its URL without a password.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A plain connection.
    pub fn connect(&self) -> Result<Connection> {
        let login = self.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        let client = redis::Client::open(format!("redis://{login}127.0.0.1:{}", self.port))?;
        let connection = client.get_connection_with_timeout(Duration::from_secs(20))?;
        connection.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(connection)
    }

    /// A field of INFO.
    pub fn info(&self, field: &str) -> Result<String> {
        let info: String = redis::cmd("INFO").arg("all").query(&mut self.connect()?)?;
        let found = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        found.map(|value| value.trim().to_owned()).with_context(|| format!("INFO has no {field}"))
    }
}

/// Sends a signal to a process that the tests have started, or that one of those has.
pub fn signal(name: &str, pid: u32) -> Result<()> {
    let sent = Command::new("kill").args([name, &pid.to_string()]).status()?;
    ensure!(sent.success(), "kill {name} {pid}");
    Ok(())
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
