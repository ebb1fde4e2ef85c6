//! Tasks as files, there and back.

use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};
use dts_tests::dts::binary;
use dts_tests::server::{Server, root};
use serde_json::{Value, json};

use crate::life::Desk;
use crate::until;

fn dts(desk: &Desk, arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary()?);
    command.args(arguments).env("DTS_COORDINATOR", &desk.address).env_remove("VISUAL").env_remove("EDITOR");
    Ok(command.output()?)
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// What an operation that has to succeed prints.
fn done(desk: &Desk, arguments: &[&str]) -> Result<String> {
    let output = dts(desk, arguments)?;
    ensure!(output.status.success(), "{arguments:?}: {}", said(&output));
    Ok(String::from_utf8(output.stdout)?)
}

fn created(desk: &Desk, path: &Path) -> Result<Value> {
    let shown: Value =
        serde_json::from_str(&done(desk, &["task", "create", "--json", "-f", &path.display().to_string()])?)?;
    desk.ask("GetTask", json!({"id": shown["id"]}))
}

fn examples() -> Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(root().join("deploy/examples/tasks"))? {
        found.push(entry?.path());
    }
    found.sort();
    Ok(found)
}

#[test]
fn every_example_creates_a_task_whose_export_creates_an_equal_one() -> Result<()> {
    let desk = Desk::without_agents()?;
    let dir = tempfile::tempdir()?;
    let found = examples()?;
    ensure!(found.len() == 5, "{found:?}");
    for path in found {
        let task = created(&desk, &path)?;
        let exported = done(&desk, &["task", "export", task["id"].as_str().context("an id")?])?;
        let again = dir.path().join("again.yaml");
        std::fs::write(&again, &exported)?;
        ensure!(created(&desk, &again)?["spec"] == task["spec"], "{}: {exported}", path.display());
    }
    Ok(())
}

#[test]
fn the_page_of_the_schema_names_every_field_and_its_examples_are_taken() -> Result<()> {
    let page = std::fs::read_to_string(root().join("docs/task-file.md"))?;
    let desk = Desk::without_agents()?;
    let dir = tempfile::tempdir()?;
    let mut blocks = 0;
    for block in page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()) {
        let path = dir.path().join(format!("{blocks}.yaml"));
        std::fs::write(&path, block)?;
        created(&desk, &path)?;
        blocks += 1;
    }
    ensure!(blocks == 2, "{blocks}");
    // The program tells what it takes; the page tells of all of it.
    let path = dir.path().join("wrong.yaml");
    let wrong = "x: 1\nsource: {x: 1, access: {x: 1}, nodes: [{x: 1, tls: {x: 1}}], ring: {x: 1, servers: [{x: 1}]}}\ntarget: {x: 1}\nfilter: {x: 1}\nlimits: {x: 1}\n";
    std::fs::write(&path, wrong)?;
    let refused = said(&dts(&desk, &["task", "create", "-f", &path.display().to_string()])?);
    let lists: Vec<&str> =
        refused.lines().filter_map(|line| line.split_once("it may have ").map(|(_, names)| names)).collect();
    ensure!(lists.len() == 10, "{refused}");
    for name in lists.iter().flat_map(|names| names.split(", ")) {
        ensure!(page.contains(&format!("`{name}`")), "docs/task-file.md does not tell of {name}");
    }
    Ok(())
}

#[test]
fn a_file_with_mistakes_creates_nothing_and_says_where_they_are() -> Result<()> {
    let desk = Desk::without_agents()?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("task.yaml");
    std::fs::write(
        &path,
        "version: 1\nname: a\nmode: sync\ntarget: {address: a, port: 1}\nsource:\n  nodes: [{address: b, prot: 1}]\n",
    )?;
    let path = path.display().to_string();
    let refused = dts(&desk, &["task", "create", "-f", &path])?;
    ensure!(refused.status.code() == Some(1));
    for expected in
        ["6:11: a node has no port", "6:24: a node has no field \"prot\"; it may have instance, address, port"]
    {
        ensure!(said(&refused).contains(&format!("{path}:{expected}")), "{}", said(&refused));
    }
    ensure!(done(&desk, &["task", "list", "--json"])?.is_empty());
    let both = dts(&desk, &["task", "create", "-f", &path, "--name", "x", "--allow-downgrade"])?;
    ensure!(both.status.code() == Some(2) && said(&both).contains("cannot be used with"), "{}", said(&both));
    Ok(())
}

#[test]
fn a_running_task_is_edited_by_its_file_and_a_stored_password_stays() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0", "--requirepass", "hunter2"])?;
    let target = Server::start("redis-7.0", &[])?;
    let mut desk = Desk::start()?;
    let mut asked = crate::life::spec(&source, &target);
    asked["sources"][0]["credential"] = json!({"password": "hunter2"});
    desk.create(&asked)?;
    done(&desk, &["task", "start", "life", "--acknowledge"])?;
    until("to catch up", || Ok(desk.get()?["readyToComplete"] == true))?;
    let exported = done(&desk, &["task", "export", "life"])?;
    ensure!(exported.contains("password: stored") && !exported.contains("hunter2"), "{exported}");
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("life.yaml");
    let file = path.display().to_string();
    std::fs::write(&path, exported.clone() + "limits: {read_rate: 7MiB}\n")?;
    ensure!(
        said(&dts(&desk, &["task", "edit", "life", "-f", &file])?).contains("changes limits.read_bytes_per_second")
    );
    ensure!(desk.get()?["spec"]["limits"]["readBytesPerSecond"] == (7 << 20).to_string());
    // What a running task does not take is said by the coordinator.
    std::fs::write(&path, exported.clone() + "share_sources: true\n")?;
    let refused = dts(&desk, &["task", "edit", "life", "-f", &file])?;
    ensure!(
        said(&refused).contains("INVALID_REQUEST") && said(&refused).contains("share_sources"),
        "{}",
        said(&refused)
    );
    std::fs::write(&path, done(&desk, &["task", "export", "life"])?)?;
    ensure!(said(&dts(&desk, &["task", "edit", "life", "-f", &file])?).contains("nothing changes"));
    let create = dts(&desk, &["task", "create", "-f", &file])?;
    ensure!(said(&create).contains("name one by `env:"), "{}", said(&create));
    // An editor that writes one line, and one that breaks the file.
    let edit = |line: &str| -> Result<Output> {
        let editor = dir.path().join("editor");
        std::fs::write(&editor, format!("#!/bin/sh\necho '{line}' >> \"$1\"\n"))?;
        Command::new("chmod").arg("+x").arg(&editor).status()?;
        let mut command = Command::new(binary()?);
        command.args(["task", "edit", "life", "--editor"]).env("DTS_COORDINATOR", &desk.address);
        command.env("VISUAL", "").env("EDITOR", &editor).env("TMPDIR", dir.path());
        Ok(command.output()?)
    };
    ensure!(edit("on_flush: ignore")?.status.success());
    ensure!(desk.get()?["spec"]["onFlush"] == "FLUSH_POLICY_IGNORE");
    let broken = said(&edit("nonsense: 1")?);
    ensure!(broken.contains("has no field \"nonsense\"") && broken.contains("the file stays"), "{broken}");
    let left: Vec<_> = std::fs::read_dir(dir.path())?.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
    ensure!(left.iter().filter(|name| name.to_string_lossy().starts_with("dts-task-")).count() == 1, "{left:?}");
    Ok(())
}
