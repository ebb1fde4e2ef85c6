//! Hosts as network namespaces around one bridge. Nothing leaves them.

use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// First argument of the program when it runs in the middle of its own network.
pub(crate) const INSIDE: &str = "inside";
/// Where everything that is not a host of its own listens.
pub(crate) const HUB: &str = "10.90.0.1";

/// The network.
pub(crate) struct Net {
    prefix: String,
}

/// Which packets of a host are dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Both,
    In,
    Out,
}

/// The address of the n-th host.
pub(crate) fn address(host: usize) -> String {
    format!("10.90.1.{}", host + 1)
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("ip: run `make setup`")?;
    ensure!(output.status.success(), "ip {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

impl Net {
    /// Makes the namespaces; they go with the value.
    pub(crate) fn create(hosts: &[&str]) -> Result<Self> {
        let net = Self { prefix: format!("dts{}", std::process::id()) };
        let hub = net.namespace("hub");
        ip(&["netns", "add", &hub])?;
        let inside = |arguments: &[&str]| ip(&[&["-n", hub.as_str()], arguments].concat());
        inside(&["link", "set", "lo", "up"])?;
        inside(&["link", "add", "bridge", "type", "bridge"])?;
        inside(&["address", "add", &format!("{HUB}/16"), "dev", "bridge"])?;
        inside(&["link", "set", "bridge", "up"])?;
        for (index, host) in hosts.iter().enumerate() {
            let (name, port) = (net.namespace(host), format!("port{index}"));
            ip(&["netns", "add", &name])?;
            inside(&["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &name])?;
            inside(&["link", "set", &port, "master", "bridge", "up"])?;
            let at = |arguments: &[&str]| ip(&[&["-n", name.as_str()], arguments].concat());
            at(&["link", "set", "lo", "up"])?;
            at(&["address", "add", &format!("{}/16", address(index)), "dev", "eth0"])?;
            at(&["link", "set", "eth0", "up"])?;
        }
        Ok(net)
    }

    /// The same network, seen from its middle.
    pub(crate) fn inside(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    fn namespace(&self, host: &str) -> String {
        format!("{}-{host}", self.prefix)
    }

    /// Runs this program again, in the middle of the network, and waits for it.
    pub(crate) fn run_inside(self, arguments: &[String]) -> Result<()> {
        let program = std::env::current_exe()?;
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace("hub")]).arg(program).args([INSIDE, &self.prefix]);
        let status = command.args(arguments).status();
        self.remove();
        match status? {
            status if status.success() => Ok(()),
            status => bail!("it failed ({status})"),
        }
    }

    /// What was left running, and the namespaces.
    fn remove(&self) {
        let Ok(listed) = Command::new("ip").args(["netns", "list"]).output() else { return };
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        for name in text.lines().filter_map(|line| line.split(' ').next()) {
            if !name.starts_with(&format!("{}-", self.prefix)) {
                continue;
            }
            if let Ok(left) = Command::new("ip").args(["netns", "pids", name]).output() {
                for pid in String::from_utf8_lossy(&left.stdout).split_whitespace() {
                    let _ended_already = Command::new("kill").args(["-KILL", pid]).status();
                }
            }
            let _gone_already = Command::new("ip").args(["netns", "del", name]).status();
        }
    }

    /// A command that runs on a host.
    pub(crate) fn command(&self, host: &str, program: &std::path::Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(host)]).arg(program);
        command
    }

    /// Drops what a host says to, or hears from, an address, without a word to either.
    pub(crate) fn cut(&self, host: &str, peer: &str, way: Way) -> Result<()> {
        let mut rules = String::from("table inet chaos {\n");
        if way != Way::Out {
            rules += &format!(" chain in {{ type filter hook input priority 0; ip saddr {peer} drop; }}\n");
        }
        if way != Way::In {
            rules += &format!(" chain out {{ type filter hook output priority 0; ip daddr {peer} drop; }}\n");
        }
        rules += "}\n";
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), rules)?;
        self.nft(host, &["-f", &file.path().display().to_string()])
    }

    /// Everything passes again.
    pub(crate) fn heal(&self, host: &str) -> Result<()> {
        self.nft(host, &["flush", "ruleset"])
    }

    fn nft(&self, host: &str, arguments: &[&str]) -> Result<()> {
        let output = self.command(host, std::path::Path::new("nft")).args(arguments).output()?;
        ensure!(output.status.success(), "nft {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}
