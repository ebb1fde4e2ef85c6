//! What is shipped in `deploy/` is what the program takes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use dts_tests::dts::binary;
use dts_tests::server::{root, signal};
use serde_json::Value;

use crate::until;

fn fits(role: &str, options: &[&str]) -> Result<()> {
    let output = Command::new(binary()?).arg(role).args(options).arg("--check").output()?;
    ensure!(output.status.success(), "{role} {options:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn role_of(path: &Path) -> Result<&'static str> {
    let name = path.file_name().and_then(|name| name.to_str()).context("a name")?;
    let roles = ["coordinator", "agent"];
    roles.into_iter().find(|role| name.contains(role)).with_context(|| format!("{name} names no role"))
}

fn files(dir: &str, ending: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("deploy").join(dir))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == ending) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

#[test]
fn the_options_of_every_example_fit() -> Result<()> {
    let mut seen = 0;
    for example in ["examples/all-in-one", "examples/one-region", "examples/hybrid"] {
        for path in files(example, "env")? {
            let text = std::fs::read_to_string(&path)?;
            let options: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("DTS_OPTIONS=")).collect();
            let [options] = options[..] else { anyhow::bail!("{}: one line of options", path.display()) };
            fits(role_of(&path)?, &options.split(' ').collect::<Vec<_>>())?;
            seen += 1;
        }
    }
    ensure!(seen == 11, "{seen} files");
    let refused = fits("coordinator", &["--etcd", "http://10.0.0.1:2379"]);
    ensure!(refused.is_err(), "a key to seal with is missing");
    Ok(())
}

#[test]
fn the_units_start_the_program_with_the_options_of_their_file() -> Result<()> {
    for path in files("systemd", "service")? {
        let (text, role) = (std::fs::read_to_string(&path)?, role_of(&path)?);
        ensure!(text.contains(&format!("ExecStart=/usr/local/bin/dts {role} $DTS_OPTIONS\n")), "{}", path.display());
        ensure!(text.contains(&format!("EnvironmentFile=/etc/dts/{role}.env\n")), "{}", path.display());
    }
    Ok(())
}

#[test]
fn the_arguments_of_the_manifests_fit() -> Result<()> {
    for path in files("kubernetes", "yaml")? {
        let text = std::fs::read_to_string(&path)?;
        let mut arguments = Vec::new();
        for document in yaml_rust2::YamlLoader::load_from_str(&text)? {
            ensure!(!document["apiVersion"].is_badvalue() && !document["kind"].is_badvalue(), "{}", path.display());
            let containers = &document["spec"]["template"]["spec"]["containers"];
            for container in containers.as_vec().into_iter().flatten() {
                let words = container["args"].as_vec().context("no args")?;
                arguments.extend(words.iter().filter_map(|word| word.as_str()).map(str::to_owned));
            }
        }
        let (role, options) = arguments.split_first().context("no container")?;
        // What the kubelet puts in.
        let options: Vec<String> = options
            .iter()
            .map(|word| word.replace("$(POD_IP)", "10.1.2.3").replace("$(POD_NAME)", "dts-agent-0"))
            .collect();
        fits(role, &options.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// The local fleet, ended with its owner.
struct Local {
    dir: tempfile::TempDir,
    port: u16,
}

impl Local {
    fn call(&self, what: &str) -> Result<String> {
        let mut command = Command::new("bash");
        command.arg("deploy/examples/local-fleet.sh").arg(what).current_dir(root());
        command.env("DIR", self.dir.path()).env("DTS", binary()?).env("PORT", self.port.to_string());
        let output = command.output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn dts(&self, arguments: &[&str]) -> Result<Value> {
        let coordinators = format!("127.0.0.1:{},127.0.0.1:{}", self.port, self.port + 1);
        let output =
            Command::new(binary()?).args(arguments).args(["--json", "--coordinator", &coordinators]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    fn pid(&self, name: &str) -> Result<u32> {
        Ok(std::fs::read_to_string(self.dir.path().join(format!("{name}.pid")))?.trim().parse()?)
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ended_already = self.call("down");
    }
}

#[test]
fn a_fleet_on_one_machine_goes_on_when_a_coordinator_an_agent_and_a_member_of_etcd_are_killed() -> Result<()> {
    // Below the ports that connections get, and above those of the other tests.
    let port = 22_100 + u16::try_from(std::process::id() % 15)? * 40;
    let local = Local { dir: tempfile::tempdir()?, port };
    local.call("up")?;
    let url = |at: u16| format!("redis://127.0.0.1:{}", port + at);
    let (source, target) = (url(2), url(3));
    let connect = |url: &str| -> Result<redis::Connection> { Ok(redis::Client::open(url)?.get_connection()?) };
    let (mut from, mut to) = (connect(&source)?, connect(&target)?);
    redis::cmd("SET").arg("before").arg(1).exec(&mut from)?;
    let task = local.dts(&["task", "create", "--name", "move", "--source", &source, "--target", &target, "--start"])?;
    let id = task["id"].as_str().context("an id")?.to_owned();
    let follows = || -> Result<String> {
        let mut holder = String::new();
        until("a stream", || {
            let Ok(task) = local.dts(&["task", "get", &id]) else { return Ok(false) };
            holder = task["shards"][0]["agent"].as_str().unwrap_or_default().to_owned();
            Ok(task["ready_to_complete"] == true && !holder.is_empty())
        })?;
        Ok(holder)
    };
    for round in 0..3 {
        let holder = follows()?;
        let victim = [holder.as_str(), "coordinator-1", "etcd-2"][round];
        signal("-KILL", local.pid(victim)?)?;
        let key = format!("after:{victim}");
        redis::cmd("SET").arg(&key).arg(round).exec(&mut from)?;
        until(&key, || Ok(redis::cmd("EXISTS").arg(&key).query(&mut to)?))?;
        follows()?;
        local.call("up")?;
    }
    let said = local.call("status")?;
    ensure!(said.lines().count() == 10 && said.lines().all(|line| line.ends_with("runs")), "{said}");
    Ok(())
}
