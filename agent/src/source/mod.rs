//! Behaving as a replica of the source: handshake, PSYNC or SYNC, draining the socket into the spool, acknowledging.

mod backlog;
mod copies;
mod handshake;
mod link;
mod payload;
mod record;

pub use backlog::holds;
use copies::Copies;
pub(crate) use copies::pause_between_copies;
pub use record::Record;

use dts_common::error::Result;
use dts_common::position::{Position, ReplicationId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::endpoint::Endpoint;
use crate::limits::{Limits, Throttle};
use crate::retry::{Retry, Trouble};
use crate::spool;
use link::Link;

/// Where the source is.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// The server.
    pub endpoint: Endpoint,
    /// How fast it may be read, and how long a fault is retried.
    pub limits: watch::Receiver<Limits>,
    /// A copy is not wanted: a history that does not go on ends it.
    pub continue_only: bool,
}

/// What has come so far.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// The history; `None` for plain SYNC.
    pub history: Option<ReplicationId>,
    /// Bytes of the history that are in the spool, or were.
    pub offset: u64,
    /// Bytes of the payload.
    pub snapshot_received: u64,
    /// Its size, if the source said.
    pub snapshot_total: u64,
    /// False for plain SYNC.
    pub speaks_psync: bool,
    /// True while the link is up.
    pub connected: bool,
    /// Links that were lost.
    pub lost: u64,
}

/// Where the next link begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) history: ReplicationId,
    pub(crate) offset: u64,
}

/// Keeps a link up until cancelled; one at a time. `acknowledged` is the offset that the target holds.
pub async fn run(
    config: SourceConfig,
    resume: Option<Position>,
    mut spool: spool::Writer,
    received: watch::Sender<Received>,
    acknowledged: watch::Receiver<u64>,
    trouble: Trouble,
    cancel: CancellationToken,
) -> Result<()> {
    let window = config.limits.borrow().retry_window;
    let mut retry = Retry::new(window, trouble, cancel.clone());
    let mut pace = Throttle::new(config.limits.clone(), |limits| limits.read_bytes_per_second);
    let mut copies = Copies::default();
    let mut wanted = resume.and_then(|at| Some(Wanted { history: at.history?, offset: at.offset }));
    loop {
        let link = Link {
            endpoint: &config.endpoint,
            continue_only: config.continue_only,
            spool: &mut spool,
            received: &received,
            acknowledged: &acknowledged,
            retry: &mut retry,
            copies: &mut copies,
            pace: &mut pace,
            wanted: &mut wanted,
        };
        let error = tokio::select! {
            error = link.run() => error,
            () = cancel.cancelled() => return Ok(()),
        };
        received.send_modify(|received| {
            received.lost += u64::from(received.connected);
            received.connected = false;
        });
        match retry.wait_at_least(copies.lost(), error).await {
            Err(_) if cancel.is_cancelled() => return Ok(()),
            waited => waited?,
        }
    }
}
