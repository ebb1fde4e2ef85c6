//! Behaving as a replica of the source: handshake, PSYNC or SYNC, draining the socket into the spool, acknowledging.

mod answer;
mod beat;
mod input;
mod intake;
mod link;
mod payload;
mod received;
mod record;
#[cfg(test)]
mod tests;

pub use intake::{SourceConfig, run};
pub use received::Received;
pub use record::Record;
