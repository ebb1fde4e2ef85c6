//! Judges the target by plain commands of Redis, and nothing of ours.

use anyhow::{Context as _, Result, bail, ensure};
use dts_tests::oracle::{assert_equal_nodes, assert_equal_values};
use serde_json::Value;

use crate::users;
use crate::world::World;

fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// With no traffic: waits until the source's last byte is applied, then compares every value. Expiries are held back while a task runs.
pub(crate) fn equal_at_rest(world: &mut World, after: &str) -> Result<()> {
    let goal: u64 = world.source.info("master_repl_offset")?.parse()?;
    world.until(&format!("the last byte after {after}"), |world| {
        let task = world.ask("GetTask")?;
        let applied = number(&task["shards"][0]["status"]["stream"]["appliedOffset"]);
        ensure!(applied >= goal && task["readyToComplete"] == true, "{applied} of {goal}: {task}");
        Ok(())
    })?;
    if world.users {
        users::of_this_epoch_only(world, after)?;
    }
    assert_equal_values(&[&world.source], &world.target_nodes()?).with_context(|| format!("after {after}"))
}

/// Completes the task: equal with the expiries, and nothing of ours is left on either side.
pub(crate) fn ends_clean(world: &mut World) -> Result<()> {
    world.until("completion", |world| {
        let _asked_or_refused = world.ask("CompleteTask");
        let task = world.ask("GetTask")?;
        ensure!(task["state"] == "TASK_STATE_COMPLETED", "{task}");
        Ok(())
    })?;
    assert_equal_nodes(&[&world.source], &world.target_nodes()?)?;
    for server in world.target_nodes()? {
        let left: Vec<String> = redis::cmd("KEYS").arg("__dts:*").query(&mut server.connect()?)?;
        ensure!(left.is_empty(), "left on the target: {left:?}");
    }
    if world.users {
        users::none_left(world)?;
    }
    world.until("no connection of ours on the source", |world| match world.source.info("connected_slaves")?.as_str() {
        "0" => Ok(()),
        count => bail!("{count} replicas"),
    })
}
