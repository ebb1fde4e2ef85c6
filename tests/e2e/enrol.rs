//! Coordinators that ask for certificates, over etcd: who may what, through a follower too; agents that enrol with a token; the trail.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use anyhow::{Context as _, Result, ensure};
use dts_tests::dts::binary;
use dts_tests::etcd::Etcd;
use dts_tests::load::Load;
use dts_tests::oracle::assert_equal;
use dts_tests::port::free_port;
use dts_tests::server::root;
use dts_tests::tls::{Authority, Identity};
use serde_json::Value;

use crate::control::servers;
use crate::fleet::Role;
use crate::until;

/// Two coordinators over one etcd, and the people who use them.
struct Fleet {
    authority: Authority,
    agents: Authority,
    etcd: Etcd,
    coordinator: Identity,
    roles: PathBuf,
    addresses: Vec<String>,
    coordinators: Vec<Option<Role>>,
    dir: tempfile::TempDir,
}

fn told(output: &Output) -> (bool, String) {
    let said = [output.stdout.clone(), output.stderr.clone()].concat();
    (output.status.success(), String::from_utf8_lossy(&said).into_owned())
}

impl Fleet {
    fn start(certificates_live: &str) -> Result<Self> {
        let (authority, agents) = (Authority::new("fleet")?, Authority::new("agents")?);
        let coordinator = authority.node(&["127.0.0.1", "coordinator"])?;
        let (dir, etcd) = (tempfile::tempdir()?, Etcd::start(1)?);
        std::fs::File::create(dir.path().join("seal"))?.write_all(&[7; 32])?;
        let roles = dir.path().join("roles");
        std::fs::write(&roles, "viewer eye\noperator hand\nadmin boss\n")?;
        let addresses = (0..2).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let coordinators = vec![None, None];
        let mut fleet = Self { authority, agents, etcd, coordinator, roles, addresses, coordinators, dir };
        for at in 0..2 {
            fleet.coordinators[at] = Some(fleet.run(at, certificates_live)?);
        }
        let boss = fleet.authority.client("boss")?;
        for at in 0..2 {
            until("a leader", || Ok(fleet.grpcurl(at, &boss, &["dts.v1.TaskService/ListTasks"])?.0))?;
        }
        Ok(fleet)
    }

    fn run(&self, at: usize, certificates_live: &str) -> Result<Role> {
        let mut command = Command::new(binary()?);
        command.args(["coordinator", "--listen", &self.addresses[at], "--etcd", &self.etcd.endpoints().join(",")]);
        command.arg("--seal-key-file").arg(self.dir.path().join("seal"));
        command.args(["--leader-ttl", "2s", "--agent-ttl", "6s", "--peer", "coordinator"]);
        command.args(["--agent-cert-ttl", certificates_live]);
        for (option, path) in [
            ("--tls-cert", &self.coordinator.certificate),
            ("--tls-key", &self.coordinator.key),
            ("--client-ca", &self.authority.file),
            ("--roles-file", &self.roles),
            ("--agent-ca-cert", &self.agents.file),
            ("--agent-ca-key", &self.agents.key()?),
        ] {
            command.arg(option).arg(path);
        }
        Role::spawn(&mut command)
    }

    fn leader(&self) -> Result<usize> {
        let found = self.etcd.ctl(&["get", "/dts/leader", "--print-value-only"])?;
        let leads = |address: &String| found.trim().ends_with(&format!("https://{address}"));
        self.addresses.iter().position(leads).context("nobody leads")
    }

    /// Whether it went well, and what was said.
    fn grpcurl(&self, at: usize, client: &Identity, call: &[&str]) -> Result<(bool, String)> {
        let (data, method) = call.split_at(call.len() - 1);
        let mut command = Command::new(root().join(".fleet/grpcurl/bin/grpcurl"));
        command.args(["-max-time", "10"]).arg("-cacert").arg(&self.authority.file);
        command.arg("-cert").arg(&client.certificate).arg("-key").arg(&client.key);
        Ok(told(&command.args(data).arg(&self.addresses[at]).args(method).output()?))
    }

