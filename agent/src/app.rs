//! Config -> build -> run -> drain.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::control::{self, Identity};
use crate::secret::Secrets;
use crate::supervisor::Supervisor;

/// What an agent needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Stable name, unique in the fleet.
    pub id: String,
    /// `http://host:port` of the coordinator.
    pub coordinator: String,
    /// Where spools and scratch files go.
    pub state_dir: PathBuf,
    /// Passwords by name.
    pub secrets: Secrets,
}

/// Runs until cancelled, or until the coordinator refuses this agent for good. Shards are stopped, not abandoned.
pub async fn run(config: Config, cancel: CancellationToken) -> Result<()> {
    let bad = |error: tonic::transport::Error| {
        Error::new(Code::InvalidRequest, format!("coordinator address {}: {error}", config.coordinator))
    };
    // A silent coordinator is noticed within the lease: 5 s is the least that etcd-like servers bear.
    let endpoint = Endpoint::from_shared(config.coordinator.clone())
        .map_err(bad)?
        .http2_keep_alive_interval(Duration::from_secs(5))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true);
    std::fs::create_dir_all(&config.state_dir)
        .map_err(|error| Error::new(Code::AgentDisk, format!("{}: {error}", config.state_dir.display())))?;
    let changed = Arc::new(Notify::new());
    let identity = Identity { agent_id: config.id, instance_id: uuid::Uuid::new_v4().to_string() };
    let mut supervisor = Supervisor::new(&config.state_dir, config.secrets, changed.clone());
    let ended = control::run(endpoint, identity, &mut supervisor, changed, cancel).await;
    supervisor.stop().await;
    ended
}
