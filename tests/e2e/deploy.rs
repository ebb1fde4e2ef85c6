//! What is shipped in `deploy/` is what the program takes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use dts_tests::dts::binary;
use dts_tests::server::{root, signal};

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
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ended_already = self.call("down");
    }
}

/// The commands of a section of the README, one a line.
fn section(title: &str) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root().join("README.md"))?;
    let (_, behind) = text.split_once(&format!("## {title}\n")).with_context(|| format!("no section {title:?}"))?;
    let section = behind.split("\n## ").next().unwrap_or_default();
    Ok(section.lines().filter_map(|line| line.strip_prefix("    ")).map(str::to_owned).collect())
}

#[test]
fn the_lines_of_the_readme_bring_up_a_fleet_that_goes_on_when_anything_in_it_is_killed() -> Result<()> {
    let port = 22_700 + u16::try_from(std::process::id() % 15)? * 40;
    let local = Local { dir: tempfile::tempdir()?, port };
    let run = |line: &str| -> Result<String> {
        let mut line = line.replace("target/debug/dts", &binary()?.display().to_string());
        for at in 0..4 {
            line = line.replace(&(7711 + at).to_string(), &(port + at).to_string());
        }
        let mut command = Command::new("bash");
        command.args(["-c", &line]).current_dir(root());
        command.env("DIR", local.dir.path()).env("DTS", binary()?).env("PORT", port.to_string());
        let output = command.output()?;
        ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    };
    let lines = section("A fleet of which anything may die")?;
    let [make, up, create, status, get, list] = &lines[..] else { anyhow::bail!("{lines:?}") };
    ensure!(make == "make setup build");
    run(up)?;
    run(create)?;
    let target = redis::Client::open(format!("redis://127.0.0.1:{}", port + 3))?;
    let source = redis::Client::open(format!("redis://127.0.0.1:{}", port + 2))?;
    let follows = || until("a stream", || Ok(run(get).is_ok_and(|said| said.contains("INCR_SYNC"))));
    follows()?;
    until("three agents", || Ok(run(list)?.lines().filter(|line| line.contains("agent-")).count() == 3))?;
    let said = run(status)?;
    let victims: Vec<(String, u32)> = said
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .filter(|words| !["source", "target"].contains(&words[0]))
        .map(|words| Ok((words[0].to_owned(), words[1].parse()?)))
        .collect::<Result<_>>()?;
    ensure!(victims.len() == 8, "{said}");
    for (name, pid) in victims {
        signal("-KILL", pid)?;
        redis::cmd("SET").arg(&name).arg(1).exec(&mut source.get_connection()?)?;
        until(&name, || Ok(redis::cmd("EXISTS").arg(&name).query(&mut target.get_connection()?)?))?;
        run(up)?;
        follows()?;
    }
    Ok(())
}
