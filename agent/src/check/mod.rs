//! The connectivity test and the check of a shard: named items, looked at side by side, each within a time limit.
//! The gates are those of the pipeline itself ([`crate::verify`]): nothing is checked twice in two ways.

mod backlog;
mod data;
mod found;
mod item;
mod look;
mod network;
mod rates;
mod reload;
mod rights;
mod room;
mod run;
mod server;
mod target;
mod traffic;
mod words;

pub use run::Checks;
