//! What is measured: every metric by name in one table, which `docs/metrics.md` repeats, drawn on a page for Prometheus.
//!
//! What is (phases, lags, counts of a shard) is drawn from the present state at every scrape, so that the series of what ended
//! are gone. What happened (requests of the store, sessions) is counted where it happens, by the macros of the `metrics` crate.

mod draw;
mod server;
mod shard;
mod table;

pub use draw::{Recorded, record};
pub use server::serve;
pub use shard::{shard, task};
pub use table::{Kind, METRICS, Metric, markdown};
