//! `dts coordinator` and `dts agent`: the roles as processes of their own.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use dts_agent::secret::Secrets;
use dts_coordinator::tls::Tls;
use secrecy::SecretString;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::tls::CoordinatorTls;

#[derive(Debug, Args)]
pub(crate) struct CoordinatorArguments {
    /// Where the gRPC services listen; whoever reaches it can command, unless --client-ca asks for a certificate.
    #[arg(long, default_value = "127.0.0.1:7711")]
    listen: SocketAddr,
    /// Holds the tasks and the key of their passwords.
    #[arg(long, default_value = "dts-coordinator")]
    state_dir: PathBuf,
    /// Serve over TLS with this certificate (PEM, read at every connection).
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Let in who shows a certificate of these authorities. An agent's has to name its --id as a DNS name.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// Who may administer tasks: a DNS name in the client's certificate. May repeat; without it everybody who is let in.
    #[arg(long = "operator", value_name = "NAME", requires = "client_ca")]
    operators: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct AgentArguments {
    /// The coordinator's address.
    #[arg(long, default_value = "http://127.0.0.1:7711")]
    coordinator: String,
    /// Stable name, unique in the fleet.
    #[arg(long)]
    id: String,
    /// Holds spools.
    #[arg(long, default_value = "dts-agent")]
    state_dir: PathBuf,
    /// A secret that tasks may name: NAME=env:VARIABLE or NAME=file:PATH. May repeat.
    #[arg(long = "secret", value_name = "NAME=env:VARIABLE|file:PATH")]
    secrets: Vec<String>,
    #[command(flatten)]
    tls: CoordinatorTls,
}

pub(crate) async fn coordinator(arguments: CoordinatorArguments) -> Result<()> {
    let mut config = dts_coordinator::app::Config::new(arguments.listen, arguments.state_dir);
    let CoordinatorArguments { tls_cert, tls_key, client_ca, operators, .. } = arguments;
    config.tls = tls_cert.zip(tls_key).map(|(certificate, key)| Tls { certificate, key, client_ca, operators });
    let coordinator = dts_coordinator::app::bind(config).await?;
    eprintln!("coordinator listening on {}", coordinator.local_addr());
    Ok(coordinator.run(until_signal()?).await?)
}

pub(crate) async fn agent(arguments: AgentArguments) -> Result<()> {
    let mut secrets = Secrets::default();
    for secret in &arguments.secrets {
        let (name, value) = read_secret(secret)?;
        secrets.insert(name, value);
    }
    let AgentArguments { coordinator, id, state_dir, tls, .. } = arguments;
    eprintln!("agent {id} of {coordinator}");
    let config = dts_agent::app::Config { id, coordinator: tls.at(&coordinator)?, state_dir, secrets };
    Ok(dts_agent::app::run(config, until_signal()?).await?)
}

fn read_secret(text: &str) -> Result<(String, SecretString)> {
    let (name, from) = text.split_once('=').context("--secret takes NAME=env:VARIABLE or NAME=file:PATH")?;
    let value = match from.split_once(':') {
        Some(("env", variable)) => std::env::var(variable).with_context(|| format!("--secret {name}: {variable}"))?,
        Some(("file", path)) => read_file(path)?,
        _ => bail!("--secret takes NAME=env:VARIABLE or NAME=file:PATH"),
    };
    Ok((name.to_owned(), value.into()))
}

/// A password from a file; one newline at its end is not part of it.
pub(crate) fn read_file(path: &str) -> Result<String> {
    let text = std::fs::read_to_string(path).with_context(|| format!("password file {path}"))?;
    Ok(text.strip_suffix('\n').map(str::to_owned).unwrap_or(text))
}

/// Cancelled by SIGINT and SIGTERM; the second of them ends the process at once.
pub(crate) fn until_signal() -> Result<CancellationToken> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let cancel = CancellationToken::new();
    let asked = cancel.clone();
    tokio::spawn(async move {
        for again in [false, true] {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if again {
                std::process::exit(crate::STOPPED.into());
            }
            asked.cancel();
        }
    });
    Ok(cancel)
}
