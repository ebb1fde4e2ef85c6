//! The end that the source fills.

use std::sync::Arc;
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use crate::source::Record;

use super::frame;
use super::queue::{Place, Shared};
use super::segment::{self, Open};

/// How long a push waits for room while the reader takes nothing.
const ROOM_TIMEOUT: Duration = Duration::from_secs(30);

/// The end that takes records.
#[derive(Debug)]
pub struct Writer {
    shared: Arc<Shared>,
    open: Open,
    /// A write whose push was given up; the next push waits for it.
    writing: Option<JoinHandle<(Open, Result<()>)>>,
    room_timeout: Duration,
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, open: None, writing: None, room_timeout: ROOM_TIMEOUT }
    }

    /// How long a push waits while the reader takes nothing before it gives [`Code::SpoolFull`]; 30 s if not told.
    #[cfg(test)]
    pub(super) fn with_room_timeout(mut self, room_timeout: Duration) -> Self {
        self.room_timeout = room_timeout;
        self
    }

    /// Puts a record behind all others; waits while there is no room.
    pub async fn push(&mut self, record: Record) -> Result<()> {
        self.written().await?;
        let weight = record.weight() as u64;
        loop {
            let place = {
                let mut state = self.shared.lock();
                if let Some(error) = &state.failed {
                    return Err(error.clone());
                }
                if state.orphaned {
                    return Err(Error::new(Code::Internal, "nobody reads the spool any more"));
                }
                let place = self.shared.place(&mut state, weight, frame::size(&record) as u64);
                if matches!(place, Place::Memory) {
                    state.memory_bytes += weight;
                    state.memory.push_back(record);
                    self.shared.publish(&state);
                    drop(state);
                    self.shared.readable.notify_one();
                    return Ok(());
                }
                self.shared.publish(&state);
                place
            };
            match place {
                Place::Disk { number, path } => {
                    let shared = Arc::clone(&self.shared);
                    let open = self.open.take();
                    self.writing = Some(spawn_blocking(move || {
                        segment::append(&shared, open, number, &path, frame::encode(record))
                    }));
                    return self.written().await;
                }
                _ => {
                    if timeout(self.room_timeout, self.shared.room.notified()).await.is_err() {
                        return Err(self.full());
                    }
                }
            }
        }
    }

    async fn written(&mut self) -> Result<()> {
        let Some(writing) = &mut self.writing else { return Ok(()) };
        let joined = writing.await;
        self.writing = None;
        let (open, outcome) =
            joined.map_err(|error| Error::new(Code::Internal, format!("writing the spool: {error}")))?;
        self.open = open;
        outcome
    }

    fn full(&self) -> Error {
        let config = &self.shared.config;
        Error::new(
            Code::SpoolFull,
            format!(
                "the spool in {} has no room: {} bytes of memory and {} bytes of disk are taken",
                config.dir.display(),
                config.memory_bytes,
                config.disk_bytes
            ),
        )
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.readable.notify_one();
    }
}
