//! `dts task …`: a client of the coordinator's API.

mod show;

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use clap::{Args, Subcommand, ValueEnum};
use dts_proto::v1::credential::Secret;
use dts_proto::v1::task_service_client::TaskServiceClient;
use dts_proto::v1::{
    CancelTaskRequest, CompleteTaskRequest, CreateTaskRequest, Credential, CrossSlot, DeleteTaskRequest, Endpoint,
    GetTaskRequest, Limits, ListTasksRequest, PauseTaskRequest, ResumeTaskRequest, StartTaskRequest, Task, TaskSpec,
    Tls, UpdateTaskRequest, VerifyMode, WatchTaskRequest,
};
use serde_json::json;
use tonic::Status;
use tonic::transport::Channel;
use tracing::Instrument as _;

pub(crate) use self::show::show;
use self::show::show_all;
use crate::COMPLETED;
use crate::address::Address;
use crate::argv;
use crate::check;
use crate::coordinator::{Coordinator, explain, traced};
use crate::guard::Guarding;
use crate::life;
use crate::place::Places;
use crate::selection::Selecting;
use crate::show::parse_bytes;
use crate::sources::{self, Sources};
use crate::switch;
use crate::target::TargetKind;
use crate::task_file::{self, command};
use crate::tls::TlsArguments;
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

#[derive(Debug, Args)]
struct Create {
    /// Take the task from a file (docs/task-file.md) instead of from options; `-` is standard input.
    #[arg(long, short = 'f', value_name = "FILE", conflicts_with_all = [
        "name", "target", "mode", "source_password_env", "target_password_env", "allow_downgrade", "skip_cross_slot",
        "Sources", "TargetKind", "TlsArguments", "Selecting", "Places",
    ])]
    file: Option<PathBuf>,
    /// A name for people.
    #[arg(long, required_unless_present = "file")]
    name: Option<String>,
    #[command(flatten)]
    sources: Sources,
    #[command(flatten)]
    target_kind: TargetKind,
    /// `redis://[user@]host:port`; `rediss://` for TLS.
    #[arg(long, required_unless_present = "file")]
    target: Option<String>,
    #[arg(long, value_enum, default_value_t = Mode::Sync)]
    mode: Mode,
    /// Name of an environment variable of the agent.
    #[arg(long)]
    source_password_env: Option<String>,
    /// Name of an environment variable of the agent.
    #[arg(long)]
    target_password_env: Option<String>,
    /// Take a target that is older than the source.
    #[arg(long)]
    allow_downgrade: bool,
    #[command(flatten)]
    tls: TlsArguments,
    /// A cluster as the target: leave commands over several slots that cannot be done exactly out.
    #[arg(long)]
    skip_cross_slot: bool,
    /// Begin at once, if the check that comes first passes.
    #[arg(long)]
    start: bool,
    /// With --start: take all that the check warns of upon oneself.
    #[arg(long, requires = "start")]
    acknowledge: bool,
    #[command(flatten)]
    guarding: Guarding,
    #[command(flatten)]
    selecting: Selecting,
    #[command(flatten)]
    places: Places,
}

#[derive(Debug, Args)]
struct Limit {
    id: Option<String>,
    /// Bytes a second read from the source; 0: unbounded.
    #[arg(long, value_parser = parse_bytes)]
    read_rate: Option<u64>,
    /// Bytes a second written to the target; 0: unbounded.
    #[arg(long, value_parser = parse_bytes)]
    write_rate: Option<u64>,
    /// Memory of the spool.
    #[arg(long, value_parser = parse_bytes)]
    spool_memory: Option<u64>,
    /// Disk of the spool.
    #[arg(long, value_parser = parse_bytes)]
    spool_disk: Option<u64>,
}

