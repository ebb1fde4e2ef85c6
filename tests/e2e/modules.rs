//! Values and commands of modules: passed on where the target has the module, refused by name where not.

use anyhow::{Context as _, Result, ensure};
use dts_tests::dts::Dts;
use dts_tests::server::{Server, root};

use crate::{complete, state};

const MODULES: [&str; 4] = ["rediscompat.so", "rejson.so", "redisbloom.so", "redistimeseries.so"];

/// What writes one key of every type that these modules have, and what reads all of it back.
const WRITES: &str = "JSON.SET {p}:json $ {\"a\":[1,2.5,null,\"x\"],\"b\":{\"c\":true}}
JSON.NUMINCRBY {p}:json $.a[0] 41
BF.RESERVE {p}:bloom 0.001 100
BF.MADD {p}:bloom one two three
CF.ADD {p}:cuckoo one
CF.ADD {p}:cuckoo two
CMS.INITBYDIM {p}:sketch 200 5
CMS.INCRBY {p}:sketch one 7 two 3
TOPK.RESERVE {p}:top 3 50 4 0.9
TOPK.ADD {p}:top a a a b b c d
TDIGEST.CREATE {p}:digest
TDIGEST.ADD {p}:digest 1 2 3 4 100
TS.CREATE {p}:series RETENTION 0 LABELS place here
TS.ADD {p}:series 1000 1.5
TS.ADD {p}:series 2000 2.5";
const READS: &str = "JSON.GET {p}:json
BF.MEXISTS {p}:bloom one two three four five
BF.INFO {p}:bloom
CF.COUNT {p}:cuckoo one
CF.EXISTS {p}:cuckoo three
CMS.QUERY {p}:sketch one two three
TOPK.LIST {p}:top WITHCOUNT
TDIGEST.QUANTILE {p}:digest 0 0.5 1
TS.RANGE {p}:series - +
TTL {p}:json";

fn run(server: &Server, commands: &str, prefix: &str) -> Result<Vec<redis::Value>> {
    let mut connection = server.connect()?;
    let run = |line: &str| {
        let line = line.replace("{p}", prefix);
        let mut words = line.split(' ');
        let mut command = redis::cmd(words.next().unwrap_or_default());
        command.arg(words.collect::<Vec<_>>());
        command.query(&mut connection).with_context(|| line.clone())
    };
    commands.lines().map(run).collect()
}

fn with_modules(name: &str) -> Result<Server> {
    let path = |module: &&str| root().join(".fleet").join(name).join("modules").join(module).display().to_string();
    let paths: Vec<String> = MODULES.iter().map(path).collect();
    let mut options = vec!["--repl-diskless-sync-delay", "0"];
    options.extend(paths.iter().flat_map(|path| ["--loadmodule", path]));
    Server::start(name, &options)
}

fn moves_values_of_modules(from: &str, to: &str) -> Result<()> {
    let (source, target) = (with_modules(from)?, with_modules(to)?);
    run(&source, WRITES, "copied")?;
    run(&source, "PEXPIREAT {p}:json 4102444800000", "copied")?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    run(&source, WRITES, "streamed")?;
    complete(&state)?;
    let (code, events) = dts.end()?;
    ensure!(code == Some(0), "exit {code:?}, {:?}", events.last());
    for prefix in ["copied", "streamed"] {
        let (left, right) = (run(&source, READS, prefix)?, run(&target, READS, prefix)?);
        ensure!(left == right, "{prefix}: {left:?} and {right:?}");
    }
    ensure!(run(&target, "DBSIZE", "")? == run(&source, "DBSIZE", "")?, "more or fewer keys");
    Ok(())
}

#[test]
fn values_and_commands_of_modules_move_between_servers_that_have_them() -> Result<()> {
    moves_values_of_modules("redis-7.2", "redis-7.4")
}

#[test]
fn a_value_of_a_module_that_the_target_lacks_stops_the_copy_by_name() -> Result<()> {
    let (source, target) = (with_modules("redis-7.2")?, Server::start("redis-7.2", &[])?);
    run(&source, WRITES, "copied")?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
    let (code, events) = dts.end()?;
    let last = events.last().context("no event")?;
    ensure!(code != Some(0) && last["code"] == "TARGET_UNSUPPORTED", "{code:?} {last}");
    let types = ["ReJSON-RL", "MBbloom--", "MBbloomCF", "CMSk-TYPE", "TopK-TYPE", "TDIS-TYPE", "TSDB-TYPE"];
    let message = last["message"].as_str().unwrap_or_default();
    ensure!(types.iter().any(|name| message.contains(name)), "no name of a type: {message}");
    Ok(())
}
