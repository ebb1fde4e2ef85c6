//! How full a spool is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A handle that tells how full a spool is.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    memory: Arc<AtomicU64>,
    disk: Arc<AtomicU64>,
}

impl Usage {
    /// Bytes in memory and bytes on disk.
    pub fn read(&self) -> (u64, u64) {
        (self.memory.load(Ordering::Relaxed), self.disk.load(Ordering::Relaxed))
    }

    pub(super) fn set(&self, memory: u64, disk: u64) {
        self.memory.store(memory, Ordering::Relaxed);
        self.disk.store(disk, Ordering::Relaxed);
    }
}
