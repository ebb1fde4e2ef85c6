//! Sources that are found: behind a real twemproxy, by real sentinels, from any node of a real cluster, and from codis's topology
//! (its division of keys over real servers).

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use dts_tests::cluster::{Cluster, nodes_of};
use dts_tests::dts::{Dts, binary};
use dts_tests::oracle::{assert_equal, assert_equal_nodes};
use dts_tests::port::free_port;
use dts_tests::server::Server;
use dts_tests::spread::{Divided, Spread, client_of, fill};
use serde_json::Value;

use crate::{complete, keys_of_ours, state, until};

const SOURCE: &[&str] = &["--repl-backlog-size", "32mb", "--repl-diskless-sync-delay", "0"];

/// Starts with what is found behind an entry.
fn discovers(entry: &str, target: &Server, state: &Path, more: &[&str]) -> Result<Dts> {
    Dts::begin(&[&["--discover", entry], more].concat(), &target.url(), state)
}

/// A program that ends with its owner.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn start(name: &str, arguments: &[&str]) -> Result<Self> {
        let child = Command::new(name).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Self(child.with_context(|| format!("{name}: run `make setup`"))?))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn plain(port: u16) -> Result<TcpStream> {
    until("a server that answers", || Ok(TcpStream::connect(("127.0.0.1", port)).is_ok()))?;
    Ok(TcpStream::connect(("127.0.0.1", port))?)
}

fn connect(port: u16) -> Result<redis::Connection> {
    plain(port)?;
    Ok(redis::Client::open(format!("redis://127.0.0.1:{port}"))?.get_connection()?)
}

fn migrates(entry: &str, target: &Server, more: &[&str]) -> Result<(Option<i32>, Vec<Value>)> {
    let (_dir, state) = state()?;
    discovers(entry, target, &state, &[&["--mode", "migrate"], more].concat())?.end()
}

#[test]
fn a_key_behind_twemproxy_is_taken_from_its_owner_and_old_copies_are_named_for_every_way_to_divide_keys() -> Result<()>
{
    let servers = (0..3).map(|_| Server::start("redis-7.0", SOURCE)).collect::<Result<Vec<_>>>()?;
    let sources: Vec<&Server> = servers.iter().collect();
    let hashes =
        ["fnv1a_64", "one_at_a_time", "md5", "crc16", "crc32", "crc32a", "fnv1_64", "fnv1_32", "fnv1a_32", "murmur"];
    let dir = tempfile::tempdir()?;
    let (mut text, mut ports) = (String::new(), Vec::new());
    for (index, hash) in hashes.iter().enumerate() {
        let (port, ring) = (free_port(), ["ketama", "modula"][index % 2]);
        text += &format!(
            "p{index}:\n  listen: 127.0.0.1:{port}\n  hash: {hash}\n  hash_tag: \"{{}}\"\n  distribution: {ring}\n  redis: true\n  servers:\n"
        );
        for (server, weight) in servers.iter().zip(1..) {
            let name = if index == 0 { format!(" named{weight}") } else { String::new() };
            text += &format!("   - 127.0.0.1:{}:{weight}{name}\n", server.port);
        }
        ports.push(port);
    }
    let path = dir.path().join("nutcracker.yml");
    std::fs::write(&path, text)?;
    let config = path.to_str().context("a path")?;
    let _proxy = Program::start("nutcracker", &["-c", config, "-s", &free_port().to_string()])?;
    let target = Server::start("redis-7.0", &[])?;
    let mut wrong = Vec::new();
    for (index, port) in ports.iter().enumerate() {
        let mut proxy = plain(*port)?;
        for i in 0..150u32 {
            let key =
                [format!("k{i}").into_bytes(), format!("{{tag{i}}}é").into_bytes(), vec![200, u8::try_from(i)?, 9]];
            let key = &key[usize::try_from(i % 3)?];
            // The proxy hangs up on what a client says of itself: SET, and nothing before it.
            let mut command = redis::cmd("SET");
            proxy.write_all(&command.arg(key).arg(i).get_packed_command())?;
            let mut said = [0; 5];
            proxy.read_exact(&mut said)?;
            ensure!(said == *b"+OK\r\n", "{}", String::from_utf8_lossy(&said));
        }
        let (code, events) = migrates(&format!("{config}#p{index}"), &target, &[])?;
        if code != Some(0) || assert_equal_nodes(&sources, &[&target]).is_err() {
            wrong.push((hashes[index], events.last().cloned()));
        }
        if index == 0 {
            let owner = sources.iter().position(|source| has(source, "k0").unwrap_or(false)).context("k0")?;
            let other = sources[(owner + 1) % 3];
            redis::cmd("SET").arg("k0").arg("old").exec(&mut other.connect()?)?;
            redis::cmd("FLUSHALL").exec(&mut target.connect()?)?;
            let (code, events) = migrates(&format!("{config}#p0"), &target, &[])?;
            let failed = events.iter().find(|event| event["event"] == "failed").context("no failure")?.to_string();
            ensure!(code == Some(1) && failed.contains("SOURCE_STRAYS") && failed.contains("k0"), "{failed}");
            redis::cmd("FLUSHALL").exec(&mut target.connect()?)?;
            let (code, events) = migrates(&format!("{config}#p0"), &target, &["--strays", "drop"])?;
            ensure!(code == Some(0), "{:?}", events.last());
            ensure!(events.iter().any(|event| event["event"] == "warning" && event.to_string().contains("k0")));
            redis::cmd("DEL").arg("k0").exec(&mut other.connect()?)?;
            assert_equal_nodes(&sources, &[&target])?;
        }
        for server in sources.iter().chain([&&target]) {
            redis::cmd("FLUSHALL").exec(&mut server.connect()?)?;
        }
    }
    ensure!(wrong.is_empty(), "keys are divided in another way by {wrong:?}");
    Ok(())
}

