//! The faults. Each strikes, lasts, and is healed; what it does to the task is not its business.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use dts_tests::spread_load::SpreadLoad;
use rand::Rng as _;
use rand::rngs::StdRng;

use crate::Plan;
use crate::net::{HUB, Way, address};
use crate::world::{AGENT_TTL, Target, World};

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    AgentKilled,
    AgentFrozen,
    AgentWithoutCoordinators,
    AgentWithoutServers,
    AgentHearsNoServer,
    AgentSaysNothingToCoordinators,
    CoordinatorKilled,
    CoordinatorFrozen,
    CoordinatorWithoutEtcd,
    EtcdMemberKilled,
    EtcdLeaderFrozen,
    AllOfEtcdFrozen,
    SourceLinkCut,
    TargetKilled,
    TargetFrozen,
    DiskFull,
    ClockJumps,
    Several,
}

/// All of them.
pub(crate) const KINDS: [Fault; 18] = [
    Fault::AgentFrozen,
    Fault::AgentKilled,
    Fault::AgentWithoutCoordinators,
    Fault::TargetKilled,
    Fault::CoordinatorKilled,
    Fault::AgentHearsNoServer,
    Fault::CoordinatorWithoutEtcd,
    Fault::EtcdMemberKilled,
    Fault::DiskFull,
    Fault::Several,
    Fault::SourceLinkCut,
    Fault::ClockJumps,
    Fault::AgentWithoutServers,
    Fault::AgentSaysNothingToCoordinators,
    Fault::CoordinatorFrozen,
    Fault::EtcdLeaderFrozen,
    Fault::AllOfEtcdFrozen,
    Fault::TargetFrozen,
];

/// Those that are drawn.
pub(crate) fn possible(plan: &Plan) -> Vec<Fault> {
    // Short runs draw from those that have broken the most in other systems.
    let kinds = if plan.faults < KINDS.len() { &KINDS[..10] } else { &KINDS[..] };
    kinds.to_vec()
}

const COORDINATORS: [&str; 2] = ["c1", "c2"];
const AGENTS: [&str; 3] = ["a1", "a2", "a3"];

impl Fault {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::AgentKilled => "agent-killed",
            Self::AgentFrozen => "agent-frozen",
            Self::AgentWithoutCoordinators => "agent-without-coordinators",
            Self::AgentWithoutServers => "agent-without-servers",
            Self::AgentHearsNoServer => "agent-hears-no-server",
            Self::AgentSaysNothingToCoordinators => "agent-says-nothing-to-coordinators",
            Self::CoordinatorKilled => "coordinator-killed",
            Self::CoordinatorFrozen => "coordinator-frozen",
            Self::CoordinatorWithoutEtcd => "coordinator-without-etcd",
            Self::EtcdMemberKilled => "etcd-member-killed",
            Self::EtcdLeaderFrozen => "etcd-leader-frozen",
            Self::AllOfEtcdFrozen => "all-of-etcd-frozen",
            Self::SourceLinkCut => "source-link-cut",
            Self::TargetKilled => "target-killed",
            Self::TargetFrozen => "target-frozen",
            Self::DiskFull => "disk-full",
            Self::ClockJumps => "clock-jumps",
            Self::Several => "several-at-once",
        }
    }

    /// Strikes and heals, while traffic goes on.
    pub(crate) fn strike(self, world: &mut World, random: &mut StdRng, load: &SpreadLoad) -> Result<()> {
        let short = Duration::from_millis(random.random_range(50..1500));
        let past_the_lease = AGENT_TTL * 2 + short;
        match self {
            Self::AgentKilled => {
                let holder = world.holder()?;
                world.kill(holder)?;
                wait(short, load);
                world.run(holder)
            }
            Self::AgentFrozen => {
                let holder = world.holder()?;
                world.freeze(holder, true)?;
                another_holds(world, holder)?;
                // It wakes with batches in its hands, under a successor that writes.
                world.freeze(holder, false)?;
                wait(short, load);
                Ok(())
            }
            Self::AgentWithoutCoordinators => {
                let holder = world.holder()?;
                cut_from_coordinators(world, holder, Way::Both)?;
                // Both write, each believing that the shard is its own: the fence decides.
                another_holds(world, holder)?;
                wait(short, load);
                world.net.heal(holder)
            }
            Self::AgentSaysNothingToCoordinators => {
                let holder = world.holder()?;
                cut_from_coordinators(world, holder, Way::Out)?;
                another_holds(world, holder)?;
                wait(short, load);
                world.net.heal(holder)
            }
            Self::AgentWithoutServers | Self::AgentHearsNoServer => {
                let holder = world.holder()?;
                let way = if self == Self::AgentHearsNoServer { Way::In } else { Way::Both };
                world.net.cut(holder, HUB, way)?;
                wait(past_the_lease, load);
                world.net.heal(holder)
            }
            Self::CoordinatorKilled => {
                let victim = COORDINATORS[random.random_range(0..2)];
                world.kill(victim)?;
                wait(short, load);
                world.run(victim)
            }
            Self::CoordinatorFrozen => {
                let victim = COORDINATORS[random.random_range(0..2)];
                world.freeze(victim, true)?;
                wait(past_the_lease, load);
                world.freeze(victim, false)
            }
            Self::CoordinatorWithoutEtcd => {
                let victim = COORDINATORS[random.random_range(0..2)];
                world.net.cut(victim, HUB, Way::Both)?;
                wait(past_the_lease, load);
                world.net.heal(victim)
            }
            Self::EtcdMemberKilled => {
                let member = random.random_range(0..3);
                world.etcd.kill(member)?;
                wait(past_the_lease, load);
                world.etcd.restart(member)
            }
            Self::EtcdLeaderFrozen => {
                let pid = world.etcd.pid(world.etcd.leader()?).context("a leader")?;
                dts_tests::server::signal("-STOP", pid)?;
                wait(past_the_lease, load);
                dts_tests::server::signal("-CONT", pid)
            }
            Self::AllOfEtcdFrozen => {
                let pids: Vec<u32> = (0..3).filter_map(|member| world.etcd.pid(member)).collect();
                pids.iter().try_for_each(|pid| dts_tests::server::signal("-STOP", *pid))?;
                wait(past_the_lease, load);
                pids.iter().try_for_each(|pid| dts_tests::server::signal("-CONT", *pid))
            }
            Self::SourceLinkCut => {
                for _ in 0..random.random_range(1..4) {
                    let cut = redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("replica").to_owned();
                    cut.query::<redis::Value>(&mut world.source.connect()?)?;
                    wait(short / 4, load);
                }
                Ok(())
            }
            Self::TargetKilled => kill_target(world, short, load),
            Self::TargetFrozen => with_frozen_target(world, || {
                wait(short, load);
                Ok(())
            }),
            Self::DiskFull => {
                let holder = world.holder()?;
                world.fill_disk(holder, true)?;
                // More than the spool may keep in memory, while nothing can be written on.
                with_frozen_target(world, || {
                    let mut connection = world.source.connect()?;
                    for number in 0..200 {
                        let value = "v".repeat(100_000);
                        redis::cmd("SET").arg(format!("wide:{number}")).arg(value).exec(&mut connection)?;
                    }
                    wait(short, load);
                    world.until("a clear stop", |world| {
                        let task = world.ask("GetTask")?;
                        ensure!(task["reason"]["code"] == "SPOOL_FULL", "{task}");
                        Ok(())
                    })
                })?;
                world.fill_disk(holder, false)?;
                world.start_again()
            }
            Self::ClockJumps => {
                let hosts = [world.holder()?, COORDINATORS[random.random_range(0..2)]];
                for seconds in [random.random_range(60..86_400), -random.random_range(60..86_400), 0] {
                    hosts.iter().try_for_each(|host| world.set_clock(host, seconds))?;
                    wait(short, load);
                }
                Ok(())
            }
            Self::Several => {
                let (holder, victim) = (world.holder()?, COORDINATORS[random.random_range(0..2)]);
                let other = AGENTS.into_iter().find(|agent| *agent != holder).context("another agent")?;
                let member = random.random_range(0..3);
                world.freeze(holder, true)?;
                world.kill(other)?;
                world.kill(victim)?;
                world.etcd.kill(member)?;
                wait(past_the_lease, load);
                kill_target(world, short, load)?;
                world.freeze(holder, false)?;
                world.etcd.restart(member)?;
                world.run(victim)?;
                world.run(other)
            }
        }
    }
}

