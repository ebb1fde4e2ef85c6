//! The target is kept to the task: by taking rights from others, or by noticing who writes all the same.

use anyhow::{Context as _, Result, ensure};
use dts_tests::load::Load;
use dts_tests::oracle::assert_equal;
use dts_tests::server::Server;
use redis::Connection;
use serde_json::{Value, json};

use crate::life::{Desk, item, spec};
use crate::until;

fn server(name: &str) -> Result<Server> {
    Server::start(name, &["--repl-diskless-sync-delay", "0"])
}

/// Every user with its rules, by the server's own word.
fn users(server: &Server) -> Result<Vec<String>> {
    Ok(redis::cmd("ACL").arg("LIST").query(&mut server.connect()?)?)
}

fn login(server: &Server, user: &str) -> Result<Connection> {
    Ok(redis::Client::open(format!("redis://{user}:pw@127.0.0.1:{}", server.port))?.get_connection()?)
}

/// A target with applications of several rights, and a user for the task.
fn peopled(name: &str) -> Result<Server> {
    let target = server(name)?;
    let mut admin = target.connect()?;
    let mut people = vec![
        ("task", vec!["+@all"]),
        ("app", vec!["+@all", "-flushall"]),
        ("narrow", vec!["-@all", "+get", "+set", "+ping"]),
        ("off", vec!["off", "+@write"]),
    ];
    if name == "redis-7.0" {
        people.push(("selective", vec!["-@all", "+get", "(~s:* +@write)", "(%R~r:* +@read)"]));
    }
    for (user, rules) in people {
        redis::cmd("ACL").arg("SETUSER").arg(user).arg(&["on", ">pw", "~*", "&*"]).arg(rules).exec(&mut admin)?;
    }
    Ok(target)
}

fn guarded(source: &Server, target: &Server) -> Value {
    let mut asked = spec(source, target);
    asked["targetGuard"] = json!("TARGET_GUARD_ACL");
    asked["target"]["credential"] = json!({"username": "task", "password": "pw"});
    asked
}

fn guard(desk: &Desk) -> Result<Value> {
    Ok(desk.get()?["shards"][0]["status"]["guard"].clone())
}

fn is_kept(desk: &Desk) -> Result<()> {
    until("the target to be kept", || Ok(guard(desk)?["level"] == "TARGET_GUARD_ACL"))
}

#[test]
fn others_cannot_write_while_a_task_runs_and_have_exactly_their_rights_back_whoever_dies() -> Result<()> {
    for name in ["redis-7.0", "redis-6.2", "valkey-9.1"] {
        let (source, target) = (server("redis-6.2")?, peopled(name)?);
        let before = users(&target)?;
        let mut connections = vec![target.connect()?, login(&target, "app")?, login(&target, "narrow")?];
        if name == "redis-7.0" {
            connections.push(login(&target, "selective")?);
        }
        let load = Load::start(&source)?;
        let mut desk = Desk::start()?;
        desk.create(&guarded(&source, &target))?;
        desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
        is_kept(&desk)?;
        for connection in &mut connections {
            let refused = redis::cmd("SET").arg("s:x").arg(1).exec(connection).unwrap_err().to_string();
            ensure!(refused.to_lowercase().contains("permissions"), "{refused}");
            redis::cmd("GET").arg("x").exec(connection)?;
        }
        until("to catch up", || Ok(desk.get()?["readyToComplete"] == true))?;
        // Whoever dies, what was taken is known.
        desk.agents.clear();
        desk.restart()?;
        ensure!(users(&target)? != before, "{name}: rights came back in the middle");
        desk.agent("second")?;
        is_kept(&desk)?;
        // A user that comes later cannot write either.
        redis::cmd("ACL")
            .arg("SETUSER")
            .arg("late")
            .arg(&["on", ">pw", "~*", "&*", "+@all"])
            .exec(&mut target.connect()?)?;
        let late: Vec<String> = users(&target)?.into_iter().filter(|line| line.starts_with("user late ")).collect();
        until("the late user", || Ok(redis::cmd("SET").arg("x").arg(1).exec(&mut login(&target, "late")?).is_err()))?;
        // Nobody is shown what passwords they have, and no store holds it in clear.
        let hash = before.iter().find_map(|line| line.split_once('#')?.1.get(..64)).context("a hash")?;
        ensure!(!desk.get()?.to_string().contains(hash), "the task shows the hash of a password");
        ensure!(!desk.stored(hash)?, "{name}: the hash of a password stands in the store");
        load.stop()?;
        until("to catch up", || Ok(desk.get()?["readyToComplete"] == true))?;
        desk.call("CompleteTask", json!({}))?;
        desk.becomes("COMPLETED")?;
        let mut expected = [before, late].concat();
        expected.sort();
        let mut now = users(&target)?;
        now.sort();
        ensure!(now == expected, "{name}: {now:#?} is not {expected:#?}");
        redis::cmd("SET").arg("x").arg(1).exec(&mut login(&target, "app")?)?;
        redis::cmd("DEL").arg("x").exec(&mut login(&target, "app")?)?;
        assert_equal(&source, &target)?;
    }
    Ok(())
}