fn has(server: &Server, key: &str) -> Result<bool> {
    Ok(redis::cmd("EXISTS").arg(key).query(&mut server.connect()?)?)
}

#[test]
fn one_key_on_two_independent_servers_is_named_before_anything_is_written() -> Result<()> {
    let servers = [Server::start("redis-7.0", SOURCE)?, Server::start("redis-7.0", SOURCE)?];
    let target = Server::start("redis-7.0", &[])?;
    for (index, server) in servers.iter().enumerate() {
        redis::cmd("MSET").arg("both").arg(index).arg(format!("own{index}")).arg(1).exec(&mut server.connect()?)?;
    }
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&servers[0].url(), &target.url(), &state, &["--source", &servers[1].url()])?;
    let (code, events) = dts.end()?;
    let failed = events.iter().find(|event| event["event"] == "failed").context("no failure")?.to_string();
    ensure!(code == Some(1) && failed.contains("SOURCE_STRAYS") && failed.contains("both"), "{failed}");
    ensure!(redis::cmd("DBSIZE").query::<usize>(&mut target.connect()?)? == 0);
    Ok(())
}

/// As codis divides its keys: CRC-32 of the key, bit by bit.
pub(crate) fn codis_group(key: &str) -> usize {
    let crc = key.bytes().fold(!0u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    });
    usize::from(!crc % 1024 >= 400)
}

/// What a codis dashboard says of two groups that are divided so.
pub(crate) fn codis_topology(servers: &[Server; 2]) -> String {
    let slot = |id: u16| serde_json::json!({"id": id, "group_id": if id < 400 { 1 } else { 2 }, "action": {}});
    let group = |id: usize, server: &Server| serde_json::json!({"id": id, "servers": [{"server": format!("127.0.0.1:{}", server.port)}]});
    let models = [group(1, &servers[0]), group(2, &servers[1])];
    let slots: Vec<Value> = (0..1024).map(slot).collect();
    serde_json::json!({"stats": {"slots": slots, "group": {"models": models}}}).to_string()
}

