//! Keys that looked different once, until they are judged again: in memory, and on disk if they are many.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use dts_common::error::{Code, Error, Result};

use super::judge::Key;

/// What the keys in memory may come to.
const MEMORY: usize = 32 << 20;
/// What a key costs beside its name.
const OVERHEAD: usize = 96;

/// A key that is to be judged again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Suspect {
    /// Database of the source.
    pub(super) db: u32,
    pub(super) key: Key,
    /// How often it was seen to differ while nobody changed it.
    pub(super) strikes: u8,
}

#[derive(Debug)]
pub(super) struct Suspects {
    dir: PathBuf,
    /// Each only once.
    held: HashSet<Suspect>,
    bytes: usize,
    /// What came after memory was full, some of it perhaps twice.
    spilled: Option<BufWriter<File>>,
    count: u64,
    most: usize,
}

impl Suspects {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), held: HashSet::new(), bytes: 0, spilled: None, count: 0, most: MEMORY }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn add(&mut self, suspect: Suspect) -> Result<()> {
        if self.bytes < self.most {
            let size = suspect.key.name.len() + OVERHEAD;
            if self.held.insert(suspect) {
                self.bytes += size;
                self.count += 1;
            }
            return Ok(());
        }
        if self.held.contains(&suspect) {
            return Ok(());
        }
        self.count += 1;
        self.spill(&suspect).map_err(|error| disk(&self.dir, &error))
    }

    fn spill(&mut self, suspect: &Suspect) -> std::io::Result<()> {
        let file = match &mut self.spilled {
            Some(file) => file,
            None => self.spilled.insert(BufWriter::new(unnamed(&self.dir)?)),
        };
        let Suspect { db, key, strikes } = suspect;
        let from = key.from.and_then(|from| u32::try_from(from).ok()).unwrap_or(u32::MAX);
        let length = u32::try_from(key.name.len()).map_err(std::io::Error::other)?;
        file.write_all(&db.to_le_bytes())?;
        file.write_all(&from.to_le_bytes())?;
        file.write_all(&[*strikes])?;
        file.write_all(&length.to_le_bytes())?;
        file.write_all(&key.name)
    }

    /// A copy of them, if they are in memory.
    pub(super) fn list(&self) -> Option<Vec<Suspect>> {
        self.spilled.is_none().then(|| self.held.iter().cloned().collect())
    }

    /// All of them.
    pub(super) fn take(self) -> Result<Taken> {
        let wrong = |error: &std::io::Error| disk(&self.dir, error);
        let file = match self.spilled {
            None => None,
            Some(file) => {
                let mut file = file.into_inner().map_err(|error| wrong(error.error()))?;
                file.rewind().map_err(|error| wrong(&error))?;
                Some(BufReader::new(file))
            }
        };
        let mut held: Vec<Suspect> = self.held.into_iter().collect();
        held.sort_unstable_by(|one, other| (other.db, &other.key.name).cmp(&(one.db, &one.key.name)));
        Ok(Taken { dir: self.dir, held, file, ahead: None })
    }
}

/// A file that is gone with its owner.
fn unnamed(dir: &Path) -> std::io::Result<File> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join(format!("suspects-{}", uuid::Uuid::new_v4()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

fn disk(dir: &Path, error: &std::io::Error) -> Error {
    Error::new(Code::AgentDisk, format!("{}: {error}", dir.display()))
}

/// Suspects as they are taken up again.
#[derive(Debug)]
pub(super) struct Taken {
    dir: PathBuf,
    held: Vec<Suspect>,
    file: Option<BufReader<File>>,
    ahead: Option<Suspect>,
}

impl Taken {
    /// Some of one database; `None` after the last.
    pub(super) fn next_page(&mut self, most: usize) -> Result<Option<Vec<Suspect>>> {
        let mut page: Vec<Suspect> = Vec::new();
        while page.len() < most {
            let Some(next) = self.next()? else { break };
            if page.first().is_some_and(|first| first.db != next.db) {
                self.ahead = Some(next);
                break;
            }
            page.push(next);
        }
        Ok((!page.is_empty()).then_some(page))
    }

    fn next(&mut self) -> Result<Option<Suspect>> {
        if let Some(next) = self.ahead.take().or_else(|| self.held.pop()) {
            return Ok(Some(next));
        }
        let Some(file) = &mut self.file else { return Ok(None) };
        read(file).map_err(|error| disk(&self.dir, &error))
    }
}

fn read(file: &mut BufReader<File>) -> std::io::Result<Option<Suspect>> {
    let mut head = [0u8; 13];
    match file.read_exact(&mut head) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let [d0, d1, d2, d3, f0, f1, f2, f3, strikes, l0, l1, l2, l3] = head;
    let from = u32::from_le_bytes([f0, f1, f2, f3]);
    let length = u32::from_le_bytes([l0, l1, l2, l3]);
    let mut name = vec![0; usize::try_from(length).map_err(std::io::Error::other)?];
    file.read_exact(&mut name)?;
    let from = if from == u32::MAX { None } else { usize::try_from(from).ok() };
    Ok(Some(Suspect { db: u32::from_le_bytes([d0, d1, d2, d3]), key: Key { from, name }, strikes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_in_memory_comes_back_from_disk_and_no_key_twice_from_memory() {
        let dir = tempfile::tempdir().unwrap();
        let mut suspects = Suspects::new(dir.path());
        suspects.most = 5 * (OVERHEAD + 2);
        let of = |n: u8| Suspect {
            db: u32::from(n % 2),
            key: Key { from: (!n.is_multiple_of(3)).then_some(usize::from(n)), name: vec![n, 0] },
            strikes: n,
        };
        for n in 0..20 {
            suspects.add(of(n)).unwrap();
            suspects.add(of(0)).unwrap();
        }
        assert_eq!(suspects.count(), 20);
        let (mut taken, mut all) = (suspects.take().unwrap(), Vec::new());
        while let Some(page) = taken.next_page(3).unwrap() {
            assert!(page.len() <= 3 && page.iter().all(|suspect| suspect.db == page[0].db));
            all.extend(page);
        }
        all.sort_by_key(|suspect| suspect.strikes);
        assert_eq!(all, (0..20).map(of).collect::<Vec<_>>());
    }
}
