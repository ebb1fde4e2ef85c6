//! One transaction after the other, each with the position inside.
//!
//! `WATCH p`, `GET p`, `MULTI`; once their answers are read and GET's is, byte for byte, the record that we wrote before,
//! commands and `SET p`; once all of these are queued, EXEC. So a second writer, a repeated batch and a
//! process that was frozen are refused by the target. Every element of the answer to EXEC is read.

use dts_common::error::{Code, Error, Result};
use dts_common::redis::resp;
use tokio::sync::{mpsc, watch};

use super::claim::{CLAIM_STEP, Raised, fenced, raise};
use super::connection::Connection;
use super::refusal::{self, is_the_scripts_own, named};
use super::reply::Reply;
use super::user::Door;
use super::{Applied, Checkpoint, Instruction, Phase, fence};
use crate::limits::Throttle;
use crate::retry::Retry;
use crate::route::{Chunk, Commit};

/// Writes what it is told, and confirms.
#[derive(Debug)]
pub struct Writer {
    endpoint: Door,
    key: String,
    connection: Connection,
    /// What stands on the target.
    record: Checkpoint,
    retry: Retry,
    pace: Throttle,
    copy: u64,
    /// Commands that were sent of the open transaction, if it has more than one chunk.
    open: Option<u64>,
    applied: Applied,
}

/// How an attempt at a transaction failed.
enum Failure {
    /// The connection is gone: nobody knows whether EXEC happened.
    Lost(Error),
    /// Final.
    Final(Error),
}

impl Writer {
    pub(super) fn new(
        endpoint: Door,
        key: String,
        connection: Connection,
        record: Checkpoint,
        retry: Retry,
        pace: Throttle,
    ) -> Self {
        let applied = Applied { checkpoint: Some(record.clone()), ..Applied::default() };
        let copy = record.copy;
        Self { endpoint, key, connection, record, retry, pace, copy, open: None, applied }
    }

