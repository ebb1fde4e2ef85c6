//! One source and one target.

use anyhow::{Context as _, Result, ensure};
use dts_tests::proxy::Proxy;
use dts_tests::server::Server;
use serde_json::{Value, json};

use super::{Writer, again, checked, compiled, config, failed, passed, severity, tested};
use crate::filters::module::SOURCE as MODULE;
use crate::life::{Desk, item, spec};

/// Everything but what two servers by themselves cannot have.
const ALL: usize = 39;

#[test]
fn a_good_pair_passes_every_item_and_each_thing_that_is_wrong_is_named_by_its_item() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let module = compiled(dir.path(), MODULE)?;
    let loads = ["--loadmodule", module.as_str(), "--enable-module-command", "yes", "--databases", "8"];
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0", "--loadmodule", &module])?;
    let target = Server::start("redis-7.0", &loads)?;
    // A replica has the source count its stream.
    let replica = Server::start("redis-7.0", &["--loadmodule", &module])?;
    replica.follow(&source)?;
    redis::cmd("SETRANGE").arg("a").arg(3_000_000).arg("x").exec(&mut source.connect()?)?;
    let mut desk = Desk::start()?;
    desk.agent("standby")?;
    let run = checked(&mut desk, &spec(&source, &target))?;
    let items = run["items"].as_array().context("items")?;
    let bad: Vec<&Value> = items.iter().filter(|found| found["outcome"] != "CHECK_OUTCOME_PASSED").collect();
    ensure!(bad.is_empty() && run["state"] == "CHECK_STATE_PASSED", "{bad:?}");
    // `agent.answers` is there only if somebody does not.
    ensure!(items.len() == ALL - 1, "{} items", items.len());

    // The source is written faster than its settings bear, and by somebody who uses what the target lacks.
    config(&source, "repl-backlog-size", "16kb")?;
    config(&source, "client-output-buffer-limit", "replica 50000 0 0")?;
    config(&source, "repl-timeout", "11")?;
    redis::cmd("SET").arg("__dts:left").arg(1).exec(&mut source.connect()?)?;
    let mut ninth = source.connect()?;
    redis::cmd("SELECT").arg(9).exec(&mut ninth)?;
    redis::cmd("SET").arg("far").arg(1).exec(&mut ninth)?;
    // The target loses what it needs, and somebody writes to it.
    redis::cmd("MODULE").arg("UNLOAD").arg("probe").exec(&mut target.connect()?)?;
    config(&target, "maxmemory", "2500kb")?;
    config(&target, "maxmemory-policy", "allkeys-lru")?;
    let (writes, foreign) = (Writer::start(&source, 2)?, Writer::start(&target, 2)?);
    let run = again(&desk)?;
    failed(&run, &["src.backlog", "src.output_buffer", "src.timeout", "src.reserved", "src.modules"])?;
    failed(&run, &["dst.empty", "dst.databases", "dst.eviction", "dst.memory", "dst.writers"])?;
    let who = item(&run, "dst.writers")?["findings"][0]["message"].to_string();
    ensure!(who.contains("127.0.0.1:") && who.contains("(set)"), "{who}");
    ensure!(run["state"] == "CHECK_STATE_FAILED" && desk.get()?["state"] == "TASK_STATE_CHECK_FAILED");
    foreign.stop()?;
    writes.stop()?;

    // Servers that do not take what they should.
    config(&target, "min-replicas-to-write", "1")?;
    std::fs::remove_dir_all(source.dir())?;
    redis::cmd("BGSAVE").exec(&mut source.connect()?)?;
    crate::until("a save to fail", || Ok(source.info("rdb_last_bgsave_status")? == "err"))?;
    drop(replica);
    // So that a sample cannot miss it.
    redis::cmd("FLUSHALL").exec(&mut source.connect()?)?;
    redis::cmd("SETRANGE").arg("big").arg(256 << 20).arg("x").exec(&mut source.connect()?)?;
    let run = again(&desk)?;
    failed(&run, &["dst.accepts", "src.running", "src.big_keys"])?;
    ensure!(severity(&run, "src.running")? == "WARNS" && severity(&run, "dst.accepts")? == "BLOCKS", "{run}");
    ensure!(severity(&run, "src.big_keys")? == "INFORMS", "{run}");
    Ok(())
}

