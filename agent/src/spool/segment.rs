//! The files of a spool.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use crc_fast::{CrcAlgorithm, checksum};
use dts_common::error::{Code, Error, Result};

use super::encoding::{decode, encode};
use crate::source::Record;

const SEGMENT: u64 = 64 << 20;
const SUFFIX: &str = "spool";

/// Segments in order; the last is written, the first is read.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    segments: VecDeque<Segment>,
    next_number: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Segment {
    path: PathBuf,
    writer: File,
    reader: File,
    written: u64,
    read: u64,
}

impl Disk {
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let failed = |error: io::Error| failed(dir, &error);
        fs::create_dir_all(dir).map_err(failed)?;
        for entry in fs::read_dir(dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            if path.extension().is_some_and(|suffix| suffix == SUFFIX) {
                fs::remove_file(&path).map_err(failed)?;
            }
        }
        Ok(Self { dir: dir.to_owned(), segments: VecDeque::new(), next_number: 0, bytes: 0 })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.segments.iter().all(|segment| segment.read == segment.written)
    }

    /// Bytes of files, read or not.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn push(&mut self, record: &Record) -> Result<()> {
        let body = encode(record);
        let length = u32::try_from(body.len()).map_err(|_| Error::new(Code::Internal, "a record of over 4 GiB"))?;
        if self.segments.back().is_none_or(|segment| segment.written >= SEGMENT) {
            self.add_segment()?;
        }
        let Some(segment) = self.segments.back_mut() else { return Ok(()) };
        let mut bytes = Vec::with_capacity(body.len() + 8);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&crc(&body).to_le_bytes());
        bytes.extend_from_slice(&body);
        segment.writer.write_all(&bytes).map_err(|error| failed(&segment.path, &error))?;
        segment.written += bytes.len() as u64;
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    pub(super) fn pop(&mut self) -> Result<Option<Record>> {
        while let Some(segment) = self.segments.front_mut() {
            if segment.read < segment.written {
                return segment.pop().map(Some);
            }
            let path = segment.path.clone();
            self.bytes -= segment.written;
            self.segments.pop_front();
            fs::remove_file(&path).map_err(|error| failed(&path, &error))?;
        }
        Ok(None)
    }

    fn add_segment(&mut self) -> Result<()> {
        let path = self.dir.join(format!("{:08}.{SUFFIX}", self.next_number));
        self.next_number += 1;
        let failed = |error: io::Error| failed(&path, &error);
        let writer = File::create(&path).map_err(failed)?;
        let reader = File::open(&path).map_err(failed)?;
        self.segments.push_back(Segment { path, writer, reader, written: 0, read: 0 });
        Ok(())
    }
}

impl Segment {
    fn pop(&mut self) -> Result<Record> {
        let damaged = || Error::new(Code::AgentDisk, format!("{}: a record is damaged", self.path.display()));
        let mut head = [0; 8];
        self.reader.read_exact(&mut head).map_err(|error| failed(&self.path, &error))?;
        let [a, b, c, d, e, f, g, h] = head;
        let length = u64::from(u32::from_le_bytes([a, b, c, d]));
        if self.read + 8 + length > self.written {
            return Err(damaged());
        }
        let mut body = vec![0; usize::try_from(length).map_err(|_| damaged())?];
        self.reader.read_exact(&mut body).map_err(|error| failed(&self.path, &error))?;
        if crc(&body) != u32::from_le_bytes([e, f, g, h]) {
            return Err(damaged());
        }
        let record = decode(Bytes::from(body)).ok_or_else(damaged)?;
        self.read += 8 + length;
        Ok(record)
    }
}

fn crc(body: &[u8]) -> u32 {
    u32::try_from(checksum(CrcAlgorithm::Crc32IsoHdlc, body)).unwrap_or(u32::MAX)
}

fn failed(path: &Path, error: &io::Error) -> Error {
    let code = if error.kind() == ErrorKind::StorageFull { Code::SpoolFull } else { Code::AgentDisk };
    Error::new(code, format!("{}: {error}", path.display()))
}
