//! Faults, one after the other, on a whole fleet that moves non-idempotent traffic: etcd of three members, two coordinators, three agents, each
//! of ours in a network namespace of its own. After every fault the target has to hold exactly what the source holds.
//!
//! `chaos [--faults N] [--seed S] [--target standalone|cluster] [--fence auto|user] [--only FAULT] [--unfenced]`: prints the seed, a line a fault,
//! and at the end a table of recovery times. `--fence user` asks for a user of the target for every epoch (F4), and looks after these users too.
//! `--unfenced` switches the fence off (debug builds only): then the run has to fail.

mod fault;
mod judge;
mod net;
mod users;
mod world;

use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};

use crate::fault::{Fault, KINDS};
use crate::net::Net;
use crate::world::World;

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    faults: usize,
    seed: u64,
    cluster: bool,
    users: bool,
    only: Option<Fault>,
    unfenced: bool,
}

impl Plan {
    fn from_arguments(arguments: &[String]) -> Result<Self> {
        let seed = rand::rng().random();
        let mut plan = Self { faults: 10, seed, cluster: false, users: false, only: None, unfenced: false };
        let mut words = arguments.iter();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("{word} needs a value"));
            match word.as_str() {
                "--faults" => plan.faults = value()?.parse()?,
                "--seed" => plan.seed = value()?.parse()?,
                "--target" => plan.cluster = value()? == "cluster",
                "--fence" => {
                    plan.users = match value()?.as_str() {
                        "user" => true,
                        "auto" => false,
                        other => bail!("{other} is none of auto, user"),
                    }
                }
                "--only" => {
                    let name = value()?;
                    let found = KINDS.iter().find(|fault| fault.name() == *name);
                    let names = || KINDS.map(Fault::name).join(", ");
                    plan.only = Some(*found.with_context(|| format!("{name} is none of {}", names()))?);
                }
                "--unfenced" => plan.unfenced = true,
                other => bail!("what is {other}?"),
            }
        }
        Ok(plan)
    }
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == net::INSIDE => {
            let (prefix, rest) = rest.split_first().context("a prefix")?;
            run(&Plan::from_arguments(rest)?, Net::inside(prefix))
        }
        _ => {
            let plan = Plan::from_arguments(&arguments)?;
            println!("seed {} (again: --seed {})", plan.seed, plan.seed);
            let mut again = arguments;
            again.extend(["--seed".to_owned(), plan.seed.to_string()]);
            Net::create(&world::HOSTS)?.run_inside(&again)
        }
    }
}

fn run(plan: &Plan, net: Net) -> Result<()> {
    let mut random = StdRng::seed_from_u64(plan.seed);
    let mut world = World::start(plan, net)?;
    world.until_streaming("the first copy")?;
    judge::equal_at_rest(&mut world, "before the first fault")?;
    let mut times: Vec<(Fault, f64)> = Vec::new();
    for number in 1..=plan.faults {
        // Each kind comes once before any comes twice.
        let kinds = fault::possible(plan);
        let drawn = match plan.only {
            Some(fault) => fault,
            None if number <= kinds.len() && plan.faults >= kinds.len() => kinds[number - 1],
            None => kinds[random.random_range(0..kinds.len())],
        };
        let load = world.load().context("the traffic's beginning")?;
        load.pass(100);
        let begun = Instant::now();
        drawn.strike(&mut world, &mut random, &load).with_context(|| format!("fault {number}, {}", drawn.name()))?;
        load.pass(50);
        world.until_streaming(drawn.name())?;
        let seconds = begun.elapsed().as_secs_f64();
        load.stop().context("the traffic")?;
        judge::equal_at_rest(&mut world, drawn.name())?;
        println!("fault {number}: {}, streaming again after {seconds:.1} s, equal", drawn.name());
        times.push((drawn, seconds));
    }
    judge::ends_clean(&mut world)?;
    println!("\n| fault | times | median s from the fault to an equal stream | longest |\n| --- | --- | --- | --- |");
    for kind in KINDS {
        let mut of: Vec<f64> = times.iter().filter(|(fault, _)| *fault == kind).map(|(_, seconds)| *seconds).collect();
        of.sort_by(f64::total_cmp);
        if let (Some(median), Some(longest)) = (of.get(of.len() / 2), of.last()) {
            println!("| {} | {} | {median:.1} | {longest:.1} |", kind.name(), of.len());
        }
    }
    ensure!(times.len() == plan.faults);
    println!("{} faults, nothing lost, nothing doubled, nothing left behind", times.len());
    Ok(())
}
