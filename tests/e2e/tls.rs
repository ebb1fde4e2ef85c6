//! TLS to both servers: real ones, and certificates of authorities that each test makes for itself.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};
use dts_tests::cluster::Cluster;
use dts_tests::dts::{Dts, binary};
use dts_tests::load::{Load, fill, fill_small};
use dts_tests::oracle::{assert_equal, assert_equal_nodes};
use dts_tests::server::Server;
use dts_tests::spread::{self, Spread, client_of};
use dts_tests::tls::{Authority, Identity, TlsServer};
use serde_json::Value;

use crate::fleet::Fleet;
use crate::{CAUGHT_UP, complete, keys_of_ours, state, until};

const HERE: &[&str] = &["127.0.0.1"];
const AT_ONCE: &[&str] = &["--repl-diskless-sync-delay", "0"];

const USER: &[&str] = &["--user", "mover", "on", ">hunter2", "~*", "&*", "+@all"];

fn by_user(server: &TlsServer) -> String {
    server.url().replace("rediss://", "rediss://mover:hunter2@")
}

/// `--source-tls-ca FILE` and the like.
fn option(side: &str, name: &str, file: &Path) -> [String; 2] {
    [format!("--{side}-tls-{name}"), file.display().to_string()]
}

fn identify(side: &str, ca: &Path, client: &Identity) -> Vec<String> {
    [option(side, "ca", ca), option(side, "cert", &client.certificate), option(side, "key", &client.key)].concat()
}

fn migrate(source: &str, target: &str, state: &Path, options: &[Vec<String>], more: &[&str]) -> Result<Dts> {
    let options = options.concat();
    let options: Vec<&str> = options.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Dts::migrate(source, target, state, &options)
}

/// Everything, under traffic, by an ACL user, with a client certificate on both sides, each side of its own authority.
fn moves_everything_over_tls(from: &str, to: &str, fill: fn(&Server, bool) -> Result<()>) -> Result<()> {
    let (left, right) = (Authority::new("source CA")?, Authority::new("target CA")?);
    let source = TlsServer::start(from, &left.server(HERE)?, &left, true, &[AT_ONCE, USER].concat())?;
    let target = TlsServer::start(to, &right.server(HERE)?, &right, true, USER)?;
    fill(&source.plain, true)?;
    let load = Load::start(&source.plain)?;
    let (_dir, state) = state()?;
    let options =
        [identify("source", &left.file, &left.client("dts")?), identify("target", &right.file, &right.client("dts")?)];
    let dts = migrate(&by_user(&source), &by_user(&target), &state, &options, &[])?;
    dts.wait_for_phase("INCR_SYNC")?;
    let arguments = std::fs::read_to_string(format!("/proc/{}/cmdline", dts.pid()))?;
    ensure!(arguments.contains("rediss://mover@") && !arguments.contains("hunter2"), "{arguments}");
    let rounds = load.rounds();
    until("traffic", || Ok(load.rounds() > rounds + 200))?;
    load.stop()?;
    complete(&state)?;
    let (code, events) = dts.end()?;
    ensure!(code == Some(0), "exit {code:?}, {:?}", events.last());
    ensure!(source.plain.info("sync_full")? == "1");
    ensure!(source.plain.info("connected_slaves")? == "0", "a connection of ours is left");
    ensure!(keys_of_ours(&target.plain)? == 0, "a key of ours is left");
    assert_equal(&source.plain, &target.plain)
}

#[test]
fn redis_7_0_moves_into_redis_7_2_over_tls_by_an_acl_user_with_client_certificates() -> Result<()> {
    moves_everything_over_tls("redis-7.0", "redis-7.2", fill)
}

#[test]
fn redis_7_2_moves_into_redis_7_4_over_tls_by_an_acl_user_with_client_certificates() -> Result<()> {
    moves_everything_over_tls("redis-7.2", "redis-7.4", fill_small)
}

/// What a migration ends with that must not begin. The retry window is long: a fault of TLS at the start is told at once.
fn refused(source: &str, target: &str, options: &[Vec<String>]) -> Result<Value> {
    let (_dir, state) = state()?;
    let dts = migrate(source, target, &state, options, &["--retry-window", "1h"])?;
    let failed = dts.wait_for("a refusal", |event| event["event"] == "failed")?;
    ensure!(dts.end()?.0 == Some(1));
    Ok(failed)
}

