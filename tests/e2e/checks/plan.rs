//! What a check says of the copy, and how right it was.

use anyhow::{Context as _, Result, ensure};
use dts_tests::load::{Load, fill_small};
use dts_tests::server::Server;
use serde_json::{Value, json};

use super::{Writer, checked};
use crate::life::{Desk, spec};
use crate::until;

fn figure(plan: &Value, id: &str, which: &str) -> Result<u64> {
    let found = plan["estimates"].as_array().context("estimates")?.iter().find(|found| found["id"] == id);
    let text =
        found.with_context(|| format!("no {id}"))?[which].as_str().with_context(|| format!("no {which}: {plan}"))?;
    Ok(text.parse()?)
}

#[test]
fn a_plan_is_made_of_a_source_under_load_kept_with_the_task_and_compared_with_what_became_of_it() -> Result<()> {
    let source = Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])?;
    let target = Server::start("redis-7.0", &[])?;
    let replica = Server::start("redis-7.0", &[])?;
    replica.follow(&source)?;
    fill_small(&source, true)?;
    let mut pipe = redis::pipe();
    for i in 0..20_000 {
        pipe.cmd("SET").arg(format!("plain:{i}")).arg(format!("{i:x}-").repeat(40)).ignore();
    }
    pipe.query::<()>(&mut source.connect()?)?;
    let (load, writer) = (Load::start(&source)?, Writer::start(&source, 2)?);
    let mut desk = Desk::start()?;
    desk.create(&spec(&source, &target))?;
    let refused = desk.call("PlanTask", json!({})).unwrap_err().to_string();
    ensure!(refused.contains("check it first"), "{refused}");
    checked(&mut desk, &spec(&source, &target))?;
    let planned = desk.call("PlanTask", json!({}))?;
    ensure!(planned["catchesUp"] == true && planned["estimates"].as_array().is_some_and(|all| all.len() == 5));
    let written = desk.call("GetCheck", json!({}))?["figures"][0]["writeBytesPerSecond"].clone();
    ensure!(written.as_str().is_some_and(|rate| rate.parse::<u64>().is_ok_and(|rate| rate > 10_000)), "{written}");
    desk.restart()?;
    ensure!(desk.call("PlanTask", json!({}))?["run"] == planned["run"], "a restart lost it");
    until("an agent", || Ok(desk.call("StartTask", json!({"acknowledgeWarnings": true})).is_ok()))?;
    until("to catch up", || Ok(desk.get()?["readyToComplete"] == true))?;
    load.stop()?;
    writer.stop()?;
    let mut plan = Value::Null;
    until("what became of it", || {
        plan = desk.call("PlanTask", json!({}))?;
        Ok(figure(&plan, "catch_up_ms", "actual").is_ok())
    })?;
    // A snapshot is what it is: the estimate has to come near.
    let (planned, actual) = (figure(&plan, "snapshot_bytes", "value")?, figure(&plan, "snapshot_bytes", "actual")?);
    ensure!(planned > actual / 3 && planned < actual * 3, "planned {planned}, was {actual}");
    for id in ["fork_bytes", "copy_ms", "spool_bytes"] {
        figure(&plan, id, "value")?;
    }
    figure(&plan, "copy_ms", "actual")?;
    figure(&plan, "fork_bytes", "actual")?;
    ensure!(desk.get()?["plan"] == plan, "the task shows another plan");
    Ok(())
}