#[test]
fn codis_is_read_from_its_topology_and_a_flush_of_one_group_leaves_the_other() -> Result<()> {
    let servers = [Server::start("redis-3.2", &[])?, Server::start("redis-3.2", &[])?];
    let sources: Vec<&Server> = servers.iter().collect();
    let target = Server::start("redis-7.0", &[])?;
    let mut client = Divided::among(&sources, codis_group)?;
    fill(&mut client, 3000)?;
    let load = Spread::start(client);
    let body = codis_topology(&servers);
    let dashboard = TcpListener::bind("127.0.0.1:0")?;
    let entry = format!("http://{}", dashboard.local_addr()?);
    std::thread::spawn(move || {
        for mut stream in dashboard.incoming().flatten() {
            let mut asked = [0; 1024];
            let _asked = stream.read(&mut asked);
            let _told = write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{body}");
        }
    });
    let (_dir, state) = state()?;
    let dts = discovers(&entry, &target, &state, &[])?;
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    dts.kill()?;
    let dts = discovers(&entry, &target, &state, &[])?;
    dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    redis::cmd("FLUSHALL").exec(&mut servers[0].connect()?)?;
    load.more(100);
    load.stop()?;
    complete(&state)?;
    let (code, events) = dts.end()?;
    ensure!(code == Some(0), "{:?}", events.last());
    ensure!(keys_of_ours(&target)? == 0);
    assert_equal_nodes(&sources, &[&target])
}

#[test]
fn a_cluster_is_found_from_any_node_and_read_at_replicas_that_are_in_step() -> Result<()> {
    let cluster = Cluster::start("redis-7.0", 3, 1, SOURCE)?;
    let target = Server::start("redis-7.0", &[])?;
    let mut client = client_of(&cluster)?;
    fill(&mut client, 2000)?;
    // A node that has not heard yet whose replica another is does not tell of it.
    until("the node that is asked to know every replica", || {
        Ok(nodes_of(&cluster.nodes[4])?.iter().filter(|node| node.master.is_some()).count() == 3)
    })?;
    let asked = Command::new(binary()?).args(["discover", "--json", &cluster.nodes[4].url()]).output()?;
    let found: Value = serde_json::from_slice(&asked.stdout)?;
    ensure!(
        found["kind"] == "cluster" && found["sources"].as_array().is_some_and(|sources| sources.len() == 3),
        "{found}"
    );
    let (_dir, state) = state()?;
    // The plain list of sources, with one entry: what it is, it says itself.
    let dts = Dts::migrate(&cluster.nodes[4].url(), &target.url(), &state, &[])?;
    let found = dts.wait_for("what was found", |event| event["event"] == "discovered")?;
    ensure!(found["kind"] == "cluster", "{found}");
    let seen = dts.wait_for("a stream", |event| event["ready_to_complete"] == true)?;
    let replicas: Vec<String> = cluster.nodes[3..].iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
    let read = seen["shards"].as_array().into_iter().flatten().filter_map(|shard| shard["reading_from"].as_str());
    ensure!(read.clone().count() == 3 && read.clone().all(|at| replicas.iter().any(|replica| replica == at)), "{seen}");
    let load = Spread::start(client);
    load.more(200);
    load.stop()?;
    complete(&state)?;
    ensure!(dts.end()?.0 == Some(0));
    assert_equal_nodes(&cluster.masters()?, &[&target])
}

#[test]
fn what_is_listed_says_what_it_is_and_files_are_taken_as_sources() -> Result<()> {
    let cluster = Cluster::start("redis-7.0", 3, 0, SOURCE)?;
    let pair = [Server::start("redis-7.0", SOURCE)?, Server::start("redis-7.0", SOURCE)?];
    let (alone, target) = (&pair[0], Server::start("redis-7.0", &[])?);
    let dir = tempfile::tempdir()?;
    let ring = dir.path().join("nutcracker.yml");
    std::fs::write(
        &ring,
        format!("p:\n  redis: true\n  hash: fnv1a_64\n  servers:\n   - 127.0.0.1:{}:1\n", alone.port),
    )?;
    let groups = dir.path().join("topom.json");
    std::fs::write(&groups, codis_topology(&pair))?;
    let masters: Vec<String> = cluster.masters()?.iter().map(|master| master.url()).collect();
    let only = |source: &str| vec![source.to_owned()];
    for (sources, kind, shards) in [
        (only(&alone.url()), "standalone", 1),
        (masters.clone(), "cluster", 3),
        (only(&masters[1]), "cluster", 3),
        (only(ring.to_str().context("a path")?), "twemproxy", 1),
        (only(groups.to_str().context("a path")?), "codis", 2),
        (vec![alone.url(), masters[0].clone()], "standalone", 2),
    ] {
        let (_dir, state) = state()?;
        let arguments: Vec<&str> = sources.iter().flat_map(|source| ["--source", source.as_str()]).collect();
        let dts = Dts::begin(&arguments, &target.url(), &state)?;
        let found = dts.wait_for("what was found", |event| event["event"] == "discovered").context(kind)?;
        let read = found["sources"].as_array().map_or(0, Vec::len);
        ensure!(found["kind"] == kind && read == shards, "{sources:?}: {found}");
        dts.kill()?;
    }
    Ok(())
}

