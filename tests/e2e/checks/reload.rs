//! A target whose restart loses transactions.

use anyhow::{Result, ensure};
use dts_tests::server::Server;
use redis::Connection;
use serde_json::json;

use super::{again, checked, failed, passed};
use crate::life::{Desk, item, spec};
use crate::until;

/// Who does not log in may only read, and an append only file is loaded as such a one by some releases.
const OPTIONS: &[&str] = &[
    "--appendonly",
    "yes",
    "--appendfsync",
    "always",
    "--user",
    "task",
    "on",
    ">pw",
    "~*",
    "&*",
    "+@all",
    "--user",
    "default",
    "on",
    "nopass",
    "~*",
    "&*",
    "+@all",
    "-@write",
];

fn login(server: &Server) -> Result<Connection> {
    Ok(redis::Client::open(format!("redis://task:pw@127.0.0.1:{}", server.port))?.get_connection()?)
}

#[test]
fn a_target_that_forgets_its_transactions_in_a_restart_is_told_from_one_that_does_not_and_from_one_that_is_mended()
-> Result<()> {
    let source = Server::start("redis-6.2", &[])?;
    let mut desk = Desk::start()?;
    for name in
        ["redis-6.2", "redis-7.0", "redis-7.4", "redis-8.2", "redis-8.10", "valkey-8.1", "valkey-9.0", "valkey-9.1"]
    {
        let mut target = Server::start(name, OPTIONS)?;
        let mut asked = spec(&source, &target);
        asked["target"]["credential"] = json!({"username": "task", "password": "pw"});
        let run = checked(&mut desk, &asked)?;
        let warned = item(&run, "dst.reload")?["outcome"] == "CHECK_OUTCOME_FAILED";
        let write = |server: &Server| -> Result<()> {
            Ok(redis::pipe().atomic().set("a", 1).set("b", 2).query(&mut login(server)?)?)
        };
        let kept = |server: &Server| -> Result<bool> {
            Ok(redis::cmd("EXISTS").arg("a").query::<u8>(&mut login(server)?)? == 1)
        };
        write(&target)?;
        target.crash_and_restart()?;
        until("its file to be loaded", || Ok(target.info("loading")? == "0"))?;
        ensure!(kept(&target)? != warned, "{name}: {}", item(&run, "dst.reload")?);
        if name != "redis-7.0" {
            continue;
        }
        failed(&run, &["dst.reload"])?;
        redis::cmd("ACL").arg("SETUSER").arg("default").arg(&["off", "+@all"]).exec(&mut login(&target)?)?;
        passed(&again(&desk)?, &["dst.reload"])?;
        redis::cmd("ACL").arg("SETUSER").arg("default").arg(&["on", "-set"]).exec(&mut login(&target)?)?;
        failed(&again(&desk)?, &["dst.reload"])?;
        redis::cmd("CONFIG").arg("SET").arg("appendonly").arg("no").exec(&mut login(&target)?)?;
        passed(&again(&desk)?, &["dst.reload"])?;
    }
    Ok(())
}
