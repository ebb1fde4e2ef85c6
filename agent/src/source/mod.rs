//! Behaving as a replica of the source: handshake, PSYNC or SYNC, draining the socket into the spool, acknowledging.

mod record;

pub use record::Record;
