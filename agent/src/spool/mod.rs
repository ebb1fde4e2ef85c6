//! The queue between the source's speed and the target's: first in, first out, bounded in memory and on disk.
//!
//! Records stay in memory while the budget lasts. Beyond it they go to segment files, and so do all that follow until the
//! reader has emptied the disk again: order is kept. A record on disk is `length u32, crc-32 u32, encoding`; one whose
//! checksum is wrong ends the shard. A segment is removed when it was read. Nothing survives the process: what the target
//! holds is known by the target, and the source is asked for the rest.
//!
//! It outlives the attempts at its shard. The last of the stream that was given out is kept in memory behind it, of the same budget:
//! a target that forgot its last moments is brought up from there if the source cannot do it any more.

mod encoding;
mod segment;
#[cfg(test)]
mod tests;
mod window;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dts_common::error::{Code, Error, Result};
use dts_common::position::Position;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::limits::Limits;
use crate::source::Record;
use segment::Disk;
use window::{Place, Window};

/// Bounds of a spool.
#[derive(Clone, Debug)]
pub struct SpoolConfig {
    /// Emptied of segment files at the start.
    pub dir: PathBuf,
    /// Memory and disk; a full spool waits for room as long as a fault is retried, but no longer than 30 s.
    pub limits: watch::Receiver<Limits>,
}

/// The longest wait for room before the shard is stopped.
const PATIENCE: Duration = Duration::from_secs(30);
/// One part of so many of the memory is for what was given out already.
const WINDOW: u64 = 2;

#[derive(Debug)]
struct Shared {
    config: SpoolConfig,
    queue: Mutex<Queue>,
    filled: Notify,
    drained: Notify,
    usage: Usage,
}

#[derive(Debug)]
struct Queue {
    memory: VecDeque<Record>,
    disk: Disk,
    window: Window,
    /// Behind what came last; `None` in a snapshot, and of a history without a name.
    end: Option<Place>,
    /// Behind the snapshot that comes in.
    copying: Option<Place>,
    /// Records of snapshots that were not given out yet.
    snapshots: u64,
    closed: bool,
    /// Of the attempt that may use it.
    attempt: u64,
}

#[derive(Debug, Default)]
struct Figures {
    memory: AtomicU64,
    disk: AtomicU64,
    /// Where the window begins, plus one; 0: there is none.
    window: AtomicU64,
    confirmed: AtomicU64,
}

/// What a spool holds now.
#[derive(Clone, Debug, Default)]
pub struct Usage(Arc<Figures>);

impl Usage {
    /// Bytes that wait, in memory and on disk.
    pub fn read(&self) -> (u64, u64) {
        (self.0.memory.load(Ordering::Relaxed), self.0.disk.load(Ordering::Relaxed))
    }

    /// Where the stream begins that is still here.
    pub fn kept_from(&self) -> Option<u64> {
        self.0.window.load(Ordering::Relaxed).checked_sub(1)
    }

    /// Up to here the target holds everything.
    pub fn confirm(&self, offset: u64) {
        self.0.confirmed.store(offset, Ordering::Relaxed);
    }

    fn note(&self, queue: &Queue) {
        self.0.disk.store(queue.disk.bytes(), Ordering::Relaxed);
        self.0.window.store(queue.window.from().map_or(0, |from| from + 1), Ordering::Relaxed);
    }
}

/// The spool of a shard.
#[derive(Clone, Debug)]
pub struct Spool(Arc<Shared>);

/// The source's end, in one attempt.
#[derive(Debug)]
pub struct Writer(Arc<Shared>, u64);

/// The driver's end, in one attempt.
#[derive(Debug)]
pub struct Reader(Arc<Shared>, u64);

fn place(position: &Position) -> Option<Place> {
    Some(Place { history: position.history?, offset: position.offset })
}

impl Spool {
    /// An empty one.
    pub fn open(config: SpoolConfig) -> Result<Self> {
        let queue = Mutex::new(Queue {
            memory: VecDeque::new(),
            disk: Disk::open(&config.dir)?,
            window: Window::default(),
            end: None,
            copying: None,
            snapshots: 0,
            closed: false,
            attempt: 0,
        });
        let (filled, drained, usage) = (Notify::new(), Notify::new(), Usage::default());
        Ok(Self(Arc::new(Shared { config, queue, filled, drained, usage })))
    }

    /// Empties it, for an attempt to which the source gives the stream from there on; `None`: a snapshot first.
    pub fn begin(&self, resume: Option<&Position>) -> Result<(Writer, Reader)> {
        let mut queue = self.0.lock();
        let at = resume.and_then(place);
        let attempt = queue.attempt + 1;
        // The old segments have to be gone before a new one takes their place.
        queue.disk = Disk::open(&self.0.config.dir)?;
        queue.memory.clear();
        (queue.window, queue.end, queue.copying) = (Window::beginning(at), at, None);
        (queue.snapshots, queue.closed, queue.attempt) = (0, false, attempt);
        self.0.usage.0.memory.store(0, Ordering::Relaxed);
        self.0.usage.note(&queue);
        Ok((Writer(self.0.clone(), attempt), Reader(self.0.clone(), attempt)))
    }

    /// True if everything from this position to what came last is here.
    pub fn covers(&self, position: &Position) -> bool {
        let queue = self.0.lock();
        queue.snapshots == 0 && queue.end.is_some() && place(position).is_some_and(|place| queue.window.covers(place))
    }

