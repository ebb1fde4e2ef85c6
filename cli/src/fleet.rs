//! `dts fleet …`, `dts agents`: who runs what, and who may.

use std::time::Duration;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use comfy_table::Table;
use dts_proto::v1::fleet_service_client::FleetServiceClient;
use dts_proto::v1::{
    Agent, BarAgentRequest, CordonAgentRequest, DrainAgentRequest, ListAgentsRequest, PinShardRequest, Refusal,
    UncordonAgentRequest, UnpinShardRequest,
};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::coordinator::{Coordinator, explain};
use crate::enrol;
use crate::show::bytes;
use crate::task::show;

/// How often a drain looks whether it is over.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    coordinator: Coordinator,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List the agents.
    List {
        /// And what they measured of the way to the servers of tasks.
        #[arg(long)]
        ways: bool,
    },
    /// Take an agent's shards away, and give it no more; waits until it has none, or only such as nobody else can take.
    Drain {
        name: String,
        /// Do not wait.
        #[arg(long)]
        no_wait: bool,
    },
    /// Give an agent no more shards; it keeps those that it has.
    Cordon { name: String },
    /// Give an agent shards again.
    Uncordon { name: String },
    /// Make the certificates that an agent has worthless; others take its shards at once.
    Bar { name: String },
    /// Let only this agent run a task, or one shard of it; moves it there.
    Pin {
        /// Of the task.
        id: String,
        /// Of the agent.
        name: String,
        /// Number of the shard, from 0; without it all.
        #[arg(long)]
        shard: Option<u32>,
    },
    /// Make a token with which an agent gets its certificate (`dts agent --token-file`); once.
    Token {
        /// Of the agent.
        name: String,
        /// How long it may be used: 1m to 7d.
        #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
        ttl: Duration,
    },
    /// List the tokens that can still be used.
    Tokens,
    /// Make a token worthless.
    RevokeToken { id: String },
    /// Show who did what, the newest first.
    Audit {
        /// So many entries.
        #[arg(long, default_value_t = 100)]
        last: usize,
    },
    /// Let any agent that fits run a task, or one shard of it.
    Unpin {
        /// Of the task.
        id: String,
        #[arg(long)]
        shard: Option<u32>,
    },
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let Arguments { coordinator, verb } = arguments;
    let mut client = FleetServiceClient::new(coordinator.channel().await?);
    let json = coordinator.json;
    let wrong = |status: tonic::Status| explain(&status);
    match verb {
        Verb::List { ways } => return list(&mut client, json, ways).await,
        Verb::Drain { name, no_wait } => {
            let agent = client.drain_agent(DrainAgentRequest { id: name }).await.map_err(wrong)?.into_inner();
            if !no_wait {
                return drained(&mut client, agent, json).await;
            }
            one(&agent, json);
        }
        Verb::Token { name, ttl } => return enrol::token(&mut client, name, ttl, json).await,
        Verb::Tokens => return enrol::tokens(&mut client, json).await,
        Verb::RevokeToken { id } => return enrol::revoke(&mut client, id).await,
        Verb::Audit { last } => return enrol::audit(&mut client, last, json).await,
        Verb::Cordon { name } => {
            one(&client.cordon_agent(CordonAgentRequest { id: name }).await.map_err(wrong)?.into_inner(), json);
        }
        Verb::Bar { name } => {
            one(&client.bar_agent(BarAgentRequest { id: name }).await.map_err(wrong)?.into_inner(), json);
        }
        Verb::Uncordon { name } => {
            one(&client.uncordon_agent(UncordonAgentRequest { id: name }).await.map_err(wrong)?.into_inner(), json);
        }
        Verb::Pin { id, name, shard } => {
            let request = PinShardRequest { task_id: id, shard_index: shard, agent_id: name, revision: 0 };
            show(&client.pin_shard(request).await.map_err(wrong)?.into_inner(), json);
        }
        Verb::Unpin { id, shard } => {
            let request = UnpinShardRequest { task_id: id, shard_index: shard, revision: 0 };
            show(&client.unpin_shard(request).await.map_err(wrong)?.into_inner(), json);
        }
    }
    Ok(())
}

/// `dts agents`.
pub(crate) async fn agents(coordinator: Coordinator) -> Result<()> {
    let mut client = FleetServiceClient::new(coordinator.channel().await?);
    list(&mut client, coordinator.json, false).await
}