#[test]
fn a_master_of_sentinels_is_followed_to_the_replica_that_they_promote() -> Result<()> {
    let (master, replica) = (Server::start("redis-7.0", SOURCE)?, Server::start("redis-7.0", SOURCE)?);
    let target = Server::start("redis-7.0", &[])?;
    let (dir, port) = (tempfile::tempdir()?, free_port());
    let config = dir.path().join("sentinel.conf");
    let text = format!(
        "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor main 127.0.0.1 {} 1\nsentinel down-after-milliseconds main 1000\n",
        dir.path().display(),
        master.port
    );
    std::fs::write(&config, text)?;
    let _sentinel = Program::start("redis-server", &[config.to_str().context("a path")?, "--sentinel"])?;
    let mut asked = connect(port)?;
    let (_dir, state) = state()?;
    let mut client = Divided::among(&[&master], |_| 0)?;
    fill(&mut client, 1000)?;
    let dts = Dts::migrate(&format!("redis://127.0.0.1:{port}"), &target.url(), &state, &["--source-kind", "auto"])?;
    let found = dts.wait_for("what was found", |event| event["event"] == "discovered")?;
    ensure!(found["kind"] == "sentinel", "{found}");
    let reads = |server: &Server| {
        let address = format!("127.0.0.1:{}", server.port);
        dts.wait_for("the master's data", |event| {
            event["shards"][0]["reading_from"] == address && event["ready_to_complete"] == true
        })
    };
    reads(&master)?;
    redis::cmd("REPLICAOF").arg("127.0.0.1").arg(master.port).exec(&mut replica.connect()?)?;
    until("the sentinel to know the replica", || {
        let known: Vec<HashMap<String, String>> = redis::cmd("SENTINEL").arg("slaves").arg("main").query(&mut asked)?;
        Ok(known.iter().any(|replica| replica.get("master-link-status").is_some_and(|status| status == "ok")))
    })?;
    ensure!(Command::new("kill").args(["-KILL", &master.pid().to_string()]).status()?.success());
    let seen = reads(&replica)?;
    ensure!(seen["copy_number"] == 1, "it copied again: {seen}");
    // What reads the master is no replica that somebody could promote: the sentinel has looked at the new master since.
    let master_of = || -> Result<HashMap<String, String>> {
        Ok(redis::cmd("SENTINEL").arg("master").arg("main").query(&mut connect(port)?)?)
    };
    until("the sentinel to ask the new master", || {
        let known = master_of()?;
        let asked = known.get("info-refresh").and_then(|ago| ago.parse::<u64>().ok());
        Ok(known.get("port") == Some(&replica.port.to_string()) && asked.is_some_and(|ago| ago < 10_000))
    })?;
    let reading: u32 = replica.info("connected_slaves")?.parse()?;
    let known: Vec<HashMap<String, String>> = redis::cmd("SENTINEL").arg("slaves").arg("main").query(&mut asked)?;
    let ports: Vec<&String> = known.iter().filter_map(|replica| replica.get("port")).collect();
    ensure!(reading == 1 && ports == [&master.port.to_string()], "{reading} {known:?}");
    fill(&mut Divided::among(&[&replica], |_| 0)?, 1500)?;
    complete(&state)?;
    ensure!(dts.end()?.0 == Some(0));
    assert_equal(&replica, &target)
}
