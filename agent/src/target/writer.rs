//! One transaction after the other, each with the position inside.
//!
//! So a second writer, a repeated batch and a process that was frozen are refused by the target. Every element of the answer to EXEC is read.
//! What waits goes out together: as much as keeps the way to the target busy for its round trip.

use bytes::Bytes;
use dts_common::error::{Code, Error, Result};
use tokio::sync::{mpsc, watch};

use super::claim::{CLAIM_STEP, Keys, Raised, raise};
use super::session::{Failure, Session, rewound};
use super::span::transaction;
use super::user::Door;
use super::{Applied, Checkpoint, Instruction, Phase};
use crate::limits::Throttle;
use crate::retry::Retry;
use crate::route::{Chunk, Commit};

/// Of a transaction; so many can wait.
const PIECES: usize = 4;

/// Writes what it is told, and confirms.
#[derive(Debug)]
pub struct Writer {
    door: Door,
    keys: Keys,
    session: Session,
    /// What stands on the target.
    record: Checkpoint,
    retry: Retry,
    pace: Throttle,
    copy: u64,
    applied: Applied,
}

impl Writer {
    pub(super) fn new(door: Door, keys: Keys, raised: Raised, retry: Retry, pace: Throttle) -> Self {
        let record = raised.now.clone();
        let session = Session::new(raised, keys.clone());
        let applied = Applied { checkpoint: Some(record.clone()), ..Applied::default() };
        let copy = record.copy;
        Self { door, keys, session, record, retry, pace, copy, applied }
    }

    /// Until the sender is gone and everything whole is written.
    pub async fn run(
        mut self,
        mut instructions: mpsc::Receiver<Instruction>,
        confirm: watch::Sender<Applied>,
    ) -> Result<()> {
        confirm.send_replace(self.applied.clone());
        let mut ahead = None;
        loop {
            let next = match ahead.take() {
                None => instructions.recv().await,
                ahead => ahead,
            };
            match next {
                None => return Ok(()),
                Some(Instruction::BeginCopy { copy }) => {
                    self.copy = copy;
                    self.applied.last = None;
                    self.write(&[], 0, None).await?;
                }
                Some(Instruction::Chunk(chunk)) if chunk.commit.is_none() => self.send_part(&chunk).await?,
                Some(Instruction::Chunk(chunk)) => {
                    let batch = self.gather(chunk, &mut instructions, &mut ahead);
                    self.write(&batch.bytes, batch.commands, batch.last.as_ref()).await?;
                    self.applied.commits += batch.commits;
                    self.applied.last = batch.last;
                }
            }
            self.applied.checkpoint = Some(self.record.clone());
            self.applied.piece = self.span() / PIECES;
            confirm.send_replace(self.applied.clone());
        }
    }

    /// How long a transaction may become by what waits behind its first chunk.
    fn span(&self) -> usize {
        transaction(self.session.round_trip())
    }

    /// The chunk, and those that wait behind it.
    fn gather(
        &self,
        chunk: Chunk,
        instructions: &mut mpsc::Receiver<Instruction>,
        ahead: &mut Option<Instruction>,
    ) -> Batch {
        let mut batch = Batch { bytes: chunk.bytes, commands: chunk.commands.into(), commits: 1, last: chunk.commit };
        let mut joined: Option<Vec<u8>> = None;
        while !self.session.is_open()
            && joined.as_ref().map_or(batch.bytes.len(), Vec::len) < self.span()
            && let Ok(next) = instructions.try_recv()
        {
            match next {
                Instruction::Chunk(Chunk { bytes, commands, commit: Some(commit), .. }) => {
                    joined.get_or_insert_with(|| batch.bytes.to_vec()).extend_from_slice(&bytes);
                    batch.commands += u64::from(commands);
                    batch.commits += 1;
                    batch.last = Some(commit);
                }
                other => {
                    *ahead = Some(other);
                    break;
                }
            }
        }
        if let Some(joined) = joined {
            batch.bytes = joined.into();
        }
        batch
    }

