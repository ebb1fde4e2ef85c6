//! `dts task schedule|unschedule|retry|resync|abort|clone|explain|events`.

use anyhow::Result;
use clap::Subcommand;
use comfy_table::Table;
use dts_proto::v1::task_service_client::TaskServiceClient;
use dts_proto::v1::{
    AbortCompletionRequest, CloneTaskRequest, ExplainTaskRequest, ListTaskEventsRequest, ResyncTaskRequest,
    RetryTaskRequest, ScheduleTaskRequest, Task, UnscheduleTaskRequest,
};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::coordinator::explain;
use crate::event;
use crate::show::short;
use crate::task::only;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Start a checked task at a time; one that is past is now.
    Schedule {
        id: Option<String>,
        /// With its zone: `2026-11-26T22:00[Asia/Shanghai]`, `2026-11-26T22:00:00+08:00`, `2026-11-26T14:00:00Z`.
        #[arg(long, value_name = "TIME")]
        at: String,
    },
    /// Take the schedule back.
    Unschedule { id: Option<String> },
    /// Try an interrupted task again at once.
    Retry { id: Option<String> },
    /// Copy everything again over what the target holds.
    Resync { id: Option<String> },
    /// Go on following instead of completing; everything is copied again.
    Abort { id: Option<String> },
    /// Make a new task of the same spec, passwords included.
    Clone {
        id: Option<String>,
        /// Of the new task.
        #[arg(long, default_value = "")]
        name: String,
    },
    /// Say why the task is where it is, what it waits for, and what may be asked of it.
    Explain { id: Option<String> },
    /// List what happened to the task.
    Events { id: Option<String> },
}

/// Does it; a task is what is left to show.
pub(crate) async fn run(verb: Verb, client: &mut TaskServiceClient<Channel>, json: bool) -> Result<Option<Task>> {
    let revision = 0;
    let task = match verb {
        Verb::Schedule { id, at: start_at } => {
            let id = only(client, id).await?;
            client.schedule_task(ScheduleTaskRequest { id, revision, start_at }).await
        }
        Verb::Unschedule { id } => {
            let id = only(client, id).await?;
            client.unschedule_task(UnscheduleTaskRequest { id, revision }).await
        }
        Verb::Retry { id } => {
            let id = only(client, id).await?;
            client.retry_task(RetryTaskRequest { id, revision }).await
        }
        Verb::Resync { id } => {
            let id = only(client, id).await?;
            client.resync_task(ResyncTaskRequest { id, revision }).await
        }
        Verb::Abort { id } => {
            let id = only(client, id).await?;
            client.abort_completion(AbortCompletionRequest { id, revision }).await
        }
        Verb::Clone { id, name } => {
            let id = only(client, id).await?;
            let request_id = uuid::Uuid::new_v4().to_string();
            client.clone_task(CloneTaskRequest { id, name, request_id }).await
        }
        Verb::Explain { id } => {
            explain_task(client, id, json).await?;
            return Ok(None);
        }
        Verb::Events { id } => {
            events(client, id, json).await?;
            return Ok(None);
        }
    };
    let task = task.map_err(|status| explain(&status))?.into_inner();
    if let Some(note) = task.schedule.as_ref().map(|schedule| &schedule.note).filter(|note| !note.is_empty()) {
        eprintln!("dts: {note}");
    }
    Ok(Some(task))
}

async fn explain_task(client: &mut TaskServiceClient<Channel>, id: Option<String>, json: bool) -> Result<()> {
    let id = only(client, id).await?;
    let asked = client.explain_task(ExplainTaskRequest { id }).await.map_err(|status| explain(&status))?;
    let told = asked.into_inner();
    let state = short(told.state().as_str_name(), "TASK_STATE_");
    let name = |action: &dts_proto::v1::Possibility| short(action.action().as_str_name(), "TASK_ACTION_");
    if json {
        let actions: Vec<Value> = told
            .actions
            .iter()
            .map(|action| json!({"action": name(action), "allowed": action.allowed, "message": action.message}))
            .collect();
        let explained = json!({
            "event": "explain", "state": state, "why": told.why, "waits_for": told.waits_for, "actions": actions,
        });
        println!("{explained}");
        return Ok(());
    }
    println!("{state}: {}", told.why);
    if !told.waits_for.is_empty() {
        println!("waits for: {}", told.waits_for);
    }
    let mut table = Table::new();
    table.set_header(["action", "allowed", ""]);
    for action in &told.actions {
        let allowed = if action.allowed { "yes" } else { "no" };
        table.add_row([name(action).to_lowercase(), allowed.to_owned(), action.message.clone()]);
    }
    println!("{table}");
    Ok(())
}

async fn events(client: &mut TaskServiceClient<Channel>, id: Option<String>, json: bool) -> Result<()> {
    let id = only(client, id).await?;
    let listed = client.list_task_events(ListTaskEventsRequest { id }).await.map_err(|status| explain(&status))?;
    let listed = listed.into_inner();
    if listed.forgotten > 0 && !json {
        println!("({} older ones are not kept)", listed.forgotten);
    }
    for found in &listed.events {
        let at = found.at.map(|at| humantime::format_rfc3339_seconds(at_most_now(at)).to_string()).unwrap_or_default();
        let state = short(found.state().as_str_name(), "TASK_STATE_");
        if json {
            let reason = found.reason.as_ref().map(|reason| event::reason("reason", reason));
            println!(
                "{}",
                json!({"event": "event", "at": at, "state": state, "message": found.message, "reason": reason})
            );
            continue;
        }
        let reason = found.reason.as_ref().map(|reason| format!(" ({}: {})", reason.code, reason.message));
        println!("{at} {state:<14} {}{}", found.message, reason.unwrap_or_default());
    }
    Ok(())
}

/// A stamp that this program can show.
fn at_most_now(at: prost_types::Timestamp) -> std::time::SystemTime {
    std::time::SystemTime::try_from(at).unwrap_or(std::time::UNIX_EPOCH)
}
