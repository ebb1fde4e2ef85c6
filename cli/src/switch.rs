//! `dts task switch-over`.

use std::time::Duration;

use anyhow::Result;
use clap::{Args, ValueEnum};
use dts_proto::v1::switch_over_service_client::SwitchOverServiceClient;
use dts_proto::v1::{
    CancelSwitchOverRequest, GetSwitchOverRequest, HoldMethod, StartSwitchOverRequest, SwitchOver, SwitchOverPhase,
    SwitchOverShard, SwitchOverSpec, VerifyMode,
};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::coordinator::explain;
use crate::show::short;
use crate::verification::asker;
use crate::verify::Thoroughness;
use crate::{COMPLETED, DIFFERS, FAILED};

const LOOK_EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    pub(crate) id: Option<String>,
    /// Show what each step would do, and what it needs; change nothing.
    #[arg(long)]
    dry_run: bool,
    /// For how long writes may be held until it is decided; then everything goes back by itself.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    hold_for: Duration,
    /// Compare while writes are held.
    #[arg(long, value_enum)]
    verify: Option<Thoroughness>,
    /// Compare before writes are held.
    #[arg(long, value_enum)]
    verify_before: Option<Thoroughness>,
    /// `acl`: users are refused at once instead of having to wait, also on 6.0. Has no end of its own: while no coordinator or no agent is left, the source
    /// stays closed.
    #[arg(long, value_enum, default_value_t = HoldBy::Pause, conflicts_with = "writers_stopped")]
    hold_by: HoldBy,
    /// The writers were stopped already: hold nothing, and watch that no write comes.
    #[arg(long)]
    writers_stopped: bool,
    /// Do not close the source: what writes to it afterwards is nowhere else.
    #[arg(long)]
    leave_open: bool,
    /// Go on in the other direction afterwards, so that going back is possible: from one server or one cluster into one server or one cluster.
    #[arg(long)]
    keep_way_back: bool,
    /// Show the last one.
    #[arg(long, conflicts_with_all = ["cancel", "dry_run"])]
    show: bool,
    /// Send the one that goes on back, if it is not decided.
    #[arg(long)]
    cancel: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum HoldBy {
    Pause,
    Acl,
}

impl Arguments {
    fn spec(&self) -> SwitchOverSpec {
        let mode = |of: Option<Thoroughness>| of.map_or(VerifyMode::Unspecified, VerifyMode::from).into();
        SwitchOverSpec {
            rehearse: self.dry_run,
            hold_for_ms: u32::try_from(self.hold_for.as_millis()).unwrap_or(u32::MAX),
            verify: mode(self.verify),
            verify_before: mode(self.verify_before),
            writers_stopped: self.writers_stopped,
            leave_open: self.leave_open,
            keep_way_back: self.keep_way_back,
            hold_method: match self.hold_by {
                HoldBy::Pause => HoldMethod::Pause,
                HoldBy::Acl => HoldMethod::Acl,
            }
            .into(),
        }
    }
}

pub(crate) async fn run(channel: Channel, task_id: String, asked: &Arguments, json: bool) -> Result<u8> {
    let mut client = SwitchOverServiceClient::new(channel);
    let wrong = |status: tonic::Status| explain(&status);
    if asked.show || asked.cancel {
        let found = if asked.cancel {
            client.cancel_switch_over(CancelSwitchOverRequest { task_id }).await
        } else {
            client.get_switch_over(GetSwitchOverRequest { task_id }).await
        };
        show(&found.map_err(wrong)?.into_inner(), json);
        return Ok(COMPLETED);
    }
    let request = StartSwitchOverRequest { task_id: task_id.clone(), spec: Some(asked.spec()), requested_by: asker() };
    let mut now = client.start_switch_over(request).await.map_err(wrong)?.into_inner();
    let mut told = SwitchOverPhase::Unspecified;
    loop {
        if now.phase() != told && !json {
            told = now.phase();
            eprintln!("dts: {}", doing(told));
        }
        if is_over(&now) {
            break;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        let request = GetSwitchOverRequest { task_id: task_id.clone() };
        match client.get_switch_over(request).await {
            Ok(found) => now = found.into_inner(),
            // `dts migrate` ends with its task.
            Err(_) if now.phase() == SwitchOverPhase::Completing => {
                eprintln!("dts: decided; the coordinator has ended: the rest stands in its own report");
                show(&now, json);
                return Ok(COMPLETED);
            }
            Err(status) => return Err(explain(&status)),
        }
    }
    show(&now, json);
    Ok(code(&now))
}

fn is_over(switch: &SwitchOver) -> bool {
    matches!(switch.phase(), SwitchOverPhase::Done | SwitchOverPhase::Rehearsed | SwitchOverPhase::Returned)
}

fn code(switch: &SwitchOver) -> u8 {
    let missing = switch.shards.iter().flat_map(|shard| &shard.needs).any(|need| !need.missing.is_empty());
    match switch.phase() {
        SwitchOverPhase::Done => COMPLETED,
        SwitchOverPhase::Rehearsed if !missing => COMPLETED,
        SwitchOverPhase::Returned if switch.summary.contains("found differences") => DIFFERS,
        _ => FAILED,
    }
}

fn doing(phase: SwitchOverPhase) -> &'static str {
    match phase {
        SwitchOverPhase::Looking => "looking at what it needs",
        SwitchOverPhase::Comparing => "comparing, with writers writing",
        SwitchOverPhase::Holding => "writes on the source are held; the target comes to its last offset",
        SwitchOverPhase::Verifying => "writes are held; comparing",
        SwitchOverPhase::Closing => "closing the source",
        SwitchOverPhase::Completing => "decided; restoring exact expiries and handing the target over",
        SwitchOverPhase::Done => "done",
        SwitchOverPhase::Rehearsed => "rehearsed",
        SwitchOverPhase::Returned => "not switched; the synchronisation goes on",
        SwitchOverPhase::Unspecified => "waiting",
    }
}