    /// Until the sender is gone and everything whole is written.
    pub async fn run(
        mut self,
        mut instructions: mpsc::Receiver<Instruction>,
        confirm: watch::Sender<Applied>,
    ) -> Result<()> {
        confirm.send_replace(self.applied.clone());
        while let Some(instruction) = instructions.recv().await {
            match instruction {
                Instruction::BeginCopy { copy } => {
                    self.copy = copy;
                    self.applied.last = None;
                    let chunk = Chunk { bytes: bytes::Bytes::new(), commands: 0, commit: None, marks: Vec::new() };
                    self.write(&chunk, None).await?;
                }
                Instruction::Chunk(chunk) => match &chunk.commit {
                    None => self.send_part(&chunk).await?,
                    Some(commit) => {
                        self.write(&chunk, Some(commit)).await?;
                        self.applied.commits += 1;
                        self.applied.last = Some(commit.clone());
                    }
                },
            }
            self.applied.checkpoint = Some(self.record.clone());
            confirm.send_replace(self.applied.clone());
        }
        Ok(())
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

    /// Ends a transaction with this chunk; repeated on a new connection if, and only if, the target does not have it.
    async fn write(&mut self, chunk: &Chunk, commit: Option<&Commit>) -> Result<()> {
        loop {
            let next = self.next_record(commit);
            let in_parts = self.open.is_some();
            match self.transact(chunk, &next).await {
                Ok(()) => {
                    self.record = next;
                    self.open = None;
                    self.retry.succeeded();
                    return Ok(());
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Lost(error)) => {
                    let happened = self.reclaim(error, &next).await?;
                    if happened {
                        self.open = None;
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
            match raise(&self.endpoint, &self.key, self.record.epoch).await {
                // The record is gone: what that means is for the next attempt to find out.
                Err(again) if again.code == Code::TargetRewound => return Err(again),
                Err(again) => error = again,
                Ok(Raised { connection, before, now }) => {
                    let happened = before.as_ref().is_some_and(|found| is_or_was_claimed(found, next));
                    let same = before.as_ref().is_some_and(|found| is_or_was_claimed(found, &self.record));
                    if !happened && !same {
                        return Err(rewound("the target does not hold what it confirmed"));
                    }
                    self.connection = connection;
                    self.record = now;
                    return Ok(happened);
                }
            }
        }
    }

    /// Sends a chunk after which the transaction goes on.
    async fn send_part(&mut self, chunk: &Chunk) -> Result<()> {
        let sent = match self.open {
            Some(_) => self.queue(&chunk.bytes, u64::from(chunk.commands)).await,
            None => {
                let begun = self.begin(&chunk.bytes, u64::from(chunk.commands)).await;
                self.open = Some(0);
                begun
            }
        };
        if let Some(open) = &mut self.open {
            *open += u64::from(chunk.commands);
        }
        sent.map_err(|failure| match failure {
            Failure::Final(error) => error,
            Failure::Lost(error) => rewound(&format!("a transaction in parts was cut off: {}", error.message)),
        })
    }

    async fn transact(&mut self, chunk: &Chunk, next: &Checkpoint) -> std::result::Result<(), Failure> {
        let mut bytes = Vec::with_capacity(chunk.bytes.len() + 256);
        bytes.extend_from_slice(&chunk.bytes);
        resp::command(&mut bytes, &[b"SET", self.key.as_bytes(), next.encode().as_bytes()]);
        let commands = u64::from(chunk.commands) + 1;
        let before = match self.open {
            Some(before) => {
                self.queue(&bytes, commands).await?;
                before
            }
            None => {
                self.begin(&bytes, commands).await?;
                0
            }
        };
        self.execute(before + commands, &chunk.bytes, before).await
    }

    /// Begins a transaction: `GET` has to answer with our record.
    async fn begin(&mut self, commands: &[u8], count: u64) -> std::result::Result<(), Failure> {
        let (mut bytes, watch) = (Vec::new(), [&b"WATCH"[..], self.key.as_bytes()]);
        resp::command(&mut bytes, if fence::is_off() { &[b"UNWATCH"] } else { &watch });
        resp::command(&mut bytes, &[b"GET", self.key.as_bytes()]);
        resp::command(&mut bytes, &[b"MULTI"]);
        let (mut found, mut refused) = (None, None);
        self.connection
            .exchange(&bytes, 3, |index, reply| match (index, reply) {
                (1, Reply::Bulk(record)) => found = record,
                (_, Reply::Error(text)) if refused.is_none() => refused = Some(text),
                _ => {}
            })
            .await
            .map_err(Failure::Lost)?;
        // Up to 5.0 a busy server refuses MULTI too: what is sent behind it would run by itself.
        if let Some(text) = refused {
            return Err(Failure::Final(self.connection.refused(&text)));
        }
        if found.as_deref() == Some(self.record.encode().as_bytes()) || fence::is_off() {
            return self.queue(commands, count).await;
        }
        Err(match found.as_deref().map(Checkpoint::decode) {
            Some(Ok(record)) if record.epoch > self.record.epoch => Failure::Final(fenced(&record, self.record.epoch)),
            // The target lost its last second, or all: what it holds is for the record to say.
            Some(Ok(record)) if record.epoch == self.record.epoch && record.sequence < self.record.sequence => {
                Failure::Final(rewound("the target does not hold what it confirmed"))
            }
            Some(Ok(record)) if is_taken(&record, self.record.epoch) => Failure::Final(taken()),
            None => Failure::Final(rewound("the record on the target is gone")),
            Some(_) => Failure::Final(Error::new(Code::Fenced, "somebody else changed the record on the target")),
        })
    }

    async fn queue(&mut self, commands: &[u8], count: u64) -> std::result::Result<(), Failure> {
        self.pace.ready().await;
        self.pace.spent(commands.len() as u64);
        let mut refused = None;
        self.connection
            .exchange(commands, count, |index, reply| match reply {
                Reply::Error(text) if refused.is_none() => refused = Some((index, text)),
                _ => {}
            })
            .await
            .map_err(Failure::Lost)?;
        match refused {
            Some((index, text)) => Err(Failure::Final(self.not_queued(&text, commands, Some(index)))),
            None => Ok(()),
        }
    }

    /// EXEC, and every element of its answer.
    async fn execute(&mut self, expected: u64, last_chunk: &[u8], before: u64) -> std::result::Result<(), Failure> {
        let mut exec = Vec::new();
        resp::command(&mut exec, &[b"EXEC"]);
        self.connection.send(&exec).await.map_err(Failure::Lost)?;
        let elements = match self.connection.reply().await.map_err(Failure::Lost)? {
            Reply::Array(Some(elements)) if elements as u64 == expected => expected,
            Reply::Array(None) | Reply::Bulk(None) => return Err(self.broken().await),
            Reply::Error(text) => return Err(Failure::Final(self.connection.refused(&text))),
            _ => {
                return Err(Failure::Lost(Error::new(Code::TargetLost, "the target answers EXEC with something else")));
            }
        };
        let mut failed = None;
        for index in 0..elements {
            if let Some(text) = self.connection.element().await.map_err(Failure::Lost)?
                && failed.is_none()
                && !is_the_scripts_own(&text, || named(last_chunk, index.checked_sub(before)).name)
            {
                failed = Some((index, text));
            }
        }
        match failed {
            None => Ok(()),
            Some((index, text)) => Err(Failure::Final(refusal::of(last_chunk, index.checked_sub(before), &text))),
        }
    }

    /// Why a transaction did not happen though nothing was wrong with it.
    async fn broken(&mut self) -> Failure {
        let found = match self.connection.call(&[b"GET", self.key.as_bytes()]).await {
            Ok(Reply::Bulk(Some(record))) => Checkpoint::decode(&record),
            Ok(_) => return Failure::Final(rewound("the record on the target is gone")),
            Err(error) => return Failure::Lost(error),
        };
        Failure::Final(match found {
            Ok(record) if is_taken(&record, self.record.epoch) => taken(),
            _ => Error::new(Code::Fenced, "somebody else changed the record on the target"),
        })
    }

    fn not_queued(&self, text: &str, commands: &[u8], index: Option<u64>) -> Error {
        let name = named(commands, index).name;
        let error = self.connection.refused(text);
        Error { message: format!("{} (for {name}; nothing of its transaction was applied)", error.message), ..error }
    }
}

/// True if `found` is `record`, or what claims of ours whose answer was lost made of it: each raises the sequence by two,
/// a transaction by one.
fn is_or_was_claimed(found: &Checkpoint, record: &Checkpoint) -> bool {
    let claims = found.sequence.checked_sub(record.sequence);
    claims.is_some_and(|raised| raised % CLAIM_STEP == 0)
        && Checkpoint { sequence: record.sequence, ..found.clone() } == *record
}

/// True if another shard of our task broke the record to take slots over.
fn is_taken(record: &Checkpoint, epoch: dts_common::ids::Epoch) -> bool {
    record.epoch == epoch && record.phase == Phase::Taken
}

fn taken() -> Error {
    Error::new(Code::SourceResharded, "another shard of the task has taken slots of this one over")
}

pub(super) fn rewound(why: &str) -> Error {
    Error::new(Code::TargetRewound, why)
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
