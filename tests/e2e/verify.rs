//! `dts verify` by itself: every kind of corruption is found, and nothing else; the oracle of the tests agrees.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use dts_tests::cluster::Cluster;
use dts_tests::dts::binary;
use dts_tests::load::fill_small;
use dts_tests::oracle::assert_equal;
use dts_tests::server::Server;
use redis::Connection;
use serde_json::Value;

const EQUAL: i32 = 0;
const DIFFERS: i32 = 4;
/// Far in the future, in ms.
const AT: i64 = 4_000_000_000_000;

/// Exit code and report.
pub(crate) fn verify(source: &str, target: &str, more: &[&str]) -> Result<(i32, Value)> {
    let mut command = Command::new(binary()?);
    command.args(["verify", "--json", "--rounds", "2", "--source", source, "--target", target]).args(more);
    let output = command.output()?;
    let code = output.status.code().context("ended by a signal")?;
    let report = serde_json::from_slice(&output.stdout)
        .with_context(|| format!("no report, code {code}: {}", String::from_utf8_lossy(&output.stderr)))?;
    Ok((code, report))
}

/// `db key kind` of each difference.
pub(crate) fn found(report: &Value) -> BTreeSet<String> {
    let one = |found: &Value| {
        let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
        format!("{} {} {}", found["db"], text("key"), text("kind"))
    };
    report["differences"].as_array().into_iter().flatten().map(one).collect()
}

fn names(all: &[&str]) -> BTreeSet<String> {
    all.iter().map(|name| (*name).to_owned()).collect()
}

/// A command line; `~` is a space that does not divide.
fn run(connection: &mut Connection, line: &str) -> Result<()> {
    let mut words = line.split(' ').map(|word| word.replace('~', " "));
    let mut command = redis::cmd(&words.next().context("a command")?);
    words.for_each(|word| {
        command.arg(word);
    });
    command.exec(connection).with_context(|| line.to_owned())
}

/// The same data on both, in several databases.
fn filled(source: &str, target: &str) -> Result<(Server, Server)> {
    let (source, target) = (Server::start(source, &[])?, Server::start(target, &[])?);
    let streams = dts_tests::load::version(&source)? >= 500 && dts_tests::load::version(&target)? >= 500;
    for server in [&source, &target] {
        fill_small(server, streams)?;
        let mut pipe = redis::pipe();
        // Of a size that is compared in pieces.
        for i in 0..12_000 {
            pipe.cmd("ZADD").arg("big:zset").arg(i).arg(format!("member {i}")).ignore();
            pipe.cmd("SADD").arg("big:set").arg(format!("member {i}")).ignore();
            pipe.cmd("HSET").arg("big:hash").arg(format!("field {i}")).arg(i).ignore();
            pipe.cmd("RPUSH").arg("big:list").arg(format!("element {i}")).ignore();
        }
        pipe.cmd("SET").arg("big:string").arg("s".repeat(5 << 20)).ignore();
        // Expiries at one moment, not one after the other.
        for i in 0..2000 {
            pipe.cmd("PEXPIREAT").arg(format!("expiring:{i}")).arg(AT + i).ignore();
        }
        for db in [3, 9] {
            pipe.cmd("SELECT").arg(db).ignore().cmd("PEXPIREAT").arg("expiring").arg(AT).ignore();
        }
        pipe.query::<()>(&mut server.connect()?)?;
    }
    Ok((source, target))
}