/// The traffic goes on meanwhile.
fn wait(time: Duration, load: &SpreadLoad) {
    let rounds = load.rounds();
    std::thread::sleep(time);
    load.pass(u64::from(load.rounds() == rounds) * 10);
}

fn cut_from_coordinators(world: &World, agent: &str, way: Way) -> Result<()> {
    // One rule for both: they are the first two hosts.
    let both = format!("{{ {}, {} }}", address(0), address(1));
    world.net.cut(agent, &both, way)
}

/// Until another agent follows the source.
fn another_holds(world: &World, before: &str) -> Result<()> {
    world.until("another agent", |world| {
        let task = world.ask("GetTask")?;
        ensure!(task["shards"][0]["agentId"] != before && task["readyToComplete"] == true, "{task}");
        Ok(())
    })
}

fn with_frozen_target(world: &World, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    let frozen: Vec<u32> = world.target_nodes()?.iter().map(|server| server.pid()).collect();
    frozen.iter().try_for_each(|pid| dts_tests::server::signal("-STOP", *pid))?;
    let done = meanwhile();
    frozen.iter().try_for_each(|pid| dts_tests::server::signal("-CONT", *pid))?;
    done
}

/// A standalone target comes again with what its append-only file has; a master's replica takes its place, perhaps without its last writes.
fn kill_target(world: &mut World, down: Duration, load: &SpreadLoad) -> Result<()> {
    match &mut world.target {
        Target::Standalone(server) => {
            server.kill()?;
            wait(down, load);
            match &mut world.target {
                Target::Standalone(server) => server.restart(),
                Target::Cluster(_) => Ok(()),
            }
        }
        Target::Cluster(cluster) => {
            let master = cluster.owner(cluster.slot(b"counter:hot")?)?;
            let replica = cluster.replica_of(master)?;
            cluster.nodes[master].kill()?;
            let took_over = || -> Result<bool> { Ok(cluster.nodes[replica].info("role")? == "master") };
            let deadline = std::time::Instant::now() + Duration::from_secs(60);
            while !took_over()? {
                ensure!(std::time::Instant::now() < deadline, "the replica does not take over");
                std::thread::sleep(Duration::from_millis(50));
            }
            cluster.nodes[master].restart()?;
            cluster.until_ok()
        }
    }
}
