//! The way back where a side is a cluster: there and back again with traffic that shows every change that is lost, doubled or out of order.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use dts_tests::cluster::Cluster;
use dts_tests::oracle::assert_equal_nodes;
use dts_tests::server::Server;
use dts_tests::spread::{Divided, client_of, fill};
use redis::Connection;
use serde_json::{Value, json};

use crate::routed_target::Routed;
use crate::switch_over::{Site, endpoint};
use crate::way_back::with_own_login;
use crate::{keys_of_ours, until};

/// Their tags lie on every master.
const TAGS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

/// One server, or a cluster.
pub(crate) enum Side {
    Server(Box<Server>),
    Cluster(Cluster),
}

impl Side {
    pub(crate) fn server(version: &str) -> Result<Self> {
        Ok(Self::Server(Box::new(Server::start(version, &[])?)))
    }

    pub(crate) fn cluster(version: &str, masters: usize, replicas: usize) -> Result<Self> {
        Cluster::start(version, masters, replicas, &[]).map(Self::Cluster)
    }

    /// Those that take writes now.
    pub(crate) fn masters(&self) -> Result<Vec<&Server>> {
        match self {
            Self::Server(server) => Ok(vec![server]),
            Self::Cluster(cluster) => cluster.masters(),
        }
    }

    fn connect_for(&self, tag: &str) -> Result<Connection> {
        match self {
            Self::Server(server) => server.connect(),
            Self::Cluster(cluster) => cluster.connect_for(tag.as_bytes()),
        }
    }

    /// Keys of several types, some with expiries.
    pub(crate) fn fill(&self, count: u32) -> Result<()> {
        match self {
            Self::Server(server) => fill(&mut Divided::among(&[server], |_| 0)?, count),
            Self::Cluster(cluster) => fill(&mut client_of(cluster)?, count),
        }
    }

    /// Every server that it has, each with a user of the task's own.
    pub(crate) fn logins(&self) -> Result<Vec<Value>> {
        if let Self::Cluster(cluster) = self {
            cluster.nodes.iter().try_for_each(|node| with_own_login(node).map(drop))?;
        }
        self.masters()?.into_iter().map(with_own_login).collect()
    }

    pub(crate) fn kind(&self) -> Value {
        match self {
            Self::Server(_) => json!({}),
            Self::Cluster(_) => json!({"topology": {"kind": "SOURCE_KIND_CLUSTER"}}),
        }
    }

    pub(crate) fn of_ours(&self) -> Result<usize> {
        self.masters()?.into_iter().map(keys_of_ours).sum()
    }
}

/// What was acknowledged to the clients of one tag.
#[derive(Clone, Debug, Default)]
pub(crate) struct Told {
    increments: u64,
    pushes: u64,
    appends: u64,
}

/// Clients, one a tag, until they are refused or stopped.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    clients: Vec<JoinHandle<(Told, String)>>,
}

impl Traffic {
    /// Goes on behind what was told before.
    pub(crate) fn start(side: &Side, told: Vec<Told>) -> Result<Self> {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut clients = Vec::new();
        for (tag, mut told) in TAGS.into_iter().zip(told) {
            let (mut connection, stop, rounds) = (side.connect_for(tag)?, stop.clone(), rounds.clone());
            clients.push(std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Err(error) = round(&mut connection, tag, &mut told) {
                        return (told, error.to_string());
                    }
                    rounds.fetch_add(1, Ordering::Relaxed);
                    std::thread::sleep(Duration::from_millis(2));
                }
                (told, String::new())
            }));
        }
        Ok(Self { stop, rounds, clients })
    }

    pub(crate) fn nothing() -> Vec<Told> {
        vec![Told::default(); TAGS.len()]
    }

    pub(crate) fn pass(&self) -> Result<()> {
        let before = self.rounds.load(Ordering::Relaxed);
        until("traffic", || Ok(self.rounds.load(Ordering::Relaxed) > before + 300))
    }

    pub(crate) fn end(self) -> Result<Vec<Told>> {
        self.stop.store(true, Ordering::Relaxed);
        Ok(self.join()?.into_iter().map(|(told, _)| told).collect())
    }

    /// Each was told that it may not write any more.
    pub(crate) fn refused(self) -> Result<Vec<Told>> {
        let refused = |(told, why): (Told, String)| {
            ensure!(why.contains("permission"), "who waited is refused: {why:?}");
            Ok(told)
        };
        self.join()?.into_iter().map(refused).collect()
    }

    fn join(self) -> Result<Vec<(Told, String)>> {
        self.clients.into_iter().map(|client| client.join().map_err(|_| anyhow!("a client broke"))).collect()
    }
}

