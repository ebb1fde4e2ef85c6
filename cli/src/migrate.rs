//! `dts migrate`: coordinator, agent and store in this process, talking as they would in a fleet.

mod teller;

use std::io::IsTerminal as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use dts_coordinator::app::State;
use dts_proto::v1::credential::Secret;
use dts_proto::v1::task_service_client::TaskServiceClient;
use dts_proto::v1::{
    CreateTaskRequest, Credential, Endpoint, GetCheckRequest, Limits, ListTasksRequest, ResumeTaskRequest,
    StartTaskRequest, Task, TaskAction, TaskSpec, TaskState, UpdateTaskRequest, WatchTaskRequest,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use self::teller::Teller;
use crate::address::Address;
use crate::argv;
use crate::coordinator::explain;
use crate::guard::Guarding;
use crate::selection::{self, Selecting};
use crate::serve::{MetricsArguments, read_file, until_signal};
use crate::show::parse_bytes;
use crate::sources::{self, Sources};
use crate::target::TargetKind;
use crate::task::{Mode, cross_slot};
use crate::tls::{self, TlsArguments};
use crate::{FAILED, STOPPED, USAGE};

const STOP_WITHIN: Duration = Duration::from_secs(15);
/// Of a task's name; the API takes 128 bytes.
const LONGEST_NAME: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    sources: Sources,
    /// `redis://[user:password@]host:port`; `rediss://` for TLS.
    #[arg(long)]
    target: String,
    #[command(flatten)]
    target_kind: TargetKind,
    #[arg(long, value_enum, default_value_t = Mode::Sync)]
    mode: Mode,
    /// End a synchronisation without being asked.
    #[arg(long, value_enum)]
    complete_when: Option<CompleteWhen>,
    /// What is needed to go on after a stop of any kind.
    #[arg(long, default_value = "dts-migrate")]
    state_dir: PathBuf,
    /// Where the API listens; whoever reaches it can command.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// One JSON object a line on stdout.
    #[arg(long)]
    json: bool,
    /// Take the source's password from a file; DTS_SOURCE_PASSWORD works too.
    #[arg(long)]
    source_password_file: Option<String>,
    /// Take the target's password from a file; DTS_TARGET_PASSWORD works too.
    #[arg(long)]
    target_password_file: Option<String>,
    /// Memory of the spool.
    #[arg(long, default_value = "64MiB", value_parser = parse_bytes)]
    spool_memory: u64,
    /// Disk of the spool.
    #[arg(long, default_value = "16GiB", value_parser = parse_bytes)]
    spool_disk: u64,
    /// Take a target that is older than the source: what it cannot express stops the migration by name.
    #[arg(long)]
    allow_downgrade: bool,
    /// A cluster as the target: leave commands over several slots that cannot be done exactly out, instead of stopping.
    #[arg(long)]
    skip_cross_slot: bool,
    /// How fast the source is read, in bytes a second; 0: as fast as it sends.
    #[arg(long, default_value = "0", value_parser = parse_bytes)]
    read_rate: u64,
    /// How fast the target is written, in bytes a second; 0: as fast as it takes.
    #[arg(long, default_value = "0", value_parser = parse_bytes)]
    write_rate: u64,
    /// How long a broken connection is retried.
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
    retry_window: Duration,
    #[command(flatten)]
    tls: TlsArguments,
    #[command(flatten)]
    guarding: Guarding,
    #[command(flatten)]
    selecting: Selecting,
    #[command(flatten)]
    metrics: MetricsArguments,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CompleteWhen {
    CaughtUp,
}

impl Arguments {
    pub(crate) fn shows_progress(&self) -> bool {
        !self.json && std::io::stderr().is_terminal()
    }
}

pub(crate) async fn run(arguments: Arguments, secrets: argv::Secrets) -> u8 {
    let plan = match Plan::new(&arguments, secrets).await {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("dts: {error:#}");
            return USAGE;
        }
    };
    match Box::pin(migrate(&arguments, plan)).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dts: {error:#}");
            FAILED
        }
    }
}

