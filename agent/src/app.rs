//! Config -> build -> run -> drain.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use dts_common::error::{Code, Error, Result};
use dts_common::metrics::{self, Recorded};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::control::{self, Us};
use crate::coordinator::Coordinator;
use crate::enrol;
use crate::leash::Holder;
use crate::profile::{Identity, Profile};
use crate::reach::Prober;
use crate::secret::Secrets;
use crate::supervisor::{Shown, Supervisor};

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
    /// Buys a certificate, where there is none yet.
    pub token: Option<SecretString>,
    /// Where it stands and what it takes.
    pub profile: Profile,
    /// Where metrics are served, and what was counted of this process.
    pub metrics: Option<(SocketAddr, Recorded)>,
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
    let mut config = config;
    let enrolled = enrolled(&mut config).await?;
    let changed = Arc::new(Notify::new());
    let budgets = config.profile.budgets;
    let prober = Prober::start(config.secrets.clone(), changed.clone());
    let mut holder = Holder::new(changed.clone());
    let leash = holder.leash();
    let mut supervisor = Supervisor::new(&config.state_dir, config.secrets, budgets, changed.clone(), leash);
    let ends = CancellationToken::new();
    let measured = match config.metrics {
        None => None,
        Some((at, recorded)) => {
            let cannot = |error| Error::new(Code::InvalidRequest, format!("cannot listen on {at}: {error}"));
            let listener = TcpListener::bind(at).await.map_err(cannot)?;
            let (agent, shown) = (config.id.clone(), supervisor.shown());
            let page = move || std::future::ready(page(&recorded, &agent, &shown));
            Some(tokio::spawn(metrics::serve(listener, page, ends.clone())))
        }
    };
    let identity = Identity::new(config.id.clone(), config.profile, &config.state_dir);
    let us = Us { identity, prober: &prober, changed };
    let renews = CancellationToken::new();
    let renewed = async {
        if enrolled {
            enrol::keep_renewed(&config.coordinators, &config.id, &config.state_dir, &renews).await;
        }
    };
    let served = async {
        let ended = control::run(&config.coordinators, &us, &mut supervisor, &mut holder, cancel).await;
        renews.cancel();
        ended
    };
    let (ended, ()) = tokio::join!(Box::pin(served), Box::pin(renewed));
    supervisor.stop().await;
    prober.stop().await;
    ends.cancel();
    if let Some(Err(error)) = futures_util::future::OptionFuture::from(measured).await {
        tracing::error!(%error, "the server of metrics broke");
    }
    ended
}

/// Gets a certificate if there is a token and none is there yet; true if the agent has one of its own, and shows it from now on.
async fn enrolled(config: &mut Config) -> Result<bool> {
    let open =
        |coordinator: &Coordinator| coordinator.address.starts_with("https://") && coordinator.tls.client.is_none();
    let own = config.coordinators.iter().all(open);
    if let Some(token) = &config.token {
        if !own {
            let message = "a token goes with https:// coordinators, and without --tls-cert";
            return Err(Error::new(Code::InvalidRequest, message));
        }
        enrol::enrol(&config.coordinators, &config.id, token.expose_secret(), &config.state_dir).await?;
    }
    let file = enrol::identity_file(&config.state_dir);
    let enrolled = own && file.exists();
    if enrolled {
        config.coordinators.iter_mut().for_each(|to| to.tls.client = Some((file.clone(), file.clone())));
    }
    Ok(enrolled)
}

/// The agent's metrics as of now.
fn page(recorded: &Recorded, agent: &str, shown: &Shown) -> String {
    let shards = shown.read();
    recorded.page(|| {
        ::metrics::gauge!("dts_build_info", "version" => env!("CARGO_PKG_VERSION"), "role" => "agent").set(1.0);
        for (id, epoch, status) in shards {
            metrics::shard(&id.task, id.index, agent, epoch.0, &status);
        }
    })
}
