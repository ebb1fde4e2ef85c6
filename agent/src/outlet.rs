//! The driver's end of the way to the target: counts commits, knows whether a transaction is open.

use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use tokio::sync::{mpsc, watch};

use crate::route::{Chunk, Commit};
use crate::target::{Applied, Checkpoint, Instruction};

/// Where the driver puts what the target shall do.
#[derive(Debug)]
pub struct Outlet {
    instructions: mpsc::Sender<Instruction>,
    applied: watch::Receiver<Applied>,
    commits: u64,
    open: bool,
}

impl Outlet {
    /// The sender of a writer's instructions, with what that writer confirms.
    pub fn new(instructions: mpsc::Sender<Instruction>, applied: watch::Receiver<Applied>) -> Self {
        Self { instructions, applied, commits: 0, open: false }
    }

    /// Everything before this belongs to an older copy.
    pub async fn begin_copy(&mut self, copy: u64) -> Result<()> {
        self.put(Instruction::BeginCopy { copy }).await
    }

    /// Waits for room, then hands the chunk on.
    pub async fn send(&mut self, chunk: Chunk) -> Result<()> {
        self.open = chunk.commit.is_none();
        self.commits += u64::from(!self.open);
        self.put(Instruction::Chunk(chunk)).await
    }

    /// A commit that carries no command.
    pub async fn commit(&mut self, commit: Commit) -> Result<()> {
        self.send(Chunk { bytes: bytes::Bytes::new(), commands: 0, commit: Some(commit), marks: Vec::new() }).await
    }

    /// Waits until the target confirmed every commit that was sent.
    pub async fn settled(&mut self) -> Result<()> {
        let commits = self.commits;
        self.applied.wait_for(|applied| applied.commits >= commits).await.map_err(|_| ended())?;
        Ok(())
    }

    /// Waits until the target confirms anything more.
    pub async fn confirmed(&mut self) {
        // A writer that ended confirms nothing any more; the pipeline sees its end.
        if self.applied.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// True while a transaction is begun and not ended: nothing else may be put in.
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// False while the target is behind: better gather more than send a small batch.
    pub fn has_room(&self) -> bool {
        self.instructions.capacity() > 0
    }

    /// How long a chunk should become where more waits.
    pub fn piece(&self) -> usize {
        self.applied.borrow().piece
    }

    /// Waits for room without taking it, no longer than `bound`.
    pub async fn room(&self, bound: Duration) {
        let _room_or_not = tokio::time::timeout(bound, self.instructions.reserve()).await;
    }

    /// The offset up to which the target holds everything, 0 while it is being copied to.
    pub fn applied_offset(&self) -> u64 {
        self.applied.borrow().position().map_or(0, |position| position.offset)
    }

    /// The record that stands on the target, once everything is settled.
    pub fn record(&self) -> Option<Checkpoint> {
        self.applied.borrow().checkpoint.clone()
    }

    async fn put(&self, instruction: Instruction) -> Result<()> {
        self.instructions.send(instruction).await.map_err(|_| ended())
    }
}

/// The writer's own error is the one to show; the pipeline asks it.
fn ended() -> Error {
    Error::new(Code::TargetLost, "the writer ended")
}
