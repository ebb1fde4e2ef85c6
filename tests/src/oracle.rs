//! Says whether two servers hold the same, reading both by plain commands.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail, ensure};
use redis::{Connection, Value};

use crate::server::Server;

const DATABASES: usize = 16;
/// Two clocks are asked one after the other.
const EXPIRY_TOLERANCE_MS: i64 = 2000;

type Bytes = Vec<u8>;

fn ask<T: redis::FromRedisValue>(connection: &mut Connection, words: &[&[u8]]) -> Result<T> {
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(*word);
    }
    Ok(command.query(connection)?)
}

/// Fails with the first difference between two clusters, a cluster and a server, or a server and a cluster: each side is
/// the servers that hold its keys. Only db 0 of a cluster is looked at; it has no other.
pub fn assert_equal_nodes(source: &[&Server], target: &[&Server]) -> Result<()> {
    compare_nodes(source, target, "", same)
}

/// The same without expiries, and without keys of ours: for a target whose task runs.
pub fn assert_equal_values(source: &[&Server], target: &[&Server]) -> Result<()> {
    compare_nodes(source, target, "__dts:", |db, key, left, right| {
        let (here, there) = (value(left, key)?, value(right, key)?);
        let name = String::from_utf8_lossy(key);
        ensure!(here == there, "db {db}: key {name:?} differs: {here:.300?} and {there:.300?}");
        Ok(())
    })
}

type Compare = fn(usize, &[u8], &mut Connection, &mut Connection) -> Result<()>;

/// Keys of the target that begin with `ours` are not looked at, if that is not empty.
fn compare_nodes(source: &[&Server], target: &[&Server], ours: &str, same: Compare) -> Result<()> {
    let (mut left, mut right) = (Nodes::open(source)?, Nodes::open(target)?);
    for db in 0..DATABASES {
        let (from, mut to) = (left.keys(db)?, right.keys(db)?);
        to.retain(|key, _| ours.is_empty() || !key.starts_with(ours.as_bytes()));
        let (here, there): (BTreeSet<&Bytes>, BTreeSet<&Bytes>) = (from.keys().collect(), to.keys().collect());
        if let Some(key) = here.symmetric_difference(&there).next() {
            let side = if from.contains_key(*key) { "missing on the target" } else { "only on the target" };
            bail!("db {db}: key {:?} is {side} ({} and {} keys)", String::from_utf8_lossy(key), from.len(), to.len());
        }
        for (key, node) in &from {
            let other = right.0.get_mut(to[key]).context("a node")?;
            same(db, key, left.0.get_mut(*node).context("a node")?, other)?;
        }
    }
    for node in &mut right.0 {
        ensure!(libraries(&mut left.0[0])? == libraries(node)?, "the function libraries differ");
    }
    Ok(())
}

/// Connections to the servers that together hold one side.
struct Nodes(Vec<Connection>);

impl Nodes {
    fn open(servers: &[&Server]) -> Result<Self> {
        Ok(Self(servers.iter().map(|server| server.connect()).collect::<Result<_>>()?))
    }

    /// Every key, and which of the nodes holds it.
    fn keys(&mut self, db: usize) -> Result<BTreeMap<Bytes, usize>> {
        let mut found = BTreeMap::new();
        for (node, connection) in self.0.iter_mut().enumerate() {
            if ask::<()>(connection, &[b"SELECT", db.to_string().as_bytes()]).is_err() {
                ensure!(db > 0, "no db 0");
                continue;
            }
            for key in keys(connection)? {
                let name = String::from_utf8_lossy(&key).into_owned();
                ensure!(found.insert(key, node).is_none(), "key {name:?} stands on two nodes");
            }
        }
        Ok(found)
    }
}

/// Fails with the first difference.
pub fn assert_equal(source: &Server, target: &Server) -> Result<()> {
    let (mut left, mut right) = (source.connect()?, target.connect()?);
    for db in 0..DATABASES {
        for connection in [&mut left, &mut right] {
            ask::<()>(connection, &[b"SELECT", db.to_string().as_bytes()])?;
        }
        let (from, to) = (keys(&mut left)?, keys(&mut right)?);
        if let Some(key) = from.symmetric_difference(&to).next() {
            let side = if from.contains(key) { "missing on the target" } else { "only on the target" };
            bail!("db {db}: key {:?} is {side} ({} and {} keys)", String::from_utf8_lossy(key), from.len(), to.len());
        }
        for key in &from {
            same(db, key, &mut left, &mut right)?;
        }
    }
    ensure!(libraries(&mut left)? == libraries(&mut right)?, "the function libraries differ");
    Ok(())
}

fn same(db: usize, key: &[u8], left: &mut Connection, right: &mut Connection) -> Result<()> {
    let name = String::from_utf8_lossy(key);
    let (here, there) = (value(left, key)?, value(right, key)?);
    ensure!(here == there, "db {db}: key {name:?} differs: {here:.300?} and {there:.300?}");
    if let Found::Hash(pairs) = &here {
        let fields: Vec<&Bytes> = pairs.keys().collect();
        let (here, there) = (field_expiries(left, key, &fields)?, field_expiries(right, key, &fields)?);
        ensure!(here == there, "db {db}: expiries of fields of {name:?} differ");
    }
    let (here, there): (i64, i64) = (ask(left, &[b"PTTL", key])?, ask(right, &[b"PTTL", key])?);
    let same = (here < 0) == (there < 0) && (here - there).abs() <= EXPIRY_TOLERANCE_MS;
    ensure!(same, "db {db}: expiry of {name:?} differs: {here} and {there} ms");
    Ok(())
}

