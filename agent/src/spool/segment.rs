//! The files. Everything here blocks and runs on blocking threads.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use bytes::{Buf as _, Bytes};
use dts_common::error::{Code, Error, Result};

use crate::source::Record;

use super::frame;
use super::queue::Shared;

/// How the names of segment files end.
pub(super) const EXTENSION: &str = "spool";
/// A segment takes no new frames beyond this.
pub(super) const LONGEST: u64 = 64 << 20;
/// What is read at once.
const CHUNK: u64 = 2 << 20;

/// A segment that is open, by its number.
pub(super) type Open = Option<(u64, File)>;

/// Appends a frame whose place is reserved.
pub(super) fn append(
    shared: &Shared,
    open: Open,
    number: u64,
    path: &Path,
    frame: Option<(Vec<u8>, Bytes)>,
) -> (Open, Result<()>) {
    let wrote = match frame {
        Some((head, tail)) => write(open, number, path, &head, &tail),
        None => Err(ErrorKind::FileTooLarge.into()),
    };
    let mut state = shared.lock();
    state.writing = false;
    let outcome = match wrote {
        Ok(file) => {
            if let Some(last) = state.segments.back_mut() {
                last.written = last.reserved;
            }
            (Some((number, file)), Ok(()))
        }
        Err(error) => {
            let error = broken(path, "write", &error);
            state.failed = Some(error.clone());
            (None, Err(error))
        }
    };
    shared.publish(&state);
    drop(state);
    shared.readable.notify_one();
    outcome
}

fn write(open: Open, number: u64, path: &Path, head: &[u8], tail: &[u8]) -> std::io::Result<File> {
    let mut file = match open {
        Some((known, file)) if known == number => file,
        _ => File::create_new(path)?,
    };
    file.write_all(head)?;
    file.write_all(tail)?;
    Ok(file)
}

/// Reads the next frames in order, at least one if any is there, and removes the segment when that was all of it.
pub(super) fn read(shared: &Shared, open: Open) -> (Open, Result<VecDeque<Record>>) {
    let Some((number, path, from, until)) = ({
        let state = shared.lock();
        state.readable().map(|segment| (segment.number, segment.path.clone(), segment.read, segment.written))
    }) else {
        return (open, Ok(VecDeque::new()));
    };
    let file = match open {
        Some((known, file)) if known == number => file,
        _ => match File::open(&path) {
            Ok(file) => file,
            Err(error) => return (None, Err(broken(&path, "open", &error))),
        },
    };
    let (records, taken) = match frames(&file, &path, from, until) {
        Ok(read) => read,
        Err(error) => return (None, Err(error)),
    };
    let mut state = shared.lock();
    state.memory_bytes += records.iter().map(|record| record.weight() as u64).sum::<u64>();
    if let Some(first) = state.segments.front_mut() {
        first.read += taken;
    }
    let done = state.take_read();
    shared.publish(&state);
    drop(state);
    shared.room.notify_one();
    match done {
        Some(path) => match std::fs::remove_file(&path) {
            Ok(()) => (None, Ok(records)),
            Err(error) => (None, Err(broken(&path, "remove", &error))),
        },
        None => (Some((number, file)), Ok(records)),
    }
}

fn frames(file: &File, path: &Path, from: u64, until: u64) -> Result<(VecDeque<Record>, u64)> {
    let damaged = || Error::new(Code::AgentDisk, format!("{} is damaged", path.display()));
    let mut chunk = read_at(file, path, from, (until - from).min(CHUNK))?;
    let first = frame::length(&chunk).ok_or_else(damaged)?;
    if first > until - from {
        return Err(damaged());
    }
    if first > chunk.len() as u64 {
        chunk = read_at(file, path, from, first)?;
    }
    let mut records = VecDeque::new();
    let mut taken = 0;
    while let Some(length) = frame::length(&chunk) {
        if length > until - from - taken {
            return Err(damaged());
        }
        let Some(whole) = usize::try_from(length).ok().filter(|length| *length <= chunk.len()) else { break };
        let record = frame::decode(chunk.slice(..whole)).ok_or_else(damaged)?;
        chunk.advance(whole);
        records.push_back(record);
        taken += length;
    }
    Ok((records, taken))
}

fn read_at(file: &File, path: &Path, from: u64, length: u64) -> Result<Bytes> {
    let failed = |error: &std::io::Error| broken(path, "read", error);
    let length = usize::try_from(length).map_err(|error| failed(&std::io::Error::other(error)))?;
    let mut bytes = vec![0; length];
    file.read_exact_at(&mut bytes, from).map_err(|error| failed(&error))?;
    Ok(Bytes::from(bytes))
}

fn broken(path: &Path, what: &str, error: &std::io::Error) -> Error {
    let code = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => Code::SpoolFull,
        _ => Code::AgentDisk,
    };
    Error::new(code, format!("cannot {what} {}: {error}", path.display()))
}
