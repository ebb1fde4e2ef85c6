//! One server: agents that freeze, wake or are killed.

use anyhow::{Result, ensure};
use dts_tests::load::Load;
use dts_tests::oracle::assert_equal;
use dts_tests::server::Server;
use serde_json::json;

use super::{SOURCE, completed, connections, fenced, follows, ours, peopled, user, users};
use crate::fleet::signal;
use crate::life::Desk;
use crate::{keys_of_ours, until};

#[test]
fn a_successor_removes_the_user_of_a_frozen_agent_and_nothing_of_it_is_written_or_left() -> Result<()> {
    for name in ["redis-6.0", "redis-7.0", "valkey-9.1"] {
        let (source, target) = (Server::start("redis-6.0", SOURCE)?, peopled(name)?);
        let before = users(&target)?;
        let load = Load::start(&source)?;
        let mut desk = Desk::start()?;
        let mut asked = fenced(&source, &target);
        // Who keeps others from writing keeps the task's own users out of it.
        asked["targetGuard"] = json!("TARGET_GUARD_ACL");
        desk.create(&asked)?;
        desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
        follows(&desk, "only")?;
        ensure!(desk.get()?["shards"][0]["status"]["fence"] == "F4", "{name}");
        let first = user(&desk)?;
        ensure!(
            ours(&target)? == [first.clone()] && connections(&target, &first)? == 1,
            "{name}: {:?}",
            ours(&target)?
        );
        signal(&desk.agents[0], "-STOP")?;
        desk.agent("second")?;
        follows(&desk, "second")?;
        let second = user(&desk)?;
        ensure!(first != second && ours(&target)? == [second.clone()], "{name}: {:?}", ours(&target)?);
        ensure!(connections(&target, &first)? == 0, "{name}: the frozen agent is still connected");
        // It wakes with batches in its hands, and a source that still feeds it.
        signal(&desk.agents[0], "-CONT")?;
        let rounds = load.rounds();
        until("more traffic", || Ok(load.rounds() > rounds + 300))?;
        until("one user", || Ok(ours(&target)? == [second.clone()]))?;
        load.stop()?;
        completed(&desk)?;
        ensure!(users(&target)? == before, "{name}: {:#?} is not {before:#?}", users(&target)?);
        ensure!(keys_of_ours(&target)? == 0, "{name}: keys of ours are left");
        assert_equal(&source, &target)?;
    }
    Ok(())
}

#[test]
fn an_agent_that_wakes_when_the_task_is_over_and_nobody_tells_it_begins_nothing_anew() -> Result<()> {
    for fence in ["TARGET_FENCE_AUTO", "TARGET_FENCE_USER"] {
        let (source, target) = (Server::start("redis-7.0", SOURCE)?, peopled("redis-7.0")?);
        let before = users(&target)?;
        let load = Load::start(&source)?;
        let mut desk = Desk::start()?;
        let mut asked = fenced(&source, &target);
        asked["targetFence"] = json!(fence);
        desk.create(&asked)?;
        desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
        follows(&desk, "only")?;
        let first = user(&desk)?;
        signal(&desk.agents[0], "-STOP")?;
        desk.agent("second")?;
        follows(&desk, "second")?;
        load.stop()?;
        completed(&desk)?;
        desk.stop();
        desk.agents.truncate(1);
        // As a network would that gave up on it; with a user of its own its connections are gone already.
        let mut admin = target.connect()?;
        let login = if fence.ends_with("USER") { first.as_str() } else { "task" };
        redis::cmd("CLIENT").arg("KILL").arg("USER").arg(login).query::<redis::Value>(&mut admin).map(drop).or_else(
            |error| {
                if fence.ends_with("USER") { Ok(()) } else { Err(error) }
            },
        )?;
        signal(&desk.agents[0], "-CONT")?;
        redis::cmd("SET").arg("later").arg(1).exec(&mut source.connect()?)?;
        // It follows the source as long as it believes that the shard is its own.
        until("the woken agent to give up", || Ok(source.info("connected_slaves")? == "0"))?;
        ensure!(keys_of_ours(&target)? == 0, "{fence}: it claims a target that is not its own any more");
        ensure!(users(&target)? == before, "{fence}: {:#?}", users(&target)?);
        redis::cmd("DEL").arg("later").exec(&mut source.connect()?)?;
        assert_equal(&source, &target)?;
    }
    Ok(())
}

#[test]
fn kills_leave_users_that_the_next_one_removes_and_a_cancelled_task_leaves_none() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", SOURCE)?, peopled("redis-7.0")?);
    let before = users(&target)?;
    let load = Load::start(&source)?;
    let mut desk = Desk::start()?;
    desk.create(&fenced(&source, &target))?;
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    follows(&desk, "only")?;
    for name in ["second", "third"] {
        let last = user(&desk)?;
        // kill -9
        desk.agents.clear();
        ensure!(ours(&target)? == [last], "{:?}", ours(&target)?);
        desk.agent(name)?;
        follows(&desk, name)?;
        ensure!(ours(&target)? == [user(&desk)?], "{:?}", ours(&target)?);
    }
    // Somebody who tidies up takes it away: it comes again.
    redis::cmd("ACL").arg("DELUSER").arg(user(&desk)?).exec(&mut target.connect()?)?;
    until("the user", || Ok(ours(&target)? == [user(&desk)?]))?;
    follows(&desk, "third")?;
    desk.call("PauseTask", json!({}))?;
    desk.becomes("PAUSED")?;
    until("no user while nobody writes", || Ok(ours(&target)?.is_empty()))?;
    desk.call("ResumeTask", json!({}))?;
    follows(&desk, "third")?;
    desk.agents.clear();
    desk.agent("fourth")?;
    desk.call("CancelTask", json!({}))?;
    desk.becomes("CANCELLED")?;
    ensure!(users(&target)? == before, "{:#?}", users(&target)?);
    load.stop()?;
    Ok(())
}
