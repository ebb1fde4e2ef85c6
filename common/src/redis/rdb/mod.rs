//! Streaming RDB decoder: snapshot bytes in, events out, in bounded memory.
//!
//! Reads what Redis (RDB 1 to 15) and Valkey (RDB 80) write. A record that fits the inline limit comes as one [`Entry`], its value
//! untouched and fit for RESTORE; a larger one comes as [`Event::Begin`], its [`Part`]s, and [`Event::Finish`].

mod decoder;
mod entry;
mod event;

pub use decoder::Decoder;
pub use entry::Entry;
pub use event::{Event, Family, Fields, Kind, Meta, Part};