fn both_sides_refuse(
    name: &str,
    server: &TlsServer,
    address: &str,
    options: impl Fn(&str) -> Vec<String>,
    words: &str,
) -> Result<()> {
    let other = Server::start("redis-7.0", &[])?;
    for (side, code) in [("source", "SOURCE_TLS"), ("target", "TARGET_TLS")] {
        let (from, to) = if side == "source" { (address, &*other.url()) } else { (&*other.url(), address) };
        let failed = refused(from, to, &[options(side)])?;
        let said = failed["message"].as_str().unwrap_or_default();
        ensure!(failed["code"] == code && said.contains(words), "{name} at the {side}: {failed}");
    }
    let keys: u64 = redis::cmd("DBSIZE").query(&mut server.plain.connect()?)?;
    ensure!(keys == 0 && server.plain.info("sync_full")? == "0", "{name}: something was begun");
    Ok(())
}

#[test]
fn a_certificate_of_an_unknown_authority_is_refused_by_name() -> Result<()> {
    let (right, wrong) = (Authority::new("right")?, Authority::new("wrong")?);
    let server = TlsServer::start("redis-7.0", &right.server(HERE)?, &right, false, &[])?;
    let ca = |side: &str| option(side, "ca", &wrong.file).to_vec();
    both_sides_refuse("another CA", &server, &server.url(), ca, "not signed by an authority that we trust")?;
    // Nobody trusts a CA that a test has made.
    both_sides_refuse("no CA", &server, &server.url(), |_| Vec::new(), "CA file")?;
    let absent = |side: &str| option(side, "ca", Path::new("/nowhere/ca.pem")).to_vec();
    both_sides_refuse("no such file", &server, &server.url(), absent, "/nowhere/ca.pem")
}

#[test]
fn a_certificate_for_another_name_is_refused_unless_that_name_is_given() -> Result<()> {
    let authority = Authority::new("own")?;
    let server = TlsServer::start("redis-7.0", &authority.server(&["redis.example"])?, &authority, false, AT_ONCE)?;
    let ca = |side: &str| option(side, "ca", &authority.file).to_vec();
    both_sides_refuse("another name", &server, &server.url(), ca, "redis.example")?;
    let named = |side: &str| [ca(side), vec![format!("--{side}-tls-server-name"), "other.example".into()]].concat();
    both_sides_refuse("a wrong name", &server, &server.url(), named, "other.example")?;

    let target = Server::start("redis-7.0", &[])?;
    redis::cmd("SET").arg("a").arg(1).exec(&mut server.plain.connect()?)?;
    let named = [ca("source"), vec!["--source-tls-server-name".into(), "redis.example".into()]];
    let (_dir, state) = state()?;
    ensure!(migrate(&server.url(), &target.url(), &state, &named, CAUGHT_UP)?.end()?.0 == Some(0));
    assert_equal(&server.plain, &target)
}

#[test]
fn an_expired_certificate_is_refused_and_taken_only_with_a_warning() -> Result<()> {
    let authority = Authority::new("own")?;
    let server = TlsServer::start("redis-7.0", &authority.expired(HERE)?, &authority, false, AT_ONCE)?;
    let ca = |side: &str| option(side, "ca", &authority.file).to_vec();
    both_sides_refuse("an old certificate", &server, &server.url(), ca, "has expired")?;

    let target = Server::start("redis-7.0", &[])?;
    redis::cmd("SET").arg("a").arg(1).exec(&mut server.plain.connect()?)?;
    let (_dir, state) = state()?;
    let any = [vec!["--source-tls-insecure-skip-verify".into()]];
    let dts = migrate(&server.url(), &target.url(), &state, &any, &[])?;
    let warning = dts.wait_for("a warning", |event| event["event"] == "warning")?;
    ensure!(warning["message"].as_str().is_some_and(|said| said.contains("INSECURE")), "{warning}");
    dts.wait_for_phase("INCR_SYNC")?;
    complete(&state)?;
    ensure!(dts.end()?.0 == Some(0));
    assert_equal(&server.plain, &target)
}

