//! The command table: what a replicated command does to keys.
