//! Every server of the fleet as source and as target of every other: equal, or refused as it should be.

use std::collections::BTreeMap;
use std::sync::Mutex;

use anyhow::{Context as _, Result, bail, ensure};
use dts_tests::dts::Dts;
use dts_tests::load::{Load, fill_small, version};
use dts_tests::oracle::assert_equal;
use dts_tests::server::Server;

use crate::{state, until};

/// Oldest first; the names are those of `tests/fleet.sh`.
const SERVERS: [&str; 15] = [
    "redis-2.8",
    "redis-3.0",
    "redis-3.2",
    "redis-4.0",
    "redis-5.0",
    "redis-6.0",
    "redis-6.2",
    "redis-7.0",
    "redis-7.2",
    "valkey-8.1",
    "redis-7.4",
    "valkey-9.0",
    "valkey-9.1",
    "redis-8.2",
    "redis-8.10",
];
const WORKERS: usize = 3;

/// Whether the target knows all that the source may send, as MISSION's rule has it.
fn is_allowed(source: &str, target: &str) -> bool {
    let (from, to) = (parts(source), parts(target));
    if from.0 == to.0 {
        return to.1 >= from.1;
    }
    // Valkey 8 is Redis 7.2, Valkey 9 has what Redis 8.0 has.
    let level = |(family, version): (&str, (u32, u32))| match (family, version) {
        ("valkey", (8, _)) => (7, 2),
        ("valkey", _) => (8, 0),
        (_, version) => version,
    };
    level(to) >= level(from)
}

fn parts(name: &str) -> (&str, (u32, u32)) {
    let (family, version) = name.split_once('-').unwrap_or((name, "0.0"));
    let (major, minor) = version.split_once('.').unwrap_or(("0", "0"));
    (family, (major.parse().unwrap_or(0), minor.parse().unwrap_or(0)))
}

fn start(name: &str) -> Result<Server> {
    // Where it exists, the wait for more replicas is what a copy would take longest for.
    let diskless = parts(name).1 >= (2, 9);
    Server::start(name, if diskless { &["--repl-diskless-sync-delay", "0"] } else { &[] })
}

fn moves(from: &str, to: &str, more: &[&str]) -> Result<()> {
    let (source, target) = (start(from)?, start(to)?);
    let common = version(&source)?.min(version(&target)?);
    fill_small(&source, common >= 500)?;
    let load = Load::start_as(&source, common)?;
    until("some traffic", || Ok(load.rounds() > 50))?;
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, more)?;
    dts.wait_for_phase("INCR_SYNC")?;
    load.stop()?;
    crate::complete(&state)?;
    let (code, events) = dts.end()?;
    ensure!(code == Some(0), "{:?}", events.last());
    assert_equal(&source, &target)
}

fn is_refused(from: &str, to: &str) -> Result<()> {
    let (source, target) = (start(from)?, start(to)?);
    let (_dir, state) = state()?;
    let dts = Dts::migrate(&source.url(), &target.url(), &state, &[])?;
    let failed = dts.wait_for("a refusal", |event| event["event"] == "failed")?;
    ensure!(failed["code"] == "DOWNGRADE", "{failed}");
    ensure!(dts.end()?.0 == Some(1));
    Ok(())
}

#[test]
fn every_pair_of_versions_is_moved_equal_or_refused_as_it_should_be() -> Result<()> {
    let pairs: Vec<_> = SERVERS.iter().flat_map(|from| SERVERS.iter().map(move |to| (*from, *to))).collect();
    let count = pairs.len();
    let pairs = Mutex::new(pairs);
    let results = Mutex::new(BTreeMap::new());
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some((from, to)) = pairs.lock().ok().and_then(|mut pairs| pairs.pop()) {
                    let allowed = is_allowed(from, to);
                    let ended = if allowed { moves(from, to, &[]) } else { is_refused(from, to) };
                    println!("{from} to {to}: {}", if ended.is_ok() { "as it should be" } else { "wrong" });
                    if let Ok(mut results) = results.lock() {
                        results.insert((from, to), (allowed, ended));
                    }
                }
            });
        }
    });
    let results = results.into_inner().ok().context("a worker broke")?;
    println!("source \\ target: = equal, - refused as it should be, ! wrong");
    for from in SERVERS {
        let row = SERVERS.map(|to| match results.get(&(from, to)) {
            Some((true, Ok(()))) => "=",
            Some((false, Ok(()))) => "-",
            _ => "!",
        });
        println!("{from:>10} {}", row.join(" "));
    }
    ensure!(results.len() == count, "pairs are missing");
    let wrong: Vec<String> = results
        .into_iter()
        .filter_map(|((from, to), (_, ended))| Some(format!("{from} to {to}: {:#}", ended.err()?)))
        .collect();
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

#[test]
fn an_older_target_is_taken_when_asked_for() -> Result<()> {
    for (from, to) in [
        ("redis-7.0", "redis-5.0"),
        ("redis-8.2", "redis-6.2"),
        ("valkey-9.1", "redis-7.0"),
        ("redis-6.2", "redis-3.2"),
        ("redis-7.4", "valkey-8.1"),
        ("redis-7.2", "redis-3.0"),
    ] {
        moves(from, to, &["--allow-downgrade"]).with_context(|| format!("{from} to {to}"))?;
    }
    Ok(())
}
