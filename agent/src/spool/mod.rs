//! The queue between the source's speed and the target's: in memory first, then on disk, order kept exactly.
//!
//! It does not outlive the process: the position of record is the target's, and what lies beyond it is asked for again.

mod frame;
mod queue;
mod reader;
mod segment;
#[cfg(test)]
mod tests;
mod usage;
mod writer;

use std::path::PathBuf;
use std::sync::Arc;

use dts_common::error::{Code, Error, Result};

pub use reader::Reader;
pub use usage::Usage;
pub use writer::Writer;

use queue::Shared;

/// Bounds and place of a spool.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// Directory of the segment files; those of an earlier run are removed at start.
    pub dir: PathBuf,
    /// What may wait in memory.
    pub memory_bytes: u64,
    /// What may wait on disk.
    pub disk_bytes: u64,
}

/// Opens an empty spool.
pub fn open(config: SpoolConfig) -> Result<(Writer, Reader)> {
    clear(&config).map_err(|error| {
        Error::new(Code::AgentDisk, format!("cannot prepare the spool in {}: {error}", config.dir.display()))
    })?;
    let shared = Arc::new(Shared::new(config));
    Ok((Writer::new(Arc::clone(&shared)), Reader::new(shared)))
}

fn clear(config: &SpoolConfig) -> std::io::Result<()> {
    std::fs::create_dir_all(&config.dir)?;
    for entry in std::fs::read_dir(&config.dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == segment::EXTENSION) {
            std::fs::remove_file(path)?;
        }
    }
    Ok(())
}
