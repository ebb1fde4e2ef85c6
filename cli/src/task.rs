//! `dts task …`: a client of the coordinator's API.

mod create;
mod find;
mod limit;
mod show;

use anyhow::Result;
use clap::{Args, Subcommand};
use dts_proto::v1::task_service_client::TaskServiceClient;
use dts_proto::v1::{
    CancelTaskRequest, CompleteTaskRequest, CreateTaskRequest, DeleteTaskRequest, GetTaskRequest, PauseTaskRequest,
    ResumeTaskRequest, StartTaskRequest, VerifyMode, WatchTaskRequest,
};
use serde_json::json;
use tonic::Status;
use tracing::Instrument as _;

use self::create::{Create, spec};
pub(crate) use self::create::{Mode, cross_slot};
use self::find::all;
pub(crate) use self::find::only;
use self::limit::Limit;
pub(crate) use self::show::show;
use self::show::show_all;
use crate::COMPLETED;
use crate::check;
use crate::coordinator::{Coordinator, explain, traced};
use crate::life;
use crate::switch;
use crate::task_file::command;
use crate::verification::{self, Gate};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    coordinator: Coordinator,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Store a task.
    Create(Box<Create>),
    /// Show a task.
    Get { id: Option<String> },
    /// List the tasks.
    List,
    /// Show a task at every change.
    Watch { id: Option<String> },
    /// Change bounds; what is not named stays.
    Limit(Limit),
    /// Begin; a task that was not checked is tested and checked first.
    Start {
        id: Option<String>,
        /// Take all that the check warns of upon oneself.
        #[arg(long)]
        acknowledge: bool,
    },
    #[command(flatten)]
    Check(check::Verb),
    #[command(flatten)]
    Life(life::Verb),
    #[command(flatten)]
    File(command::Verb),
    /// Stop, keeping the position.
    Pause { id: Option<String> },
    /// Go on.
    Resume { id: Option<String> },
    /// End the synchronisation at the source's offset of now, or once a verification found both sides equal.
    Complete {
        id: Option<String>,
        #[command(flatten)]
        gate: Gate,
    },
    /// Compare source and target while the task runs. Ends with 0: equal, 4: they differ, 5: undecided.
    Verify(verification::Start),
    /// Copy what a verification found to differ again, while the task runs, and look at those keys once more.
    Repair(verification::Repair),
    /// Show a verification and what it found, or end it.
    Verification(verification::Look),
    /// Hold the source's writes for a moment, and hand the target over. Ends with 0: done, 4: they differ, 1: not switched, everything goes on.
    SwitchOver(switch::Arguments),
    /// Give up; what was copied stays.
    Cancel { id: Option<String> },
    /// Forget a settled task.
    Delete { id: Option<String> },
}

pub(crate) async fn run(arguments: Arguments) -> Result<u8> {
    let span = tracing::info_span!("dts task");
    Box::pin(asked(arguments)).instrument(span).await
}

