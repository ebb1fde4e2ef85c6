//! A user of the target for every epoch, where that is asked for.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, ensure};
use dts_tests::cluster::Cluster;
use dts_tests::load::Load;
use dts_tests::oracle::{assert_equal, assert_equal_nodes};
use dts_tests::server::Server;
use dts_tests::spread::{Spread, client_of, fill};
use dts_tests::spread_load::SpreadLoad;
use serde_json::{Value, json};

use crate::fleet::signal;
use crate::life::{Desk, item, spec};
use crate::routed_target::Routed;
use crate::{keys_of_ours, locked, until};

const SOURCE: &[&str] = &["--repl-diskless-sync-delay", "0", "--repl-backlog-size", "64mb"];

/// Every user with its rules, by the server's own word.
fn users(server: &Server) -> Result<Vec<String>> {
    Ok(redis::cmd("ACL").arg("LIST").query(&mut server.connect()?)?)
}

/// Names of users of ours.
fn ours(server: &Server) -> Result<Vec<String>> {
    let names: Vec<String> = redis::cmd("ACL").arg("USERS").query(&mut server.connect()?)?;
    Ok(names.into_iter().filter(|name| name.starts_with("dts:")).collect())
}

/// Connections of a user.
fn connections(server: &Server, user: &str) -> Result<usize> {
    let list: String = redis::cmd("CLIENT").arg("LIST").query(&mut server.connect()?)?;
    Ok(list.lines().filter(|line| line.split(' ').any(|word| word == format!("user={user}"))).count())
}

/// A user for the task, and nobody else who may write.
fn people(server: &Server) -> Result<()> {
    let mut admin = server.connect()?;
    let mut rules = vec!["on", ">pw", "~*", "+@all"];
    if !server.info("redis_version")?.starts_with("6.0") {
        rules.push("&*");
    }
    redis::cmd("ACL").arg("SETUSER").arg("task").arg(rules).exec(&mut admin)?;
    Ok(redis::cmd("ACL").arg("SETUSER").arg("default").arg("-@write").exec(&mut admin)?)
}

fn peopled(name: &str) -> Result<Server> {
    let target = Server::start(name, &["--repl-diskless-sync-delay", "0"])?;
    people(&target)?;
    Ok(target)
}

fn fenced(source: &Server, target: &Server) -> Value {
    let mut asked = spec(source, target);
    asked["targetFence"] = json!("TARGET_FENCE_USER");
    asked["target"]["credential"] = json!({"username": "task", "password": "pw"});
    asked
}

fn follows(desk: &Desk, agent: &str) -> Result<()> {
    let mut task = Value::Null;
    let followed = until(agent, || {
        task = desk.get()?;
        Ok(task["shards"][0]["agentId"] == agent && task["readyToComplete"] == true)
    });
    followed.with_context(|| task.to_string())
}

/// The user that this task's shard writes as now.
fn user(desk: &Desk) -> Result<String> {
    let epoch = desk.get()?["shards"][0]["epoch"].as_str().context("an epoch")?.to_owned();
    Ok(format!("dts:{}:0:{epoch}", desk.task))
}

/// Asks again while the task is interrupted.
fn completed(desk: &Desk) -> Result<()> {
    until("completion", || {
        let _asked_or_refused = desk.call("CompleteTask", json!({}));
        Ok(desk.get()?["state"] == "TASK_STATE_COMPLETED")
    })
}

#[test]
fn a_successor_removes_the_user_of_a_frozen_agent_and_nothing_of_it_is_written_or_left() -> Result<()> {
    for name in ["redis-6.0", "redis-7.0", "valkey-9.1"] {
        let (source, target) = (Server::start("redis-6.0", SOURCE)?, peopled(name)?);
        let before = users(&target)?;
        let load = Load::start(&source)?;
        let mut desk = Desk::start()?;
        let mut asked = fenced(&source, &target);
        // Who keeps others from writing keeps the task's own users out of it.
        asked["targetGuard"] = json!("TARGET_GUARD_ACL");
        desk.create(&asked)?;
        desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
        follows(&desk, "only")?;
        ensure!(desk.get()?["shards"][0]["status"]["fence"] == "F4", "{name}");
        let first = user(&desk)?;
        ensure!(
            ours(&target)? == [first.clone()] && connections(&target, &first)? == 1,
            "{name}: {:?}",
            ours(&target)?
        );
        signal(&desk.agents[0], "-STOP")?;
        desk.agent("second")?;
        follows(&desk, "second")?;
        let second = user(&desk)?;
        ensure!(first != second && ours(&target)? == [second.clone()], "{name}: {:?}", ours(&target)?);
        ensure!(connections(&target, &first)? == 0, "{name}: the frozen agent is still connected");
        // It wakes with batches in its hands, and a source that still feeds it.
        signal(&desk.agents[0], "-CONT")?;
        let rounds = load.rounds();
        until("more traffic", || Ok(load.rounds() > rounds + 300))?;
        until("one user", || Ok(ours(&target)? == [second.clone()]))?;
        load.stop()?;
        completed(&desk)?;
        ensure!(users(&target)? == before, "{name}: {:#?} is not {before:#?}", users(&target)?);
        ensure!(keys_of_ours(&target)? == 0, "{name}: keys of ours are left");
        assert_equal(&source, &target)?;
    }
    Ok(())
}