#[test]
fn a_server_that_asks_for_a_client_certificate_gets_the_right_one_or_says_so() -> Result<()> {
    let (authority, wrong) = (Authority::new("own")?, Authority::new("wrong")?);
    for protocols in ["TLSv1.2", "TLSv1.3"] {
        let only = ["--tls-protocols", protocols];
        let server = TlsServer::start("redis-7.0", &authority.server(HERE)?, &authority, true, &only)?;
        let ca = |side: &str| option(side, "ca", &authority.file).to_vec();
        both_sides_refuse(protocols, &server, &server.url(), ca, "client certificate")?;
        let stranger = wrong.client("dts")?;
        let other = |side: &str| identify(side, &authority.file, &stranger);
        both_sides_refuse(protocols, &server, &server.url(), other, "our client certificate")?;
    }
    Ok(())
}

#[test]
fn tls_and_plain_that_are_mixed_up_are_told_with_the_way_out() -> Result<()> {
    let authority = Authority::new("own")?;
    for asks_clients in [false, true] {
        let server = TlsServer::start("redis-7.0", &authority.server(HERE)?, &authority, asks_clients, &[])?;
        let plain = server.url().replace("rediss", "redis");
        both_sides_refuse("plain to TLS", &server, &plain, |_| Vec::new(), "give rediss://")?;
        let ca = |side: &str| option(side, "ca", &authority.file).to_vec();
        let tls = server.plain.url().replace("redis", "rediss");
        both_sides_refuse("TLS to plain", &server, &tls, ca, "redis:// instead of rediss://")?;
    }
    Ok(())
}

#[test]
fn a_migration_whose_certificates_were_wrong_goes_on_with_the_right_ones() -> Result<()> {
    let (authority, wrong) = (Authority::new("own")?, Authority::new("wrong")?);
    let source = TlsServer::start("redis-7.0", &authority.server(HERE)?, &authority, false, AT_ONCE)?;
    let target = TlsServer::start("redis-7.0", &authority.server(HERE)?, &authority, false, &[])?;
    redis::cmd("SET").arg("a").arg(1).exec(&mut source.plain.connect()?)?;
    let (_dir, state) = state()?;
    for (file, code) in [(&wrong.file, 1), (&authority.file, 0)] {
        let options = [option("source", "ca", &authority.file).to_vec(), option("target", "ca", file).to_vec()];
        let (ended, events) = migrate(&source.url(), &target.url(), &state, &options, CAUGHT_UP)?.end()?;
        ensure!(ended == Some(code), "{:?}", events.last());
    }
    assert_equal(&source.plain, &target.plain)
}

/// Files of the agent that stay where they are while what is in them changes.
struct Files {
    _dir: tempfile::TempDir,
    ca: PathBuf,
    client: Identity,
}

impl Files {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let at = |name: &str| dir.path().join(name);
        Ok(Self { ca: at("ca.pem"), client: Identity { certificate: at("cert.pem"), key: at("key.pem") }, _dir: dir })
    }

    fn hold(&self, authority: &Authority) -> Result<()> {
        let identity = authority.client("dts")?;
        std::fs::write(&self.ca, authority.pem())?;
        std::fs::copy(identity.certificate, &self.client.certificate)?;
        std::fs::copy(identity.key, &self.client.key)?;
        Ok(())
    }
}

