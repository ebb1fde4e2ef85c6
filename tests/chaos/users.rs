//! Fence level F4: the target's own users, and those that the task makes there, one for every epoch.

use anyhow::{Result, ensure};
use dts_tests::server::Server;
use serde_json::{Value, json};

use crate::world::World;

/// Of every server of the target, as they stand in an operator's configuration, so that one that was restarted has them: one for the task, and
/// nobody who may write without a password. `default` keeps its rights: as `default` an append-only file is loaded, and Redis 7.0 to 8.2 leave
/// out every transaction of it that `default` may not do.
pub(crate) const OPTIONS: [&str; 11] =
    ["--requirepass", "admin", "--masterauth", "admin", "--user", "task", "on", ">pw", "~*", "&*", "+@all"];

/// The task's login.
pub(crate) fn credential() -> Value {
    json!({"username": "task", "password": "pw"})
}

/// Those that are not the operator's.
fn made(server: &Server) -> Result<Vec<String>> {
    let mut names: Vec<String> = redis::cmd("ACL").arg("USERS").query(&mut server.connect()?)?;
    names.retain(|name| !["default", "task"].contains(&name.as_str()));
    Ok(names)
}

/// The shard's fence is F4, every server that holds keys knows the user of this epoch, and none, replicas included, one of another.
pub(crate) fn of_this_epoch_only(world: &World, after: &str) -> Result<()> {
    world.until(&format!("users of this epoch only after {after}"), |world| {
        let task = world.ask("GetTask")?;
        let shard = &task["shards"][0];
        ensure!(shard["status"]["fence"] == "F4", "{task}");
        let now = format!("dts:{}:0:{}", world.task(), shard["epoch"].as_str().unwrap_or("?"));
        for server in world.all_target_nodes() {
            let made = made(server)?;
            ensure!(made.iter().all(|name| *name == now), "port {}: {made:?}, not only {now}", server.port);
        }
        for server in world.target_nodes()? {
            ensure!(made(server)?.contains(&now), "port {} does not know {now}", server.port);
        }
        Ok(())
    })
}

/// The operator's are there, and no other.
pub(crate) fn none_left(world: &World) -> Result<()> {
    world.until("no user of ours on the target", |world| {
        for server in world.all_target_nodes() {
            let made = made(server)?;
            ensure!(made.is_empty(), "port {}: {made:?}", server.port);
        }
        Ok(())
    })
}
