//! Verifications of tasks: under traffic without a false difference, across deaths, and as the gate of a completion.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use dts_tests::cluster::Cluster;
use dts_tests::dts::{Dts, binary};
use dts_tests::load::{Load, fill_small};
use dts_tests::oracle::{assert_equal, assert_equal_nodes};
use dts_tests::port::free_port;
use dts_tests::server::Server;
use dts_tests::spread_load::SpreadLoad;
use serde_json::{Value, json};

use crate::fleet::{Role, grpcurl, role};
use crate::switch_over::{Site, endpoint};
use crate::verify::found;
use crate::{complete, state, until};

/// Verifications under traffic; `DTS_LONG=1`: a hundred.
fn rounds() -> u32 {
    if std::env::var_os("DTS_LONG").is_some() { 100 } else { 2 }
}

/// Exit code, and every line that `dts task …` prints.
fn task(state: &Path, words: &[&str]) -> Result<(i32, Vec<Value>)> {
    let output = Command::new(binary()?).arg("task").args(words).args(["--json", "--state-dir"]).arg(state).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let lines = text.lines().map(serde_json::from_str).collect::<Result<Vec<_>, _>>();
    let code = output.status.code().context("ended by a signal")?;
    Ok((code, lines.with_context(|| format!("{text}{}", String::from_utf8_lossy(&output.stderr)))?))
}

/// A run under this task, once the task follows its source.
fn verified(state: &Path, more: &[&str]) -> Result<(i32, Value)> {
    let mut ended = None;
    until("a verification", || {
        let (code, lines) = task(state, &[&["verify"][..], more].concat())?;
        ended = lines.into_iter().next().map(|run| (code, run));
        Ok(ended.is_some())
    })?;
    ended.context("no verification")
}

#[test]
fn a_task_under_traffic_verifies_without_a_false_difference_is_repaired_and_completes_only_when_equal() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", &[])?, Server::start("redis-7.0", &[])?);
    fill_small(&source, true)?;
    let load = Load::start(&source)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
    dts.wait_for_phase("INCR_SYNC")?;
    for round in 0..rounds() {
        let (code, run) = verified(&state, &[])?;
        ensure!(code == 0 && run["outcome"] == "equal", "round {round}, however busy a key is: {run:#}");
        ensure!(run["held_keys"].as_u64() > Some(2000), "expiries are held: {run:#}");
    }
    let mut to = target.connect()?;
    for line in [
        "SET string:7 corrupt",
        "DEL string:8",
        "SET more x",
        "PERSIST expiring:1",
        "ZREM zset:inf up",
        "HSET hash:small more x",
        "RPUSH list:large x",
        "SREM intset:large 0",
        "XGROUP SETID stream:small group 1-1",
        "DEL compressible",
        "RPUSH compressible x",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        redis::cmd(words[0]).arg(&words[1..]).exec(&mut to)?;
    }
    let (code, lines) = task(&state, &["complete", "--verify", "full"])?;
    let [completion, run] = lines.as_slice() else { anyhow::bail!("{code}: {lines:#?}") };
    let settled = found(run).into_iter().filter(|line| !line.ends_with("unsettled")).collect::<Vec<_>>();
    let expected = [
        "0 compressible type",
        "0 expiring:1 ttl",
        "0 hash:small value",
        "0 intset:large value",
        "0 list:large value",
        "0 more extra",
        "0 stream:small group",
        "0 string:7 value",
        "0 string:8 missing",
        "0 zset:inf value",
    ];
    ensure!(code == 4 && completion["outcome"] == "refused" && settled == expected, "{code}: {lines:#?}");
    let (code, _) = task(&state, &["complete"])?;
    ensure!(code == 1, "a difference that is known stands against completion");

    // Under traffic still: what changes all the time is copied again too, and stays exact.
    let (code, lines) = task(&state, &["repair"])?;
    ensure!(code == 0 && lines[0]["outcome"] == "equal", "{lines:#?}");
    load.stop()?;
    let (code, lines) = task(&state, &["complete", "--verify", "full"])?;
    ensure!(code == 0 && lines[0]["outcome"] == "verified", "{code}: {lines:#?}");
    let (code, events) = dts.end()?;
    let report = &events.last().context("no event")?["completion"];
    ensure!(code == Some(0) && report["outcome"] == "verified" && report["mode"] == "full", "{report:#}");
    ensure!(report["barriers"][0]["offset"].as_u64() > Some(0) && report["completed_at"].is_string(), "{report:#}");
    ensure!(report["requested_by"].as_str().is_some_and(|by| by.contains('@')), "{report:#}");
    assert_equal(&source, &target)
}