#[test]
fn every_kind_of_corruption_is_found_and_nothing_else() -> Result<()> {
    let (source, target) = filled("redis-7.0", "redis-7.0")?;
    assert_equal(&source, &target)?;
    let (code, report) = verify(&source.url(), &target.url(), &[])?;
    ensure!(code == EQUAL && report["outcome"] == "equal", "{report}");
    ensure!(report["source_keys"] == report["compared_keys"] && report["target_keys"] == report["source_keys"]);

    let mut to = target.connect()?;
    for (db, line) in [
        (0, "SETBIT string:7 3 0"),
        (0, "SETBIT big:string 33554439 0"),
        (0, "SETRANGE string:8 0 w"),
        (0, "APPEND string:9 x"),
        (0, "DEL string:10"),
        (0, "SET string:extra x"),
        (0, "PEXPIREAT expiring:3 4000000009000"),
        (0, "PERSIST expiring:4"),
        (0, "PEXPIREAT string:11 4000000009000"),
        (0, "ZREM big:zset member~8000"),
        (0, "ZINCRBY zset:large 0.0000001 element~5"),
        (0, "SREM big:set member~11999"),
        (0, "SMOVE set:small set:moved element~1"),
        (0, "HSET big:hash field~777 other"),
        (0, "HDEL hash:large element~0"),
        (0, "LSET big:list 9000 other"),
        (0, "LPOP list:small"),
        (0, "DEL intset:small"),
        (0, "SET intset:small now_a_string"),
        (0, "XDEL stream:large 500-1"),
        (0, "XGROUP SETID stream:small group 1-1"),
        (3, "MOVE list 4"),
    ] {
        run(&mut to, &format!("SELECT {db}"))?;
        run(&mut to, line)?;
    }
    ensure!(assert_equal(&source, &target).is_err(), "the oracle sees it too");
    let (code, report) = verify(&source.url(), &target.url(), &[])?;
    let expected = names(&[
        "0 string:7 value",
        "0 big:string value",
        "0 string:8 value",
        "0 string:9 value",
        "0 string:10 missing",
        "0 string:extra extra",
        "0 expiring:3 ttl",
        "0 expiring:4 ttl",
        "0 string:11 ttl",
        "0 big:zset value",
        "0 zset:large value",
        "0 big:set value",
        "0 set:small value",
        "0 set:moved extra",
        "0 big:hash value",
        "0 hash:large value",
        "0 big:list value",
        "0 list:small value",
        "0 intset:small type",
        "0 stream:large value",
        "0 stream:small group",
        "3 list missing",
        "4 list extra",
    ]);
    ensure!(code == DIFFERS && found(&report) == expected, "{code} {report:#}");
    let text = report.to_string();
    ensure!(
        !text.contains("now_a_string") && !text.contains("source_value"),
        "data without being asked for it: {text}"
    );

    let (code, report) = verify(&source.url(), &target.url(), &["--mode", "keys", "--show-values"])?;
    let without_values: BTreeSet<String> =
        expected.iter().filter(|found| !found.ends_with("value") && !found.ends_with("group")).cloned().collect();
    ensure!(code == DIFFERS && found(&report) == without_values, "{code} {report:#}");
    let (code, report) = verify(&source.url(), &target.url(), &["--mode", "count"])?;
    ensure!(code == DIFFERS && found(&report) == names(&["3  count", "4  count", "0  count"]), "{code} {report:#}");
    Ok(())
}

/// Keys and elements of the largest one; `DTS_LONG=1`: a million keys, ten million elements.
fn large() -> (u64, u64) {
    if std::env::var_os("DTS_LONG").is_some() { (1_000_000, 10_000_000) } else { (20_000, 200_000) }
}

fn fill_large(server: &Server) -> Result<()> {
    let (keys, elements) = large();
    let mut connection = server.connect()?;
    for from in (0..elements).step_by(10_000) {
        let mut pipe = redis::pipe();
        for i in from..(from + 10_000).min(elements) {
            pipe.cmd("ZADD").arg("huge:zset").arg(i).arg(format!("member {i}")).ignore();
        }
        pipe.query::<()>(&mut connection)?;
    }
    for from in (0..keys).step_by(10_000) {
        let mut pipe = redis::pipe();
        for i in from..(from + 10_000).min(keys) {
            let key = format!("key:{i}");
            match i % 5 {
                0 => pipe.cmd("SET").arg(&key).arg(format!("value of {i}")).ignore(),
                1 => pipe.cmd("HSET").arg(&key).arg("a").arg(i).arg("b").arg(i * 7).ignore(),
                2 => pipe.cmd("RPUSH").arg(&key).arg(i).arg(i + 1).arg(i + 2).ignore(),
                3 => pipe.cmd("SADD").arg(&key).arg(i).arg(format!("m{i}")).ignore(),
                _ => pipe.cmd("SET").arg(&key).arg(i).arg("PXAT").arg(AT + i64::try_from(i)?).ignore(),
            };
        }
        pipe.query::<()>(&mut connection)?;
    }
    Ok(())
}

