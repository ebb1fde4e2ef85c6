//! Whom a command asks: any coordinator, by its address or by the state directory of a running migration.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use clap::Args;
use dts_agent::coordinator::reasons;
use dts_common::backoff::Backoff;
use dts_common::telemetry::{HEADER, traceparent};
use dts_proto::v1::ListAgentsRequest;
use dts_proto::v1::fleet_service_client::FleetServiceClient;
use tonic::Status;
use tonic::transport::Channel;
use tonic_types::StatusExt as _;

use crate::tls::CoordinatorTls;

/// How long to wait for a coordinator to lead.
const ELECTION: Duration = Duration::from_secs(20);
const CONNECT: Duration = Duration::from_secs(2);
/// A coordinator that is silent for so long is passed over.
const ANSWER: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub(crate) struct Coordinator {
    /// Addresses of coordinators, separated by commas; any one will do.
    #[arg(
        long,
        global = true,
        value_delimiter = ',',
        env = "DTS_COORDINATOR",
        default_value = "http://127.0.0.1:7711"
    )]
    coordinator: Vec<String>,
    /// Take the address from the state directory of a running `dts migrate`.
    #[arg(long, global = true)]
    state_dir: Option<PathBuf>,
    /// JSON instead of tables.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    tls: CoordinatorTls,
}

/// The call continues the trace of this command.
pub(crate) fn traced<T>(request: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(request);
    let parent = Some(traceparent()).filter(|parent| !parent.is_empty());
    if let Some(Ok(parent)) = parent.map(|parent| parent.parse()) {
        request.metadata_mut().insert(HEADER, parent);
    }
    request
}

/// A status with its code and the way out.
pub(crate) fn explain(status: &Status) -> anyhow::Error {
    match status.get_details_error_info() {
        Some(info) => {
            let fix = info.metadata.get("fix").cloned().unwrap_or_default();
            anyhow!("{}: {} \u{2014} {fix}", info.reason, status.message())
        }
        None => {
            let beneath = std::error::Error::source(status).map(reasons).unwrap_or_default();
            let between = if beneath.is_empty() { "" } else { ": " };
            anyhow!("{}: {}{between}{beneath}", status.code(), status.message())
        }
    }
}

impl Coordinator {
    /// To the first coordinator that knows of a leader; waits while one is being elected.
    pub(crate) async fn channel(&self) -> Result<Channel> {
        let addresses = match &self.state_dir {
            Some(dir) => vec![endpoint_of(dir)?],
            None => self.coordinator.clone(),
        };
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        let deadline = Instant::now() + ELECTION;
        loop {
            let mut last = anyhow!("--coordinator is empty");
            for address in &addresses {
                match self.reach(&with_scheme(address)).await {
                    Ok(channel) => return Ok(channel),
                    Err(error) => last = error,
                }
            }
            let alone = addresses.len() == 1 && last.downcast_ref::<Status>().is_none();
            if alone || Instant::now() > deadline {
                return Err(last);
            }
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    /// A connection over which the leader answers.
    async fn reach(&self, address: &str) -> Result<Channel> {
        let endpoint = self.tls.clone().at(address)?.endpoint()?.connect_timeout(CONNECT);
        let channel = endpoint.connect().await.with_context(|| format!("no coordinator answers at {address}"))?;
        let probe = ListAgentsRequest { page_size: 1, page_token: String::new() };
        let mut client = FleetServiceClient::new(channel.clone());
        match tokio::time::timeout(ANSWER, client.list_agents(probe)).await {
            Err(_) => Err(anyhow!(Status::deadline_exceeded("no answer")).context(address.to_owned())),
            Ok(Err(status)) if status.code() == tonic::Code::Unavailable => {
                let said = explain(&status);
                Err(anyhow!(status).context(said))
            }
            Ok(_) => Ok(channel),
        }
    }
}

pub(crate) fn with_scheme(address: &str) -> String {
    if address.contains("://") { address.to_owned() } else { format!("http://{address}") }
}

fn endpoint_of(dir: &Path) -> Result<String> {
    let path = dir.join("endpoint");
    Ok(std::fs::read_to_string(&path)
        .with_context(|| format!("{}: is a migration running there?", path.display()))?
        .trim()
        .to_owned())
}
