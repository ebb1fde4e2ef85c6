//! An agent: runs the pipelines of the shards that a coordinator assigns to it.
//!
//! ```text
//! source socket -> source -> spool -> route -> target -> checkpoint
//!                  (replica)  (memory, (decode,  (pipelined transactions with
//!                             disk)    rewrite)   the position inside)
//! ```

pub mod app;
pub mod apply;
pub mod budget;
pub mod check;
pub mod client;
pub mod compare;
pub mod complete;
pub mod control;
pub mod coordinator;
pub mod dial;
pub mod discover;
pub mod endpoint;
pub mod enrol;
pub mod guard;
mod holding;
pub mod leash;
pub mod limits;
pub mod mend;
pub mod observe;
pub mod outlet;
pub mod pace;
pub mod pipeline;
pub mod profile;
pub mod reach;
pub mod restore;
pub mod retry;
pub mod route;
pub mod scratch;
pub mod secret;
pub mod shard;
pub mod source;
pub mod spool;
pub mod status;
pub mod supervisor;
pub mod sweep;
pub mod switch;
pub mod target;
pub mod topology;
pub mod verify;