pub(crate) fn as_json(switch: &SwitchOver) -> Value {
    let when = |at: Option<prost_types::Timestamp>| at.map(|at| at.to_string());
    let sources = switch.turned.iter().flat_map(|turned| &turned.sources);
    let way_back = sources.map(|source| {
        let server = format!("{}:{}", source.host, source.port);
        json!({"server": server, "slots": source.slots, "offset": source.offset})
    });
    json!({
        "event": "switch_over",
        "number": switch.number,
        "phase": short(switch.phase().as_str_name(), "SWITCH_OVER_PHASE_").to_lowercase(),
        "summary": switch.summary,
        "requested_by": switch.requested_by,
        "started_at": when(switch.started_at),
        "decided_at": when(switch.decided_at),
        "ended_at": when(switch.ended_at),
        "write_gap_ms": switch.write_gap_ms,
        "verification": switch.verification,
        "way_back_task": switch.way_back_task_id,
        "way_back": way_back.collect::<Vec<_>>(),
        "shards": switch.shards.iter().map(shard_as_json).collect::<Vec<_>>(),
    })
}

fn shard_as_json(shard: &SwitchOverShard) -> Value {
    let needs = shard.needs.iter().map(|need| json!({"step": need.step, "does": need.does, "missing": need.missing}));
    let users = shard.closed_users.iter().map(|user| json!({"name": user.name, "commands": user.commands}));
    json!({
        "index": shard.index,
        "master": shard.master,
        "method": shard.method,
        "needs": needs.collect::<Vec<_>>(),
        "replication_id": shard.replication_id,
        "barrier": shard.barrier,
        "reached": shard.reached,
        "closed": shard.closed,
        "closed_users": users.collect::<Vec<_>>(),
        "freed": shard.freed,
        "write_gap_ms": shard.write_gap_ms,
        "error": shard.error,
    })
}

/// What is worth a line, one below the other.
pub(crate) fn lines(switch: &SwitchOver) -> Vec<String> {
    let phase = short(switch.phase().as_str_name(), "SWITCH_OVER_PHASE_");
    let mut lines = vec![format!("switch-over {} {phase}: {}", switch.number, switch.summary)];
    for shard in &switch.shards {
        if switch.phase() == SwitchOverPhase::Rehearsed {
            for need in &shard.needs {
                let missing =
                    if need.missing.is_empty() { String::new() } else { format!(" MISSING: {}", need.missing) };
                lines.push(format!("  shard {} {}: {}{missing}", shard.index, need.step, need.does));
            }
            continue;
        }
        if shard.barrier > 0 {
            let gap = shard.write_gap_ms;
            lines.push(format!("  shard {}: barrier {}, writes stood still for {gap} ms", shard.index, shard.barrier));
        }
        for user in shard.closed_users.iter().filter(|_| shard.closed) {
            lines.push(format!(
                "  {} is closed to {}; to open it: ACL SETUSER {} -@all {}",
                shard.master, user.name, user.name, user.commands
            ));
        }
        if !shard.error.is_empty() {
            lines.push(format!("  shard {}: {}", shard.index, shard.error));
        }
    }
    let lost = switch.turned.as_ref().is_some_and(|turned| turned.sources.is_empty());
    if !switch.way_back_task_id.is_empty() && switch.phase() == SwitchOverPhase::Done && !lost {
        lines.push(format!("  the way back: task {}", switch.way_back_task_id));
    }
    lines
}

fn show(switch: &SwitchOver, json: bool) {
    if json {
        println!("{}", as_json(switch));
    } else {
        lines(switch).iter().for_each(|line| println!("{line}"));
    }
}