#[test]
fn one_verification_goes_on_at_a_time_and_a_completion_by_force_is_recorded() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", &[])?, Server::start("redis-7.0", &[])?);
    fill_small(&source, true)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
    dts.wait_for_phase("INCR_SYNC")?;
    redis::cmd("SET").arg("string:7").arg("corrupt").exec(&mut target.connect()?)?;
    let (code, run) = verified(&state, &["--mode", "sample", "--sample", "40000"])?;
    ensure!(code == 4 && run["counts"]["value"] == 1, "{run:#}");
    // At one key a second it does not end while we look.
    let (code, run) = verified(&state, &["--rate", "1", "--no-wait"])?;
    ensure!(code == 0 && run["state"] == "running", "{run:#}");
    let (code, _) = task(&state, &["complete", "--verify", "keys"])?;
    ensure!(code == 1, "one run at a time");
    let (_, lines) = task(&state, &["verification", "--cancel"])?;
    ensure!(lines[0]["state"] == "cancelled", "{lines:#?}");
    let (_, lines) = task(&state, &["verification", "--list"])?;
    ensure!(lines.len() == 2 && lines[0]["number"] == 1, "{lines:#?}");
    let (code, _) = task(&state, &["complete"])?;
    ensure!(code == 1, "the differences are known");
    let (code, lines) = task(&state, &["complete", "--force"])?;
    ensure!(code == 0 && lines[0]["completion"]["outcome"] == "forced", "{lines:#?}");
    let (code, events) = dts.end()?;
    let report = &events.last().context("no event")?["completion"];
    ensure!(code == Some(0) && report["waived"][0] == "verification 1 found differences", "{report:#}");
    Ok(())
}

#[test]
fn a_verification_outlives_the_agent_and_the_coordinator() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", &[])?, Server::start("redis-7.0", &[])?);
    fill_small(&source, true)?;
    let dir = tempfile::tempdir()?;
    let path = |name: &str| dir.path().join(name).display().to_string();
    let address = format!("127.0.0.1:{}", free_port());
    let coordinator = || role(&["coordinator", "--listen", &address, "--state-dir", &path("c"), "--agent-ttl", "6s"]);
    let agent = |name: &str| role(&["agent", "--name", name, "--coordinator", &address, "--state-dir", &path(name)]);
    let (first, one) = (coordinator()?, agent("one")?);
    let call = |method: &str, body: Value| -> Result<Value> {
        let text = grpcurl(&address, &["-d", &body.to_string(), &format!("dts.v1.{method}")])?;
        Ok(serde_json::from_str(&text)?)
    };
    let spec = json!({"spec": {
        "name": "verified", "mode": "MODE_SYNC",
        "sources": [{"host": "127.0.0.1", "port": source.port}],
        "target": {"host": "127.0.0.1", "port": target.port},
    }, "request_id": "once"});
    let mut id = String::new();
    until("a task", || {
        let made = call("TaskService/CreateTask", spec.clone());
        id = made.as_ref().ok().and_then(|task| task["id"].as_str()).unwrap_or_default().to_owned();
        Ok(!id.is_empty())
    })?;
    call("TaskService/StartTask", json!({"id": id}))?;
    let start =
        json!({"task_id": id, "spec": {"mode": "VERIFY_MODE_FULL", "keys_per_second": 2000}, "requested_by": "test"});
    until("a run", || Ok(call("VerifyService/StartVerification", start.clone()).is_ok()))?;
    let run = || call("VerifyService/GetVerification", json!({"task_id": id}));
    let looked =
        |run: &Value| run["progress"]["targetKeys"].as_str().and_then(|keys| keys.parse::<u64>().ok()) > Some(0);
    until("progress", || Ok(run().is_ok_and(|run| looked(&run) && run["state"] == "VERIFY_STATE_RUNNING")))?;
    drop::<Role>(one);
    drop::<Role>(first);
    let _coordinator = coordinator()?;
    let _two = agent("two")?;
    until("the end of the run", || Ok(run().is_ok_and(|run| run["state"] == "VERIFY_STATE_DONE")))?;
    let ended = run()?;
    ensure!(ended["number"] == "1" && ended["outcome"] == "VERIFY_OUTCOME_EQUAL", "{ended:#}");
    ensure!(ended["requestedBy"] == "test", "{ended:#}");
    Ok(())
}