/// Corruptions of every kind, each of a key that no other touches; gives `db key kind` of what has to be found.
fn corrupt(target: &mut Connection, seed: u64) -> Result<BTreeSet<String>> {
    let (keys, elements) = large();
    let mut state = seed;
    let mut next = |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut expected = BTreeSet::new();
    let member = next(elements);
    run(target, &format!("ZREM huge:zset member~{member}"))?;
    expected.insert("0 huge:zset value".to_owned());
    for kind in 0..10u64 {
        for nth in 0..3 {
            // Another hundredth of the keys for each: of a type by its number.
            let of = |kind: u64, remainder: u64, random: u64| (kind * 10 + nth) * (keys / 100) + random * 5 + remainder;
            let random = next(keys / 500);
            let (line, found) = match kind {
                0 => (format!("SETBIT key:{} 9 0", of(0, 0, random)), None),
                1 => (format!("APPEND key:{} x", of(1, 0, random)), Some("value")),
                2 => (format!("HSET key:{} a other", of(2, 1, random)), Some("value")),
                3 => (format!("LSET key:{} 1 other", of(3, 2, random)), Some("value")),
                4 => (format!("SREM key:{} m{}", of(4, 3, random), of(4, 3, random)), Some("value")),
                5 => (format!("PERSIST key:{}", of(5, 4, random)), Some("ttl")),
                6 => (format!("PEXPIREAT key:{} {}", of(6, 4, random), AT - 1_000_000), Some("ttl")),
                7 => (format!("DEL key:{}", of(7, 2, random)), Some("missing")),
                8 => (format!("SET more:{nth} x"), Some("extra")),
                _ => (format!("MOVE key:{} 7", of(9, 1, random)), Some("missing")),
            };
            run(target, &line)?;
            let key = line.split(' ').nth(1).unwrap_or_default();
            expected.insert(format!("0 {key} {}", found.unwrap_or("value")));
            if kind == 9 {
                expected.insert(format!("7 {key} extra"));
            }
        }
    }
    Ok(expected)
}

#[test]
fn seeded_corruptions_of_a_large_set_are_all_found_and_nothing_else() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", &[])?, Server::start("redis-7.0", &[])?);
    std::thread::scope(|scope| {
        let one = scope.spawn(|| fill_large(&source));
        fill_large(&target)?;
        one.join().map_err(|_| anyhow::anyhow!("filling broke"))?
    })?;
    let (code, report) = verify(&source.url(), &target.url(), &[])?;
    ensure!(code == EQUAL && report["outcome"] == "equal", "{report}");
    let expected = corrupt(&mut target.connect()?, 0x2545_F491_4F6C_DD1D)?;
    let (code, report) = verify(&source.url(), &target.url(), &[])?;
    ensure!(code == DIFFERS && found(&report) == expected, "{code} {report:#}, expected {expected:#?}");
    Ok(())
}

#[test]
fn versions_far_apart_compare_right() -> Result<()> {
    let pairs = [("redis-2.8", "redis-8.10"), ("redis-8.10", "redis-3.2"), ("redis-5.0", "valkey-9.1")];
    for (from, to) in pairs {
        let (source, target) = filled(from, to)?;
        let (code, report) = verify(&source.url(), &target.url(), &["--ttl-tolerance", "0s"])?;
        ensure!(code == EQUAL, "{from} -> {to}: {report:#}");
        let mut to = target.connect()?;
        for line in
            ["ZINCRBY zset:large 0.0000001 element~5", "PEXPIREAT expiring:9 4000000009000", "LSET big:list 5 x"]
        {
            run(&mut to, line)?;
        }
        let (code, report) = verify(&source.url(), &target.url(), &[])?;
        let expected = names(&["0 zset:large value", "0 expiring:9 ttl", "0 big:list value"]);
        ensure!(code == DIFFERS && found(&report) == expected, "{from}: {report:#}");
    }
    Ok(())
}

#[test]
fn expiries_of_hash_fields_and_functions_are_compared_where_both_sides_have_them() -> Result<()> {
    for (from, to) in [("redis-7.4", "redis-8.2"), ("redis-8.2", "valkey-9.0")] {
        let (source, target) = (Server::start(from, &[])?, Server::start(to, &[])?);
        let library = "#!lua name=one\nredis.register_function('one', function() return 1 end)";
        for server in [&source, &target] {
            let mut pipe = redis::pipe();
            for i in 0..20_000 {
                pipe.cmd("HSET").arg("big").arg(i).arg("v".repeat(20)).ignore();
            }
            pipe.cmd("HSET").arg("small").arg("a").arg(1).arg("b").arg(2).ignore();
            for (key, field) in [("big", "17000"), ("small", "a")] {
                pipe.cmd("HPEXPIREAT").arg(key).arg(AT).arg("FIELDS").arg(1).arg(field).ignore();
            }
            pipe.cmd("FUNCTION").arg("LOAD").arg(library).ignore();
            pipe.query::<()>(&mut server.connect()?)?;
        }
        let (code, report) = verify(&source.url(), &target.url(), &[])?;
        ensure!(code == EQUAL, "{from} -> {to}: {report:#}");
        let mut connection = target.connect()?;
        run(&mut connection, "HPEXPIREAT big 4000000009000 FIELDS 1 17000")?;
        run(&mut connection, "HPEXPIREAT small 4000000009000 FIELDS 1 b")?;
        run(&mut connection, "FUNCTION DELETE one")?;
        let (code, report) = verify(&source.url(), &target.url(), &[])?;
        let expected = names(&["0 big ttl", "0 small ttl", "0 one function"]);
        ensure!(code == DIFFERS && found(&report) == expected, "{from} -> {to}: {report:#}");
    }
    Ok(())
}