#[test]
fn an_agent_that_wakes_when_the_task_is_over_and_nobody_tells_it_begins_nothing_anew() -> Result<()> {
    for fence in ["TARGET_FENCE_AUTO", "TARGET_FENCE_USER"] {
        let (source, target) = (Server::start("redis-7.0", SOURCE)?, peopled("redis-7.0")?);
        let before = users(&target)?;
        let load = Load::start(&source)?;
        let mut desk = Desk::start()?;
        let mut asked = fenced(&source, &target);
        asked["targetFence"] = json!(fence);
        desk.create(&asked)?;
        desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
        follows(&desk, "only")?;
        let first = user(&desk)?;
        signal(&desk.agents[0], "-STOP")?;
        desk.agent("second")?;
        follows(&desk, "second")?;
        load.stop()?;
        completed(&desk)?;
        desk.stop();
        desk.agents.truncate(1);
        // As a network would that gave up on it; with a user of its own its connections are gone already.
        let mut admin = target.connect()?;
        let login = if fence.ends_with("USER") { first.as_str() } else { "task" };
        redis::cmd("CLIENT").arg("KILL").arg("USER").arg(login).query::<redis::Value>(&mut admin).map(drop).or_else(
            |error| {
                if fence.ends_with("USER") { Ok(()) } else { Err(error) }
            },
        )?;
        signal(&desk.agents[0], "-CONT")?;
        redis::cmd("SET").arg("later").arg(1).exec(&mut source.connect()?)?;
        // It follows the source as long as it believes that the shard is its own.
        until("the woken agent to give up", || Ok(source.info("connected_slaves")? == "0"))?;
        ensure!(keys_of_ours(&target)? == 0, "{fence}: it claims a target that is not its own any more");
        ensure!(users(&target)? == before, "{fence}: {:#?}", users(&target)?);
        redis::cmd("DEL").arg("later").exec(&mut source.connect()?)?;
        assert_equal(&source, &target)?;
    }
    Ok(())
}

#[test]
fn kills_leave_users_that_the_next_one_removes_and_a_cancelled_task_leaves_none() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", SOURCE)?, peopled("redis-7.0")?);
    let before = users(&target)?;
    let load = Load::start(&source)?;
    let mut desk = Desk::start()?;
    desk.create(&fenced(&source, &target))?;
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    follows(&desk, "only")?;
    for name in ["second", "third"] {
        let last = user(&desk)?;
        // kill -9
        desk.agents.clear();
        ensure!(ours(&target)? == [last], "{:?}", ours(&target)?);
        desk.agent(name)?;
        follows(&desk, name)?;
        ensure!(ours(&target)? == [user(&desk)?], "{:?}", ours(&target)?);
    }
    // Somebody who tidies up takes it away: it comes again.
    redis::cmd("ACL").arg("DELUSER").arg(user(&desk)?).exec(&mut target.connect()?)?;
    until("the user", || Ok(ours(&target)? == [user(&desk)?]))?;
    follows(&desk, "third")?;
    desk.call("PauseTask", json!({}))?;
    desk.becomes("PAUSED")?;
    until("no user while nobody writes", || Ok(ours(&target)?.is_empty()))?;
    desk.call("ResumeTask", json!({}))?;
    follows(&desk, "third")?;
    desk.agents.clear();
    desk.agent("fourth")?;
    desk.call("CancelTask", json!({}))?;
    desk.becomes("CANCELLED")?;
    ensure!(users(&target)? == before, "{:#?}", users(&target)?);
    load.stop()?;
    Ok(())
}

/// A cluster with a replica of every master, and the users everywhere.
fn peopled_cluster() -> Result<Cluster> {
    let cluster = Cluster::start("redis-7.0", 3, 1, &[])?;
    cluster.nodes.iter().try_for_each(people)?;
    Ok(cluster)
}

fn left(cluster: &Cluster) -> Result<Vec<String>> {
    Ok(cluster.nodes.iter().map(ours).collect::<Result<Vec<_>>>()?.concat())
}