#[test]
fn certificates_are_replaced_under_a_running_task() -> Result<()> {
    let (old, new) = (Authority::new("old")?, Authority::new("new")?);
    let source = TlsServer::start("redis-7.0", &old.server(HERE)?, &old, true, &[AT_ONCE, USER].concat())?;
    let target = TlsServer::start("redis-7.0", &old.server(HERE)?, &old, true, USER)?;
    fill_small(&source.plain, true)?;
    let load = Load::start(&source.plain)?;
    let (of_source, of_target) = (Files::new()?, Files::new()?);
    of_source.hold(&old)?;
    of_target.hold(&old)?;
    let (_dir, state) = state()?;
    let options =
        [identify("source", &of_source.ca, &of_source.client), identify("target", &of_target.ca, &of_target.client)];
    let dts = migrate(&by_user(&source), &by_user(&target), &state, &options, &[])?;
    let streams = || dts.wait_for("a stream", |event| event["ready_to_complete"] == true);
    streams()?;

    for (server, files, code) in [(&source, &of_source, "SOURCE_TLS"), (&target, &of_target, "TARGET_TLS")] {
        // The server first: for a while nothing fits. A task that runs waits for the other half.
        server.show(&new.server(HERE)?, &new)?;
        redis::cmd("CLIENT").arg("KILL").arg("USER").arg("mover").exec(&mut server.plain.connect()?)?;
        dts.wait_for(code, |event| event["event"] == "retrying" && event["code"] == code)?;
        files.hold(&new)?;
        let rounds = load.rounds();
        until("traffic", || Ok(load.rounds() > rounds + 200))?;
        streams()?;
    }
    load.stop()?;
    complete(&state)?;
    let (code, events) = dts.end()?;
    ensure!(code == Some(0), "exit {code:?}, {:?}", events.last());
    ensure!(source.plain.info("sync_full")? == "1", "it copied again");
    assert_equal(&source.plain, &target.plain)
}

#[test]
fn a_cluster_moves_into_a_cluster_over_tls_and_both_fail_over() -> Result<()> {
    let (left, right) = (Authority::new("source CA")?, Authority::new("target CA")?);
    let (source, from) = Cluster::start_tls("redis-7.0", 3, 1, &left.node(HERE)?, &left)?;
    let (target, to) = Cluster::start_tls("redis-7.0", 3, 1, &right.node(HERE)?, &right)?;
    let mut client = client_of(&source)?;
    spread::fill(&mut client, 2000)?;
    let load = Spread::start(client);
    let options = [option("source", "ca", &left.file).to_vec(), option("target", "ca", &right.file).to_vec()];
    let (_dir, state) = state()?;
    let [from, to] = [from[1], to[1]].map(|port| format!("rediss://127.0.0.1:{port}"));
    let dts = migrate(&from, &to, &state, &options, &[])?;
    let found = dts.wait_for("what was found", |event| event["event"] == "discovered")?;
    ensure!(found["kind"] == "cluster", "{found}");
    let streams = || dts.wait_for("a stream of all shards", |event| event["ready_to_complete"] == true);
    streams()?;
    source.failover(0)?;
    target.failover(1)?;
    load.more(200);
    let seen = streams()?;
    load.stop()?;
    complete(&state)?;
    let (code, events) = dts.end()?;
    ensure!(code == Some(0), "exit {code:?}, {seen} {:?}", events.last());
    assert_equal_nodes(&source.masters()?, &target.masters()?)
}

#[test]
fn a_fleet_moves_over_tls_and_its_api_names_files_only() -> Result<()> {
    let authority = Authority::new("own")?;
    let source = TlsServer::start("redis-7.0", &authority.server(&["localhost"])?, &authority, true, AT_ONCE)?;
    let target = TlsServer::start("redis-7.0", &authority.server(&["localhost"])?, &authority, true, &[])?;
    fill_small(&source.plain, true)?;
    let mut fleet = Fleet::start()?;
    let _agent = fleet.agent("only")?;
    let client = authority.client("dts")?;
    let by_name = |server: &TlsServer| server.url().replace("127.0.0.1", "localhost");
    let created = Command::new(binary()?)
        .args(["task", "create", "--json", "--name", "tls", "--start", "--coordinator", &fleet.url()])
        .args(["--source", &by_name(&source), "--target", &by_name(&target)])
        .args(identify("source", &authority.file, &client))
        .args(identify("target", &authority.file, &client))
        .output()?;
    ensure!(created.status.success(), "{}", String::from_utf8_lossy(&created.stderr));
    let created: Value = serde_json::from_slice(&created.stdout)?;
    fleet.adopt(&created["id"]);
    fleet.follows("only")?;
    let task = fleet.get()?;
    ensure!(task["spec"]["target"]["tls"]["keyFile"] == client.key.display().to_string(), "{task}");
    ensure!(!task.to_string().contains("PRIVATE"));
    fleet.completed()?;
    assert_equal(&source.plain, &target.plain)
}