#[test]
fn clusters_and_servers_compare_in_any_combination() -> Result<()> {
    let (one, two) = (Cluster::start("redis-7.0", 3, 0, &[])?, Cluster::start("redis-5.0", 2, 0, &[])?);
    let alone = Server::start("redis-6.2", &[])?;
    for n in 0..300 {
        let key = format!("key:{n}");
        let mut command = redis::cmd("SET");
        command.arg(&key).arg(n);
        command.exec(&mut alone.connect()?)?;
        one.query::<()>(key.as_bytes(), &command)?;
        two.query::<()>(key.as_bytes(), &command)?;
    }
    let urls = [one.url(), two.url(), alone.url()];
    for from in &urls {
        for to in urls.iter().filter(|to| *to != from) {
            let (code, report) = verify(from, to, &[])?;
            ensure!(code == EQUAL && report["compared_keys"] == 300, "{from} -> {to}: {report:#}");
        }
    }
    let mut delete = redis::cmd("DEL");
    two.query::<()>(b"key:5", delete.arg("key:5"))?;
    let mut set = redis::cmd("SET");
    two.query::<()>(b"more", set.arg("more").arg(1))?;
    for from in [&urls[0], &urls[2]] {
        let (code, report) = verify(from, &urls[1], &[])?;
        ensure!(code == DIFFERS && found(&report) == names(&["0 key:5 missing", "0 more extra"]), "{report:#}");
        let (code, report) = verify(&urls[1], from, &[])?;
        ensure!(code == DIFFERS && found(&report) == names(&["0 key:5 extra", "0 more missing"]), "{report:#}");
    }
    Ok(())
}

#[test]
fn filters_and_maps_of_databases_bound_what_is_compared() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", &[])?, Server::start("redis-6.2", &[])?);
    let (mut from, mut to) = (source.connect()?, target.connect()?);
    for line in ["SELECT 3", "SET a:1 x", "SET a:2 x", "RPUSH a:list x", "SET b:1 x", "SELECT 5", "SET a:3 x"] {
        run(&mut from, line)?;
    }
    for line in ["SELECT 4", "SET a:1 x", "SET a:2 other", "SET a:gone x", "SET b:9 x", "SELECT 3", "SET a:1 foreign"] {
        run(&mut to, line)?;
    }
    let options = ["--map-db", "3:4", "--include-db", "3", "--include-prefix", "a:", "--include-type", "string"];
    let (code, report) = verify(&source.url(), &target.url(), &options)?;
    let expected = names(&["3 a:2 value", "3 a:gone extra"]);
    ensure!(code == DIFFERS && found(&report) == expected, "{report:#}");
    ensure!(report["differences"][0]["target_db"] == 4, "{report:#}");
    Ok(())
}

#[test]
fn several_sources_a_sample_and_a_rate() -> Result<()> {
    let (one, two) = (Server::start("redis-7.0", &[])?, Server::start("redis-4.0", &[])?);
    let target = Server::start("redis-7.0", &[])?;
    let (mut pipes, mut all) = (vec![redis::pipe(), redis::pipe()], redis::pipe());
    for n in 0..2000 {
        pipes[n % 2].cmd("SET").arg(n).arg(n).ignore();
        all.cmd("SET").arg(n).arg(n).ignore();
    }
    pipes[0].query::<()>(&mut one.connect()?)?;
    pipes[1].query::<()>(&mut two.connect()?)?;
    all.query::<()>(&mut target.connect()?)?;
    let both = ["--source", &two.url()];
    let (code, report) = verify(&one.url(), &target.url(), &both)?;
    ensure!(code == EQUAL && report["compared_keys"] == 2000, "{report:#}");
    let begun = std::time::Instant::now();
    let (code, report) = verify(&one.url(), &target.url(), &[&both[..], &["--rate", "2000"]].concat())?;
    // 4000 keys are looked at: of both sides.
    ensure!(code == EQUAL && begun.elapsed().as_millis() > 1000, "{:?}: {report:#}", begun.elapsed());
    redis::cmd("FLUSHALL").exec(&mut target.connect()?)?;
    redis::cmd("SET").arg("1").arg("other").exec(&mut target.connect()?)?;
    let (code, report) = verify(&one.url(), &target.url(), &[&both[..], &["--mode", "sample"]].concat())?;
    ensure!(code == DIFFERS && found(&report).contains("0 1 value"), "{report:#}");
    ensure!(report["counts"]["missing"].as_u64() > Some(1000), "{report:#}");
    Ok(())
}