    fn dts(&self, at: &[usize], client: Option<&Identity>, words: &[&str]) -> Result<Command> {
        let addresses: Vec<String> = at.iter().map(|at| format!("https://{}", self.addresses[*at])).collect();
        let mut command = Command::new(binary()?);
        command.args(words).args(["--coordinator", &addresses.join(",")]).arg("--tls-ca").arg(&self.authority.file);
        if let Some(client) = client {
            command.arg("--tls-cert").arg(&client.certificate).arg("--tls-key").arg(&client.key);
        }
        Ok(command)
    }

    fn says(&self, at: usize, client: &Identity, words: &[&str]) -> Result<(bool, String)> {
        Ok(told(&self.dts(&[at], Some(client), words)?.output()?))
    }

    fn token(&self, boss: &Identity, agent: &str) -> Result<PathBuf> {
        let made = self.dts(&[0, 1], Some(boss), &["fleet", "token", agent])?.output()?;
        ensure!(made.status.success(), "{}", told(&made).1);
        let path = self.dir.path().join(format!("{agent}.token"));
        std::fs::write(&path, made.stdout)?;
        Ok(path)
    }

    fn agent(&self, name: &str, token: Option<&Path>) -> Result<Command> {
        let mut command = self.dts(&[0, 1], None, &["agent", "--name", name])?;
        command.arg("--state-dir").arg(self.dir.path().join(name));
        if let Some(token) = token {
            command.arg("--token-file").arg(token);
        }
        command.stdin(Stdio::null());
        Ok(command)
    }

    fn connected(&self, boss: &Identity, name: &str) -> Result<()> {
        until("the agent to register", || {
            let (_, said) = told(&self.dts(&[0, 1], Some(boss), &["fleet", "list", "--json"])?.output()?);
            let agents = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
            Ok(agents.into_iter().any(|agent| agent["id"] == name && agent["connected"] == true))
        })
    }
}

#[test]
fn roles_hold_at_the_leader_and_through_a_follower_and_change_with_their_file() -> Result<()> {
    let fleet = Fleet::start("1d")?;
    let leader = fleet.leader()?;
    let people = ["eye", "hand", "boss", "nobody"].map(|name| fleet.authority.client(name));
    let [eye, hand, boss, nobody] = people;
    let (eye, hand, boss, nobody) = (eye?, hand?, boss?, nobody?);
    let create = "{\"spec\": {\"name\": \"n\", \"mode\": \"MODE_SYNC\", \"sources\": [{\"host\": \"h\", \"port\": 1}], \"target\": {\"host\": \"t\", \"port\": 1}}}";
    for at in [leader, 1 - leader] {
        for (who, list, change, tokens) in [
            (&nobody, false, false, false),
            (&eye, true, false, false),
            (&hand, true, true, false),
            (&boss, true, true, true),
        ] {
            for (may, call) in [
                (list, &["dts.v1.TaskService/ListTasks"][..]),
                (list, &["dts.v1.FleetService/ListAgents"]),
                (change, &["-d", create, "dts.v1.TaskService/CreateTask"]),
                (tokens, &["dts.v1.FleetService/ListTokens"]),
                (tokens, &["dts.v1.FleetService/ListAudit"]),
            ] {
                let (well, said) = fleet.grpcurl(at, who, call)?;
                ensure!(well == may, "{call:?} by {who:?}: {said}");
                ensure!(well || said.contains("PermissionDenied"), "{said}");
            }
        }
    }
    // A header of one's own making is worth nothing, whoever it names.
    let pem = std::fs::read_to_string(&boss.certificate)?;
    let shown: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    let shown = format!("dts-caller-bin: {shown}");
    for at in [leader, 1 - leader] {
        let forged = ["-H", "dts-caller-address: 127.0.0.1:1", "-H", &shown, "dts.v1.FleetService/ListTokens"];
        let (well, said) = fleet.grpcurl(at, &eye, &forged)?;
        ensure!(!well && said.contains("eye is a viewer"), "{said}");
    }
    // Whoever has a role is no agent, though the certificate would be for that name.
    let mut person = fleet.dts(&[leader], Some(&hand), &["agent", "--name", "hand"])?;
    let (well, said) = told(&person.arg("--state-dir").arg(fleet.dir.path().join("hand")).output()?);
    ensure!(!well && said.contains("hand is a person"), "{said}");
    std::fs::write(&fleet.roles, "viewer hand\nadmin boss\n")?;
    for at in [leader, 1 - leader] {
        let (well, said) = fleet.grpcurl(at, &hand, &["-d", create, "dts.v1.TaskService/CreateTask"])?;
        ensure!(!well && said.contains("hand is a viewer"), "{said}");
        let (well, said) = fleet.grpcurl(at, &eye, &["dts.v1.TaskService/ListTasks"])?;
        ensure!(!well, "{said}");
    }
    // Who did it, not which coordinator handed it on; and who was refused.
    let (well, said) = fleet.says(1 - leader, &boss, &["fleet", "audit", "--json"])?;
    ensure!(well, "{said}");
    let trail: Vec<Value> = said.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let noted = |who: &str, what: &str, outcome: &str| {
        let fits = |entry: &&Value| entry["who"] == who && entry["what"] == what && entry["outcome"] == outcome;
        trail.iter().filter(fits).count()
    };
    ensure!(noted("hand", "TaskService/CreateTask", "OK") == 2, "{said}");
    ensure!(noted("hand", "TaskService/CreateTask", "PERMISSION_DENIED") == 2, "{said}");
    ensure!(noted("eye", "FleetService/ListTokens", "PERMISSION_DENIED") >= 3, "{said}");
    ensure!(!said.contains("coordinator\""), "{said}");
    Ok(())
}