impl Limit {
    fn request(&self, id: String) -> UpdateTaskRequest {
        let given = [
            ("limits.read_bytes_per_second", self.read_rate),
            ("limits.write_bytes_per_second", self.write_rate),
            ("limits.spool_memory_bytes", self.spool_memory),
            ("limits.spool_disk_bytes", self.spool_disk),
        ];
        let limits = Limits {
            read_bytes_per_second: self.read_rate.unwrap_or_default(),
            write_bytes_per_second: self.write_rate.unwrap_or_default(),
            spool_memory_bytes: self.spool_memory.unwrap_or_default(),
            spool_disk_bytes: self.spool_disk.unwrap_or_default(),
            ..Limits::default()
        };
        let paths = given.iter().filter(|(_, value)| value.is_some()).map(|(path, _)| (*path).to_owned()).collect();
        UpdateTaskRequest {
            id,
            revision: 0,
            spec: Some(TaskSpec { limits: Some(limits), ..TaskSpec::default() }),
            update_mask: Some(prost_types::FieldMask { paths }),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Everything, then every change until completed.
    Sync,
    /// Everything once.
    Migrate,
}

impl From<Mode> for dts_proto::v1::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Sync => Self::Sync,
            Mode::Migrate => Self::Migrate,
        }
    }
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

async fn all(client: &mut TaskServiceClient<Channel>) -> Result<Vec<Task>> {
    let (mut tasks, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListTasksRequest { page_size: 1000, page_token };
        let page = client.list_tasks(request).await.map_err(|status| explain(&status))?.into_inner();
        tasks.extend(page.tasks);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(tasks);
        }
    }
}

pub(crate) fn cross_slot(skip: bool) -> CrossSlot {
    if skip { CrossSlot::Skip } else { CrossSlot::Stop }
}

/// The id that was given, that of the task with this name, or that of the only task.
pub(crate) async fn only(client: &mut TaskServiceClient<Channel>, id: Option<String>) -> Result<String> {
    if let Some(given) = id {
        if uuid::Uuid::parse_str(&given).is_ok() {
            return Ok(given);
        }
        let tasks = all(client).await?;
        let named: Vec<_> =
            tasks.iter().filter(|task| task.spec.as_ref().is_some_and(|spec| spec.name == given)).collect();
        return match named.as_slice() {
            // The coordinator says that there is none.
            [] => Ok(given),
            [task] => Ok(task.id.clone()),
            tasks => Err(anyhow!("{} tasks have the name {given:?}: name one by its id", tasks.len())),
        };
    }
    match all(client).await?.as_slice() {
        [task] => Ok(task.id.clone()),
        tasks => Err(anyhow!("there are {} tasks: name one by its id", tasks.len())),
    }
}

async fn spec(create: Create) -> Result<TaskSpec> {
    if let Some(path) = &create.file {
        return task_file::read(path);
    }
    let nothing = argv::Secrets::default();
    let found = create.sources.resolve(|option, url| sources::login(option, url, &nothing, None, &create.tls)).await?;
    if !found.about.is_empty() {
        sources::tell(&found, false);
    }
    type Side = fn(&TlsArguments, bool) -> Result<Option<Tls>>;
    let endpoint = |url: &str, variable: Option<String>, side: Side| -> Result<Endpoint> {
        let Address { tls, host, port, username, password } = Address::parse(url)?;
        // Only a file of sources may hold one; the coordinator seals it.
        let secret = variable.map(Secret::PasswordEnv).or(password.map(Secret::Password));
        let credential =
            (secret.is_some() || !username.is_empty()).then_some(Credential { username, secret, password_set: false });
        Ok(Endpoint { host, port, credential, tls: side(&create.tls, tls)?, ..Endpoint::default() })
    };
    let mut sources = Vec::new();
    for (url, password) in found.urls {
        let mut source =
            endpoint(&url, create.source_password_env.clone(), TlsArguments::source).context("--source")?;
        if let Some(password) = password {
            source.credential.get_or_insert_default().secret.get_or_insert(Secret::Password(password));
        }
        sources.push(source);
    }
    let target = create.target.unwrap_or_default();
    let target = endpoint(&target, create.target_password_env, TlsArguments::target).context("--target")?;
    let mut spec = TaskSpec {
        name: create.name.unwrap_or_default(),
        topology: found.topology,
        sources,
        target: Some(create.target_kind.put(target)),
        mode: dts_proto::v1::Mode::from(create.mode).into(),
        allow_downgrade: create.allow_downgrade,
        cross_slot: cross_slot(create.skip_cross_slot).into(),
        target_guard: create.guarding.level(),
        target_fence: create.guarding.fence(),
        ..TaskSpec::default()
    };
    create.selecting.put(&mut spec)?;
    create.places.put(&mut spec);
    Ok(spec)
}
