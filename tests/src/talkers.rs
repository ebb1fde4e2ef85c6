//! Agents that hold sessions as real ones do, and run nothing: each check passes, and each shard goes at once as far as it is told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use dts_proto::v1::agent_service_client::AgentServiceClient;
use dts_proto::v1::task_service_client::TaskServiceClient;
use dts_proto::v1::{
    AgentMessage, Assignment, CheckOrder, CheckReport, CreateTaskRequest, DesiredState, Directive, Endpoint, Mode,
    Register, Report, ShardPhase, ShardReport, ShardStatus, StartTaskRequest, StreamProgress, TaskSpec,
    agent_message::Message, coordinator_message,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// Sessions that share a connection: it bears about so many streams by default.
const A_CONNECTION: usize = 50;
/// Of its own accord nothing is said on a stream before.
const FIRST_BEAT: u32 = 1000;

/// A shard, by task and number.
pub type Shard = (String, u32);

/// The name of the n-th agent.
pub fn name(number: usize) -> String {
    format!("agent-{number:05}")
}

/// What agents run: epochs by shard.
type Running = Arc<Mutex<BTreeMap<Shard, u64>>>;

/// All of them.
pub struct Talkers(Vec<Talker>);

struct Talker {
    task: JoinHandle<()>,
    running: Running,
}

impl Talkers {
    /// Opens a session for each, over a few connections.
    pub async fn start(url: &str, count: usize) -> Result<Self> {
        let mut talkers = Vec::new();
        let mut channel = None;
        for number in 0..count {
            if number % A_CONNECTION == 0 {
                channel = Some(Channel::from_shared(url.to_owned())?.connect().await?);
            }
            let Some(channel) = channel.clone() else { continue };
            let running = Running::default();
            let shown = running.clone();
            let task = tokio::spawn(async move {
                let _lost_with_the_coordinator = session(channel, number, &shown).await;
            });
            talkers.push(Talker { task, running });
        }
        Ok(Self(talkers))
    }

    /// The first of them are gone, without a word.
    pub fn lose(&mut self, count: usize) {
        self.0.drain(..count).for_each(|talker| talker.task.abort());
    }

    /// What those that are left run: by shard, with the epoch of each that runs it.
    pub fn running(&self) -> BTreeMap<Shard, Vec<u64>> {
        let mut all: BTreeMap<Shard, Vec<u64>> = BTreeMap::new();
        for talker in &self.0 {
            for (shard, epoch) in talker.running.lock().unwrap_or_else(PoisonError::into_inner).iter() {
                all.entry(shard.clone()).or_default().push(*epoch);
            }
        }
        all
    }
}

impl Drop for Talkers {
    fn drop(&mut self) {
        self.0.iter().for_each(|talker| talker.task.abort());
    }
}

/// Starts so many tasks of so many shards each; gives their ids.
pub async fn start_tasks(client: &mut TaskServiceClient<Channel>, tasks: usize, shards: usize) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    let mut at = 0u32;
    for number in 0..tasks {
        // Nobody dials these.
        let mut endpoint = || {
            at += 1;
            Endpoint {
                host: format!("10.{}.{}.{}", at >> 16, (at >> 8) & 255, at & 255),
                port: 6379,
                ..Default::default()
            }
        };
        let spec = TaskSpec {
            name: format!("task {number}"),
            sources: (0..shards).map(|_| endpoint()).collect(),
            target: Some(endpoint()),
            mode: Mode::Sync.into(),
            ..Default::default()
        };
        let created = client.create_task(CreateTaskRequest { spec: Some(spec), ..Default::default() }).await?;
        let id = created.into_inner().id;
        client
            .start_task(StartTaskRequest { id: id.clone(), acknowledge_warnings: true, ..Default::default() })
            .await?;
        ids.push(id);
    }
    Ok(ids)
}

async fn session(channel: Channel, number: usize, running: &Running) -> Result<()> {
    let mut client = AgentServiceClient::new(channel);
    let (reports, outgoing) = mpsc::channel(8);
    let register = Register {
        agent_id: name(number),
        instance_id: format!("instance-{number}"),
        version: "0.1.0".into(),
        protocol_version: dts_proto::PROTOCOL_VERSION,
        ..Default::default()
    };
    reports.send(AgentMessage { message: Some(Message::Register(register)) }).await?;
    let mut incoming = client.session(ReceiverStream::new(outgoing)).await?.into_inner();
    let mut desired = DesiredState::default();
    let (mut welcome, mut beat, mut beats) = (FIRST_BEAT, every(FIRST_BEAT), 0u64);
    loop {
        tokio::select! {
            message = incoming.message() => match message?.and_then(|message| message.message) {
                Some(coordinator_message::Message::Desired(told)) => {
                    if told.report_interval_ms != desired.report_interval_ms {
                        beat = every(if told.report_interval_ms > 0 { told.report_interval_ms } else { welcome });
                    }
                    desired = told;
                }
                Some(coordinator_message::Message::Welcome(said)) => {
                    welcome = said.report_interval_ms;
                    beat = every(welcome);
                }
                Some(coordinator_message::Message::Heard(_)) => {}
                None => return Ok(()),
            },
            _ = beat.tick() => beats += 1,
        }
        let runs = desired.assignments.iter().map(|of| ((of.task_id.clone(), of.shard_index), of.epoch));
        *running.lock().unwrap_or_else(PoisonError::into_inner) = runs.collect();
        let shards = desired.assignments.iter().map(|assignment| shard(assignment, beats)).collect();
        let checks = desired.checks.iter().map(check).collect();
        let report = Report { shards, checks, ..Default::default() };
        reports.send(AgentMessage { message: Some(Message::Report(report)) }).await?;
    }
}

fn every(millis: u32) -> Interval {
    let mut beat = interval(Duration::from_millis(millis.into()));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

fn check(order: &CheckOrder) -> CheckReport {
    let assignment = order.assignment.clone().unwrap_or_default();
    CheckReport {
        task_id: assignment.task_id,
        shard_index: assignment.shard_index,
        run: order.run,
        done: true,
        ..Default::default()
    }
}

fn shard(assignment: &Assignment, beats: u64) -> ShardReport {
    let phase = match assignment.directive() {
        Directive::Unspecified | Directive::Verify => ShardPhase::Verified,
        Directive::Run => ShardPhase::Streaming,
        Directive::Drain => ShardPhase::Drained,
        Directive::Release => ShardPhase::Released,
    };
    let stream = StreamProgress {
        replication_id: "0123456789abcdef0123456789abcdef01234567".into(),
        source_offset: beats * 100_000,
        received_offset: beats * 100_000,
        applied_offset: beats * 100_000,
        applied_commands: beats * 1000,
        exactly_once: true,
        ..Default::default()
    };
    let mut status = ShardStatus { stream: Some(stream), source_version: "7.0.15".into(), ..Default::default() };
    status.set_phase(phase);
    ShardReport {
        task_id: assignment.task_id.clone(),
        shard_index: assignment.shard_index,
        epoch: assignment.epoch,
        status: Some(status),
        verify: None,
        switch_over: None,
        guard_rules: None,
    }
}