fn round(connection: &mut Connection, tag: &str, told: &mut Told) -> redis::RedisResult<()> {
    redis::cmd("INCR").arg(format!("count:{{{tag}}}")).exec(connection)?;
    told.increments += 1;
    redis::cmd("RPUSH").arg(format!("list:{{{tag}}}")).arg(told.pushes).exec(connection)?;
    told.pushes += 1;
    redis::cmd("APPEND").arg(format!("text:{{{tag}}}")).arg(format!("{},", told.appends)).exec(connection)?;
    told.appends += 1;
    // Refreshed again and again: an expiry that is not held would lose it.
    redis::cmd("SET").arg(format!("dies:{{{tag}}}")).arg(told.appends).arg("PX").arg(60_000).exec(connection)
}

/// Everything that was acknowledged is there, once, in its order, and nothing else.
pub(crate) fn exact(side: &Side, told: &[Told]) -> Result<()> {
    for (tag, told) in TAGS.into_iter().zip(told) {
        let mut connection = side.connect_for(tag)?;
        let count: u64 = redis::cmd("GET").arg(format!("count:{{{tag}}}")).query(&mut connection)?;
        let list: Vec<u64> =
            redis::cmd("LRANGE").arg(format!("list:{{{tag}}}")).arg(0).arg(-1).query(&mut connection)?;
        let text: String = redis::cmd("GET").arg(format!("text:{{{tag}}}")).query(&mut connection)?;
        let expected: String = (0..told.appends).map(|number| format!("{number},")).collect();
        ensure!(count == told.increments, "{tag}: {count} counted, {told:?}");
        ensure!(list.iter().copied().eq(0..told.pushes), "{tag}: {} in the list, {told:?}", list.len());
        ensure!(text == expected, "{tag}: the text differs, {told:?}");
    }
    Ok(())
}

/// A task that follows, with traffic on its source.
pub(crate) fn begin(site: &mut Site, old: &Side, new: &Side) -> Result<Traffic> {
    old.fill(1500)?;
    let (from, to) = (old.logins()?, new.logins()?);
    site.follow(&json!(from), &to[0], &old.kind())?;
    let traffic = Traffic::start(old, Traffic::nothing())?;
    traffic.pass()?;
    Ok(traffic)
}

/// Waits for the task that goes back; a shard of it for every master of the new side, none of which has copied.
pub(crate) fn follows_back(site: &mut Site, done: &Value, new: &Side) -> Result<()> {
    ensure!(done["phase"] == "SWITCH_OVER_PHASE_DONE", "{done:#}");
    let back = done["wayBackTaskId"].as_str().context("no way back")?;
    site.id = back.to_owned();
    let ended = site.until_state("TASK_STATE_INCR_SYNC");
    let task = site.task(&site.id)?;
    ended.with_context(|| format!("{task:#}"))?;
    let shards = task["shards"].as_array().context("shards")?;
    ensure!(shards.len() == new.masters()?.len(), "{task:#}");
    ensure!(done["turned"]["sources"].as_array().is_some_and(|sources| sources.len() == shards.len()), "{done:#}");
    no_copy(site)
}

pub(crate) fn no_copy(site: &Site) -> Result<()> {
    let task = site.task(&site.id)?;
    let copied = |shard: &Value| !shard["status"]["snapshot"]["receivedBytes"].is_null();
    ensure!(!task["shards"].as_array().context("shards")?.iter().any(copied), "it goes on without a copy: {task:#}");
    Ok(())
}

/// The way back is switched over: the old side has it all, is open again, and nothing of ours is left.
pub(crate) fn returns(site: &Site, old: &Side, new: &Side, traffic: Traffic) -> Result<()> {
    traffic.pass()?;
    let done = site.switch(&json!({"verify": "VERIFY_MODE_FULL", "verify_before": "VERIFY_MODE_KEYS"}))?;
    ensure!(done["phase"] == "SWITCH_OVER_PHASE_DONE", "{done:#}");
    ensure!(done["opened"].is_object() && done["opened"]["failed"].is_null(), "{done:#}");
    exact(old, &traffic.refused()?)?;
    let (left, right) = (new.masters()?, old.masters()?);
    assert_equal_nodes(&left, &right)?;
    ensure!(old.of_ours()? + new.of_ours()? == 0, "keys of ours are left");
    for tag in TAGS {
        let again = redis::cmd("SET").arg(format!("again:{{{tag}}}")).arg(1).exec(&mut old.connect_for(tag)?);
        again.with_context(|| format!("every master of the old side is open again: {done:#}"))?;
    }
    Ok(())
}

