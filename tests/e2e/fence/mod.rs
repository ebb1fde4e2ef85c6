//! A user of the target for every epoch, where that is asked for.

mod check;
mod cluster;
mod password;
mod takeover;

use anyhow::{Context as _, Result};
use dts_tests::server::Server;
use serde_json::{Value, json};

use crate::life::{Desk, spec};
use crate::until;

const SOURCE: &[&str] = &["--repl-diskless-sync-delay", "0", "--repl-backlog-size", "64mb"];

/// Every user with its rules, by the server's own word.
fn users(server: &Server) -> Result<Vec<String>> {
    Ok(redis::cmd("ACL").arg("LIST").query(&mut server.connect()?)?)
}

/// Names of users of ours.
fn ours(server: &Server) -> Result<Vec<String>> {
    let names: Vec<String> = redis::cmd("ACL").arg("USERS").query(&mut server.connect()?)?;
    Ok(names.into_iter().filter(|name| name.starts_with("dts:")).collect())
}

/// Connections of a user.
fn connections(server: &Server, user: &str) -> Result<usize> {
    let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut server.connect()?)?;
    Ok(list.lines().filter(|line| line.split(' ').any(|word| word == format!("user={user}"))).count())
}

/// A user for the task, and nobody else who may write.
fn people(server: &Server) -> Result<()> {
    let mut admin = server.connect()?;
    let mut rules = vec!["on", ">pw", "~*", "+@all"];
    if !server.info("redis_version")?.starts_with("6.0") {
        rules.push("&*");
    }
    redis::cmd("ACL").arg("SETUSER").arg("task").arg(rules).exec(&mut admin)?;
    Ok(redis::cmd("ACL").arg("SETUSER").arg("default").arg("-@write").exec(&mut admin)?)
}

fn peopled(name: &str) -> Result<Server> {
    let target = Server::start(name, &["--repl-diskless-sync-delay", "0"])?;
    people(&target)?;
    Ok(target)
}

fn fenced(source: &Server, target: &Server) -> Value {
    let mut asked = spec(source, target);
    asked["targetFence"] = json!("TARGET_FENCE_USER");
    asked["target"]["credential"] = json!({"username": "task", "password": "pw"});
    asked
}

fn follows(desk: &Desk, agent: &str) -> Result<()> {
    let mut task = Value::Null;
    let followed = until(agent, || {
        task = desk.get()?;
        Ok(task["shards"][0]["agentId"] == agent && task["readyToComplete"] == true)
    });
    followed.with_context(|| task.to_string())
}

/// The user that this task's shard writes as now.
fn user(desk: &Desk) -> Result<String> {
    let epoch = desk.get()?["shards"][0]["epoch"].as_str().context("an epoch")?.to_owned();
    Ok(format!("dts:{}:0:{epoch}", desk.task))
}

/// Asks again while the task is interrupted.
fn completed(desk: &Desk) -> Result<()> {
    until("completion", || {
        let _asked_or_refused = desk.call("CompleteTask", json!({}));
        Ok(desk.get()?["state"] == "TASK_STATE_COMPLETED")
    })
}