#[test]
fn a_cancelled_task_gives_rights_back_by_an_agent_that_never_took_them() -> Result<()> {
    let (source, target) = (server("redis-7.0")?, peopled("redis-7.0")?);
    let before = users(&target)?;
    let mut desk = Desk::start()?;
    desk.create(&guarded(&source, &target))?;
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    is_kept(&desk)?;
    desk.call("PauseTask", json!({}))?;
    ensure!(users(&target)? != before, "a paused task left the target to everybody");
    desk.agents.clear();
    desk.agent("other")?;
    desk.call("CancelTask", json!({}))?;
    desk.becomes("CANCELLED")?;
    ensure!(users(&target)? == before, "{:#?}", users(&target)?);
    Ok(())
}

#[test]
fn a_target_that_cannot_be_kept_is_watched_and_the_check_says_so() -> Result<()> {
    let (source, target) = (server("redis-7.0")?, peopled("redis-7.0")?);
    redis::cmd("ACL").arg("SETUSER").arg("task").arg("-acl").exec(&mut target.connect()?)?;
    let before = users(&target)?;
    let mut desk = Desk::start()?;
    desk.create(&guarded(&source, &target))?;
    desk.call("StartTask", json!({}))?;
    desk.becomes("CHECK_PASSED")?;
    let found = desk.run()?;
    let found = item(&found, "dst.guard")?;
    ensure!(found["outcome"] == "CHECK_OUTCOME_FAILED" && found["severity"] == "SEVERITY_WARNS", "{found}");
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    until("to catch up", || Ok(desk.get()?["readyToComplete"] == true))?;
    until("a reason", || Ok(guard(&desk)?["why"].as_str().is_some_and(|why| why.contains("may not ask for users"))))?;
    ensure!(guard(&desk)?["level"] == "TARGET_GUARD_WATCH" && users(&target)? == before);
    Ok(())
}