async fn drained(client: &mut FleetServiceClient<Channel>, agent: Agent, json: bool) -> Result<()> {
    let mut agent = agent;
    // The first answer is of before the agents were heard.
    loop {
        let stuck = usize::try_from(agent.shards).is_ok_and(|shards| shards > 0 && agent.stays.len() == shards);
        if agent.shards == 0 || stuck {
            one(&agent, json);
            return if stuck {
                Err(anyhow!("{} shards stay: nobody else can take them", agent.shards))
            } else {
                Ok(())
            };
        }
        tokio::time::sleep(LOOK).await;
        let id = agent.id.clone();
        let found = all(client).await?.into_iter().find(|found| found.id == id);
        agent = found.ok_or_else(|| anyhow!("agent {id} is gone"))?;
        if !agent.draining {
            return Err(anyhow!("somebody ended the draining of {id}"));
        }
    }
}

async fn all(client: &mut FleetServiceClient<Channel>) -> Result<Vec<Agent>> {
    let (mut agents, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListAgentsRequest { page_size: 1000, page_token };
        let page = client.list_agents(request).await.map_err(|status| explain(&status))?.into_inner();
        agents.extend(page.agents);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(agents);
        }
    }
}

async fn list(client: &mut FleetServiceClient<Channel>, json: bool, ways: bool) -> Result<()> {
    let agents = all(client).await?;
    if json {
        agents.iter().for_each(|agent| one(agent, json));
        return Ok(());
    }
    let mut table = Table::new();
    table.set_header(["agent", "state", "shards", "labels", "free disk", "reaches", "version"]);
    for agent in &agents {
        let most = if agent.max_shards == 0 { String::new() } else { format!(" of {}", agent.max_shards) };
        let reached = agent.ways.iter().filter(|way| way.reach.as_ref().is_some_and(|reach| reach.reached)).count();
        let reaches = if agent.ways.is_empty() { String::new() } else { format!("{reached} of {}", agent.ways.len()) };
        table.add_row([
            agent.id.clone(),
            state(agent).to_owned(),
            format!("{}{most}", agent.shards),
            labels(agent),
            bytes(agent.free_disk_bytes),
            reaches,
            agent.version.clone(),
        ]);
    }
    println!("{table}");
    for agent in &agents {
        tell_stays(agent);
        for way in agent.ways.iter().filter(|_| ways) {
            let reach = way.reach.clone().unwrap_or_default();
            let found = match (&way.reach, reach.reason) {
                (None, _) => "not measured yet".to_owned(),
                (_, Some(reason)) => format!("{} ({})", reason.message, reason.code),
                _ => format!("{} us", reach.round_trip_us),
            };
            println!("{} -> {} of {} ({}): {found}", agent.id, way.end, way.task_id, way.address);
        }
    }
    Ok(())
}

fn one(agent: &Agent, json: bool) {
    if json {
        println!("{}", shown(agent));
        return;
    }
    println!("{}: {}, {} shards", agent.id, state(agent), agent.shards);
    tell_stays(agent);
}

fn tell_stays(agent: &Agent) {
    for stays in &agent.stays {
        for Refusal { agent_id, why } in &stays.refusals {
            println!("{}: shard {} of {} stays: {agent_id}: {why}", agent.id, stays.shard_index, stays.task_id);
        }
    }
}

fn state(agent: &Agent) -> &'static str {
    match agent {
        _ if agent.draining => "draining",
        _ if agent.cordoned => "cordoned",
        _ if agent.connected => "ready",
        _ if agent.alive => "away",
        _ => "gone",
    }
}

fn labels(agent: &Agent) -> String {
    let mut labels: Vec<String> = agent.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    labels.sort();
    labels.join(",")
}

fn shown(agent: &Agent) -> Value {
    let way = |way: &dts_proto::v1::Way| {
        let reach = way.reach.clone();
        json!({
            "task": way.task_id, "end": way.end, "address": way.address,
            "reached": reach.as_ref().map(|reach| reach.reached),
            "round_trip_us": reach.as_ref().map(|reach| reach.round_trip_us),
            "reason": reach.and_then(|reach| reach.reason).map(|reason| reason.code),
        })
    };
    let stays = |stays: &dts_proto::v1::Stays| {
        let whys: Vec<Value> =
            stays.refusals.iter().map(|refusal| json!({"agent": refusal.agent_id, "why": refusal.why})).collect();
        json!({"task": stays.task_id, "shard": stays.shard_index, "refusals": whys})
    };
    json!({
        "id": agent.id, "alive": agent.alive, "connected": agent.connected, "state": state(agent),
        "shards": agent.shards, "max_shards": agent.max_shards, "version": agent.version, "labels": agent.labels,
        "cordoned": agent.cordoned, "draining": agent.draining, "free_disk_bytes": agent.free_disk_bytes,
        "ways": agent.ways.iter().map(way).collect::<Vec<_>>(),
        "stays": agent.stays.iter().map(stays).collect::<Vec<_>>(),
    })
}
