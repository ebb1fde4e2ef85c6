//! Config -> build -> run -> drain.

use std::path::PathBuf;
use std::sync::Arc;

use dts_common::error::{Code, Error, Result};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::control::{self, Us};
use crate::coordinator::Coordinator;
use crate::profile::{Identity, Profile};
use crate::reach::Prober;
use crate::secret::Secrets;
use crate::supervisor::Supervisor;

/// What an agent needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Stable name, unique in the fleet.
    pub id: String,
    /// Whom to serve; any of them will do.
    pub coordinators: Vec<Coordinator>,
    /// Where spools and scratch files go.
    pub state_dir: PathBuf,
    /// Passwords by name.
    pub secrets: Secrets,
    /// Where it stands and what it takes.
    pub profile: Profile,
}

/// Runs until cancelled, or until the coordinator refuses this agent for good. Shards are stopped, not abandoned.
pub async fn run(config: Config, cancel: CancellationToken) -> Result<()> {
    if config.coordinators.is_empty() {
        return Err(Error::new(Code::InvalidRequest, "no coordinator's address is given"));
    }
    for coordinator in &config.coordinators {
        // Said now, and not tried again and again.
        coordinator.endpoint()?;
    }
    std::fs::create_dir_all(&config.state_dir)
        .map_err(|error| Error::new(Code::AgentDisk, format!("{}: {error}", config.state_dir.display())))?;
    let changed = Arc::new(Notify::new());
    let budgets = config.profile.budgets;
    let identity = Identity::new(config.id, config.profile, &config.state_dir);
    let prober = Prober::start(config.secrets.clone(), changed.clone());
    let mut supervisor = Supervisor::new(&config.state_dir, config.secrets, budgets, changed.clone());
    let us = Us { identity, prober: &prober, changed };
    let ended = control::run(&config.coordinators, &us, &mut supervisor, cancel).await;
    supervisor.stop().await;
    prober.stop().await;
    ended
}