/// What the arguments mean.
struct Plan {
    spec: TaskSpec,
    secrets: dts_agent::secret::Secrets,
}

impl Plan {
    async fn new(arguments: &Arguments, given: argv::Secrets) -> Result<Self> {
        let file = arguments.source_password_file.as_deref();
        let login = |option: &str, url: &str| sources::login(option, url, &given, file, &arguments.tls);
        let found = arguments.sources.resolve(login).await?;
        if !found.about.is_empty() {
            sources::tell(&found, arguments.json);
        }
        let entry = found.entry.as_deref();
        let mut secrets = dts_agent::secret::Secrets::default();
        let mut endpoint =
            |side: &str, number: usize, url: &str, found: Option<String>, file: &Option<String>| -> Result<Endpoint> {
                let Address { tls, host, port, username, password } =
                    Address::parse(url).with_context(|| format!("--{side}"))?;
                let variable = format!("DTS_{}_PASSWORD", side.to_uppercase());
                let password = match file {
                    Some(path) => Some(read_file(path)?),
                    None => {
                        // What is found has the login of the entry.
                        let of_entry = entry.filter(|_| side == "source").and_then(|entry| {
                            let of = |option: &str| given.passwords.get(&argv::name_of(option, entry));
                            of("discover").or_else(|| of("source"))
                        });
                        let own = given.passwords.get(&argv::name_of(side, url)).or(of_entry).cloned();
                        found.or(own).or(password).or_else(|| std::env::var(variable).ok())
                    }
                };
                let secret = password.map(|password| {
                    let name = format!("{side}-{number}");
                    secrets.insert(&name, password.into());
                    Secret::AgentSecret(name)
                });
                let credential = (secret.is_some() || !username.is_empty()).then_some(Credential {
                    username,
                    secret,
                    password_set: false,
                });
                let tls = if side == "source" { arguments.tls.source(tls)? } else { arguments.tls.target(tls)? };
                Ok(Endpoint { host, port, credential, tls, ..Endpoint::default() })
            };
        let mut sources = Vec::new();
        for (number, (url, password)) in found.urls.into_iter().enumerate() {
            sources.push(endpoint("source", number, &url, password, &arguments.source_password_file)?);
        }
        let target = endpoint("target", 0, &arguments.target, None, &arguments.target_password_file)?;
        let target = arguments.target_kind.put(target);
        let seconds = arguments.retry_window.as_secs().max(1);
        let mut spec = TaskSpec {
            name: format!("{} to {}:{}", places(&sources), target.host, target.port)
                .chars()
                .take(LONGEST_NAME)
                .collect(),
            topology: found.topology,
            sources,
            target: Some(target),
            mode: dts_proto::v1::Mode::from(arguments.mode).into(),
            complete_when_caught_up: arguments.complete_when.is_some(),
            allow_downgrade: arguments.allow_downgrade,
            cross_slot: cross_slot(arguments.skip_cross_slot).into(),
            target_guard: arguments.guarding.level(),
            target_fence: arguments.guarding.fence(),
            limits: Some(Limits {
                spool_memory_bytes: arguments.spool_memory,
                spool_disk_bytes: arguments.spool_disk,
                retry_window_seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
                read_bytes_per_second: arguments.read_rate,
                write_bytes_per_second: arguments.write_rate,
            }),
            ..TaskSpec::default()
        };
        arguments.selecting.put(&mut spec)?;
        Ok(Self { spec, secrets })
    }
}

