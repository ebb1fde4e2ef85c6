//! `dts`: every role in one binary, one file a subcommand, everything through the public API.

mod address;
mod alarm;
mod argv;
mod check;
mod completions;
mod coordinator;
mod enrol;
mod errors;
mod event;
mod fleet;
mod guard;
mod life;
mod migrate;
mod place;
mod selection;
mod serve;
mod show;
mod sources;
mod switch;
mod target;
mod task;
mod task_file;
mod tls;
mod verification;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use dts_common::telemetry::Options;

/// Completed.
const COMPLETED: u8 = 0;
/// Ended by an error.
const FAILED: u8 = 1;
/// Wrong use.
const USAGE: u8 = 2;
/// Stopped, and resumable.
const STOPPED: u8 = 3;
/// `dts verify`: the two sides differ.
const DIFFERS: u8 = 4;
/// `dts verify`: no difference was found, but of some keys it could not be told.
const UNDECIDED: u8 = 5;

/// Data Transmission Service for Redis: moves a running Redis into another Redis or Valkey and keeps the two in step.
#[derive(Debug, Parser)]
#[command(name = "dts", version)]
struct Cli {
    /// Send traces to this OpenTelemetry collector (gRPC), for example http://127.0.0.1:4317; OTEL_EXPORTER_OTLP_ENDPOINT works too.
    #[arg(long, global = true, env = "DTS_OTLP_ENDPOINT")]
    otlp_endpoint: Option<String>,
    /// How logs are written on stderr.
    #[arg(long, global = true, value_enum, env = "DTS_LOG_FORMAT", default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object a line, with task, shard and epoch.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Move one Redis into another from here: coordinator, agent and store in one process.
    Migrate(Box<migrate::Arguments>),
    /// Compare what two Redis hold, in both directions. Ends with 0: equal, 4: they differ, 5: undecided.
    Verify(Box<verify::Arguments>),
    /// Find the nodes of a cluster, sentinels' masters, twemproxy's or codis's servers; says what would be read, and starts nothing.
    Discover(sources::Discover),
    /// Administer tasks of a coordinator.
    Task(task::Arguments),
    /// Who is told when something is wrong, and what was told.
    Alarm(Box<alarm::Arguments>),
    /// See and direct the agents of a coordinator: cordon, drain, pin.
    Fleet(fleet::Arguments),
    /// List the agents of a coordinator; short for `dts fleet list`.
    Agents(coordinator::Coordinator),
    /// Run a coordinator: alone with an embedded store, or one of many over etcd.
    Coordinator(Box<serve::CoordinatorArguments>),
    /// Run an agent.
    Agent(serve::AgentArguments),
    /// List the error codes and what to do about each.
    Errors(errors::Arguments),
    /// Print the script that completes commands in a shell: `source <(dts completions bash)`.
    Completions(completions::Arguments),
}

impl Command {
    /// What this process is to who traces it.
    fn role(&self) -> &'static str {
        match self {
            Self::Coordinator(_) => "coordinator",
            Self::Agent(_) => "agent",
            Self::Migrate(_) => "migrate",
            _ => "cli",
        }
    }

    /// True if what a server says for people to read, its log, is to be JSON.
    fn logs_json(&self) -> bool {
        match self {
            Self::Coordinator(arguments) => arguments.json,
            Self::Agent(arguments) => arguments.json,
            _ => false,
        }
    }
}

fn main() -> ExitCode {
    let secrets = match argv::hide_passwords() {
        Ok(secrets) => secrets,
        Err(error) => {
            eprintln!("dts: {error:#}");
            return ExitCode::from(FAILED);
        }
    };
    let cli = Cli::parse_from(&secrets.arguments);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("dts: cannot start: {error}");
            return ExitCode::from(FAILED);
        }
    };
    let code = runtime.block_on(run(cli, secrets));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    ExitCode::from(code)
}

async fn run(cli: Cli, secrets: argv::Secrets) -> u8 {
    let level = match &cli.command {
        Command::Migrate(arguments) if arguments.shows_progress() => "warn",
        Command::Verify(_) => "warn",
        _ => "info",
    };
    let guard = match dts_common::telemetry::init(Options {
        level,
        json: cli.log_format == LogFormat::Json || cli.command.logs_json(),
        otlp_endpoint: cli.otlp_endpoint.as_deref(),
        role: cli.command.role(),
    }) {
        Ok(guard) => guard,
        Err(error) => {
            eprintln!("dts: logging: {error}");
            return USAGE;
        }
    };
    let code = match cli.command {
        Command::Migrate(arguments) => Box::pin(migrate::run(*arguments, secrets)).await,
        Command::Verify(arguments) => Box::pin(verify::run(*arguments, secrets)).await,
        Command::Discover(arguments) => ended(sources::run(arguments, secrets).await),
        Command::Task(arguments) => coded(task::run(arguments).await),
        Command::Agents(coordinator) => ended(fleet::agents(coordinator).await),
        Command::Fleet(arguments) => ended(fleet::run(arguments).await),
        Command::Alarm(arguments) => ended(Box::pin(alarm::run(*arguments)).await),
        Command::Coordinator(arguments) => ended(Box::pin(serve::coordinator(*arguments)).await),
        Command::Agent(arguments) => ended(serve::agent(arguments).await),
        Command::Errors(arguments) => ended(errors::run(&arguments)),
        Command::Completions(arguments) => ended(completions::run(&arguments)),
    };
    let _sent_or_not = tokio::task::spawn_blocking(|| guard.shutdown()).await;
    code
}

fn ended(result: anyhow::Result<()>) -> u8 {
    coded(result.map(|()| COMPLETED))
}

fn coded(result: anyhow::Result<u8>) -> u8 {
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dts: {error:#}");
            FAILED
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// Every command that has none below it, with its whole name.
    fn leaves(command: &clap::Command, name: &str, found: &mut Vec<(String, clap::Command)>) {
        let below: Vec<_> = command.get_subcommands().filter(|below| below.get_name() != "help").collect();
        if below.is_empty() {
            found.push((name.to_owned(), command.clone()));
        }
        below.iter().for_each(|below| leaves(below, &format!("{name} {}", below.get_name()), found));
    }

    #[test]
    fn every_command_can_speak_json_and_says_what_it_does() {
        let mut root = Cli::command();
        root.build();
        root.clone().debug_assert();
        let mut found = Vec::new();
        leaves(&root, "dts", &mut found);
        assert!(found.len() > 40, "{}", found.len());
        for (name, command) in found {
            assert!(command.get_about().is_some(), "{name} does not say what it does");
            // A script for a shell is all that it says.
            if name != "dts completions" {
                assert!(command.get_arguments().any(|argument| argument.get_id() == "json"), "{name} has no --json");
            }
        }
    }
}
