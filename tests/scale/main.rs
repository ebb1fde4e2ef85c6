//! A real coordinator over a real etcd, with agents that only talk: how control grows with agents and shards.
//!
//! `scale [--agents N] [--shards N] [--tasks N] [--seconds N] [--parts 4,2,1]`: for these parts of it (a quarter, half, all) prints what coordinator
//! and etcd use, and how soon the shards of a tenth of the agents run elsewhere when those are lost at once.

mod figures;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use dts_proto::v1::task_service_client::TaskServiceClient;
use dts_proto::v1::{GetTaskRequest, ListTasksRequest};
use dts_tests::dts::binary;
use dts_tests::etcd::Etcd;
use dts_tests::port::free_port;
use dts_tests::talkers::{Talkers, name, start_tasks};
use tonic::transport::Channel;

use crate::figures::Process;

const PATIENCE: Duration = Duration::from_secs(300);

struct Plan {
    agents: usize,
    shards: usize,
    tasks: usize,
    seconds: u64,
    parts: Vec<usize>,
}

impl Plan {
    fn from_arguments() -> Result<Self> {
        let mut plan = Self { agents: 1000, shards: 10_000, tasks: 100, seconds: 20, parts: vec![4, 2, 1] };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let value = words.next().with_context(|| format!("{word} needs a value"))?;
            match word.as_str() {
                "--agents" => plan.agents = value.parse()?,
                "--shards" => plan.shards = value.parse()?,
                "--tasks" => plan.tasks = value.parse()?,
                "--seconds" => plan.seconds = value.parse()?,
                "--parts" => plan.parts = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
                other => anyhow::bail!("what is {other}?"),
            }
        }
        Ok(plan)
    }

    fn part(&self, of: usize) -> Self {
        let part = |whole: usize| (whole / of).max(1);
        Self {
            agents: part(self.agents),
            shards: part(self.shards),
            tasks: part(self.tasks),
            seconds: self.seconds,
            parts: Vec::new(),
        }
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let plan = Plan::from_arguments()?;
    println!(
        "| agents | shards | tasks | all streaming after s | coordinator CPU % | coordinator MiB | etcd CPU % | etcd writes/s | a tenth of the agents lost: all run elsewhere after s |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    for of in &plan.parts {
        println!("{}", measured(&plan.part(*of)).await?);
    }
    Ok(())
}

async fn measured(plan: &Plan) -> Result<String> {
    let etcd = Etcd::start(1)?;
    let dir = tempfile::tempdir()?;
    let seal = dir.path().join("seal.key");
    std::fs::write(&seal, [7; 32])?;
    let address = format!("127.0.0.1:{}", free_port());
    let log = std::fs::File::create(dir.path().join("log"))?;
    let mut command = Command::new(binary()?);
    command.args(["coordinator", "--listen", &address, "--etcd", &etcd.endpoints().join(",")]);
    command.args(["--agent-ttl", "10s", "--seal-key-file"]).arg(&seal).stdout(Stdio::null()).stderr(log);
    let coordinator = Process::of(command.env("RUST_LOG", "warn").spawn()?);
    let url = format!("http://{address}");
    let mut client = connected(&url).await?;
    let mut agents = Talkers::start(&url, plan.agents).await?;
    let begun = Instant::now();
    let tasks = start_tasks(&mut client, plan.tasks, plan.shards / plan.tasks).await?;
    until_streaming(&mut client, &tasks, "the first start").await?;
    let started = begun.elapsed().as_secs_f64();

    let etcd_process = etcd.pid(0).context("etcd")?;
    let before = (coordinator.cpu()?, figures::cpu_of(etcd_process)?, figures::revision(&etcd)?);
    tokio::time::sleep(Duration::from_secs(plan.seconds)).await;
    let (ours, theirs) = (coordinator.cpu()? - before.0, figures::cpu_of(etcd_process)? - before.1);
    let writes = figures::revision(&etcd)? - before.2;
    let memory = coordinator.memory_mib()?;

    let lost = (plan.agents / 10).max(1);
    let ran = agents.running();
    let begun = Instant::now();
    agents.lose(lost);
    until_elsewhere(&mut client, &tasks, lost).await?;
    until_streaming(&mut client, &tasks, "the loss").await?;
    let failed_over = begun.elapsed().as_secs_f64();
    let runs = agents.running();
    ensure!(runs.len() == ran.len() && runs.values().all(|epochs| epochs.len() == 1), "a shard is lost, or runs twice");
    #[allow(clippy::cast_precision_loss)]
    let percent = |seconds: f64| seconds * 100.0 / plan.seconds as f64;
    Ok(format!(
        "| {} | {} | {} | {started:.1} | {:.0} | {memory} | {:.0} | {:.1} | {failed_over:.1} |",
        plan.agents,
        plan.shards / plan.tasks * plan.tasks,
        plan.tasks,
        percent(ours),
        percent(theirs),
        percent(writes) / 100.0,
    ))
}

async fn connected(url: &str) -> Result<TaskServiceClient<Channel>> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(client) = TaskServiceClient::connect(url.to_owned()).await {
            let mut client = client.max_decoding_message_size(256 << 20);
            if client.list_tasks(ListTasksRequest::default()).await.is_ok() {
                return Ok(client);
            }
        }
        ensure!(Instant::now() < deadline, "no coordinator");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn until_streaming(client: &mut TaskServiceClient<Channel>, tasks: &[String], what: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    for id in tasks {
        loop {
            let task = client.get_task(GetTaskRequest { id: id.clone() }).await?.into_inner();
            if task.ready_to_complete {
                break;
            }
            ensure!(Instant::now() < deadline, "{what}: {id} is in {:?}: {:?}", task.state(), task.reason);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}

/// Until no shard is with the first agents.
async fn until_elsewhere(client: &mut TaskServiceClient<Channel>, tasks: &[String], lost: usize) -> Result<()> {
    let gone: std::collections::HashSet<String> = (0..lost).map(name).collect();
    let deadline = Instant::now() + PATIENCE;
    for id in tasks {
        loop {
            let task = client.get_task(GetTaskRequest { id: id.clone() }).await?.into_inner();
            if !task.shards.iter().any(|shard| gone.contains(&shard.agent_id) || shard.agent_id.is_empty()) {
                break;
            }
            ensure!(Instant::now() < deadline, "{id} is still with an agent that is lost");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(())
}
