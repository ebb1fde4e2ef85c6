//! Files of shards in an agent's state directory, and their end. Nothing in them is needed but by a shard that runs, except the nodes of a target
//! cluster that were seen last: a task that is resumed here may need them, if the node that it names is gone.

use std::fs;
use std::io::{ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::time::Duration;

use dts_common::ids::ShardId;

use crate::target::NODES_FILE;

/// After so long nobody resumes a task where it was.
const FORGOTTEN: Duration = Duration::from_secs(7 * 86_400);

/// Where a shard that runs keeps its files.
pub fn of_shard(state_dir: &Path, id: &ShardId) -> PathBuf {
    state_dir.join("shards").join(name(id))
}

/// Where a check keeps its files.
pub fn of_check(state_dir: &Path, id: &ShardId) -> PathBuf {
    state_dir.join("checks").join(name(id))
}

fn name(id: &ShardId) -> String {
    format!("{}-{}", id.task, id.index)
}

/// Removes a directory that may not be there.
pub fn remove(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir)
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(dir = %dir.display(), %error, "files are left");
    }
}

/// Removes what shards that are not `kept` have left here.
pub fn tidy<'a>(state_dir: &Path, kept: impl Iterator<Item = &'a ShardId>) {
    let kept: Vec<String> = kept.map(name).collect();
    let left = || -> Result<()> {
        for entry in fs::read_dir(state_dir.join("shards"))? {
            let entry = entry?;
            if !kept.iter().any(|name| entry.file_name() == name.as_str()) {
                empty(&entry.path())?;
            }
        }
        Ok(())
    };
    if let Err(error) = left()
        && error.kind() != ErrorKind::NotFound
    {
        tracing::warn!(%error, "files of shards that run elsewhere are left");
    }
}

fn empty(dir: &Path) -> Result<()> {
    let mut needed = false;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let fresh = || entry.metadata()?.modified()?.elapsed().map_err(std::io::Error::other);
        if entry.file_name() == NODES_FILE && fresh()? < FORGOTTEN {
            needed = true;
        } else if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    if needed { Ok(()) } else { fs::remove_dir(dir) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shards_have_left_goes_but_for_the_nodes_of_a_target() {
        let dir = tempfile::tempdir().unwrap();
        let shard = |index| ShardId { task: "t".into(), index };
        for index in 0..3 {
            let of = of_shard(dir.path(), &shard(index));
            fs::create_dir_all(of.join("spool")).unwrap();
            fs::write(of.join("spool/1"), "x").unwrap();
        }
        fs::write(of_shard(dir.path(), &shard(1)).join(NODES_FILE), "h 1\n").unwrap();
        tidy(dir.path(), [shard(0)].iter());
        assert!(of_shard(dir.path(), &shard(0)).join("spool/1").exists());
        assert!(of_shard(dir.path(), &shard(1)).join(NODES_FILE).exists());
        assert!(!of_shard(dir.path(), &shard(1)).join("spool").exists());
        assert!(!of_shard(dir.path(), &shard(2)).exists());
        tidy(&dir.path().join("nothing"), [].iter());
    }
}
