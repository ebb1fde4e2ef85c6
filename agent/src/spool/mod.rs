//! The queue between the source's speed and the target's: first in, first out, bounded in memory and on disk.
//!
//! Records stay in memory while the budget lasts. Beyond it they go to segment files, and so do all that follow until the
//! reader has emptied the disk again: order is kept. A record on disk is `length u32, crc-32 u32, encoding`; one whose
//! checksum is wrong ends the shard. A segment is removed when it was read. Nothing survives the process: what the target
//! holds is known by the target, and the source is asked for the rest.

mod encoding;
mod segment;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::limits::Limits;
use crate::source::Record;
use segment::Disk;

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
    closed: bool,
}

/// What a spool holds now.
#[derive(Clone, Debug, Default)]
pub struct Usage(Arc<[AtomicU64; 2]>);

impl Usage {
    /// Bytes in memory and on disk.
    pub fn read(&self) -> (u64, u64) {
        (self.0[0].load(Ordering::Relaxed), self.0[1].load(Ordering::Relaxed))
    }
}

/// The source's end.
#[derive(Debug)]
pub struct Writer(Arc<Shared>);

/// The driver's end.
#[derive(Debug)]
pub struct Reader(Arc<Shared>);

/// An empty spool.
pub fn open(config: SpoolConfig) -> Result<(Writer, Reader)> {
    let disk = Disk::open(&config.dir)?;
    let queue = Mutex::new(Queue { memory: VecDeque::new(), disk, closed: false });
    let shared = Shared { config, queue, filled: Notify::new(), drained: Notify::new(), usage: Usage::default() };
    let shared = Arc::new(shared);
    Ok((Writer(shared.clone()), Reader(shared)))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the record back if there is no room.
    fn try_push(&self, record: Record) -> Result<Option<Record>> {
        let weight = record.weight() as u64;
        let limits = *self.config.limits.borrow();
        let mut queue = self.lock();
        let [memory, disk] = &*self.usage.0;
        let fits = memory.load(Ordering::Relaxed) + weight <= limits.spool_memory_bytes || queue.memory.is_empty();
        if queue.disk.is_empty() && fits {
            memory.fetch_add(weight, Ordering::Relaxed);
            queue.memory.push_back(record);
        } else if queue.disk.bytes() + weight <= limits.spool_disk_bytes {
            queue.disk.push(&record)?;
            disk.store(queue.disk.bytes(), Ordering::Relaxed);
        } else {
            return Ok(Some(record));
        }
        drop(queue);
        self.filled.notify_one();
        Ok(None)
    }

    fn try_pop(&self) -> Result<Option<Record>> {
        let mut queue = self.lock();
        let [memory, disk] = &*self.usage.0;
        let record = match queue.memory.pop_front() {
            Some(record) => {
                memory.fetch_sub(record.weight() as u64, Ordering::Relaxed);
                Some(record)
            }
            None => {
                let record = queue.disk.pop()?;
                disk.store(queue.disk.bytes(), Ordering::Relaxed);
                record
            }
        };
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
            match self.0.try_push(record)? {
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
        self.0.lock().closed = true;
        self.0.filled.notify_one();
    }
}

impl Reader {
    /// The next record, if one is at hand.
    pub fn try_next(&mut self) -> Result<Option<Record>> {
        self.0.try_pop()
    }

    /// The next record; `None` once the writer is gone and all is read. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Record>> {
        loop {
            let filled = self.0.filled.notified();
            let closed = self.0.lock().closed;
            if let Some(record) = self.0.try_pop()? {
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use dts_proto::v1;
    use proptest::prelude::*;

    use super::*;

    fn record(number: u64, length: usize) -> Record {
        Record::Stream { offset: number, received_ms: number * 7, bytes: Bytes::from(vec![b'x'; length]) }
    }

    fn small(dir: &tempfile::TempDir) -> SpoolConfig {
        bounded(dir, 1 << 20)
    }

    fn bounded(dir: &tempfile::TempDir, spool_disk_bytes: u64) -> SpoolConfig {
        let limits = v1::Limits { spool_memory_bytes: 1000, spool_disk_bytes, ..v1::Limits::default() };
        SpoolConfig { dir: dir.path().to_owned(), limits: watch::channel(limits.into()).1 }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_is_a_queue_whatever_is_in_memory_and_on_disk(steps in prop::collection::vec((any::<bool>(), 0usize..600), 1..120)) {
            let dir = tempfile::tempdir().unwrap();
            let (writer, mut reader) = open(small(&dir)).unwrap();
            let mut model = VecDeque::new();
            for (number, (push, length)) in steps.into_iter().enumerate() {
                if push {
                    let record = record(number as u64, length);
                    model.push_back(record.clone());
                    prop_assert!(writer.0.try_push(record).unwrap().is_none());
                    prop_assert!(reader.usage().read().0 <= 1000);
                } else {
                    prop_assert_eq!(reader.try_next().unwrap(), model.pop_front());
                }
            }
            while let Some(expected) = model.pop_front() {
                prop_assert_eq!(reader.try_next().unwrap(), Some(expected));
            }
            prop_assert_eq!(reader.try_next().unwrap(), None);
            prop_assert_eq!(reader.usage().read(), (0, 0));
        }
    }

    #[test]
    fn a_damaged_byte_on_disk_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (writer, mut reader) = open(small(&dir)).unwrap();
        for number in 0..5 {
            assert!(writer.0.try_push(record(number, 500)).unwrap().is_none());
        }
        let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[100] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let error = std::iter::from_fn(|| reader.try_next().transpose()).find_map(Result::err).unwrap();
        assert_eq!(error.code, Code::AgentDisk);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_spool_stops_with_a_clear_error() {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, _reader) = open(bounded(&dir, 1000)).unwrap();
        let mut number = 0;
        let error = loop {
            match writer.push(record(number, 500)).await {
                Ok(()) => number += 1,
                Err(error) => break error,
            }
            assert!(number < 100, "it has no bound");
        };
        assert_eq!(error.code, Code::SpoolFull);
    }

    #[tokio::test]
    async fn the_reader_ends_when_the_writer_is_gone_and_all_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, mut reader) = open(small(&dir)).unwrap();
        writer.push(record(1, 10)).await.unwrap();
        drop(writer);
        assert_eq!(reader.next().await.unwrap(), Some(record(1, 10)));
        assert_eq!(reader.next().await.unwrap(), None);
    }
}
