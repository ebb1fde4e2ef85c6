//! Alarms: policies say who is told of what; the leader looks at its tasks and agents, and tells.
//!
//! ```text
//! tasks, agents -> evaluate (what holds) -> since (for how long) -> ledger (raise, repeat, resolve) -> store -> deliver
//! ```
//! All but the two ends is pure. What is stored: `alarm/policy/<id>` with secrets sealed, `alarm/open/<id>` for alarms that are on or
//! not told yet, `alarm/past/<id>` for the others.

mod certificate;
mod check;
mod deliver;
mod desk;
mod evaluate;
mod ledger;
mod message;
mod policies;
mod since;
mod stored;

pub use desk::Alarms;