async fn migrate(arguments: &Arguments, plan: Plan) -> Result<u8> {
    let stop = until_signal()?;
    let mut config = dts_coordinator::app::Config::new(arguments.listen, State::Directory(arguments.state_dir.clone()));
    config.metrics = arguments.metrics.begin()?;
    let coordinator = dts_coordinator::app::bind(config).await?;
    let address = coordinator.local_addr();
    std::fs::write(arguments.state_dir.join("endpoint"), format!("{address}\n")).context("writing the endpoint")?;
    let teller = Teller::new(arguments.json, arguments.shows_progress());
    teller.tell(&json!({"event": "listening", "address": address.to_string()}), || format!("API on {address}"));

    let ends = CancellationToken::new();
    let server = tokio::spawn(coordinator.run(ends.child_token()));
    let agent = dts_agent::app::Config {
        id: "local".into(),
        coordinators: vec![dts_agent::coordinator::Coordinator::plain(format!("http://{address}"))],
        state_dir: arguments.state_dir.join("agent"),
        secrets: plan.secrets,
        token: None,
        profile: dts_agent::profile::Profile::default(),
        // The coordinator shows the shards too.
        metrics: None,
    };
    let agent_ends = ends.child_token();
    let agent = tokio::spawn(dts_agent::app::run(agent, agent_ends.clone()));

    let code = tokio::select! {
        code = follow(arguments, &plan.spec, address, teller) => code,
        () = stop.cancelled() => Ok(STOPPED),
    };
    agent_ends.cancel();
    let _stopped_or_late = tokio::time::timeout(STOP_WITHIN, agent).await;
    ends.cancel();
    let _stopped_or_late = tokio::time::timeout(STOP_WITHIN, server).await;
    if matches!(code, Ok(STOPPED)) {
        let again = format!(
            "dts migrate {} --target {}{} --state-dir {}",
            arguments.sources.again(),
            arguments.target,
            tls::options(&plan.spec),
            arguments.state_dir.display()
        );
        if arguments.json {
            println!("{}", json!({"event": "stopped", "resume": again}));
        }
        eprintln!("dts: stopped; go on with: {again}");
    }
    code
}

/// Creates or finds the task, starts it, and tells what becomes of it.
async fn follow(arguments: &Arguments, spec: &TaskSpec, address: SocketAddr, mut teller: Teller) -> Result<u8> {
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
    let mut client = TaskServiceClient::new(channel);
    let task = task(&mut client, spec).await;
    let task = match task {
        Ok(task) => task,
        Err(error) => {
            eprintln!("dts: {}: {error:#}", arguments.state_dir.display());
            return Ok(USAGE);
        }
    };
    let task = adopt(&mut client, task, spec).await.map_err(|status| explain(&status))?;
    let begun = Instant::now();
    let (id, revision) = (task.id.clone(), 0);
    let asked = match task.state() {
        TaskState::Created
        | TaskState::Configured
        | TaskState::CheckFailed
        | TaskState::CheckPassed
        | TaskState::Scheduled
        | TaskState::Failed => {
            // Whoever types the command takes the warnings upon themselves: docs/task-life.md.
            client.start_task(StartTaskRequest { id, revision, acknowledge_warnings: true }).await.map(drop)
        }
        TaskState::Paused | TaskState::NeedsDecision => {
            client.resume_task(ResumeTaskRequest { id, revision }).await.map(drop)
        }
        _ => Ok(()),
    };
    asked.map_err(|status| explain(&status))?;
    let watched = client.watch_task(WatchTaskRequest { id: task.id.clone() }).await;
    let mut changes = watched.map_err(|status| explain(&status))?.into_inner();
    // The run of the check whose warnings were told.
    let mut heard = 0;
    while let Some(task) = changes.message().await.map_err(|status| explain(&status))? {
        match task.state() {
            TaskState::Completed => return Ok(teller.completed(&task, begun.elapsed())),
            TaskState::Failed | TaskState::Cancelled | TaskState::CheckFailed | TaskState::NeedsDecision => {
                return Ok(teller.failed(&task));
            }
            TaskState::CheckPassed if task.reason.is_some() => return Ok(teller.failed(&task)),
            TaskState::Created | TaskState::Configured | TaskState::Checking => teller.progress(&task),
            _ => {
                if let Some(unheard) = task.check.as_ref().map(|check| check.run).filter(|run| *run != heard) {
                    heard = unheard;
                    let run = client.get_check(GetCheckRequest { id: task.id.clone(), number: heard }).await;
                    teller.warnings(&run.map_err(|status| explain(&status))?.into_inner());
                }
                teller.progress(&task);
            }
        }
    }
    bail!("the coordinator ended")
}

