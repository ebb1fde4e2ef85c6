//! Records what a real server writes: its RDB file, and what plain commands say stands in it, for the decoder's own tests.
//!
//! `golden SERVER-BINARY NAME DIRECTORY`

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use dts_tests::load::version;
use dts_tests::server::Server;
use redis::{Connection, Value};

/// 2100-01-01, in ms.
const EXPIRES_AT: &str = "4102444800000";

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().context("golden SERVER-BINARY NAME DIRECTORY");
    let (program, name, directory) = (next()?, next()?, next()?);
    let server = Server::start_program(Path::new(&program), &[])?;
    let mut connection = server.connect()?;
    fill(&mut connection, version(&server)?)?;
    redis::cmd("SAVE").exec(&mut connection)?;
    let to = Path::new(&directory);
    std::fs::copy(server.dir().join("dump.rdb"), to.join(format!("{name}.rdb")))?;
    std::fs::write(to.join(format!("{name}.txt")), expected(&mut connection)?)?;
    Ok(())
}

fn fill(connection: &mut Connection, version: u32) -> Result<()> {
    let long = "long ".repeat(30);
    let mut pipe = redis::pipe();
    for (name, value) in [("text", "value"), ("number", "-12345"), ("big", "1234567890123456789"), ("empty", "")] {
        pipe.cmd("SET").arg(format!("string:{name}")).arg(value).ignore();
    }
    pipe.cmd("SET").arg("string:compressed").arg(long.repeat(20)).ignore();
    pipe.cmd("SET").arg(b"binary\x00\xff\n").arg(b"\x00\xff\r\n ").ignore();
    for (name, count) in [("small", 4), ("large", 520)] {
        for i in 0..count {
            pipe.cmd("RPUSH").arg(format!("list:{name}")).arg(format!("item {i}")).arg(i * 1_000_003).ignore();
            pipe.cmd("SADD").arg(format!("set:{name}")).arg(format!("member {i}")).ignore();
            pipe.cmd("SADD").arg(format!("intset:{name}")).arg(i64::from(i) * 40_000_000 - 5).ignore();
            pipe.cmd("HSET").arg(format!("hash:{name}")).arg(format!("field {i}")).arg(i).ignore();
            pipe.cmd("ZADD").arg(format!("zset:{name}")).arg(f64::from(i) * 0.1).arg(format!("member {i}")).ignore();
        }
    }
    for i in [-1i64, 0, 127, 128, -128, 4095, 4096, -4096, 32767, -32768, 8_388_607, 2_147_483_647, i64::MAX, i64::MIN]
    {
        pipe.cmd("RPUSH").arg("list:numbers").arg(i).ignore();
    }
    pipe.cmd("RPUSH").arg("list:long").arg(&long).arg("x".repeat(70)).arg("y".repeat(9000)).ignore();
    pipe.cmd("SADD").arg("set:mixed").arg("a").arg(1).arg(&long).ignore();
    pipe.cmd("HSET").arg("hash:long").arg("field").arg(&long).ignore();
    pipe.cmd("ZADD").arg("zset:special").arg("inf").arg("up").arg("-inf").arg("down").arg("1e-300").arg(&long).ignore();
    pipe.cmd("SET").arg("expiring").arg(1).ignore().cmd("PEXPIREAT").arg("expiring").arg(EXPIRES_AT).ignore();
    pipe.cmd("PEXPIREAT").arg("hash:small").arg(EXPIRES_AT).ignore();
    if version >= 500 {
        for (name, count) in [("small", 3), ("large", 300)] {
            let key = format!("stream:{name}");
            for i in 1..=count {
                pipe.cmd("XADD")
                    .arg(&key)
                    .arg(format!("{i}-{}", i % 3))
                    .arg("field")
                    .arg(i)
                    .arg("other")
                    .arg("x")
                    .ignore();
            }
            pipe.cmd("XADD").arg(&key).arg("1000-5").arg("alone").arg("entry").ignore();
            pipe.cmd("XDEL").arg(&key).arg("2-2").ignore();
            for group in ["one", "two"] {
                pipe.cmd("XGROUP").arg("CREATE").arg(&key).arg(group).arg("0").ignore();
            }
            pipe.cmd("XREADGROUP")
                .arg("GROUP")
                .arg("one")
                .arg("me")
                .arg("COUNT")
                .arg(2)
                .arg("STREAMS")
                .arg(&key)
                .arg(">")
                .ignore();
            pipe.cmd("XREADGROUP")
                .arg("GROUP")
                .arg("one")
                .arg("you")
                .arg("COUNT")
                .arg(1)
                .arg("STREAMS")
                .arg(&key)
                .arg(">")
                .ignore();
        }
    }
    if version >= 700 {
        let library = "#!lua name=lib\nredis.register_function('f', function() return 1 end)";
        pipe.cmd("FUNCTION").arg("LOAD").arg(library).ignore();
    }
    pipe.cmd("SELECT").arg(9).ignore().cmd("SET").arg("nine").arg(9).ignore().cmd("SELECT").arg(0).ignore();
    pipe.query::<()>(connection)?;
    for key in ["hash:small", "hash:large", "hash:long"] {
        // Redis 7.4, Valkey 9.
        let _known_or_not: redis::RedisResult<Value> = redis::cmd("HPEXPIREAT")
            .arg(key)
            .arg(EXPIRES_AT)
            .arg("FIELDS")
            .arg(2)
            .arg("field 1")
            .arg("field")
            .query(connection);
    }
    Ok(())
}

