//! `dts coordinator` and `dts agent`: the roles as processes of their own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use dts_agent::secret::Secrets;
use dts_common::metrics::Recorded;
use dts_coordinator::access::authority::Authority;
use dts_coordinator::access::{Role, Roles};
use dts_coordinator::app::State;
use dts_coordinator::store::EtcdConfig;
use dts_coordinator::tls::Tls;
use secrecy::SecretString;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::coordinator::with_scheme;
use crate::place::ProfileArguments;
use crate::tls::CoordinatorTls;

#[derive(Debug, Args)]
pub(crate) struct CoordinatorArguments {
    /// Where the gRPC services listen; whoever reaches it can command, unless --client-ca asks for a certificate.
    #[arg(long, default_value = "127.0.0.1:7711")]
    listen: SocketAddr,
    /// Holds the tasks and the key of their passwords, when there is no etcd.
    #[arg(long, default_value = "dts-coordinator")]
    state_dir: PathBuf,
    /// Keep the tasks in etcd, shared by any number of coordinators: its members, separated by commas.
    #[arg(long, value_delimiter = ',', requires = "seal_key_file", conflicts_with = "state_dir")]
    etcd: Vec<String>,
    /// All our keys in etcd lie under it.
    #[arg(long, default_value = "/dts")]
    etcd_prefix: String,
    /// User of etcd.
    #[arg(long, requires = "etcd_password_file")]
    etcd_user: Option<String>,
    /// File with that user's password.
    #[arg(long, requires = "etcd_user")]
    etcd_password_file: Option<String>,
    /// Certificate authority of etcd's members (PEM); without it the system's are trusted.
    #[arg(long)]
    etcd_ca: Option<PathBuf>,
    /// Certificate to show to etcd (PEM).
    #[arg(long, requires = "etcd_key")]
    etcd_cert: Option<PathBuf>,
    /// Key of that certificate (PEM).
    #[arg(long, requires = "etcd_cert")]
    etcd_key: Option<PathBuf>,
    /// 32 random bytes that seal the passwords in etcd; the same for every coordinator.
    #[arg(long)]
    seal_key_file: Option<PathBuf>,
    /// `http://host:port`, or `https://` with --tls-cert, at which the other coordinators reach this one; by default where it listens.
    #[arg(long)]
    advertise: Option<String>,
    /// A leader that etcd does not hear for so long is replaced.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    leader_ttl: Duration,
    /// An agent that is silent for so long is taken for gone.
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    agent_ttl: Duration,
    /// Serve over TLS with this certificate (PEM, read at every connection).
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Let in who shows a certificate of these authorities. An agent's has to name its --id as a DNS name.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    client_ca: Option<PathBuf>,
    /// Who may look: a DNS name in the client's certificate. May repeat. Without any role everybody who is let in may do everything.
    #[arg(long = "viewer", value_name = "NAME", requires = "client_ca")]
    viewers: Vec<String>,
    /// Who may administer tasks, and move shards. May repeat.
    #[arg(long = "operator", value_name = "NAME", requires = "client_ca")]
    operators: Vec<String>,
    /// Who may also let agents in, and read who did what. May repeat.
    #[arg(long = "admin", value_name = "NAME", requires = "client_ca")]
    admins: Vec<String>,
    /// More of them: a line each, `viewer NAME`, `operator NAME` or `admin NAME`; read again whenever it changes.
    #[arg(long, value_name = "FILE", requires = "client_ca")]
    roles_file: Option<PathBuf>,
    /// Over etcd: a DNS name in the certificates of all coordinators, by which they take calls from each other that others made. May repeat.
    #[arg(long = "peer", value_name = "NAME", requires = "client_ca")]
    peers: Vec<String>,
    /// Who may have signed them (PEM); by default those of --client-ca.
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    peer_ca: Option<PathBuf>,
    /// Sign the certificates of agents that come with a token (`dts fleet token`): certificate of the authority (PEM).
    #[arg(long, value_name = "FILE", requires_all = ["agent_ca_key", "client_ca"])]
    agent_ca_cert: Option<PathBuf>,
    /// Its key.
    #[arg(long, value_name = "FILE", requires = "agent_ca_cert")]
    agent_ca_key: Option<PathBuf>,
    /// How long those certificates live; agents renew them after two thirds of it.
    #[arg(long, default_value = "30d", value_parser = humantime::parse_duration)]
    agent_cert_ttl: Duration,
    /// Without TLS: a name under which browsers and curl reach this coordinator, besides its addresses and localhost. May repeat.
    #[arg(long = "console-host", value_name = "NAME")]
    console_hosts: Vec<String>,
    #[command(flatten)]
    metrics: MetricsArguments,
    /// Log one JSON object a line; the same as --log-format json.
    #[arg(long)]
    pub(crate) json: bool,
    /// Only say whether these options fit each other.
    #[arg(long)]
    check: bool,
}

/// Where metrics are to be had.
#[derive(Clone, Copy, Debug, Args)]
pub(crate) struct MetricsArguments {
    /// Serve Prometheus metrics at http://HOST:PORT/metrics; whoever reaches it may read them.
    #[arg(long, value_name = "HOST:PORT", env = "DTS_METRICS_LISTEN")]
    metrics_listen: Option<SocketAddr>,
}