#[test]
fn an_agent_enrols_with_a_token_once_and_moves_data_through_leaders_that_die() -> Result<()> {
    let (source, target) = servers()?;
    let load = Load::start(&source)?;
    let mut fleet = Fleet::start("1d")?;
    let boss = fleet.authority.client("boss")?;
    let token = fleet.token(&boss, "a1")?;
    // For another name it is worth nothing, and is not spent.
    let (well, said) = told(&fleet.agent("a2", Some(&token))?.output()?);
    ensure!(!well && said.contains("TOKEN_REFUSED"), "{said}");
    let _agent = Role::spawn(&mut fleet.agent("a1", Some(&token))?)?;
    fleet.connected(&boss, "a1")?;
    // Once.
    std::fs::create_dir(fleet.dir.path().join("stolen"))?;
    let mut thief = fleet.dts(&[0, 1], None, &["agent", "--name", "a1"])?;
    let (well, said) =
        told(&thief.arg("--state-dir").arg(fleet.dir.path().join("stolen")).arg("--token-file").arg(&token).output()?);
    ensure!(!well && said.contains("TOKEN_REFUSED"), "{said}");
    let secret = std::fs::read_to_string(&token)?;
    let secret = secret.trim().rsplit('.').next().context("a secret")?.to_owned();
    let hex: String = secret.bytes().map(|byte| format!("\\x{byte:02x}")).collect();
    let stored = fleet.etcd.ctl(&["get", "/dts", "--prefix", "--hex"])?;
    ensure!(stored.contains("\\x61\\x31") && !stored.contains(&hex), "the token is in the store");
    // An agent's certificate is for being that agent, and nothing else.
    let own = fleet.dir.path().join("a1/identity.pem");
    let own = Identity { certificate: own.clone(), key: own };
    for call in ["dts.v1.TaskService/ListTasks", "dts.v1.FleetService/ListTokens"] {
        let (well, said) = fleet.grpcurl(0, &own, &[call])?;
        ensure!(!well && said.contains("a1 is an agent"), "{said}");
    }
    let mut other = fleet.dts(&[0, 1], Some(&own), &["agent", "--name", "a3"])?;
    let (well, said) = told(&other.arg("--state-dir").arg(fleet.dir.path().join("a3")).output()?);
    ensure!(!well && said.contains("not for an agent \"a3\""), "{said}");

    let (from, to) = (source.url(), target.url());
    let words = ["task", "create", "--name", "n", "--start", "--source", &from, "--target", &to];
    let created = fleet.dts(&[1 - fleet.leader()?], Some(&boss), &words)?.output()?;
    ensure!(created.status.success(), "{}", told(&created).1);
    let ready = |fleet: &Fleet| -> Result<bool> {
        let said = told(&fleet.dts(&[0, 1], Some(&boss), &["task", "get", "--json"])?.output()?).1;
        Ok(said.contains("\"ready_to_complete\":true"))
    };
    until("a stream", || ready(&fleet))?;
    let leader = fleet.leader()?;
    fleet.coordinators[leader] = None;
    until("another leader", || Ok(fleet.leader().is_ok_and(|now| now != leader)))?;
    fleet.connected(&boss, "a1")?;
    until("the stream under the next leader", || ready(&fleet))?;
    ensure!(source.info("sync_full")? == "1", "it copied again");
    load.stop()?;
    until("completion", || {
        let _asked_or_refused = fleet.dts(&[0, 1], Some(&boss), &["task", "complete"])?.output()?;
        Ok(told(&fleet.dts(&[0, 1], Some(&boss), &["task", "get"])?.output()?).1.contains("COMPLETED"))
    })?;
    assert_equal(&source, &target)
}

