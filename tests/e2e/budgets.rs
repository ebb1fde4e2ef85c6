//! What all shards of an agent may use together.

use anyhow::{Context as _, Result, ensure};
use dts_tests::oracle::assert_equal_nodes;
use dts_tests::server::Server;
use serde_json::{Value, json};

use crate::fleet::{Fleet, grpcurl};
use crate::until;

const MEMORY: u64 = 12 << 20;
/// Of each source, twice what all spools together may hold in memory.
const WRITTEN: usize = 24 << 20;

#[test]
fn the_spools_of_an_agent_stay_within_its_memory_together_and_go_to_its_disk() -> Result<()> {
    let sources =
        (0..3).map(|_| Server::start("redis-7.0", &["--repl-diskless-sync-delay", "0"])).collect::<Result<Vec<_>>>()?;
    let target = Server::start("redis-7.0", &[])?;
    let mut fleet = Fleet::start()?;
    let _agent = fleet.agent_with("only", &["--memory", "12MiB", "--disk", "1GiB"])?;
    let end = |server: &Server| json!({"host": "127.0.0.1", "port": server.port});
    let spec = json!({"spec": {
        "name": "three at once", "mode": "MODE_SYNC", "target": end(&target),
        "sources": sources.iter().map(end).collect::<Vec<_>>(),
    }});
    let created = grpcurl(&fleet.address, &["-d", &spec.to_string(), "dts.v1.TaskService/CreateTask"])?;
    fleet.adopt(&serde_json::from_str::<Value>(&created)?["id"]);
    fleet.call("StartTask")?;
    fleet.follows("only")?;

    // The target takes nothing, the sources go on.
    target.freeze(true)?;
    let value = "v".repeat(64 << 10);
    for (index, source) in sources.iter().enumerate() {
        let mut connection = source.connect()?;
        for number in 0..WRITTEN / value.len() {
            redis::cmd("SET").arg(format!("{index}:{number}")).arg(&value).exec(&mut connection)?;
        }
    }
    let number = |value: &Value| value.as_str().and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let ends =
        sources.iter().map(|source| Ok(source.info("master_repl_offset")?.parse()?)).collect::<Result<Vec<u64>>>()?;
    let (mut most, mut seen) = (0, Value::Null);
    let received = until("everything to be received", || {
        seen = fleet.get()?["shards"].take();
        let status = |shard: usize| &seen[shard]["status"];
        most = most.max((0..3).map(|shard| number(&status(shard)["spool"]["memoryBytes"])).sum());
        Ok((0..3).all(|shard| number(&status(shard)["stream"]["receivedOffset"]) >= ends[shard]))
    });
    received.with_context(|| format!("{seen:#}"))?;
    ensure!((0..3).all(|shard| number(&seen[shard]["status"]["spool"]["diskBytes"]) > 0), "{seen:#}");
    ensure!(most <= MEMORY, "{most} bytes in memory");
    target.freeze(false)?;
    fleet.completed()?;
    let sources: Vec<&Server> = sources.iter().collect();
    assert_equal_nodes(&sources, &[&target]).context("after the drain")
}
