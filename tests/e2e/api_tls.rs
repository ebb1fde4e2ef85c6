//! The API over TLS: who gets in, and as whom. Asked by our own client and by one of somebody else.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use dts_tests::dts::binary;
use dts_tests::oracle::assert_equal;
use dts_tests::port::free_port;
use dts_tests::server::{Server, root};
use dts_tests::tls::{Authority, Identity};
use serde_json::Value;

use crate::{state, until};

const HERE: &[&str] = &["127.0.0.1"];

/// A process of ours, ended with its owner.
struct Role(Child);

impl Drop for Role {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(command: &mut Command) -> Result<Role> {
    Ok(Role(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?))
}

/// A coordinator that asks for certificates of `authority` and shows one of it; `boss` administers.
struct Fleet {
    authority: Authority,
    shown: Identity,
    boss: Identity,
    address: String,
    dir: tempfile::TempDir,
    _coordinator: Role,
}

impl Fleet {
    fn start() -> Result<Self> {
        let authority = Authority::new("fleet")?;
        let (shown, boss) = (authority.server(HERE)?, authority.client("boss")?);
        let (dir, _) = state()?;
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new(binary()?);
        command.args(["coordinator", "--listen", &address, "--operator", "boss", "--state-dir"]);
        command.arg(dir.path().join("c")).arg("--client-ca").arg(&authority.file);
        command.arg("--tls-cert").arg(&shown.certificate).arg("--tls-key").arg(&shown.key);
        let coordinator = spawn(&mut command)?;
        let fleet = Self { authority, shown, boss, address, dir, _coordinator: coordinator };
        until("the coordinator", || Ok(fleet.grpcurl(&fleet.authority.file, Some(&fleet.boss), &["list"])?.0))?;
        Ok(fleet)
    }

    /// Whether it went well, and what was said.
    fn grpcurl(&self, ca: &Path, client: Option<&Identity>, call: &[&str]) -> Result<(bool, String)> {
        let (data, method) = call.split_at(call.len() - 1);
        let mut command = Command::new(root().join(".fleet/grpcurl/bin/grpcurl"));
        command.args(["-max-time", "10", "-connect-timeout", "3"]).arg("-cacert").arg(ca);
        if let Some(client) = client {
            command.arg("-cert").arg(&client.certificate).arg("-key").arg(&client.key);
        }
        Ok(told(command.args(data).arg(&self.address).args(method).output()?))
    }

    fn dts(&self, words: &[&str], ca: &Path, client: &Identity) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.args(words).arg("--coordinator").arg(format!("https://{}", self.address)).arg("--tls-ca").arg(ca);
        command.arg("--tls-cert").arg(&client.certificate).arg("--tls-key").arg(&client.key);
        Ok(command)
    }

    fn agent(&self, id: &str, identity: &Identity) -> Result<Role> {
        let mut command = self.dts(&["agent", "--id", id], &self.authority.file, identity)?;
        spawn(command.arg("--state-dir").arg(self.dir.path().join(id)))
    }
}

fn told(output: Output) -> (bool, String) {
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

/// What a process says that ends by itself.
fn last_words(mut role: Role) -> Result<String> {
    let deadline = Instant::now() + dts_tests::PATIENCE;
    while role.0.try_wait()?.is_none() {
        if Instant::now() > deadline {
            bail!("it goes on");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut said = String::new();
    if let Some(mut pipe) = role.0.stderr.take() {
        std::io::Read::read_to_string(&mut pipe, &mut said)?;
    }
    Ok(said)
}

#[test]
fn a_task_is_administered_and_run_with_certificates() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    redis::cmd("SET").arg("a").arg(1).exec(&mut source.connect()?)?;
    let fleet = Fleet::start()?;
    let (ca, boss) = (&fleet.authority.file, &fleet.boss);
    let _agent = fleet.agent("first", &fleet.authority.client("first")?)?;
    let words = ["task", "create", "--name", "m", "--start", "--json", "--source", &source.url()];
    let created = fleet.dts(&words, ca, boss)?.args(["--target", &target.url()]).output()?;
    ensure!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let created: Value = serde_json::from_slice(&created.stdout)?;
    let id = serde_json::json!({"id": created["id"]}).to_string();
    let call = |method: &str| fleet.grpcurl(ca, Some(boss), &["-d", &id, &format!("dts.v1.TaskService/{method}")]);
    until("a stream", || Ok(call("GetTask")?.1.contains("\"readyToComplete\": true")))?;
    ensure!(call("CompleteTask")?.0);
    until("completion", || Ok(call("GetTask")?.1.contains("TASK_STATE_COMPLETED")))?;
    assert_equal(&source, &target)
}

#[test]
fn an_agent_is_only_who_its_certificate_names_and_no_operator() -> Result<()> {
    let fleet = Fleet::start()?;
    let first = fleet.authority.client("first")?;
    let said = last_words(fleet.agent("second", &first)?)?;
    ensure!(said.contains("not for an agent \"second\""), "{said}");
    for service in ["dts.v1.TaskService/ListTasks", "dts.v1.FleetService/ListAgents"] {
        let (well, said) = fleet.grpcurl(&fleet.authority.file, Some(&first), &[service])?;
        ensure!(!well && said.contains("PermissionDenied"), "{said}");
        let (well, said) = fleet.grpcurl(&fleet.authority.file, Some(&fleet.boss), &[service])?;
        ensure!(well && !said.contains("second"), "{said}");
    }
    Ok(())
}

#[test]
fn nobody_gets_in_without_a_certificate_of_the_fleet_or_believes_another_coordinator() -> Result<()> {
    let (fleet, other) = (Fleet::start()?, Authority::new("other")?);
    let ca = &fleet.authority.file;
    let list = &["dts.v1.TaskService/ListTasks"];
    for client in [None, Some(other.client("boss")?), Some(fleet.authority.server(&["boss"])?)] {
        let (well, said) = fleet.grpcurl(ca, client.as_ref(), list)?;
        ensure!(!well, "{client:?} got in: {said}");
    }
    let program = root().join(".fleet/grpcurl/bin/grpcurl");
    let plain = Command::new(program).args(["-plaintext", "-max-time", "5", &fleet.address, "list"]).output()?;
    ensure!(!plain.status.success());
    // Whom the coordinator refuses may be cut off before the reason is read.
    let stranger = other.client("boss")?;
    for (ca, client, words) in [(&other.file, &fleet.boss, "UnknownIssuer"), (ca, &stranger, "transport error")] {
        let (well, said) = told(fleet.dts(&["task", "list"], ca, client)?.output()?);
        ensure!(!well && said.contains(words), "{said}");
    }
    Ok(())
}

#[test]
fn the_certificate_of_a_coordinator_is_replaced_while_it_runs() -> Result<()> {
    let (fleet, new) = (Fleet::start()?, Authority::new("new")?);
    let (next, boss) = (new.server(HERE)?, new.client("boss")?);
    std::fs::copy(&next.certificate, &fleet.shown.certificate)?;
    std::fs::copy(&next.key, &fleet.shown.key)?;
    std::fs::write(&fleet.authority.file, new.pem())?;
    let list = &["dts.v1.TaskService/ListTasks"];
    let (well, said) = fleet.grpcurl(&new.file, Some(&boss), list)?;
    ensure!(well, "{said}");
    let (well, said) = fleet.grpcurl(&new.file, Some(&fleet.boss), list)?;
    ensure!(!well, "the old authority is believed: {said}");
    Ok(())
}