#[test]
fn writes_of_others_are_noticed_counted_named_and_raise_an_alarm_and_so_does_a_difference() -> Result<()> {
    // A stream that is silent, so that the task itself writes nothing for a while.
    let quiet = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "3600"];
    let (source, target) = (Server::start("redis-7.0", &quiet)?, server("redis-7.0")?);
    let mut desk = Desk::start()?;
    let kinds = ["ALARM_KIND_FOREIGN_WRITES", "ALARM_KIND_VERIFICATION_MISMATCH"];
    let triggers: Vec<Value> = kinds.iter().map(|kind| json!({"kind": kind})).collect();
    // Nobody has to listen: what is on is listed.
    let nobody =
        json!({"name": "hook", "webhook": {"url": format!("http://127.0.0.1:{}/", dts_tests::port::free_port())}});
    let policy = json!({"policy": {"name": "p", "triggers": triggers, "receivers": [nobody]}});
    desk.any("AlarmService/CreateAlarmPolicy", &policy)?;
    desk.create(&spec(&source, &target))?;
    desk.call("StartTask", json!({}))?;
    until("to catch up", || Ok(desk.get()?["readyToComplete"] == true))?;
    // Rounds of our own do not count, however many there are.
    let load = Load::start(&source)?;
    let rounds = load.rounds();
    until("traffic", || Ok(load.rounds() > rounds + 500))?;
    load.stop()?;
    until("a watch", || Ok(guard(&desk)?["level"] == "TARGET_GUARD_WATCH"))?;
    ensure!(guard(&desk)?["foreignWrites"].is_null(), "it takes itself for somebody else: {}", guard(&desk)?);

    let mut foreign = target.connect()?;
    let address: String = redis::cmd("CLIENT").arg("INFO").query(&mut foreign)?;
    let address = address.split(' ').find_map(|word| word.strip_prefix("addr=")).context("an address")?.to_owned();
    redis::cmd("SET").arg("foreign").arg(1).exec(&mut foreign)?;
    until("the writer", || {
        let seen = guard(&desk)?;
        Ok(seen["foreignClients"].to_string().contains(&address) && seen["recent"] == true)
    })?;
    // What is gone at once is counted all the same, one by one, while the task itself writes nothing.
    until("the task to be silent", || {
        let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut foreign)?;
        let ours = list.lines().filter(|line| line.contains(" name=dts ") && !line.contains(" cmd=client|list "));
        let idle = |line: &str| line.split(' ').find_map(|word| word.strip_prefix("idle=")?.parse::<u64>().ok());
        Ok(ours.filter_map(idle).all(|idle| idle >= 4))
    })?;
    let before: u64 = guard(&desk)?["foreignWrites"].as_str().context("a count")?.parse()?;
    for i in 0..10 {
        redis::cmd("SET").arg("foreign").arg(i).exec(&mut target.connect()?)?;
    }
    let counted = || -> Result<u64> { Ok(guard(&desk)?["foreignWrites"].as_str().context("a count")?.parse()?) };
    until("ten more", || Ok(counted()? >= before + 10))?;
    let raised = |kind: &str, part: &str| -> Result<bool> {
        let on = desk.any("AlarmService/ListAlarms", &json!({"on": true}))?;
        let alarms = on["alarms"].as_array().cloned().unwrap_or_default();
        let fits =
            |alarm: &Value| alarm["kind"] == kind && alarm["message"].as_str().is_some_and(|said| said.contains(part));
        Ok(alarms.iter().any(fits))
    };
    until("the alarm", || raised(kinds[0], "somebody else writes to the target"))?;

    let id = desk.get()?["id"].clone();
    let begun = json!({"taskId": id, "spec": {"mode": "VERIFY_MODE_FULL"}});
    desk.any("VerifyService/StartVerification", &begun)?;
    until("the other alarm", || raised(kinds[1], "verification 1 found that source and target differ"))?;
    redis::cmd("DEL").arg("foreign").exec(&mut foreign)?;
    until("another verification", || Ok(desk.any("VerifyService/StartVerification", &begun).is_ok()))?;
    until("the end of the alarm", || Ok(!raised(kinds[1], "")?))?;
    Ok(())
}

#[test]
fn a_target_that_may_forget_more_than_it_can_be_given_raises_an_alarm_until_its_disk_keeps_all() -> Result<()> {
    let (source, target) = (server("redis-7.0")?, server("redis-7.0")?);
    let load = Load::start(&source)?;
    let mut desk = Desk::start()?;
    let nobody =
        json!({"name": "hook", "webhook": {"url": format!("http://127.0.0.1:{}/", dts_tests::port::free_port())}});
    let triggers = [json!({"kind": "ALARM_KIND_REPLAY_SHORT"})];
    desk.any(
        "AlarmService/CreateAlarmPolicy",
        &json!({"policy": {"name": "p", "triggers": triggers, "receivers": [nobody]}}),
    )?;
    desk.create(&spec(&source, &target))?;
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    until("to catch up", || Ok(desk.get()?["readyToComplete"] == true))?;
    let short = || Ok(desk.get()?["shards"][0]["status"]["replay"]["short"] == true);
    until("a target without a file to be short", short)?;
    let on =
        || -> Result<Value> { Ok(desk.any("AlarmService/ListAlarms", &json!({"on": true}))?["alarms"][0].clone()) };
    ensure!(on()?.is_null(), "it was told at once: {}", on()?);
    until("the alarm", || Ok(on()?["kind"] == "ALARM_KIND_REPLAY_SHORT"))?;
    let said = on()?;
    ensure!(said["message"].to_string().contains("no append-only file"), "{said}");
    for (name, value) in [("appendfsync", "always"), ("appendonly", "yes")] {
        redis::cmd("CONFIG").arg("SET").arg(name).arg(value).exec(&mut target.connect()?)?;
    }
    until("its end", || Ok(on()?.is_null()))?;
    load.stop()
}
