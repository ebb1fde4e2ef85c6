//! The connectivity test and the check of a shard: named items, looked at side by side, each within a time limit.
//! The gates are those of the pipeline itself ([`crate::verify`]): nothing is checked twice in two ways.

mod item;
mod look;
mod rights;
mod run;
mod server;

pub use run::Checks;