#[test]
fn a_verification_goes_on_where_its_agent_died_and_keeps_what_was_found() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", &[])?, Server::start("redis-7.0", &[])?);
    fill_small(&source, true)?;
    let mut site = Site::start()?;
    site.follow(&json!([endpoint(&source)]), &endpoint(&target), &json!({}))?;
    let mut to = target.connect()?;
    for line in ["SET more x", "DEL string:8", "SET string:7 corrupt"] {
        let words: Vec<&str> = line.split(' ').collect();
        redis::cmd(words[0]).arg(&words[1..]).exec(&mut to)?;
    }
    let spec = json!({"mode": "VERIFY_MODE_FULL", "keys_per_second": 1000});
    site.call("VerifyService/StartVerification", &json!({"task_id": site.id, "spec": spec}))?;
    let run = || site.call("VerifyService/GetVerification", &json!({"task_id": site.id}));
    let keys = |run: &Value, side: &str| -> u64 {
        run["progress"][side].as_str().and_then(|keys| keys.parse().ok()).unwrap_or(0)
    };
    // Far enough into the second walk that a cursor of it stands in the store.
    until("the second walk", || Ok(run().is_ok_and(|run| keys(&run, "sourceKeys") > 2500)))?;
    let walked = keys(&run()?, "targetKeys");
    ensure!(walked > 4000, "the keys of the target have been walked over");
    drop::<Option<Role>>(site.agent.take());
    site.act("two")?;
    let mut least = u64::MAX;
    until("the end of the run", || {
        let run = site.call("VerifyService/GetVerification", &json!({"task_id": site.id}))?;
        least = least.min(keys(&run, "targetKeys"));
        Ok(run["state"] == "VERIFY_STATE_DONE")
    })?;
    ensure!(least == walked, "it does not begin again: {least} of {walked}");
    let run = site.call("VerifyService/GetVerification", &json!({"task_id": site.id}))?;
    ensure!(keys(&run, "sourceKeys") == walked, "each key once: {run:#}");
    let listed = site.call("VerifyService/ListDifferences", &json!({"task_id": site.id}))?;
    let kinds: Vec<&str> =
        listed["differences"].as_array().into_iter().flatten().filter_map(|found| found["kind"].as_str()).collect();
    let mut kinds = kinds;
    kinds.sort_unstable();
    ensure!(kinds == ["extra", "missing", "value"], "{listed:#}");
    Ok(())
}

#[test]
fn a_cluster_under_traffic_is_verified_without_a_false_difference_and_repaired() -> Result<()> {
    let source = Server::start("redis-7.0", &[])?;
    let cluster = Cluster::start("redis-7.0", 3, 0, &[])?;
    for key in 0..1000 {
        redis::cmd("SET").arg(format!("key:{key}")).arg(key).exec(&mut source.connect()?)?;
    }
    let load = SpreadLoad::start(&source, false)?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &cluster.url(), &state, &[])?;
    dts.wait_for_phase("INCR_SYNC")?;
    for round in 0..rounds() {
        let (code, run) = verified(&state, &[])?;
        ensure!(code == 0 && run["outcome"] == "equal", "round {round}, however busy a key is: {run:#}");
    }
    for (key, words) in [
        ("key:1", vec!["SET", "key:1", "corrupt"]),
        ("key:2", vec!["DEL", "key:2"]),
        ("more", vec!["RPUSH", "more", "x"]),
    ] {
        let mut command = redis::cmd(words[0]);
        words[1..].iter().for_each(|word| {
            command.arg(word);
        });
        cluster.query::<()>(key.as_bytes(), &command)?;
    }
    let (code, run) = verified(&state, &[])?;
    let expected = ["0 key:1 value", "0 key:2 missing", "0 more extra"];
    ensure!(code == 4 && found(&run).into_iter().eq(expected), "{run:#}");
    let (code, lines) = task(&state, &["repair"])?;
    ensure!(code == 0 && lines[0]["outcome"] == "equal", "{lines:#?}");
    load.stop()?;
    let (code, run) = verified(&state, &[])?;
    ensure!(code == 0 && run["outcome"] == "equal", "all of it, after the repair: {run:#}");
    complete(&state)?;
    ensure!(dts.end()?.0 == Some(0));
    assert_equal_nodes(&[&source], &cluster.masters()?)
}
