//! Verification of tasks: which runs there are, and what they came to.

mod runs;

pub use runs::{Runs, Taken, page, shown};
