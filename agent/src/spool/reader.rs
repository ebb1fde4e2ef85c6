//! The end that the target drains.

use std::collections::VecDeque;
use std::sync::Arc;

use dts_common::error::{Code, Error, Result};
use tokio::task::{JoinHandle, spawn_blocking};

use crate::source::Record;

use super::Usage;
use super::queue::Shared;
use super::segment::{self, Open};

type Read = (Open, Result<VecDeque<Record>>);

/// The end that gives records.
#[derive(Debug)]
pub struct Reader {
    shared: Arc<Shared>,
    /// Read from disk, older than anything else.
    ahead: VecDeque<Record>,
    reading: Option<JoinHandle<Read>>,
    open: Open,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, ahead: VecDeque::new(), reading: None, open: None }
    }

    /// How full the spool is, now and later.
    pub fn usage(&self) -> Usage {
        self.shared.usage.clone()
    }

    /// The oldest record; `None` when the writer is gone and all is read. Giving up the wait loses nothing.
    pub async fn next(&mut self) -> Result<Option<Record>> {
        loop {
            if let Some(record) = self.try_next()? {
                return Ok(Some(record));
            }
            if let Some(reading) = &mut self.reading {
                let joined = reading.await;
                self.reading = None;
                let (open, records) =
                    joined.map_err(|error| Error::new(Code::Internal, format!("reading the spool: {error}")))?;
                self.open = open;
                self.ahead = records?;
                continue;
            }
            {
                let state = self.shared.lock();
                if let Some(error) = &state.failed {
                    return Err(error.clone());
                }
                if state.closed && !state.on_disk() {
                    return Ok(None);
                }
            }
            self.shared.readable.notified().await;
        }
    }

    /// The oldest record if it is at hand without waiting.
    pub fn try_next(&mut self) -> Result<Option<Record>> {
        if self.reading.is_some() {
            return Ok(None);
        }
        let mut state = self.shared.lock();
        let record = self.ahead.pop_front().or_else(|| state.memory.pop_front());
        if let Some(record) = &record {
            state.memory_bytes -= record.weight() as u64;
            self.shared.publish(&state);
        }
        // Memory is older than disk, so the disk's turn comes when both are empty.
        let turn = self.ahead.is_empty() && state.memory.is_empty() && state.readable().is_some();
        drop(state);
        if turn {
            let shared = Arc::clone(&self.shared);
            let open = self.open.take();
            self.reading = Some(spawn_blocking(move || segment::read(&shared, open)));
        }
        if record.is_some() {
            self.shared.room.notify_one();
        }
        Ok(record)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.lock().orphaned = true;
        self.shared.room.notify_one();
    }
}