fn ends_equal(desk: &Desk, source: &Server, cluster: &Cluster) -> Result<()> {
    completed(desk)?;
    ensure!(left(cluster)?.is_empty(), "users are left: {:?}", left(cluster)?);
    let masters = cluster.masters()?;
    for node in &masters {
        ensure!(keys_of_ours(node)? == 0, "keys of ours are left");
    }
    assert_equal_nodes(&[source], &masters)
}

#[test]
fn on_a_cluster_a_successor_removes_the_users_of_a_frozen_agent_from_every_node() -> Result<()> {
    let (source, cluster) = (Server::start("redis-7.0", SOURCE)?, peopled_cluster()?);
    let load = SpreadLoad::start(&source, false)?;
    let mut desk = Desk::start()?;
    desk.create(&fenced(&source, &cluster.nodes[0]))?;
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    follows(&desk, "only")?;
    ensure!(desk.get()?["shards"][0]["status"]["fence"] == "F4");
    let first = user(&desk)?;
    let masters = cluster.masters()?;
    for master in &masters {
        ensure!(ours(master)? == [first.clone()] && connections(master, &first)? > 0, "{:?}", ours(master)?);
    }
    signal(&desk.agents[0], "-STOP")?;
    desk.agent("second")?;
    follows(&desk, "second")?;
    let second = user(&desk)?;
    for node in &cluster.nodes {
        ensure!(!ours(node)?.contains(&first) && connections(node, &first)? == 0, "{:?}", ours(node)?);
    }
    signal(&desk.agents[0], "-CONT")?;
    load.pass(100);
    until("one user", || {
        Ok(masters.iter().map(|master| ours(master)).all(|found| found.is_ok_and(|is| is == [second.clone()])))
    })?;
    load.stop()?;
    ends_equal(&desk, &source, &cluster)
}

#[test]
fn a_promoted_replica_gets_the_user_and_a_demoted_master_does_not_keep_it() -> Result<()> {
    let (source, mut cluster) = (Server::start("redis-7.0", SOURCE)?, peopled_cluster()?);
    let load = SpreadLoad::start(&source, false)?;
    let mut desk = Desk::start()?;
    desk.create(&fenced(&source, &cluster.nodes[0]))?;
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    follows(&desk, "only")?;
    for master in 0..2 {
        let replica = cluster.replica_of(master)?;
        cluster.failover(master)?;
        load.pass(50);
        until("the user", || Ok(ours(&cluster.nodes[replica])? == [user(&desk)?]))?;
    }
    // The next agent finds users of the one that died also where nobody writes now.
    desk.agents.clear();
    desk.agent("second")?;
    follows(&desk, "second")?;
    let now = user(&desk)?;
    ensure!(left(&cluster)?.iter().all(|name| *name == now), "{:?}", left(&cluster)?);
    // And a master that dies.
    let replica = cluster.replica_of(2)?;
    cluster.nodes[2].kill()?;
    until("the replica is a master", || Ok(cluster.nodes[replica].info("role")? == "master"))?;
    load.pass(50);
    until("the user", || Ok(ours(&cluster.nodes[replica])? == [now.clone()]))?;
    cluster.nodes[2].restart()?;
    people(&cluster.nodes[2])?;
    cluster.until_ok()?;
    load.stop()?;
    ends_equal(&desk, &source, &cluster)
}

#[test]
fn every_shard_of_a_cluster_writes_as_a_user_of_its_own_while_slots_move_between_them() -> Result<()> {
    let (source, cluster) = (Cluster::start("redis-7.0", 2, 0, &[])?, peopled_cluster()?);
    let mut client = client_of(&source)?;
    fill(&mut client, 2000)?;
    let load = Spread::start(client);
    let mut desk = Desk::start()?;
    let mut asked = fenced(&source.nodes[0], &cluster.nodes[0]);
    let nodes = source.nodes.iter().map(|node| json!({"host": "127.0.0.1", "port": node.port}));
    asked["sources"] = nodes.collect();
    asked["topology"] = json!({"kind": "SOURCE_KIND_CLUSTER"});
    desk.create(&asked)?;
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    let ready = |desk: &Desk| until("all shards", || Ok(desk.get()?["readyToComplete"] == true));
    let of_now = |desk: &Desk| -> Result<Vec<String>> {
        let task = desk.get()?;
        let shards = task["shards"].as_array().context("shards")?;
        let name = |(index, shard): (usize, &Value)| {
            format!("dts:{}:{index}:{}", desk.task, shard["epoch"].as_str().unwrap_or("?"))
        };
        Ok(shards.iter().enumerate().map(name).collect())
    };
    ready(&desk)?;
    let found = left(&cluster)?;
    ensure!(of_now(&desk)?.iter().all(|user| found.contains(user)), "{found:?}");
    source.move_slots(0..300, 1)?;
    load.more(50);
    ready(&desk)?;
    desk.agents.clear();
    desk.agent("second")?;
    until("the second agent", || {
        Ok(desk.get()?["shards"].as_array().is_some_and(|all| all.iter().all(|shard| shard["agentId"] == "second")))
    })?;
    ready(&desk)?;
    let now = of_now(&desk)?;
    until("users of now only", || Ok(left(&cluster)?.iter().all(|user| now.contains(user))))?;
    load.stop()?;
    ready(&desk)?;
    completed(&desk)?;
    ensure!(left(&cluster)?.is_empty(), "users are left: {:?}", left(&cluster)?);
    assert_equal_nodes(&source.masters()?, &cluster.masters()?)
}

