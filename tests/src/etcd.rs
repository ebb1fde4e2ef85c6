//! A real etcd of one or more members on loopback, ended with its owner.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::port::free_port;
use crate::server::root;

/// A running cluster.
pub struct Etcd {
    members: Vec<Member>,
    login: Vec<String>,
    _dir: tempfile::TempDir,
}

struct Member {
    child: Option<Child>,
    arguments: Vec<String>,
    endpoint: String,
}

/// What makes a member ask for certificates.
pub struct Certificates {
    /// Authority of both sides.
    pub ca: PathBuf,
    /// Of the members, and of clients: certificate and key.
    pub identity: (PathBuf, PathBuf),
}

fn program(name: &str) -> PathBuf {
    root().join(".fleet/etcd/bin").join(name)
}

impl Etcd {
    /// Starts so many members and waits until they serve.
    pub fn start(count: usize) -> Result<Self> {
        Self::start_with(count, None)
    }

    /// Starts members that listen on an address of this host.
    pub fn start_at(host: &str, count: usize) -> Result<Self> {
        Self::begin(host, count, None)
    }

    /// Starts members that speak TLS only, with clients that have a certificate.
    pub fn start_with(count: usize, certificates: Option<&Certificates>) -> Result<Self> {
        Self::begin("127.0.0.1", count, certificates)
    }

    fn begin(host: &str, count: usize, certificates: Option<&Certificates>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let scheme = if certificates.is_some() { "https" } else { "http" };
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
        let cluster: Vec<String> =
            ports.iter().enumerate().map(|(at, (_, peer))| format!("m{at}=http://{host}:{peer}")).collect();
        let mut members = Vec::new();
        for (at, (client, peer)) in ports.iter().enumerate() {
            let endpoint = format!("{scheme}://{host}:{client}");
            let data = dir.path().join(format!("m{at}")).display().to_string();
            let mut arguments: Vec<String> = [
                ("--name", format!("m{at}")),
                ("--data-dir", data),
                ("--listen-client-urls", endpoint.clone()),
                ("--advertise-client-urls", endpoint.clone()),
                ("--listen-peer-urls", format!("http://{host}:{peer}")),
                ("--initial-advertise-peer-urls", format!("http://{host}:{peer}")),
                ("--initial-cluster", cluster.join(",")),
                ("--heartbeat-interval", "100".into()),
                ("--election-timeout", "1000".into()),
                ("--log-level", "error".into()),
            ]
            .into_iter()
            .flat_map(|(name, value)| [name.to_owned(), value])
            .collect();
            arguments.push("--unsafe-no-fsync".into());
            if let Some(Certificates { ca, identity: (certificate, key) }) = certificates {
                for (name, path) in [("--trusted-ca-file", ca), ("--cert-file", certificate), ("--key-file", key)] {
                    arguments.extend([name.to_owned(), path.display().to_string()]);
                }
                arguments.push("--client-cert-auth".into());
            }
            members.push(Member { child: None, arguments, endpoint });
        }
        let login = certificates.map_or_else(Vec::new, |Certificates { ca, identity: (certificate, key) }| {
            let paths = [("--cacert", ca), ("--cert", certificate), ("--key", key)];
            paths.into_iter().flat_map(|(name, path)| [name.to_owned(), path.display().to_string()]).collect()
        });
        let mut cluster = Self { members, login, _dir: dir };
        for at in 0..count {
            cluster.run(at)?;
        }
        for at in 0..count {
            cluster.serves(at)?;
        }
        Ok(cluster)
    }

    fn run(&mut self, at: usize) -> Result<()> {
        let member = &mut self.members[at];
        let mut command = Command::new(program("etcd"));
        command.args(&member.arguments).stdout(Stdio::null()).stderr(Stdio::null());
        member.child = Some(command.spawn().context("etcd: run `make setup`")?);
        Ok(())
    }

    fn serves(&self, at: usize) -> Result<()> {
        let deadline = Instant::now() + crate::PATIENCE;
        while let Err(error) = self.ctl_of(&[at], &["get", "no-such-key"]) {
            // With users it answers that it wants one.
            if error.to_string().contains("user name is empty") {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "etcd does not serve: {error}");
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Where the members listen.
    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(|member| member.endpoint.clone()).collect()
    }

    /// Ends a member as a crash would.
    pub fn kill(&mut self, at: usize) -> Result<()> {
        if let Some(mut child) = self.members[at].child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts a member that was killed, with the data that it had.
    pub fn restart(&mut self, at: usize) -> Result<()> {
        self.run(at)?;
        self.serves(at)
    }

    /// Its process id, if it runs.
    pub fn pid(&self, at: usize) -> Option<u32> {
        self.members[at].child.as_ref().map(Child::id)
    }

    /// Index of the member that leads.
    pub fn leader(&self) -> Result<usize> {
        for at in 0..self.members.len() {
            let Ok(said) = self.ctl_of(&[at], &["endpoint", "status", "-w", "json"]) else { continue };
            let status: serde_json::Value = serde_json::from_str(&said)?;
            let status = &status[0]["Status"];
            if status["leader"] == status["header"]["member_id"] {
                return Ok(at);
            }
        }
        anyhow::bail!("no member leads")
    }

    /// `etcdctl` with all members.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        self.ctl_of(&(0..self.members.len()).collect::<Vec<_>>(), arguments)
    }

    fn ctl_of(&self, members: &[usize], arguments: &[&str]) -> Result<String> {
        let endpoints: Vec<&str> = members.iter().map(|at| self.members[*at].endpoint.as_str()).collect();
        let mut command = Command::new(program("etcdctl"));
        command.env("ETCDCTL_API", "3").args(["--dial-timeout", "2s", "--command-timeout", "5s", "--endpoints"]);
        let output = command.arg(endpoints.join(",")).args(&self.login).args(arguments).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for at in 0..self.members.len() {
            // It may have ended by itself.
            let _ = self.kill(at);
        }
    }
}

/// A certificate authority and one certificate of 127.0.0.1 for both sides, in this directory.
pub fn certificates(dir: &Path) -> Result<Certificates> {
    let path = |name: &str| dir.join(name);
    let openssl = |arguments: &[&str]| -> Result<()> {
        let output = Command::new("openssl").args(arguments).current_dir(dir).output().context("openssl")?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    std::fs::write(path("ext"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n")?;
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let ca = ["req", "-x509", "-days", "2", "-subj", "/CN=test authority", "-keyout", "ca.key", "-out", "ca.pem"];
    openssl(&[&ca[..], &curve[..]].concat())?;
    let request = ["req", "-subj", "/CN=dts", "-keyout", "dts.key", "-out", "dts.csr"];
    openssl(&[&request[..], &curve[..]].concat())?;
    openssl(&[
        "x509",
        "-req",
        "-days",
        "2",
        "-in",
        "dts.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-extfile",
        "ext",
        "-out",
        "dts.pem",
    ])?;
    Ok(Certificates { ca: path("ca.pem"), identity: (path("dts.pem"), path("dts.key")) })
}