/// Brings what may change from one run to the next into the task: bounds, when it completes, and certificates.
async fn adopt(
    client: &mut TaskServiceClient<Channel>,
    task: Task,
    spec: &TaskSpec,
) -> std::result::Result<Task, tonic::Status> {
    let held = task.spec.clone().unwrap_or_default();
    let settings = |spec: &TaskSpec| {
        let ends = spec.sources.iter().chain(&spec.target);
        let tls: Vec<_> = ends.map(|end| end.tls.clone()).collect();
        let policies = (spec.cross_slot, selection::policies(spec));
        (spec.limits, spec.complete_when_caught_up, spec.allow_downgrade, tls, policies)
    };
    let same = settings(&held) == settings(spec);
    if same || !task.allowed_actions().any(|action| action == TaskAction::Update) {
        return Ok(task);
    }
    let mut paths =
        vec!["limits", "complete_when_caught_up", "allow_downgrade", "cross_slot", "sources.tls", "target.tls"];
    // A task without policies stays without a filter.
    if selection::policies(&held) != selection::policies(spec) {
        paths.extend(["on_flush", "filter.on_border", "filter.trust_scripts"]);
    }
    let paths = paths.into_iter().map(str::to_owned).collect();
    let request = UpdateTaskRequest {
        id: task.id,
        // Our own task in our own directory; agents raise its revision meanwhile.
        revision: 0,
        spec: Some(spec.clone()),
        update_mask: Some(prost_types::FieldMask { paths }),
    };
    Ok(client.update_task(request).await?.into_inner())
}

/// The task of this state directory; another one than was asked for is an error.
async fn task(client: &mut TaskServiceClient<Channel>, spec: &TaskSpec) -> Result<Task> {
    let listed = client.list_tasks(ListTasksRequest { page_size: 2, page_token: String::new() }).await;
    let tasks = listed.map_err(|status| explain(&status))?.into_inner().tasks;
    let Some(found) = tasks.into_iter().next() else {
        let request = CreateTaskRequest { spec: Some(spec.clone()), request_id: "migrate".into() };
        return Ok(client.create_task(request).await.map_err(|status| explain(&status))?.into_inner());
    };
    let held = found.spec.clone().unwrap_or_default();
    let place = |endpoint: &Option<Endpoint>| places(endpoint.as_slice());
    let mode = |spec: &TaskSpec| format!("{:?}", spec.mode());
    for (what, held, asked) in [
        ("source", entry(&held), entry(spec)),
        ("target", place(&held.target), place(&spec.target)),
        ("mode", mode(&held), mode(spec)),
        ("filter", selection::fixed(&held), selection::fixed(spec)),
    ] {
        if held != asked {
            bail!(
                "this state directory belongs to a migration with {what} {held}, not {asked}; use another --state-dir"
            );
        }
    }
    Ok(found)
}

/// How the sources were named: what is found may differ from one day to the next, and the task keeps what it began with.
fn entry(spec: &TaskSpec) -> String {
    match &spec.topology {
        Some(topology) if !topology.found_by.is_empty() => match Address::parse(&topology.found_by) {
            Ok(Address { host, port, .. }) => format!("{host}:{port}"),
            Err(_) => topology.found_by.clone(),
        },
        _ => places(&spec.sources),
    }
}

fn places(endpoints: &[Endpoint]) -> String {
    endpoints.iter().map(|endpoint| format!("{}:{}", endpoint.host, endpoint.port)).collect::<Vec<_>>().join(", ")
}