/// The check of a task that was tested.
fn checked(desk: &mut Desk, spec: &Value) -> Result<Value> {
    desk.create(spec)?;
    desk.call("TestConnectivity", json!({}))?;
    ensure!(desk.run()?["state"] == "CHECK_STATE_PASSED");
    desk.call("RunCheck", json!({}))?;
    desk.run()
}

#[test]
fn where_a_user_is_not_to_be_had_the_check_blocks_and_says_why() -> Result<()> {
    let source = Server::start("redis-5.0", &[])?;
    let mut desk = Desk::start()?;
    let blocks = |desk: &mut Desk, asked: &Value, why: &str| -> Result<()> {
        let run = checked(desk, asked)?;
        let found = item(&run, "dst.fence")?;
        let said = found["findings"][0]["message"].as_str().unwrap_or_default();
        ensure!(found["outcome"] == "CHECK_OUTCOME_FAILED" && found["severity"] == "SEVERITY_BLOCKS", "{why}: {found}");
        ensure!(said.contains("F4") && said.contains(why), "{why}: {found}");
        desk.becomes("CHECK_FAILED").map(drop)
    };
    let says = |desk: &mut Desk, asked: &Value, what: &str| -> Result<()> {
        let run = checked(desk, asked)?;
        let found = item(&run, "dst.fence")?;
        let said = found["findings"].to_string();
        ensure!(found["outcome"] == "CHECK_OUTCOME_PASSED" && said.contains(what), "{what}: {found}");
        Ok(())
    };
    let auto = |mut asked: Value| {
        asked["targetFence"] = json!("TARGET_FENCE_AUTO");
        asked
    };

    let old = Server::start("redis-5.0", &[])?;
    let mut asked = spec(&source, &old);
    asked["targetFence"] = json!("TARGET_FENCE_USER");
    blocks(&mut desk, &asked, "before 6.0")?;
    says(&mut desk, &auto(asked), "before 6.0")?;

    let routed = Routed::start()?;
    let mut asked = spec(&source, &source);
    asked["target"] = json!({"host": "127.0.0.1", "port": routed.port, "routes": true});
    asked["targetFence"] = json!("TARGET_FENCE_USER");
    blocks(&mut desk, &asked, "an endpoint that routes")?;

    for name in ["redis-6.2", "valkey-9.1"] {
        let target = peopled(name)?;
        let set = |user: &str, rules: &[&str]| -> Result<()> {
            Ok(redis::cmd("ACL").arg("SETUSER").arg(user).arg(rules).exec(&mut target.connect()?)?)
        };
        let asked = fenced(&source, &target);
        says(&mut desk, &asked, "F4: a user of its own")?;
        says(&mut desk, &auto(asked.clone()), "F4 could be had")?;
        set("task", &["-acl"])?;
        blocks(&mut desk, &asked, "it lacks +acl")?;
        says(&mut desk, &auto(asked.clone()), "it lacks +acl")?;
        set("task", &["+acl"])?;
        set("default", &["+lpush"])?;
        blocks(&mut desk, &asked, "whoever does not log in")?;
        set("default", &["-lpush", "+get", "+@read"])?;
        says(&mut desk, &asked, "F4: a user of its own")?;
        let before = users(&target)?;
        ensure!(ours(&target)?.is_empty() && users(&target)? == before, "{name}: a check changes users");
        // With a password on it nobody is `default` by failing to log in.
        redis::cmd("ACL")
            .arg("SETUSER")
            .arg("default")
            .arg(&["resetpass", ">x", "+@all"])
            .exec(&mut target.connect()?)?;
        says(&mut desk, &asked, "F4: a user of its own")?;
    }
    Ok(())
}

