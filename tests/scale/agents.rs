//! Agents that hold sessions as real ones do, and run nothing: each shard goes at once as far as it is told to.

use std::time::Duration;

use anyhow::Result;
use dts_proto::v1::agent_service_client::AgentServiceClient;
use dts_proto::v1::{
    AgentMessage, Assignment, Directive, Register, Report, ShardPhase, ShardReport, ShardStatus, StreamProgress,
    agent_message::Message, coordinator_message,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

/// The name of the n-th agent.
pub(crate) fn name(number: usize) -> String {
    format!("agent-{number:05}")
}

/// All of them.
pub(crate) struct Agents(Vec<JoinHandle<()>>);

impl Agents {
    /// Opens a session for each, over a few connections.
    pub(crate) async fn start(url: &str, count: usize) -> Result<Self> {
        let mut agents = Vec::new();
        let mut channel = None;
        for number in 0..count {
            // A connection bears so many streams by default.
            if number % 50 == 0 {
                channel = Some(Channel::from_shared(url.to_owned())?.connect().await?);
            }
            let Some(channel) = channel.clone() else { continue };
            agents.push(tokio::spawn(async move {
                let _lost_with_the_coordinator = session(channel, number).await;
            }));
        }
        Ok(Self(agents))
    }

    /// The first of them are gone, without a word.
    pub(crate) fn lose(&mut self, count: usize) {
        self.0.drain(..count).for_each(|agent| agent.abort());
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn session(channel: Channel, number: usize) -> Result<()> {
    let mut client = AgentServiceClient::new(channel);
    let (reports, outgoing) = mpsc::channel(8);
    let register = Register {
        agent_id: name(number),
        instance_id: format!("instance-{number}"),
        version: "0.1.0".into(),
        protocol_version: 1,
        ..Default::default()
    };
    reports.send(AgentMessage { message: Some(Message::Register(register)) }).await?;
    let mut incoming = client.session(ReceiverStream::new(outgoing)).await?.into_inner();
    let mut assignments = Vec::new();
    let mut beat = interval(Duration::from_secs(1));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut beats = 0u64;
    loop {
        tokio::select! {
            message = incoming.message() => match message?.and_then(|message| message.message) {
                Some(coordinator_message::Message::Desired(desired)) => assignments = desired.assignments,
                Some(coordinator_message::Message::Welcome(welcome)) => {
                    beat = interval(Duration::from_millis(welcome.report_interval_ms.into()));
                    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
                }
                None => return Ok(()),
            },
            _ = beat.tick() => beats += 1,
        }
        let shards = assignments.iter().map(|assignment| shard(assignment, beats)).collect();
        reports.send(AgentMessage { message: Some(Message::Report(Report { shards, ..Default::default() })) }).await?;
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
        guard_rules: None,
    }
}
