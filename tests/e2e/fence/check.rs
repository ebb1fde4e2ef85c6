//! What a check says of the user.

use anyhow::{Result, ensure};
use dts_tests::server::Server;
use serde_json::{Value, json};

use super::{fenced, ours, peopled, users};
use crate::life::{Desk, item, spec};
use crate::routed_target::Routed;

/// The check of a task that was tested.
fn checked(desk: &mut Desk, spec: &Value) -> Result<Value> {
    desk.create(spec)?;
    desk.call("TestConnectivity", json!({}))?;
    ensure!(desk.run()?["state"] == "CHECK_STATE_PASSED");
    desk.call("RunCheck", json!({}))?;
    desk.run()
}

#[test]
fn where_a_user_is_not_to_be_had_the_check_blocks_and_says_why() -> Result<()> {
    let source = Server::start("redis-5.0", &[])?;
    let mut desk = Desk::start()?;
    let blocks = |desk: &mut Desk, asked: &Value, why: &str| -> Result<()> {
        let run = checked(desk, asked)?;
        let found = item(&run, "dst.fence")?;
        let said = found["findings"][0]["message"].as_str().unwrap_or_default();
        ensure!(found["outcome"] == "CHECK_OUTCOME_FAILED" && found["severity"] == "SEVERITY_BLOCKS", "{why}: {found}");
        ensure!(said.contains("F4") && said.contains(why), "{why}: {found}");
        desk.becomes("CHECK_FAILED").map(drop)
    };
    let says = |desk: &mut Desk, asked: &Value, what: &str| -> Result<()> {
        let run = checked(desk, asked)?;
        let found = item(&run, "dst.fence")?;
        let said = found["findings"].to_string();
        ensure!(found["outcome"] == "CHECK_OUTCOME_PASSED" && said.contains(what), "{what}: {found}");
        Ok(())
    };
    let auto = |mut asked: Value| {
        asked["targetFence"] = json!("TARGET_FENCE_AUTO");
        asked
    };

    let old = Server::start("redis-5.0", &[])?;
    let mut asked = spec(&source, &old);
    asked["targetFence"] = json!("TARGET_FENCE_USER");
    blocks(&mut desk, &asked, "before 6.0")?;
    says(&mut desk, &auto(asked), "before 6.0")?;

    let routed = Routed::start()?;
    let mut asked = spec(&source, &source);
    asked["target"] = json!({"host": "127.0.0.1", "port": routed.port, "routes": true});
    asked["targetFence"] = json!("TARGET_FENCE_USER");
    blocks(&mut desk, &asked, "an endpoint that routes")?;

    for name in ["redis-6.2", "valkey-9.1"] {
        let target = peopled(name)?;
        let set = |user: &str, rules: &[&str]| -> Result<()> {
            Ok(redis::cmd("ACL").arg("SETUSER").arg(user).arg(rules).exec(&mut target.connect()?)?)
        };
        let asked = fenced(&source, &target);
        says(&mut desk, &asked, "F4: a user of its own")?;
        says(&mut desk, &auto(asked.clone()), "F4 could be had")?;
        set("task", &["-acl"])?;
        blocks(&mut desk, &asked, "it lacks +acl")?;
        says(&mut desk, &auto(asked.clone()), "it lacks +acl")?;
        set("task", &["+acl"])?;
        set("default", &["+lpush"])?;
        blocks(&mut desk, &asked, "whoever does not log in")?;
        set("default", &["-lpush", "+get", "+@read"])?;
        says(&mut desk, &asked, "F4: a user of its own")?;
        let before = users(&target)?;
        ensure!(ours(&target)?.is_empty() && users(&target)? == before, "{name}: a check changes users");
        // With a password on it nobody is `default` by failing to log in.
        redis::cmd("ACL")
            .arg("SETUSER")
            .arg("default")
            .arg(&["resetpass", ">x", "+@all"])
            .exec(&mut target.connect()?)?;
        says(&mut desk, &asked, "F4: a user of its own")?;
    }
    Ok(())
}