    /// For an attempt that begins at a position that it covers: gives everything from there on out again. Gives too where the source is to go on.
    pub fn rewind(&self, position: &Position) -> Result<(Writer, Reader, Position)> {
        let mut queue = self.0.lock();
        let (Some(place), Some(end)) = (place(position), queue.end) else {
            return Err(Error::new(Code::Internal, "a spool is not rewound to where it holds nothing"));
        };
        let again = queue.window.take_from(place);
        let weight: u64 = again.iter().map(|record| record.weight() as u64).sum();
        again.into_iter().rev().for_each(|record| queue.memory.push_front(record));
        self.0.usage.0.memory.fetch_add(weight, Ordering::Relaxed);
        (queue.closed, queue.attempt) = (false, queue.attempt + 1);
        self.0.usage.note(&queue);
        let attempt = queue.attempt;
        let end = Position { history: Some(end.history), offset: end.offset, db: position.db };
        Ok((Writer(self.0.clone(), attempt), Reader(self.0.clone(), attempt), end))
    }
}

impl Queue {
    /// An attempt that was abandoned has no hand in the next one.
    fn check(&self, attempt: u64) -> Result<()> {
        if self.attempt == attempt {
            return Ok(());
        }
        Err(Error::new(Code::Internal, "an attempt that is over uses the spool"))
    }

    fn came(&mut self, record: &Record) {
        match (record, &mut self.end) {
            (Record::SnapshotBegin { history, offset, .. }, _) => {
                self.copying = history.map(|history| Place { history, offset: *offset });
                (self.end, self.snapshots) = (None, self.snapshots + 1);
            }
            (Record::Snapshot(_), _) => self.snapshots += 1,
            (Record::SnapshotEnd, _) => (self.end, self.snapshots) = (self.copying.take(), self.snapshots + 1),
            (Record::Renamed(history), Some(end)) => end.history = *history,
            (Record::Stream { offset, bytes, .. }, Some(end)) if end.offset == *offset => {
                end.offset += bytes.len() as u64;
            }
            _ => self.end = None,
        }
    }

    fn gave(&mut self, record: &Record, most: u64, confirmed: u64) {
        let now = Instant::now();
        self.window.gave(now, record);
        self.window.trim(now, most, confirmed);
        let stream = matches!(record, Record::Stream { .. } | Record::Renamed(_));
        self.snapshots -= u64::from(!stream);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the record back if there is no room.
    fn try_push(&self, record: Record, attempt: u64) -> Result<Option<Record>> {
        let weight = record.weight() as u64;
        let limits = *self.config.limits.borrow();
        let mut queue = self.lock();
        queue.check(attempt)?;
        let memory = &self.usage.0.memory;
        let held = memory.load(Ordering::Relaxed) + queue.window.bytes();
        let fits = held + weight <= limits.spool_memory_bytes || queue.memory.is_empty();
        if queue.disk.is_empty() && fits {
            queue.came(&record);
            memory.fetch_add(weight, Ordering::Relaxed);
            queue.memory.push_back(record);
        } else if queue.disk.bytes() + weight <= limits.spool_disk_bytes {
            queue.disk.push(&record)?;
            queue.came(&record);
            self.usage.note(&queue);
        } else {
            return Ok(Some(record));
        }
        drop(queue);
        self.filled.notify_one();
        Ok(None)
    }

    fn try_pop(&self, attempt: u64) -> Result<Option<Record>> {
        let most = self.config.limits.borrow().spool_memory_bytes / WINDOW;
        let mut queue = self.lock();
        queue.check(attempt)?;
        let record = match queue.memory.pop_front() {
            Some(record) => {
                self.usage.0.memory.fetch_sub(record.weight() as u64, Ordering::Relaxed);
                Some(record)
            }
            None => queue.disk.pop()?,
        };
        if let Some(record) = &record {
            queue.gave(record, most, self.usage.0.confirmed.load(Ordering::Relaxed));
        }
        self.usage.note(&queue);
        drop(queue);
        if record.is_some() {
            self.drained.notify_one();
        }
        Ok(record)
    }
}

impl Writer {
    /// Puts a record behind all others; waits for room, and gives up with [`Code::SpoolFull`].
    pub async fn push(&mut self, record: Record) -> Result<()> {
        let mut record = record;
        loop {
            match self.0.try_push(record, self.1)? {
                None => return Ok(()),
                Some(back) => record = back,
            }
            let Limits { spool_memory_bytes, spool_disk_bytes, retry_window, .. } = *self.0.config.limits.borrow();
            let patience = retry_window.min(PATIENCE);
            if timeout(patience, self.0.drained.notified()).await.is_err() {
                let message = format!(
                    "the target is too slow: the spool holds {spool_memory_bytes} bytes in memory and {spool_disk_bytes} on disk ({}), and nothing left it for {} s",
                    self.0.config.dir.display(),
                    patience.as_secs()
                );
                return Err(Error::new(Code::SpoolFull, message));
            }
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut queue = self.0.lock();
        if queue.attempt == self.1 {
            queue.closed = true;
            drop(queue);
            self.0.filled.notify_one();
        }
    }
}

impl Reader {
    /// The next record, if one is at hand.
    pub fn try_next(&mut self) -> Result<Option<Record>> {
        self.0.try_pop(self.1)
    }

    /// The next record; `None` once the writer is gone and all is read. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Record>> {
        loop {
            let filled = self.0.filled.notified();
            let closed = self.0.lock().closed;
            if let Some(record) = self.0.try_pop(self.1)? {
                return Ok(Some(record));
            }
            if closed {
                return Ok(None);
            }
            filled.await;
        }
    }

    /// What the spool holds.
    pub fn usage(&self) -> Usage {
        self.0.usage.clone()
    }
}