#[test]
fn an_agent_renews_its_certificate_while_it_runs_and_needs_no_token_to_come_back() -> Result<()> {
    let fleet = Fleet::start("18s")?;
    let boss = fleet.authority.client("boss")?;
    let token = fleet.token(&boss, "a1")?;
    let agent = Role::spawn(&mut fleet.agent("a1", Some(&token))?)?;
    fleet.connected(&boss, "a1")?;
    let file = fleet.dir.path().join("a1/identity.pem");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&file)?.permissions());
    ensure!(mode & 0o077 == 0, "others may read the agent's key: {mode:o}");
    let first = std::fs::read_to_string(&file)?;
    until("a new certificate", || Ok(std::fs::read_to_string(&file)? != first))?;
    let renewed = |said: &str| said.matches("EnrolmentService/Renew").count();
    until("another one", || Ok(renewed(&fleet.says(0, &boss, &["fleet", "audit"])?.1) >= 2))?;
    // The session of the first certificate ends with it; the agent comes back under the new one, as the same process.
    fleet.connected(&boss, "a1")?;
    drop(agent);
    let _again = Role::spawn(&mut fleet.agent("a1", None)?)?;
    fleet.connected(&boss, "a1")
}

#[test]
fn an_agent_that_is_barred_is_out_at_once_and_comes_back_with_a_new_token_only() -> Result<()> {
    let (source, target) = servers()?;
    let fleet = Fleet::start("1d")?;
    let boss = fleet.authority.client("boss")?;
    let _barred = Role::spawn(&mut fleet.agent("a1", Some(&fleet.token(&boss, "a1")?))?)?;
    fleet.connected(&boss, "a1")?;
    let (from, to) = (source.url(), target.url());
    let words = ["task", "create", "--name", "n", "--start", "--source", &from, "--target", &to];
    let created = fleet.dts(&[0, 1], Some(&boss), &words)?.output()?;
    ensure!(created.status.success(), "{}", told(&created).1);
    let follows = |agent: &str| {
        until(agent, || {
            let said = told(&fleet.dts(&[0, 1], Some(&boss), &["task", "get", "--json"])?.output()?).1;
            let task: Value = serde_json::from_str(said.trim()).unwrap_or_default();
            Ok(task["ready_to_complete"] == true && task["shards"][0]["agent"] == agent)
        })
    };
    follows("a1")?;
    let _other = Role::spawn(&mut fleet.agent("a2", Some(&fleet.token(&boss, "a2")?))?)?;
    fleet.connected(&boss, "a2")?;
    let hand = fleet.authority.client("hand")?;
    let (well, said) = fleet.says(0, &hand, &["fleet", "bar", "a1"])?;
    ensure!(!well && said.contains("PERMISSION_DENIED"), "{said}");
    let (well, said) = fleet.says(1, &boss, &["fleet", "bar", "a1"])?;
    ensure!(well, "{said}");
    follows("a2")?;
    ensure!(source.info("sync_full")? == "1", "it copied again");
    // A copy of what it had gets nobody in, and does not renew.
    std::fs::create_dir(fleet.dir.path().join("copy"))?;
    std::fs::copy(fleet.dir.path().join("a1/identity.pem"), fleet.dir.path().join("copy/identity.pem"))?;
    let mut copy = fleet.dts(&[0, 1], None, &["agent", "--name", "a1"])?;
    let (well, said) = told(&copy.arg("--state-dir").arg(fleet.dir.path().join("copy")).output()?);
    ensure!(!well && said.contains("agent a1 was barred"), "{said}");
    let token = fleet.token(&boss, "a1")?;
    let mut again = fleet.dts(&[0, 1], None, &["agent", "--name", "a1"])?;
    again.arg("--state-dir").arg(fleet.dir.path().join("new")).arg("--token-file").arg(&token);
    let _again = Role::spawn(&mut again)?;
    fleet.connected(&boss, "a1")
}