    /// The record that a commit leaves.
    fn next_record(&self, commit: Option<&Commit>) -> Checkpoint {
        let previous_offset = match &self.record.phase {
            Phase::Streaming { position, .. } => position.offset,
            _ => 0,
        };
        let phase = match commit.and_then(|commit| Some((commit, commit.position?))) {
            None => Phase::Copying,
            Some((commit, position)) => {
                Phase::Streaming { position, previous_offset, holds_field_expiry: commit.holds_field_expiry }
            }
        };
        Checkpoint {
            holder: None,
            epoch: self.record.epoch,
            sequence: self.record.sequence + 1,
            copy: self.copy,
            phase,
        }
    }

    /// Ends a transaction with these commands; repeated on a new connection if, and only if, the target does not have it.
    async fn write(&mut self, commands: &[u8], count: u64, commit: Option<&Commit>) -> Result<()> {
        loop {
            let next = self.next_record(commit);
            let in_parts = self.session.is_open();
            self.pace.ready().await;
            self.pace.spent(commands.len() as u64);
            match self.session.commit(&self.record, commands, count, &next).await {
                Ok(()) => {
                    self.record = next;
                    self.retry.succeeded();
                    return Ok(());
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Lost(error)) => {
                    if self.reclaim(error, &next).await? {
                        return Ok(());
                    }
                    if in_parts {
                        return Err(rewound("a transaction in parts was cut off"));
                    }
                }
            }
        }
    }

    /// A new connection; true if the record says that the lost transaction had happened.
    async fn reclaim(&mut self, error: Error, next: &Checkpoint) -> Result<bool> {
        let mut error = error;
        loop {
            self.retry.wait(error).await?;
            match raise(&self.door, &self.keys, self.record.epoch).await {
                // The record is gone: what that means is for the next attempt to find out.
                Err(again) if again.code == Code::TargetRewound => return Err(again),
                Err(again) => error = again,
                Ok(raised) => {
                    let was = |record| raised.before.as_ref().is_some_and(|found| is_or_was_claimed(found, record));
                    let (happened, same) = (was(next), was(&self.record));
                    if !happened && !same {
                        return Err(rewound("the target does not hold what it confirmed"));
                    }
                    self.record = raised.now.clone();
                    self.session = Session::new(raised, self.keys.clone());
                    return Ok(happened);
                }
            }
        }
    }

    /// Sends a chunk after which the transaction goes on.
    async fn send_part(&mut self, chunk: &Chunk) -> Result<()> {
        self.pace.ready().await;
        self.pace.spent(chunk.bytes.len() as u64);
        let sent = self.session.part(&self.record, &chunk.bytes, chunk.commands.into()).await;
        sent.map_err(|failure| match failure {
            Failure::Final(error) => error,
            Failure::Lost(error) => rewound(&format!("a transaction in parts was cut off: {}", error.message)),
        })
    }
}

/// What becomes one transaction.
struct Batch {
    bytes: Bytes,
    commands: u64,
    /// Of the driver.
    commits: u64,
    last: Option<Commit>,
}

/// True if `found` is `record`, or what claims of ours whose answer was lost made of it: each raises the sequence by two,
/// a transaction by one.
fn is_or_was_claimed(found: &Checkpoint, record: &Checkpoint) -> bool {
    let claims = found.sequence.checked_sub(record.sequence);
    claims.is_some_and(|raised| raised % CLAIM_STEP == 0)
        && Checkpoint { sequence: record.sequence, ..found.clone() } == *record
}

#[cfg(test)]
mod tests {
    use dts_common::ids::Epoch;

    use super::*;

    #[test]
    fn a_lost_claim_is_not_taken_for_a_transaction() {
        let record = |sequence| Checkpoint { holder: None, epoch: Epoch(1), sequence, copy: 1, phase: Phase::Copying };
        let (stands, next) = (record(10), record(11));
        for (found, happened, same) in
            [(record(10), false, true), (record(11), true, false), (record(12), false, true), (record(13), true, false)]
        {
            assert_eq!(is_or_was_claimed(&found, &next), happened, "{}", found.sequence);
            assert_eq!(is_or_was_claimed(&found, &stands), same, "{}", found.sequence);
        }
        assert!(!is_or_was_claimed(&record(9), &stands), "the target lost what it confirmed");
        assert!(!is_or_was_claimed(&Checkpoint { copy: 2, ..record(10) }, &stands));
    }
}
