//! Says whether a target holds what its sources hold, in both directions, without a difference that is none.
//!
//! The keys of the target are walked over first, and those that no source has are *suspects*; then the keys of each source, of
//! which both sides are read and compared. Suspects are judged again, in rounds, until what is left is a difference.
//! What is proved by that, and what is not: `docs/verification.md`.
//!
//! Memory is bounded: keys come page by page, large values in pieces, suspects that are many go to disk.

mod canonical;
mod count;
mod finding;
mod follow;
mod functions;
mod judge;
mod keep;
mod order;
mod plan;
mod rate;
mod reply;
mod report;
mod run;
mod sample;
mod servers;
mod settle;
mod setup;
mod suspects;
mod ttl;
mod values;
mod view;
mod walk;
mod walking;

pub use canonical::{Canonical, Likeness};
pub use finding::{Difference, Finding, Kind};
pub use follow::Follow;
pub use keep::{Keeper, Kept};
pub use order::Ordered;
pub use plan::{Backward, Part, Plan, parts, whole};
pub use rate::Rate;
pub use report::{Outcome, Progress, Report};
pub use run::{recheck, run};

/// How thoroughly to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// How many keys each database has.
    Count,
    /// Of every key: existence, type, expiry.
    Keys,
    /// Everything of some keys that are picked by chance.
    Sample,
    /// Everything of every key.
    Full,
}

impl Mode {
    /// In reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Keys => "keys",
            Self::Sample => "sample",
            Self::Full => "full",
        }
    }
}