/// A line to a server that keeps what is said to it.
fn overheard(server: &Server) -> Result<(u16, Arc<Mutex<Vec<u8>>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (port, to, heard) = (listener.local_addr()?.port(), server.port, Arc::new(Mutex::new(Vec::new())));
    let kept = heard.clone();
    std::thread::spawn(move || {
        for client in listener.incoming().map_while(std::result::Result::ok) {
            let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { return };
            for (from, to, up) in [(&client, &server, true), (&server, &client, false)] {
                let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
                let kept = kept.clone();
                std::thread::spawn(move || {
                    let mut piece = vec![0; 16 << 10];
                    while let Ok(length @ 1..) = from.read(&mut piece) {
                        if up {
                            locked(&kept).extend_from_slice(&piece[..length]);
                        }
                        if to.write_all(&piece[..length]).is_err() {
                            break;
                        }
                    }
                    let _ends_with_either = to.shutdown(Shutdown::Both);
                });
            }
        }
    });
    Ok((port, heard))
}

/// Every file below a directory that holds one of these texts.
fn holding(dir: &Path, texts: &[&str]) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(holding(&path, texts)?);
        } else if path.is_file() {
            let bytes = std::fs::read(&path)?;
            let holds = |text: &&str| bytes.windows(text.len()).any(|part| part == text.as_bytes());
            found.extend(texts.iter().filter(|text| holds(text)).map(|_| path.display().to_string()));
        }
    }
    Ok(found)
}

#[test]
fn the_password_of_such_a_user_stands_nowhere_and_is_worth_nothing_behind_a_takeover() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", SOURCE)?, peopled("redis-7.0")?);
    let (port, heard) = overheard(&target)?;
    let mut desk = Desk::without_agents()?;
    let log = desk.dir().join("agent.log");
    desk.talking_agent("first", &log)?;
    let mut asked = fenced(&source, &target);
    asked["target"]["port"] = json!(port);
    desk.create(&asked)?;
    desk.call("StartTask", json!({"acknowledgeWarnings": true}))?;
    follows(&desk, "first")?;
    let name = user(&desk)?;
    let said = String::from_utf8_lossy(&locked(&heard)).into_owned();
    let login = format!("AUTH\r\n${}\r\n{name}\r\n$64\r\n", name.len());
    let at = said.find(&login).context("it did not log in")? + login.len();
    let password = said[at..at + 64].to_owned();
    let as_user = || {
        redis::Client::open(format!("redis://{}:{password}@127.0.0.1:{}", name.replace(':', "%3A"), target.port))?
            .get_connection()
    };
    // It may write, and nothing that administers.
    let mut connection = as_user()?;
    redis::cmd("SET").arg("x").arg(1).exec(&mut connection)?;
    redis::cmd("DEL").arg("x").exec(&mut connection)?;
    for command in [
        &["CONFIG", "GET", "save"][..],
        &["ACL", "LIST"],
        &["SHUTDOWN"],
        &["REPLICAOF", "NO", "ONE"],
        &["MODULE", "LIST"],
    ] {
        let mut asked = redis::cmd(command[0]);
        command[1..].iter().for_each(|word| {
            asked.arg(*word);
        });
        let refused = asked.exec(&mut connection).unwrap_err().to_string();
        ensure!(refused.to_lowercase().contains("permissions"), "{command:?}: {refused}");
    }
    let rules = users(&target)?;
    let hash = rules.iter().find(|line| line.contains(&name)).and_then(|line| line.split_once('#')?.1.get(..64));
    let hash = hash.context("a hash")?.to_owned();
    // What is said nowhere cannot be found: the log has to be one.
    ensure!(std::fs::read_to_string(&log)?.len() > 1000, "nothing was logged");
    desk.agent("second")?;
    desk.call("PauseTask", json!({}))?;
    desk.becomes("PAUSED")?;
    desk.call("ResumeTask", json!({}))?;
    until("another epoch", || Ok(user(&desk)? != name && desk.get()?["readyToComplete"] == true))?;
    ensure!(redis::cmd("SET").arg("x").arg(1).exec(&mut connection).is_err(), "an old connection writes");
    let refused = as_user().err().context("an old password is taken")?.to_string();
    ensure!(refused.contains("WRONGPASS") || refused.to_lowercase().contains("auth"), "{refused}");
    let task = desk.get()?.to_string();
    completed(&desk)?;
    ensure!(!task.contains(&password) && !task.contains(&hash), "the task shows it");
    let found = holding(desk.dir(), &[&password, &hash])?;
    ensure!(found.is_empty(), "{found:?}");
    Ok(())
}
