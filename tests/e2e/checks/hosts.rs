//! What is around the servers: memory, clocks, disks, places.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Result, ensure};
use dts_tests::server::{Server, root};
use serde_json::{Value, json};

use super::{checked, compiled, failed, passed};
use crate::fleet::program;
use crate::life::{Desk, item, spec};
use crate::until;

/// A host with 1 MiB of memory, whose clock is ten seconds ahead.
const SMALL_AND_FAST: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
int gettimeofday(struct timeval *now, void *zone) {
    static int (*real)(struct timeval *, void *);
    if (!real) real = dlsym(RTLD_NEXT, "gettimeofday");
    int done = real(now, zone);
    now->tv_sec += 10;
    return done;
}
long sysconf(int name) {
    static long (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "sysconf");
    return name == _SC_PHYS_PAGES ? 256 : real(name);
}
"#;

#[test]
fn a_small_host_a_clock_that_is_ahead_and_an_old_source_are_named() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let object = compiled(dir.path(), SMALL_AND_FAST)?;
    let program = dir.path().join("server");
    let real = root().canonicalize()?.join(".fleet/redis-3.2/bin/redis-server");
    std::fs::write(&program, format!("#!/bin/sh\nexec env LD_PRELOAD={object} {} \"$@\"\n", real.display()))?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    let source = Server::start_program(&program, &[])?;
    let target = Server::start("redis-7.0", &[])?;
    redis::cmd("SET").arg("a").arg(1).exec(&mut source.connect()?)?;
    let run = checked(&mut Desk::start()?, &spec(&source, &target))?;
    failed(&run, &["src.fork", "net.clocks", "src.failover"])?;
    // Before 4.0 nobody tells how large a key is: not the same as that it is small.
    ensure!(item(&run, "src.big_keys")?["outcome"] == "CHECK_OUTCOME_UNKNOWN", "{run}");
    Ok(())
}

#[test]
fn an_agent_without_room_or_in_the_wrong_place_is_named() -> Result<()> {
    let (source, target) = (Server::start("redis-7.0", &[])?, Server::start("redis-7.0", &[])?);
    redis::cmd("SETRANGE").arg("big").arg(300 << 20).arg("x").exec(&mut source.connect()?)?;
    let mut desk = Desk::without_agents()?;
    let home = tempfile::tempdir()?;
    let (at, binary) = (home.path().display(), dts_tests::dts::binary()?);
    let (binary, address) = (binary.display(), desk.address());
    let command = format!(
        "mount -t tmpfs -o size=280m tmpfs {at} && exec {binary} agent --name small --label region=here --coordinator {address} --state-dir {at}/state"
    );
    let _agent = program(Path::new("unshare"), &["-rm", "sh", "-c", &command])?;
    let there = |agents: Value| agents.to_string().contains("\"alive\":true");
    until("the agent", || Ok(desk.any("FleetService/ListAgents", &json!({})).is_ok_and(there)))?;
    let mut asked = spec(&source, &target);
    let run = checked(&mut desk, &asked)?;
    failed(&run, &["agent.disk"])?;
    passed(&run, &["net.region"])?;
    asked["sources"][0]["region"] = json!("elsewhere");
    let run = super::tested(&mut desk, &asked)?;
    failed(&run, &["net.region", "agent.answers"])?;
    let why = item(&run, "net.region")?["findings"][0]["message"].to_string();
    ensure!(why.contains("it is in region here, and the source in elsewhere"), "{why}");
    Ok(())
}
