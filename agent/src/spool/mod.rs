//! The queue between the source's speed and the target's.
