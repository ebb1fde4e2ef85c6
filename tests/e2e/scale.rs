//! Many agents and shards, by agents that only talk. How it grows is measured by `tests/scale`.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use dts_proto::v1::fleet_service_client::FleetServiceClient;
use dts_proto::v1::task_service_client::TaskServiceClient;
use dts_proto::v1::{CancelTaskRequest, GetTaskRequest, ListAgentsRequest, ListTasksRequest, Task};
use dts_tests::talkers::{Shard, Talkers, name, start_tasks};
use tonic::transport::Channel;

use crate::control::Control;
use crate::until;

const AGENTS: usize = 30;
const LOST: usize = 10;
const TASKS: usize = 5;
const SHARDS: usize = 60;
/// As many as a Redis Cluster may have.
const MASTERS: usize = 1000;

#[test]
fn the_shards_of_ten_agents_that_die_at_once_run_elsewhere_under_higher_epochs_and_nowhere_twice() -> Result<()> {
    let control = Control::start(1, 1)?;
    let url = format!("http://{}", control.addresses[0]);
    let runtime = tokio::runtime::Runtime::new()?;
    let mut client = runtime.block_on(TaskServiceClient::connect(url.clone()))?;
    until("the interface to answer", || Ok(runtime.block_on(client.list_tasks(ListTasksRequest::default())).is_ok()))?;
    // They say nothing twice: somebody has to lead before.
    let mut talkers = runtime.block_on(Talkers::start(&url, AGENTS))?;
    let mut fleet = runtime.block_on(FleetServiceClient::connect(url))?;
    let mut agents = || runtime.block_on(fleet.list_agents(ListAgentsRequest::default()));
    until("all agents to be there", || Ok(agents()?.into_inner().agents.len() == AGENTS))?;
    let ids = runtime.block_on(start_tasks(&mut client, TASKS, SHARDS))?;
    let mut tasks = || runtime.block_on(get(&mut client, &ids));
    until("every shard to run", || Ok(tasks()?.iter().all(|task| task.ready_to_complete)))
        .with_context(|| tasks().map(|tasks| not_ready(&tasks)).unwrap_or_default())?;
    until("each to be with one agent", || Ok(once(&talkers)))?;
    let before = held(&tasks()?);
    ensure!(before.len() == TASKS * SHARDS);
    let lost: Vec<String> = (0..LOST).map(name).collect();
    ensure!(
        lost.iter().all(|lost| before.values().any(|(agent, _)| agent == lost)),
        "an agent that has nothing to lose"
    );

    talkers.lose(LOST);
    let elsewhere = |tasks: &[Task]| held(tasks).values().all(|(agent, _)| !lost.contains(agent));
    until("the shards of the lost to run elsewhere", || {
        let tasks = tasks()?;
        Ok(elsewhere(&tasks) && tasks.iter().all(|task| task.ready_to_complete))
    })?;
    until("each to be with one agent again", || Ok(once(&talkers)))?;
    let after = held(&tasks()?);
    for (shard, (agent, epoch)) in &before {
        let (now, newer) = &after[shard];
        if lost.contains(agent) {
            ensure!(newer > epoch, "{shard:?} went from {agent} to {now} under {newer}, which is not above {epoch}");
        } else {
            ensure!((now, newer) == (agent, epoch), "{shard:?} ran on, and moved from {agent} to {now}");
        }
    }
    for (shard, epochs) in talkers.running() {
        ensure!(epochs == [after[&shard].1], "{shard:?} runs as {epochs:?}, and should as {:?}", after[&shard]);
    }
    Ok(())
}

#[test]
fn a_task_of_a_thousand_sources_takes_all_of_them_over_etcd_and_gives_all_back() -> Result<()> {
    let control = Control::start(1, 1)?;
    let url = format!("http://{}", control.addresses[0]);
    let runtime = tokio::runtime::Runtime::new()?;
    let mut client = runtime.block_on(TaskServiceClient::connect(url.clone()))?;
    until("the interface to answer", || Ok(runtime.block_on(client.list_tasks(ListTasksRequest::default())).is_ok()))?;
    let _talkers = runtime.block_on(Talkers::start(&url, LOST))?;
    let ids = runtime.block_on(start_tasks(&mut client, 1, MASTERS))?;
    let mut task = || -> Result<Task> { runtime.block_on(get(&mut client, &ids))?.pop().context("a task") };
    until("every shard to run", || Ok(task()?.ready_to_complete))?;
    ensure!(control.locks()? == MASTERS + 1);
    runtime.block_on(client.cancel_task(CancelTaskRequest { id: ids[0].clone(), ..Default::default() }))?;
    until("every server to be given back", || Ok(control.locks()? == 0))
}

async fn get(client: &mut TaskServiceClient<Channel>, ids: &[String]) -> Result<Vec<Task>> {
    let mut tasks = Vec::new();
    for id in ids {
        tasks.push(client.get_task(GetTaskRequest { id: id.clone() }).await?.into_inner());
    }
    Ok(tasks)
}

/// Where the first one stands.
fn not_ready(tasks: &[Task]) -> String {
    let Some(task) = tasks.iter().find(|task| !task.ready_to_complete) else { return "all are ready now".into() };
    let phases: Vec<_> = task.shards.iter().map(|shard| shard.status.as_ref().map(|status| status.phase())).collect();
    format!("{:?}, {:?}, {:?}, {phases:?}", task.state(), task.reason, task.check)
}

/// True if every shard is with exactly one of those that are left.
fn once(talkers: &Talkers) -> bool {
    let running = talkers.running();
    running.len() == TASKS * SHARDS && running.values().all(|epochs| epochs.len() == 1)
}

/// Agent and epoch of every shard.
fn held(tasks: &[Task]) -> BTreeMap<Shard, (String, u64)> {
    let of = |task: &Task| {
        let id = task.id.clone();
        let shards = task.shards.clone().into_iter();
        shards.map(move |shard| ((id.clone(), shard.index), (shard.agent_id, shard.epoch)))
    };
    tasks.iter().flat_map(of).collect()
}
