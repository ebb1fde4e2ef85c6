//! What writer and reader share: which records wait where. Decides; the files are `segment`'s.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use dts_common::error::Error;
use tokio::sync::Notify;

use crate::source::Record;

use super::{SpoolConfig, Usage, segment};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) config: SpoolConfig,
    pub(super) usage: Usage,
    /// The writer waits for this one.
    pub(super) room: Notify,
    /// The reader waits for this one.
    pub(super) readable: Notify,
    state: Mutex<State>,
    segment_bytes: u64,
}

#[derive(Debug, Default)]
pub(super) struct State {
    /// Older than anything on disk.
    pub(super) memory: VecDeque<Record>,
    /// Weight of `memory` and of what the reader has taken from disk and not handed out.
    pub(super) memory_bytes: u64,
    pub(super) segments: VecDeque<Segment>,
    /// Bytes of the files that exist, and of the frame being written.
    pub(super) disk_bytes: u64,
    /// A frame is on its way into the last segment.
    pub(super) writing: bool,
    next_segment: u64,
    /// The writer is gone.
    pub(super) closed: bool,
    /// The reader is gone.
    pub(super) orphaned: bool,
    /// The disk failed.
    pub(super) failed: Option<Error>,
}

#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) path: PathBuf,
    /// Bytes of whole frames in it, and of the one being written.
    pub(super) reserved: u64,
    /// Bytes of whole frames in it.
    pub(super) written: u64,
    pub(super) read: u64,
}

/// Where a record goes.
#[derive(Debug)]
pub(super) enum Place {
    Memory,
    Disk { number: u64, path: PathBuf },
    NoRoom,
}

impl Shared {
    pub(super) fn new(config: SpoolConfig) -> Self {
        let segment_bytes = (config.disk_bytes / 4).clamp(1, segment::LONGEST);
        Self {
            config,
            usage: Usage::default(),
            room: Notify::new(),
            readable: Notify::new(),
            state: Mutex::default(),
            segment_bytes,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn publish(&self, state: &State) {
        self.usage.set(state.memory_bytes, state.disk_bytes);
    }

    /// Decides where a record of this weight goes, and reserves its place there.
    pub(super) fn place(&self, state: &mut State, weight: u64, frame: u64) -> Place {
        if !state.on_disk() {
            // A record larger than all memory still has to pass: alone.
            if state.memory_bytes == 0 || state.memory_bytes + weight <= self.config.memory_bytes {
                return Place::Memory;
            }
        }
        if state.disk_bytes + frame > self.config.disk_bytes {
            return Place::NoRoom;
        }
        if state.segments.back().is_none_or(|last| last.reserved >= self.segment_bytes) {
            let number = state.next_segment;
            state.next_segment += 1;
            let path = self.config.dir.join(format!("{number:010}.{}", segment::EXTENSION));
            state.segments.push_back(Segment { number, path, reserved: 0, written: 0, read: 0 });
        }
        let Some(last) = state.segments.back_mut() else { return Place::NoRoom };
        last.reserved += frame;
        state.disk_bytes += frame;
        state.writing = true;
        Place::Disk { number: last.number, path: last.path.clone() }
    }
}

impl State {
    /// Records wait on disk, so newer ones go there too.
    pub(super) fn on_disk(&self) -> bool {
        self.writing || self.segments.iter().any(|segment| segment.read < segment.reserved)
    }

    /// The oldest segment, if frames can be read from it.
    pub(super) fn readable(&self) -> Option<&Segment> {
        self.segments.front().filter(|segment| segment.read < segment.written)
    }

    /// Takes out the oldest segment if it is read to its end and nothing more is being written to it.
    pub(super) fn take_read(&mut self) -> Option<PathBuf> {
        let first = self.segments.front()?;
        if first.read < first.reserved {
            return None;
        }
        let first = self.segments.pop_front()?;
        self.disk_bytes -= first.reserved;
        Some(first.path)
    }
}
