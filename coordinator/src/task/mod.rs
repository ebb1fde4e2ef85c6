//! A task's life: its states as data, and what moves it from one to the next. Pure.

mod check;
mod explain;
mod history;
mod lock;
pub mod own;
mod pace;
mod plan;
mod schedule;
mod spec;
mod tls;
mod totals;
mod transition;
mod update;

pub use check::{
    Seen, acknowledge, collect, failure, forgotten as forgotten_runs, kept as kept_runs, run_key, runs, summary,
    unacknowledged,
};
pub use explain::{explain, meaning};
pub use lock::{conflict, keys as locks};
pub use plan::make as make_plan;
pub use schedule::parse as parse_schedule;
pub use spec::{check_complete, check_spec};
pub use totals::totals;
pub use transition::{
    Observation, Past, Step, TABLE, actions, decide, directive, is_before_start, occupies, requested, unchecked,
};

pub use tls::check_tls;
pub use update::{edit, update};

use dts_proto::v1;

/// A task as it is stored.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Stored {
    /// Passwords sealed, no shard statuses.
    #[prost(message, optional, tag = "1")]
    pub task: Option<v1::Task>,
    /// COMPLETING: everything is drained, our keys are being removed.
    #[prost(bool, tag = "2")]
    pub releasing: bool,
    /// An agent was told to run it: the target may hold something of ours.
    #[prost(bool, tag = "3")]
    pub ran: bool,
    /// Idempotency key of its creation.
    #[prost(string, tag = "4")]
    pub request_id: String,
    /// Process that a shard was given to, by the shard's index; another process under the same name has to claim it anew.
    #[prost(map = "uint32, string", tag = "5")]
    pub instances: std::collections::HashMap<u32, String>,
    /// The connectivity test has passed for these servers.
    #[prost(bool, tag = "70")]
    pub tested: bool,
    /// The last run of a test or check, whatever its generation. Older ones are stored by themselves.
    #[prost(message, optional, tag = "71")]
    pub run: Option<v1::CheckRun>,
    /// CHECKING: start if it passes.
    #[prost(bool, tag = "72")]
    pub start_when_passed: bool,
    /// CHECKING, to start: whoever asked takes all warnings upon themselves.
    #[prost(bool, tag = "73")]
    pub acknowledge_all: bool,
    /// Newest last.
    #[prost(message, repeated, tag = "74")]
    pub events: Vec<v1::TaskEvent>,
    /// Events that are not kept any more.
    #[prost(uint64, tag = "75")]
    pub forgotten: u64,
    /// Shards that are to begin with a new copy, and have not begun it yet.
    #[prost(uint32, repeated, tag = "76")]
    pub resync: Vec<u32>,
    /// COMPLETING was entered and not aborted.
    #[prost(bool, tag = "77")]
    pub completing: bool,
    /// A completion was aborted: the next one waits to be asked for.
    #[prost(bool, tag = "78")]
    pub held: bool,
    /// Keys of the store that keep its servers for this task.
    #[prost(string, repeated, tag = "79")]
    pub locks: Vec<String>,
    /// What the last check says of the copy, and what became of it.
    #[prost(message, optional, tag = "120")]
    pub plan: Option<v1::Plan>,
    /// When the copy began, and when it was done.
    #[prost(message, optional, tag = "121")]
    pub copy_begun: Option<prost_types::Timestamp>,
    /// See `copy_begun`.
    #[prost(message, optional, tag = "122")]
    pub copied: Option<prost_types::Timestamp>,
    /// The most that the spools held together until then.
    #[prost(uint64, tag = "123")]
    pub spool_peak: u64,
    /// What users of the target were allowed before the task took it from them, sealed; empty: nothing was taken.
    #[prost(string, tag = "124")]
    pub guard: String,
    /// CANCELLING: it is to be forgotten when that is done.
    #[prost(bool, tag = "125")]
    pub deleting: bool,
}

impl Stored {
    /// What of it decides where an action leads.
    pub fn past(&self) -> Past {
        let Self { releasing, ran, completing, tested, .. } = *self;
        Past { releasing, ran, completing, tested }
    }
}