impl MetricsArguments {
    /// Begins to count, if anybody wants to know.
    pub(crate) fn begin(self) -> Result<Option<(SocketAddr, Recorded)>> {
        self.metrics_listen.map(|at| Ok((at, dts_common::metrics::record().map_err(anyhow::Error::msg)?))).transpose()
    }
}

impl CoordinatorArguments {
    fn tls(self) -> Result<Option<Tls>> {
        let Some((certificate, key)) = self.tls_cert.zip(self.tls_key) else { return Ok(None) };
        let given = [(self.viewers, Role::Viewer), (self.operators, Role::Operator), (self.admins, Role::Admin)];
        let given = given.into_iter().flat_map(|(names, role)| names.into_iter().map(move |name| (name, role)));
        let roles = Arc::new(Roles::new(given, self.roles_file)?);
        let signs = self.agent_ca_cert.zip(self.agent_ca_key);
        let lifetime = self.agent_cert_ttl;
        let authority = signs.map(|(certificate, key)| Authority { certificate, key, lifetime });
        let Self { client_ca, peers, peer_ca, .. } = self;
        Ok(Some(Tls { certificate, key, client_ca, authority, roles, peers, peer_ca }))
    }

    fn state(&self) -> Result<State> {
        let Some(seal_key_file) = self.seal_key_file.clone().filter(|_| !self.etcd.is_empty()) else {
            return Ok(State::Directory(self.state_dir.clone()));
        };
        let login = match (&self.etcd_user, &self.etcd_password_file) {
            (Some(user), Some(path)) => Some((user.clone(), SecretString::from(read_file(path)?))),
            _ => None,
        };
        let etcd = EtcdConfig {
            endpoints: self.etcd.clone(),
            prefix: self.etcd_prefix.clone(),
            login,
            ca: self.etcd_ca.clone(),
            identity: self.etcd_cert.clone().zip(self.etcd_key.clone()),
        };
        let (advertise, leader_ttl) = (self.advertise.clone(), self.leader_ttl);
        Ok(State::Etcd { etcd, seal_key_file, advertise, leader_ttl })
    }
}

#[derive(Debug, Args)]
pub(crate) struct AgentArguments {
    /// Addresses of coordinators, separated by commas; any one will do.
    #[arg(long, value_delimiter = ',', default_value = "http://127.0.0.1:7711")]
    coordinator: Vec<String>,
    /// Stable name, unique in the fleet.
    #[arg(long, alias = "id")]
    name: String,
    /// Holds spools.
    #[arg(long, default_value = "dts-agent")]
    state_dir: PathBuf,
    /// A secret that tasks may name: NAME=env:VARIABLE or NAME=file:PATH. May repeat.
    #[arg(long = "secret", value_name = "NAME=env:VARIABLE|file:PATH")]
    secrets: Vec<String>,
    /// A token of `dts fleet token` in a file: buys the agent's certificate, if --state-dir holds none yet. It is renewed by itself.
    #[arg(long, value_name = "FILE")]
    token_file: Option<String>,
    #[command(flatten)]
    profile: ProfileArguments,
    #[command(flatten)]
    tls: CoordinatorTls,
    #[command(flatten)]
    metrics: MetricsArguments,
    /// Log one JSON object a line; the same as --log-format json.
    #[arg(long)]
    pub(crate) json: bool,
    /// Only say whether these options fit each other.
    #[arg(long)]
    check: bool,
}

pub(crate) async fn coordinator(arguments: CoordinatorArguments) -> Result<()> {
    if arguments.check {
        return Ok(());
    }
    let mut config = dts_coordinator::app::Config::new(arguments.listen, arguments.state()?);
    config.lease_ttl = arguments.agent_ttl;
    config.metrics = arguments.metrics.begin()?;
    config.console_hosts.clone_from(&arguments.console_hosts);
    config.tls = arguments.tls()?;
    let coordinator = dts_coordinator::app::bind(config).await?;
    tracing::info!(address = %coordinator.local_addr(), "coordinator listening");
    Ok(Box::pin(coordinator.run(until_signal()?)).await?)
}

pub(crate) async fn agent(arguments: AgentArguments) -> Result<()> {
    if arguments.check {
        return arguments.profile.profile().map(drop);
    }
    let mut secrets = Secrets::default();
    for secret in &arguments.secrets {
        let (name, value) = read_secret(secret)?;
        secrets.insert(name, value);
    }
    let AgentArguments { coordinator, name: id, state_dir, token_file, profile, tls, metrics, .. } = arguments;
    // One that is spent may be gone.
    let needed = !dts_agent::enrol::identity_file(&state_dir).exists();
    let token = match &token_file {
        Some(path) if needed || Path::new(path).exists() => Some(SecretString::from(read_file(path)?)),
        _ => None,
    };
    let profile = profile.profile()?;
    let coordinators = coordinator.iter().map(|address| tls.clone().at(&with_scheme(address)));
    let coordinators = coordinators.collect::<Result<Vec<_>>>()?;
    tracing::info!(agent = id, coordinators = coordinator.join(", "), "agent starting");
    let config =
        dts_agent::app::Config { id, coordinators, state_dir, secrets, token, profile, metrics: metrics.begin()? };
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