/// Fails unless the target holds exactly the keys of the source for which `rule` (database, key, type) names a database of the target,
/// each there with its value and its expiry. Keys that `foreign` names are nobody's matter.
pub fn assert_selected(
    source: &Server,
    target: &Server,
    rule: impl Fn(u32, &[u8], &str) -> Option<u32>,
    foreign: impl Fn(u32, &[u8]) -> bool,
) -> Result<usize> {
    let (mut left, mut right) = (source.connect()?, target.connect()?);
    let select = |connection: &mut Connection, db: u32| ask::<()>(connection, &[b"SELECT", db.to_string().as_bytes()]);
    let databases = u32::try_from(DATABASES)?;
    let mut expected = BTreeMap::new();
    for db in 0..databases {
        select(&mut left, db)?;
        for key in keys(&mut left)? {
            let kind: String = ask(&mut left, &[b"TYPE", &key])?;
            if let Some(to) = rule(db, &key, &kind) {
                ensure!(expected.insert((to, key), db).is_none(), "the rule gives one place to two keys");
            }
        }
    }
    let mut found = BTreeSet::new();
    for db in 0..databases {
        select(&mut right, db)?;
        found.extend(keys(&mut right)?.into_iter().filter(|key| !foreign(db, key)).map(|key| (db, key)));
    }
    for place in &found {
        let (db, key) = (place.0, String::from_utf8_lossy(&place.1));
        ensure!(expected.contains_key(place), "db {db}: key {key:?} should not be on the target");
    }
    for ((to, key), from) in &expected {
        let name = format!("{:?} of db {from} in db {to}", String::from_utf8_lossy(key));
        ensure!(found.contains(&(*to, key.clone())), "{name} is missing");
        select(&mut left, *from)?;
        select(&mut right, *to)?;
        let (here, there) = (value(&mut left, key)?, value(&mut right, key)?);
        ensure!(here == there, "{name} differs: {here:.300?} and {there:.300?}");
        let (here, there): (i64, i64) = (ask(&mut left, &[b"PTTL", key])?, ask(&mut right, &[b"PTTL", key])?);
        let same = (here < 0) == (there < 0) && (here - there).abs() <= EXPIRY_TOLERANCE_MS;
        ensure!(same, "expiry of {name} differs: {here} and {there} ms");
    }
    Ok(expected.len())
}

/// Function libraries as Redis lists them; none before 7.0.
fn libraries(connection: &mut Connection) -> Result<BTreeSet<String>> {
    let listed: redis::RedisResult<Vec<Value>> = redis::cmd("FUNCTION").arg("LIST").arg("WITHCODE").query(connection);
    Ok(listed.unwrap_or_default().into_iter().map(|library| format!("{library:?}")).collect())
}

/// Expiries of hash fields, of those that have one; none where there is no such thing.
fn field_expiries(connection: &mut Connection, key: &[u8], fields: &[&Bytes]) -> Result<Vec<i64>> {
    let count = fields.len().to_string();
    let mut words = vec![b"HPEXPIRETIME".as_slice(), key, b"FIELDS", count.as_bytes()];
    words.extend(fields.iter().map(|field| field.as_slice()));
    let found: Result<Vec<i64>> = ask(connection, &words);
    Ok(found.unwrap_or_else(|_| vec![-1; fields.len()]))
}

fn keys(connection: &mut Connection) -> Result<BTreeSet<Bytes>> {
    ask(connection, &[b"KEYS", b"*"])
}

/// A value in a form that can be compared whatever its encoding.
#[derive(Debug, PartialEq)]
enum Found {
    String(Bytes),
    List(Vec<Bytes>),
    Set(BTreeSet<Bytes>),
    Hash(BTreeMap<Bytes, Bytes>),
    Zset(BTreeMap<Bytes, String>),
    Stream(Value, Value),
}

fn value(connection: &mut Connection, key: &[u8]) -> Result<Found> {
    let kind: String = ask(connection, &[b"TYPE", key])?;
    Ok(match kind.as_str() {
        "string" => Found::String(ask(connection, &[b"GET", key])?),
        "list" => Found::List(ask(connection, &[b"LRANGE", key, b"0", b"-1"])?),
        "set" => Found::Set(ask(connection, &[b"SMEMBERS", key])?),
        "hash" => Found::Hash(ask(connection, &[b"HGETALL", key])?),
        "zset" => {
            let pairs: Vec<(Bytes, f64)> = ask(connection, &[b"ZRANGE", key, b"0", b"-1", b"WITHSCORES"])?;
            Found::Zset(pairs.into_iter().map(|(member, score)| (member, format!("{score:e}"))).collect())
        }
        "stream" => {
            let entries = ask(connection, &[b"XRANGE", key, b"-", b"+"])?;
            let groups: Vec<BTreeMap<String, Value>> = ask(connection, &[b"XINFO", b"GROUPS", key])?;
            let mut pending = Vec::new();
            for group in groups {
                if let Some(Value::BulkString(name)) = group.get("name") {
                    pending.push(ask(connection, &[b"XPENDING", key, name, b"-", b"+", b"1000"]).map(without_idle)?);
                }
            }
            Found::Stream(entries, Value::Array(pending))
        }
        other => bail!("a key of type {other}"),
    })
}

/// Idle times grow while one looks.
fn without_idle(pending: Value) -> Value {
    let Value::Array(entries) = pending else { return pending };
    let cut = |entry| match entry {
        Value::Array(fields) if fields.len() == 4 => {
            Value::Array([0, 1, 3].map(|at: usize| fields[at].clone()).to_vec())
        }
        other => other,
    };
    Value::Array(entries.into_iter().map(cut).collect())
}
