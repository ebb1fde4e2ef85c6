//! The way back: from the switch on the old side follows the new one, with no copy, and clients can be switched back.

use anyhow::{Context as _, Result, ensure};
use dts_tests::dts::Dts;
use dts_tests::load::{Load, fill_small};
use dts_tests::oracle::{assert_equal, assert_equal_values};
use dts_tests::server::Server;
use serde_json::{Value, json};

use crate::switch_over::{Site, Writer, endpoint, holds};
use crate::{keys_of_ours, state, until};

const PASSWORD: &str = "of-the-task";

/// A user of the task's own: the others can be closed out then, while the task writes.
pub(crate) fn with_own_login(server: &Server) -> Result<Value> {
    let mut connection = server.connect()?;
    let mut user = redis::cmd("ACL");
    user.arg("SETUSER").arg("dts").arg("on").arg(format!(">{PASSWORD}")).arg("~*").arg("&*").arg("+@all");
    user.exec(&mut connection)?;
    let mut endpoint = endpoint(server);
    endpoint["credential"] = json!({"username": "dts", "password": PASSWORD});
    Ok(endpoint)
}

/// Switches over, keeping the way back; gives the task that goes back, once it follows.
fn there(site: &mut Site, from: &Value, to: &Value) -> Result<String> {
    site.follow(&json!([from]), to, &json!({}))?;
    let done = site.switch(&json!({"verify": "VERIFY_MODE_FULL", "keep_way_back": true}))?;
    ensure!(done["phase"] == "SWITCH_OVER_PHASE_DONE", "{done:#}");
    let back = done["wayBackTaskId"].as_str().context("no way back")?.to_owned();
    site.id.clone_from(&back);
    site.until_state("TASK_STATE_INCR_SYNC")?;
    Ok(back)
}

#[test]
fn the_old_side_follows_the_new_one_without_a_copy_and_clients_are_switched_back_with_nothing_lost() -> Result<()> {
    let (old, new) = (Server::start("redis-6.2", &[])?, Server::start("redis-7.0", &[])?);
    fill_small(&old, true)?;
    let mut site = Site::start()?;
    let (from, to) = (with_own_login(&old)?, with_own_login(&new)?);
    let writer = Writer::start(old.connect()?, "before");
    let back = there(&mut site, &from, &to)?;
    holds(&mut new.connect()?, "before", writer.end()?.0)?;

    // What dies some day is held there as on every target, or a refresh that comes late would find nothing.
    until("held expiries", || Ok(redis::cmd("PTTL").arg("expiring:7").query::<i64>(&mut old.connect()?)? > 1 << 41))?;
    let refused = redis::cmd("SET").arg("stray").arg(1).exec(&mut old.connect()?);
    ensure!(refused.is_err(), "the old side takes writes of the way back only");
    // Of the version of the old side: the way back goes to an older server.
    let load = Load::start_as(&new, 602)?;
    let writer = Writer::start(new.connect()?, "after");
    until("traffic", || Ok(load.rounds() > 300))?;
    load.stop()?;
    let task = site.task(&back)?;
    let copies = &task["shards"][0]["status"]["snapshot"]["receivedBytes"];
    ensure!(copies.is_null(), "it goes on where the other one ended: {task:#}");

    let done = site.switch(&json!({"verify": "VERIFY_MODE_FULL"}))?;
    ensure!(done["phase"] == "SWITCH_OVER_PHASE_DONE", "{done:#}");
    let (acknowledged, why) = writer.end()?;
    ensure!(why.contains("permission"), "the new side is closed: {why}");
    holds(&mut old.connect()?, "after", acknowledged)?;
    assert_equal(&new, &old)?;
    ensure!(keys_of_ours(&old)? + keys_of_ours(&new)? == 0, "nothing of ours is left");
    redis::cmd("SET").arg("again").arg(1).exec(&mut old.connect()?).context("the old side is open again")
}

#[test]
fn a_way_back_whose_place_the_backlog_does_not_hold_says_so_and_copies_only_when_told() -> Result<()> {
    let old = Server::start("redis-7.0", &[])?;
    let new = Server::start("redis-7.0", &["--repl-backlog-size", "16kb"])?;
    fill_small(&old, true)?;
    let mut site = Site::start()?;
    let (from, to) = (with_own_login(&old)?, with_own_login(&new)?);
    let back = there(&mut site, &from, &to)?;
    site.call("TaskService/PauseTask", &json!({ "id": back }))?;
    let mut connection = new.connect()?;
    for number in 0..200 {
        redis::cmd("SET").arg(format!("after:{number}")).arg("x".repeat(1000)).exec(&mut connection)?;
    }
    redis::cmd("DEL").arg("string:9").exec(&mut connection)?;
    let copies = new.info("sync_full")?;
    site.call("TaskService/ResumeTask", &json!({ "id": back }))?;
    site.until_state("TASK_STATE_NEEDS_DECISION")?;
    let task = site.task(&back)?;
    ensure!(task["reason"]["code"] == "WAY_BACK_LOST", "{task:#}");
    ensure!(task["reason"]["fix"].as_str().is_some_and(|fix| fix.contains("resync")), "{task:#}");
    let there: bool = redis::cmd("EXISTS").arg("string:9").query(&mut old.connect()?)?;
    ensure!(there, "nothing was touched");
    site.call("TaskService/ResyncTask", &json!({ "id": back }))?;
    site.until_state("TASK_STATE_INCR_SYNC")?;
    ensure!(new.info("sync_full")? != copies, "copied, as it was told");
    until("the old side is what the new one is", || Ok(assert_equal_values(&[&new], &[&old]).is_ok()))
}

#[test]
fn two_tasks_that_would_carry_a_change_round_for_ever_end_before_it_is_done_twice() -> Result<()> {
    let (one, other) = (Server::start("redis-7.0", &[])?, Server::start("redis-7.0", &[])?);
    let (_dir, there) = state()?;
    let (_other_dir, back) = state()?;
    let mut first = Dts::migrate(&one.url(), &other.url(), &there, &[])?;
    first.wait_for_phase("INCR_SYNC")?;
    let mut second = Dts::migrate(&other.url(), &one.url(), &back, &[])?;
    let round = |event: &Value| event.to_string().contains("GOES_ROUND");
    let follows = second.wait_for("both ways", |event| event["phase"] == "INCR_SYNC" || round(event))?;
    redis::cmd("INCR").arg("once").exec(&mut one.connect()?)?;
    // Either sees the other's record with its own target's history in it.
    until("the end of one", || Ok(first.has_ended()? || second.has_ended()?))?;
    let ended = if first.has_ended()? { first } else { second };
    let (_, events) = ended.end()?;
    ensure!(round(&follows) || events.iter().any(round), "{events:#?}");
    let count = |server: &Server| -> Result<u64> {
        Ok(redis::cmd("GET").arg("once").query::<Option<u64>>(&mut server.connect()?)?.unwrap_or(0))
    };
    ensure!(count(&one)? == 1 && count(&other)? <= 1, "done twice");
    Ok(())
}
