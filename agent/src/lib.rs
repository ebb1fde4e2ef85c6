//! An agent: runs the pipelines of the shards that a coordinator assigns to it.
//!
//! ```text
//! source socket -> source -> spool -> route -> target -> checkpoint
//!                  (replica)  (memory, (decode,  (pipelined transactions with
//!                             disk)    rewrite)   the position inside)
//! ```

pub mod client;
pub mod endpoint;
pub mod retry;
pub mod route;
pub mod source;
pub mod spool;
pub mod target;