fn there_and_back(old: &Side, new: &Side) -> Result<()> {
    let mut site = Site::start()?;
    let traffic = begin(&mut site, old, new)?;
    let copies = || -> Result<u32> { new.masters()?.iter().map(|of| Ok(of.info("sync_full")?.parse::<u32>()?)).sum() };
    let before = copies()?;
    let done = site.switch(&json!({"verify": "VERIFY_MODE_FULL", "keep_way_back": true}))?;
    let told = traffic.refused()?;
    exact(new, &told)?;
    // Clients come as soon as they may.
    let traffic = Traffic::start(new, told)?;
    follows_back(&mut site, &done, new)?;
    ensure!(copies()? <= before + u32::try_from(new.masters()?.len())?, "a backlog is begun once a master");
    let held = || -> Result<bool> {
        let left: i64 = redis::cmd("PTTL").arg("fill:4").query(&mut old.connect_for("fill:4")?)?;
        Ok(left > 1 << 41)
    };
    until("held expiries", held)?;
    returns(&site, old, new, traffic)
}

#[test]
fn clients_go_from_a_cluster_to_a_cluster_and_back_with_nothing_lost_or_doubled() -> Result<()> {
    // Other borders between the masters.
    there_and_back(&Side::cluster("redis-7.0", 3, 0)?, &Side::cluster("redis-7.0", 4, 0)?)
}

#[test]
fn clients_go_from_a_server_to_a_cluster_and_back_with_nothing_lost_or_doubled() -> Result<()> {
    there_and_back(&Side::server("redis-6.2")?, &Side::cluster("redis-7.0", 3, 0)?)
}

#[test]
fn clients_go_from_a_cluster_to_a_server_and_back_with_nothing_lost_or_doubled() -> Result<()> {
    there_and_back(&Side::cluster("redis-7.0", 3, 0)?, &Side::server("valkey-8.1")?)
}

#[test]
fn a_way_back_that_cannot_be_kept_is_refused_by_name_before_anything_is_touched() -> Result<()> {
    let (one, other, target) =
        (Server::start("redis-7.0", &[])?, Server::start("redis-7.0", &[])?, Server::start("redis-7.0", &[])?);
    let proxy = Routed::start()?;
    let ring = json!({"hash": "murmur", "distribution": "modula", "servers": [{"name": "one", "weight": 1}]});
    let routes = json!({"host": "127.0.0.1", "port": proxy.port, "routes": true});
    let codis = json!({"topology": {"kind": "SOURCE_KIND_CODIS", "codis_slots": ["0-399", "400-1023"]}});
    let both = json!([endpoint(&one), endpoint(&other)]);
    let alone = json!([endpoint(&one)]);
    for (sources, target, more, word) in [
        (&both, &endpoint(&target), json!({}), "several servers"),
        (&both, &endpoint(&target), codis, "codis"),
        (&alone, &endpoint(&target), json!({"topology": {"kind": "SOURCE_KIND_TWEMPROXY", "ring": ring}}), "twemproxy"),
        (&alone, &routes, json!({}), "routes by itself"),
        (&alone, &endpoint(&target), json!({"filter": {"exclude_prefixes": ["x"]}}), "filter"),
    ] {
        let mut site = Site::start()?;
        site.follow(sources, target, &more).context(word)?;
        let seen = site.switch(&json!({"rehearse": true, "keep_way_back": true}))?;
        let needs: Vec<&Value> = seen["shards"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|shard| shard["needs"].as_array())
            .flatten()
            .collect();
        let missing = needs.iter().find(|need| need["step"] == "way_back").context("no way back")?["missing"].as_str();
        ensure!(missing.is_some_and(|missing| missing.contains(word)), "{word}: {seen:#}");
        let asked = site.switch(&json!({"keep_way_back": true, "leave_open": true}))?;
        ensure!(asked["phase"] == "SWITCH_OVER_PHASE_RETURNED" && asked.to_string().contains(word), "{asked:#}");
        site.call("TaskService/CancelTask", &json!({"id": site.id}))?;
        site.until_state("TASK_STATE_CANCELLED")?;
        for server in [&one, &other] {
            redis::cmd("SET").arg("open").arg(1).exec(&mut server.connect()?).context("it was not closed")?;
            redis::cmd("DEL").arg("open").exec(&mut server.connect()?)?;
        }
    }
    Ok(())
}
