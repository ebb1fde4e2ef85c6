//! docs/walkthrough.md, line by line.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use dts_tests::dts::binary;
use dts_tests::port::free_port;
use dts_tests::server::root;

use crate::fleet::{Role, grpcurl};
use crate::until;

/// What the page starts, on ports of our own.
pub(crate) struct Walk {
    dir: tempfile::TempDir,
    pub(crate) coordinator: String,
    pub(crate) source: String,
    pub(crate) target: String,
    _servers: Vec<Role>,
}

pub(crate) fn page() -> Result<String> {
    Ok(std::fs::read_to_string(root().join("docs/walkthrough.md"))?)
}

/// The lines of the blocks that carry a word.
fn lines(page: &str, word: &str) -> String {
    let blocks = page.split("\n```sh ").skip(1).filter_map(|block| {
        let (words, rest) = block.split_once('\n')?;
        words.split(' ').any(|one| one == word).then(|| rest.split("\n```").next()).flatten()
    });
    blocks.map(|block| format!("{block}\n")).collect()
}

impl Walk {
    pub(crate) fn begin() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let bin = dir.path().join("bin");
        std::fs::create_dir(&bin)?;
        std::os::unix::fs::symlink(binary()?, bin.join("dts"))?;
        std::os::unix::fs::symlink(root().join(".fleet/grpcurl/bin/grpcurl").canonicalize()?, bin.join("grpcurl"))?;
        let coordinator = format!("127.0.0.1:{}", free_port());
        let (source, target) = (free_port().to_string(), free_port().to_string());
        let mut walk = Self { dir, coordinator, source, target, _servers: Vec::new() };
        for line in lines(&page()?, "servers").lines() {
            let server = Role::spawn(walk.shell(&format!("exec {line}")).stdin(Stdio::null()))?;
            walk._servers.push(server);
        }
        ensure!(walk._servers.len() == 4, "the page starts {} servers", walk._servers.len());
        for port in [&walk.source, &walk.target] {
            let ping = || Command::new("redis-cli").args(["-p", port, "PING"]).output();
            until("a server", || Ok(ping()?.stdout.starts_with(b"PONG")))?;
        }
        until("the agent", || {
            let agents = grpcurl(&walk.coordinator, &["dts.v1.FleetService/ListAgents"]);
            Ok(agents.is_ok_and(|agents| agents.contains("\"alive\": true")))
        })?;
        Ok(walk)
    }

    fn shell(&self, script: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command.args(["-euo", "pipefail", "-c", script]).current_dir(self.dir.path());
        command.env("PATH", format!("{}:{path}", self.dir.path().join("bin").display()));
        command
            .env("DTS_COORDINATOR", &self.coordinator)
            .env("SOURCE_PORT", &self.source)
            .env("TARGET_PORT", &self.target);
        command
    }

    /// Runs every line of the blocks that carry the word.
    pub(crate) fn walk(&self, word: &str) -> Result<()> {
        let script = lines(&page()?, word);
        let output = self.shell(&format!("set -x\n{script}")).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{word}: {said}\n{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    pub(crate) fn nothing_of_ours_is_left(&self) -> Result<()> {
        let left = Command::new("redis-cli").args(["-p", &self.target, "KEYS", "__dts:*"]).output()?;
        ensure!(left.stdout.trim_ascii().is_empty(), "{}", String::from_utf8_lossy(&left.stdout));
        Ok(())
    }

    pub(crate) fn home(&self) -> &Path {
        self.dir.path()
    }
}

#[test]
fn every_line_of_the_page_works_with_the_command_and_then_with_grpcurl() -> Result<()> {
    let walk = Walk::begin()?;
    walk.walk("cli")?;
    walk.nothing_of_ours_is_left()?;
    ensure!(walk.home().join("orders.yaml").is_file(), "the lines were not run");
    walk.walk("grpcurl")?;
    walk.nothing_of_ours_is_left()?;
    let settings = lines(&page()?, "settings");
    let names = ["DTS_COORDINATOR", "SOURCE_PORT", "TARGET_PORT"];
    ensure!(names.iter().all(|name| settings.contains(&format!("{name}="))), "{settings}");
    page()?.find("## With the console").context("the third journey").map(drop)
}
