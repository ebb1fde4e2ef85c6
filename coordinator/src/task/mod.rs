//! A task's life: its states as data, and what moves it from one to the next. Pure.

mod pace;
mod tls;
mod totals;
mod transition;
mod update;

pub use totals::totals;
pub use transition::{Observation, Step, actions, decide, directive, requested};

pub use tls::check_tls;
pub use update::update;

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
}
