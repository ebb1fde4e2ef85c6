//! What the target has confirmed.

use crate::route::Commit;
use crate::target::Checkpoint;

/// The last commit whose EXEC was answered, every element of the answer read and good.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// How many commits of this pipeline are confirmed.
    pub commits: u64,
    /// The last of them.
    pub last: Option<Commit>,
    /// The record that stands on the target now.
    pub checkpoint: Option<Checkpoint>,
}