/// One line a piece of data, sorted: `db|key|kind|…`, everything escaped.
fn expected(connection: &mut Connection) -> Result<String> {
    let mut lines = BTreeSet::new();
    for db in [0, 9] {
        redis::cmd("SELECT").arg(db).exec(connection)?;
        let keys: Vec<Vec<u8>> = redis::cmd("KEYS").arg("*").query(connection)?;
        for key in keys {
            value(connection, db, &key, &mut lines)?;
        }
    }
    let mut text = String::new();
    for line in lines {
        writeln!(text, "{line}")?;
    }
    Ok(text)
}

fn show(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

fn value(connection: &mut Connection, db: u32, key: &[u8], lines: &mut BTreeSet<String>) -> Result<()> {
    let head = format!("{db}|{}", show(key));
    let kind: String = redis::cmd("TYPE").arg(key).query(connection)?;
    let left: i64 = redis::cmd("PTTL").arg(key).query(connection)?;
    if left > 0 {
        lines.insert(format!("{head}|expires|{EXPIRES_AT}"));
    }
    match kind.as_str() {
        "string" => {
            let found: Vec<u8> = redis::cmd("GET").arg(key).query(connection)?;
            lines.insert(format!("{head}|string|{}", show(&found)));
        }
        "list" => {
            let found: Vec<Vec<u8>> = redis::cmd("LRANGE").arg(key).arg(0).arg(-1).query(connection)?;
            for (index, item) in found.iter().enumerate() {
                lines.insert(format!("{head}|list|{index}|{}", show(item)));
            }
        }
        "set" => {
            let found: Vec<Vec<u8>> = redis::cmd("SMEMBERS").arg(key).query(connection)?;
            lines.extend(found.iter().map(|member| format!("{head}|set|{}", show(member))));
        }
        "hash" => {
            let found: Vec<(Vec<u8>, Vec<u8>)> = redis::cmd("HGETALL").arg(key).query(connection)?;
            for (field, value) in found {
                let asked: redis::RedisResult<Vec<i64>> =
                    redis::cmd("HPEXPIRETIME").arg(key).arg("FIELDS").arg(1).arg(&field).query(connection);
                let expiry = asked.unwrap_or_default().into_iter().find(|at| *at > 0).unwrap_or(0);
                lines.insert(format!("{head}|hash|{}|{}|{expiry}", show(&field), show(&value)));
            }
        }
        "zset" => {
            let found: Vec<(Vec<u8>, f64)> =
                redis::cmd("ZRANGE").arg(key).arg(0).arg(-1).arg("WITHSCORES").query(connection)?;
            lines.extend(found.iter().map(|(member, score)| format!("{head}|zset|{}|{score:e}", show(member))));
        }
        "stream" => stream(connection, &head, key, lines)?,
        other => anyhow::bail!("a key of type {other}"),
    }
    Ok(())
}

fn stream(connection: &mut Connection, head: &str, key: &[u8], lines: &mut BTreeSet<String>) -> Result<()> {
    let entries: Vec<(String, Vec<Vec<u8>>)> = redis::cmd("XRANGE").arg(key).arg("-").arg("+").query(connection)?;
    for (id, fields) in entries {
        let fields: Vec<String> = fields.iter().map(|field| show(field)).collect();
        lines.insert(format!("{head}|stream|{id}|{}", fields.join("|")));
    }
    for group in ["one", "two"] {
        let pending: Vec<(String, String, i64, u64)> =
            redis::cmd("XPENDING").arg(key).arg(group).arg("-").arg("+").arg(100).query(connection)?;
        lines.insert(format!("{head}|group|{group}"));
        for (id, consumer, _idle, count) in pending {
            lines.insert(format!("{head}|pending|{group}|{consumer}|{id}|{count}"));
        }
    }
    Ok(())
}