async fn asked(arguments: Arguments) -> Result<u8> {
    let Arguments { coordinator, verb } = arguments;
    let channel = coordinator.channel().await?;
    let mut client = TaskServiceClient::new(channel.clone());
    let json = coordinator.json;
    let wrong = |status: Status| explain(&status);
    let revision = 0;
    let task = match verb {
        Verb::Create(create) => {
            let (start, acknowledge_warnings) = (create.start, create.acknowledge);
            let spec = Some(spec(*create).await?);
            let request = CreateTaskRequest { spec, request_id: uuid::Uuid::new_v4().to_string() };
            let task = client.create_task(traced(request)).await.map_err(wrong)?.into_inner();
            if start {
                let request = StartTaskRequest { id: task.id, revision, acknowledge_warnings };
                client.start_task(traced(request)).await.map_err(wrong)?.into_inner()
            } else {
                task
            }
        }
        Verb::List => {
            let tasks = all(&mut client).await?;
            show_all(&tasks, json);
            return Ok(COMPLETED);
        }
        Verb::Watch { id } => {
            let id = only(&mut client, id).await?;
            loop {
                let watched = client.watch_task(WatchTaskRequest { id: id.clone() }).await;
                let mut changes = watched.map_err(wrong)?.into_inner();
                let lost = loop {
                    match changes.message().await {
                        Ok(Some(task)) => show(&task, json),
                        Ok(None) => return Ok(COMPLETED),
                        Err(status) => break status,
                    }
                };
                // The lead changed hands, or the coordinator that we spoke to is gone: another one goes on.
                client = TaskServiceClient::new(coordinator.channel().await.map_err(|_| explain(&lost))?);
            }
        }
        Verb::Get { id } => {
            let id = only(&mut client, id).await?;
            client.get_task(GetTaskRequest { id }).await.map_err(wrong)?.into_inner()
        }
        Verb::Limit(limit) => {
            let id = only(&mut client, limit.id.clone()).await?;
            client.update_task(traced(limit.request(id))).await.map_err(wrong)?.into_inner()
        }
        Verb::Start { id, acknowledge: acknowledge_warnings } => {
            let id = only(&mut client, id).await?;
            let request = StartTaskRequest { id, revision, acknowledge_warnings };
            client.start_task(traced(request)).await.map_err(wrong)?.into_inner()
        }
        Verb::Check(verb) => match check::run(verb, &mut client, json).await? {
            Some(task) => task,
            None => return Ok(COMPLETED),
        },
        Verb::Life(verb) => match life::run(verb, &mut client, json).await? {
            Some(task) => task,
            None => return Ok(COMPLETED),
        },
        Verb::Pause { id } => {
            let id = only(&mut client, id).await?;
            client.pause_task(traced(PauseTaskRequest { id, revision })).await.map_err(wrong)?.into_inner()
        }
        Verb::Resume { id } => {
            let id = only(&mut client, id).await?;
            client.resume_task(traced(ResumeTaskRequest { id, revision })).await.map_err(wrong)?.into_inner()
        }
        Verb::Complete { id, gate } => {
            let id = only(&mut client, id).await?;
            let limit = u32::try_from(gate.time_limit.as_secs().max(1)).unwrap_or(u32::MAX);
            let request = CompleteTaskRequest {
                id: id.clone(),
                revision,
                verify: gate.verify.map_or(VerifyMode::Unspecified, VerifyMode::from).into(),
                verify_time_limit_seconds: limit,
                force: gate.force,
                requested_by: verification::asker(),
            };
            if gate.force {
                eprintln!(
                    "dts: FORCED: completing whatever the last verification found; this is recorded with the task"
                );
            }
            let task = client.complete_task(traced(request)).await.map_err(wrong)?.into_inner();
            if gate.verify.is_some() {
                return verification::decided(channel, &id, json).await;
            }
            task
        }
        Verb::Verify(start) => {
            let id = only(&mut client, start.id.clone()).await?;
            return verification::start(channel, id, start, json).await;
        }
        Verb::Repair(repair) => {
            let id = only(&mut client, repair.id.clone()).await?;
            return verification::repair(channel, id, repair.number, json).await;
        }
        Verb::Verification(look) => {
            let id = only(&mut client, look.id.clone()).await?;
            return verification::look(channel, id, look, json).await;
        }
        Verb::SwitchOver(asked) => {
            let id = only(&mut client, asked.id.clone()).await?;
            return switch::run(channel, id, &asked, json).await;
        }
        Verb::File(verb) => match command::run(verb, &mut client, json).await? {
            Some(task) => task,
            None => return Ok(COMPLETED),
        },
        Verb::Cancel { id } => {
            let id = only(&mut client, id).await?;
            client.cancel_task(traced(CancelTaskRequest { id, revision })).await.map_err(wrong)?.into_inner()
        }
        Verb::Delete { id } => {
            let id = only(&mut client, id).await?;
            client.delete_task(traced(DeleteTaskRequest { id: id.clone(), revision })).await.map_err(wrong)?;
            if json {
                println!("{}", json!({"event": "deleted", "id": id}));
            }
            return Ok(COMPLETED);
        }
    };
    show(&task, json);
    Ok(COMPLETED)
}
