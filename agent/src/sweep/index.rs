//! The fingerprints of a snapshot's keys, in bounded memory: up to a run of them stays in memory; more go to sorted runs on
//! disk, which are merged into one sorted file that is asked block by block.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use dts_common::error::{Code, Error, Result};

use crate::route::Fingerprint;

/// So many are sorted in memory: 8 MiB.
const RUN: usize = 1 << 19;
const SIZE: usize = size_of::<Fingerprint>();
/// One in so many of the file's fingerprints is in memory too: 6 MiB for 100 M keys. A question reads one block, 4 KiB.
const BLOCK: usize = 256;

/// Which keys a snapshot had.
#[derive(Debug)]
pub struct KeyIndex {
    dir: PathBuf,
    run: usize,
    fresh: Vec<Fingerprint>,
    runs: Vec<PathBuf>,
    merged: Option<Merged>,
}

#[derive(Debug)]
struct Merged {
    file: File,
    count: usize,
    /// The first of every block.
    firsts: Vec<Fingerprint>,
}

impl KeyIndex {
    /// An empty index; `dir` is its own and is emptied.
    pub fn new(dir: PathBuf) -> Self {
        Self::with_run(dir, RUN)
    }

    fn with_run(dir: PathBuf, run: usize) -> Self {
        Self { dir, run, fresh: Vec::new(), runs: Vec::new(), merged: None }
    }

    /// Adds keys.
    pub fn add(&mut self, keys: &[Fingerprint]) -> Result<()> {
        self.fresh.extend_from_slice(keys);
        if self.fresh.len() >= self.run { self.spill() } else { Ok(()) }
    }

    fn spill(&mut self) -> Result<()> {
        if self.runs.is_empty() {
            // What a crash left.
            match std::fs::remove_dir_all(&self.dir) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(disk(&self.dir, &error)),
                _ => {}
            }
            std::fs::create_dir_all(&self.dir).map_err(|error| disk(&self.dir, &error))?;
        }
        self.fresh.sort_unstable();
        let path = self.dir.join(format!("run-{}", self.runs.len()));
        write_run(&path, &self.fresh).map_err(|error| disk(&path, &error))?;
        self.runs.push(path);
        self.fresh.clear();
        Ok(())
    }

    /// Makes the index ready to be asked; nothing is added after it.
    pub fn settle(&mut self) -> Result<()> {
        if self.runs.is_empty() {
            self.fresh.sort_unstable();
            return Ok(());
        }
        self.spill()?;
        self.fresh = Vec::new();
        let path = self.dir.join("merged");
        self.merged = Some(merge(&self.runs, &path).map_err(|error| disk(&path, &error))?);
        Ok(())
    }

    /// True if the key was added; settled only.
    pub fn contains(&self, key: Fingerprint) -> Result<bool> {
        match &self.merged {
            None => Ok(self.fresh.binary_search(&key).is_ok()),
            Some(merged) => merged.contains(key).map_err(|error| disk(&self.dir, &error)),
        }
    }
}

impl Drop for KeyIndex {
    fn drop(&mut self) {
        if !self.runs.is_empty() {
            // What is left is emptied by the next one.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

impl Merged {
    fn contains(&self, key: Fingerprint) -> std::io::Result<bool> {
        let Some(block) = self.firsts.partition_point(|first| *first <= key).checked_sub(1) else { return Ok(false) };
        let mut bytes = [0; BLOCK * SIZE];
        let bytes = &mut bytes[..BLOCK.min(self.count - block * BLOCK) * SIZE];
        self.file.read_exact_at(bytes, (block * BLOCK * SIZE) as u64)?;
        let (fingerprints, _) = bytes.as_chunks::<SIZE>();
        Ok(fingerprints.binary_search_by_key(&key, |bytes| Fingerprint::from_be_bytes(*bytes)).is_ok())
    }
}

fn write_run(path: &Path, sorted: &[Fingerprint]) -> std::io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for fingerprint in sorted {
        file.write_all(&fingerprint.to_be_bytes())?;
    }
    file.flush()
}

fn merge(runs: &[PathBuf], path: &Path) -> std::io::Result<Merged> {
    let mut readers = Vec::new();
    let mut heads = BinaryHeap::new();
    for (index, run) in runs.iter().enumerate() {
        let mut reader = BufReader::with_capacity(64 << 10, File::open(run)?);
        heads.extend(next(&mut reader)?.map(|first| Reverse((first, index))));
        readers.push(reader);
    }
    let mut file = BufWriter::new(File::create(path)?);
    let (mut count, mut firsts) = (0, Vec::new());
    while let Some(Reverse((fingerprint, index))) = heads.pop() {
        if count % BLOCK == 0 {
            firsts.push(fingerprint);
        }
        file.write_all(&fingerprint.to_be_bytes())?;
        count += 1;
        heads.extend(next(&mut readers[index])?.map(|fingerprint| Reverse((fingerprint, index))));
    }
    file.flush()?;
    for run in runs {
        std::fs::remove_file(run)?;
    }
    Ok(Merged { file: File::open(path)?, count, firsts })
}

fn next(reader: &mut impl Read) -> std::io::Result<Option<Fingerprint>> {
    let mut bytes = [0; SIZE];
    match reader.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(Fingerprint::from_be_bytes(bytes))),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

fn disk(path: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::AgentDisk, format!("index of keys, {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn it_holds_what_was_added_and_nothing_else(
            keys in prop::collection::btree_set(0u128..3000, 0..1500),
            run in 1usize..700,
            piece in 1usize..90,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let mut index = KeyIndex::with_run(dir.path().join("index"), run);
            let spread = |key: u128| key << 100 | key;
            let added: Vec<_> = keys.iter().rev().map(|key| spread(*key)).collect();
            for piece in added.chunks(piece) {
                index.add(piece).unwrap();
            }
            index.settle().unwrap();
            for key in 0..3000 {
                prop_assert_eq!(index.contains(spread(key)).unwrap(), keys.contains(&key));
            }
            drop(index);
            prop_assert!(!dir.path().join("index").exists());
        }
    }
}