#[test]
fn a_login_an_address_a_right_a_role_and_a_version_that_are_wrong_are_named() -> Result<()> {
    let source = Server::start("redis-7.0", &["--requirepass", "s"])?;
    let target = Server::start("redis-7.0", &["--requirepass", "t"])?;
    for (server, user, lacks) in [(&source, "reads", vec!["-psync", "-sync"]), (&target, "writes", vec!["-restore"])] {
        let mut connection = server.connect()?;
        redis::cmd("ACL")
            .arg("SETUSER")
            .arg(user)
            .arg(&["on", ">p", "~*", "&*", "+@all"])
            .arg(lacks)
            .exec(&mut connection)?;
    }
    let mut desk = Desk::start()?;
    let login = |user: &str, password: &str| json!({"username": user, "password": password});
    let mut asked = spec(&source, &target);
    asked["sources"][0]["credential"] = login("reads", "wrong");
    asked["target"]["port"] = json!(dts_tests::port::free_port());
    let run = tested(&mut desk, &asked)?;
    failed(&run, &["src.auth", "dst.reach"])?;
    passed(&run, &["src.reach"])?;
    ensure!(item(&run, "agent.standby")?["outcome"] == "CHECK_OUTCOME_FAILED", "nobody stands by: {run}");
    // What was not reached cannot be saved as tested, and is not checked.
    ensure!(desk.get()?["state"] == "TASK_STATE_CREATED");
    let refused = desk.call("RunCheck", json!({})).unwrap_err().to_string();
    ensure!(refused.contains("not allowed in TASK_STATE_CREATED"), "{refused}");
    let refused = desk.call("ScheduleTask", json!({"startAt": "2100-01-01T00:00Z"})).unwrap_err().to_string();
    ensure!(refused.contains("not allowed in TASK_STATE_CREATED"), "{refused}");
    asked["sources"][0]["port"] = json!(dts_tests::port::free_port());
    asked["target"] = json!({"host": "127.0.0.1", "port": target.port, "credential": login("writes", "wrong")});
    failed(&tested(&mut desk, &asked)?, &["src.reach", "dst.auth"])?;

    asked["sources"][0] = json!({"host": "127.0.0.1", "port": source.port, "credential": login("reads", "p")});
    asked["target"]["credential"] = login("writes", "p");
    failed(&checked(&mut desk, &asked)?, &["src.rights", "dst.rights"])?;
    asked["sources"][0] = json!({"host": "127.0.0.1", "port": target.port, "credential": login("default", "t")});
    failed(&checked(&mut desk, &asked)?, &["id.distinct"])?;

    // An older server that follows another one, and whose master is gone.
    let (older, mut master) = (Server::start("redis-6.2", &[])?, Server::start("redis-6.2", &[])?);
    older.follow(&master)?;
    master.kill()?;
    asked["sources"][0] = json!({"host": "127.0.0.1", "port": source.port, "credential": login("default", "s")});
    asked["target"] = json!({"host": "127.0.0.1", "port": older.port});
    failed(&checked(&mut desk, &asked)?, &["dst.role", "kind.version"])?;
    asked["sources"][0] = json!({"host": "127.0.0.1", "port": older.port});
    asked["target"] = json!({"host": "127.0.0.1", "port": target.port, "credential": login("default", "t")});
    crate::until("the link to be down", || Ok(older.info("master_link_status")? == "down"))?;
    let run = checked(&mut desk, &asked)?;
    failed(&run, &["src.running"])?;
    ensure!(severity(&run, "src.running")? == "BLOCKS", "{run}");
    Ok(())
}

#[test]
fn a_line_that_does_not_carry_what_is_written_is_named() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    let replica = Server::start("redis-7.0", &[])?;
    replica.follow(&source)?;
    let _writes = Writer::start(&source, 20)?;
    let line = Proxy::before(&target)?;
    let mut desk = Desk::start()?;
    let mut asked = spec(&source, &target);
    asked["target"]["port"] = json!(line.port);
    let run = checked(&mut desk, &asked)?;
    passed(&run, &["net.quality", "net.catch_up"])?;
    line.weather.upload.store(50_000, std::sync::atomic::Ordering::Relaxed);
    let run = again(&desk)?;
    failed(&run, &["net.quality", "net.catch_up"])?;
    ensure!(desk.call("PlanTask", json!({}))?["catchesUp"].is_null(), "the plan says that it will be in step");
    Ok(())
}
