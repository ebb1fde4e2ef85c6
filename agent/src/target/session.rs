//! A connection on which one transaction follows the other, a round trip each.
//!
//! Record and claim are watched and read behind the transaction before: so commands, the new record and EXEC go out together, and EXEC does
//! nothing if anybody has changed either since. Where the server may refuse MULTI, its answer is waited for first.

use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_common::ids::Epoch;
use dts_common::redis::resp;
use tokio::time::Instant;

use super::claim::{Keys, Raised, fenced, outclaimed};
use super::connection::{Connection, Replies};
use super::refusal::{self, is_the_scripts_own, named};
use super::reply::Reply;
use super::{Checkpoint, Phase, fence};

/// How an attempt at a transaction failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The connection is gone, or of no use: whether EXEC happened the record says.
    Lost(Error),
    /// Final.
    Final(Error),
}

/// What stands on the target, read after both are watched.
#[derive(Debug, Default)]
struct Stand {
    record: Option<Vec<u8>>,
    claim: Option<Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct Session {
    connection: Connection,
    keys: Keys,
    at_once: bool,
    /// `None`: nothing is watched.
    stand: Option<Stand>,
    /// Commands that were sent of the open transaction, if there is one.
    open: Option<u64>,
    round_trip: Duration,
}

/// What the target said to the end of a transaction.
struct Said {
    /// The first command that was not queued, and why.
    refused: Option<(u64, String)>,
    /// Something ran instead of being queued.
    ran: bool,
    exec: Exec,
    stand: Stand,
}

enum Exec {
    /// With the first element that is an error.
    Ran(Option<(u64, String)>),
    Nothing,
    Refused(String),
}

impl Session {
    pub(super) fn new(raised: Raised, keys: Keys) -> Self {
        let Raised { connection, multi_is_never_refused: at_once, .. } = raised;
        Self { connection, keys, at_once, stand: None, open: None, round_trip: Duration::ZERO }
    }

    /// True while a transaction is begun.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// How long the target took to answer when it had nothing else to do.
    pub(super) fn round_trip(&self) -> Duration {
        self.round_trip
    }

    /// Sends commands behind which the transaction goes on.
    pub(super) async fn part(
        &mut self,
        record: &Checkpoint,
        commands: &[u8],
        count: u64,
    ) -> std::result::Result<(), Failure> {
        if self.open.is_none() {
            self.prepare(record).await?;
            self.multi().await?;
        }
        let before = self.open.unwrap_or(0);
        self.open = Some(before + count);
        let mut refused = None;
        self.connection
            .exchange(commands, count, |index, reply| match reply {
                Reply::Error(text) if refused.is_none() => refused = Some((index, text)),
                _ => {}
            })
            .await
            .map_err(Failure::Lost)?;
        match refused {
            Some((index, text)) => Err(Failure::Final(self.not_queued(&text, commands, index))),
            None => Ok(()),
        }
    }

    /// Ends the transaction with these commands, or is one of them alone: `record` has to stand on the target, `next` does behind it.
    pub(super) async fn commit(
        &mut self,
        record: &Checkpoint,
        commands: &[u8],
        count: u64,
        next: &Checkpoint,
    ) -> std::result::Result<(), Failure> {
        let mut bytes = Vec::with_capacity(commands.len() + 512);
        let mut begins = false;
        if self.open.is_none() {
            self.prepare(record).await?;
            if self.at_once {
                resp::command(&mut bytes, &[b"MULTI"]);
                (begins, self.open) = (true, Some(0));
            } else {
                self.multi().await?;
            }
        }
        bytes.extend_from_slice(commands);
        resp::command(&mut bytes, &[b"SET", self.keys.record.as_bytes(), next.encode().as_bytes()]);
        resp::command(&mut bytes, &[b"EXEC"]);
        self.watch_and_read(&mut bytes);
        let before = self.open.take().unwrap_or(0);
        self.stand = None;
        let (sending, replies) = self.connection.sending(&bytes);
        let (sent, said) = tokio::join!(sending, said(replies, begins, before, count + 1, commands));
        let said = sent.and(said).map_err(Failure::Lost)?;
        self.judge_end(said, record, commands, before)
    }

    fn judge_end(
        &mut self,
        said: Said,
        record: &Checkpoint,
        commands: &[u8],
        before: u64,
    ) -> std::result::Result<(), Failure> {
        if said.ran {
            let message = "the target ran commands outside of their transaction";
            return Err(Failure::Final(Error::new(Code::Diverged, message)));
        }
        if let Some((index, text)) = said.refused {
            return Err(Failure::Final(self.not_queued(&text, commands, index)));
        }
        match said.exec {
            Exec::Ran(None) => {
                self.stand = Some(said.stand);
                Ok(())
            }
            Exec::Ran(Some((index, text))) => {
                Err(Failure::Final(refusal::of(commands, index.checked_sub(before), &text)))
            }
            Exec::Refused(text) => Err(Failure::Final(self.connection.refused(&text))),
            Exec::Nothing => {
                judge(&said.stand, record)?;
                // Somebody who has gone again, or a connection of ours that was slower than its successor.
                Err(Failure::Lost(Error::new(Code::TargetLost, "the record was touched while a transaction was open")))
            }
        }
    }

    /// Record and claim are watched, and allow us to write.
    async fn prepare(&mut self, record: &Checkpoint) -> std::result::Result<(), Failure> {
        if self.stand.is_none() {
            let mut bytes = Vec::new();
            self.watch_and_read(&mut bytes);
            let since = Instant::now();
            self.connection.send(&bytes).await.map_err(Failure::Lost)?;
            let stand = async {
                match self.connection.reply().await? {
                    Reply::Error(text) => Err(self.connection.refused(&text)),
                    _ => Ok(Stand {
                        record: found(self.connection.reply().await?),
                        claim: found(self.connection.reply().await?),
                    }),
                }
            };
            self.stand = Some(stand.await.map_err(Failure::Lost)?);
            self.round_trip = since.elapsed();
        }
        self.stand.as_ref().map_or(Ok(()), |stand| judge(stand, record))
    }

    fn watch_and_read(&self, bytes: &mut Vec<u8>) {
        let Keys { record, claim, .. } = &self.keys;
        let watch = [b"WATCH", record.as_bytes(), claim.as_bytes()];
        resp::command(bytes, if fence::is_off() { &[b"UNWATCH"] } else { &watch });
        resp::command(bytes, &[b"GET", record.as_bytes()]);
        resp::command(bytes, &[b"GET", claim.as_bytes()]);
    }

    async fn multi(&mut self) -> std::result::Result<(), Failure> {
        let mut bytes = Vec::new();
        resp::command(&mut bytes, &[b"MULTI"]);
        self.connection.send(&bytes).await.map_err(Failure::Lost)?;
        match self.connection.reply().await.map_err(Failure::Lost)? {
            Reply::Error(text) => Err(Failure::Final(self.connection.refused(&text))),
            _ => {
                (self.open, self.stand) = (Some(0), None);
                Ok(())
            }
        }
    }

    fn not_queued(&self, text: &str, commands: &[u8], index: u64) -> Error {
        let name = named(commands, Some(index)).name;
        let error = self.connection.refused(text);
        Error { message: format!("{} (for {name}; nothing of its transaction was applied)", error.message), ..error }
    }
}

/// Reads MULTI's answer if it `begins` here, `queued` commands, EXEC with what was queued `before`, and what stands there now.
async fn said(replies: &mut Replies, begins: bool, before: u64, queued: u64, commands: &[u8]) -> Result<Said> {
    let (mut refused, mut ran) = (None, false);
    if begins && let Reply::Error(text) = replies.next().await? {
        refused = Some((0, text));
    }
    for index in 0..queued {
        match replies.next().await? {
            Reply::Error(text) if refused.is_none() => refused = Some((index, text)),
            Reply::Error(_) => {}
            reply => ran |= reply != Reply::Line(b"QUEUED".to_vec()),
        }
    }
    let exec = match replies.next().await? {
        Reply::Array(Some(elements)) if elements as u64 == before + queued => {
            let mut failed = None;
            for index in 0..elements as u64 {
                if let Some(text) = replies.element().await?
                    && failed.is_none()
                    && !is_the_scripts_own(&text, || named(commands, index.checked_sub(before)).name)
                {
                    failed = Some((index, text));
                }
            }
            Exec::Ran(failed)
        }
        Reply::Array(None) | Reply::Bulk(None) => Exec::Nothing,
        Reply::Error(text) => Exec::Refused(text),
        _ => return Err(Error::new(Code::TargetLost, "the target answers EXEC with something else")),
    };
    let _watched = replies.next().await?;
    let stand = Stand { record: found(replies.next().await?), claim: found(replies.next().await?) };
    Ok(Said { refused, ran, exec, stand })
}

fn found(reply: Reply) -> Option<Vec<u8>> {
    match reply {
        Reply::Bulk(found) => found,
        _ => None,
    }
}

/// Whether what stands there allows us to write behind `ours`.
fn judge(stand: &Stand, ours: &Checkpoint) -> std::result::Result<(), Failure> {
    if fence::is_off() {
        return Ok(());
    }
    if let Some(error) = outclaimed(stand.claim.as_deref(), ours.epoch) {
        return Err(Failure::Final(error));
    }
    if stand.record.as_deref() == Some(ours.encode().as_bytes()) {
        return Ok(());
    }
    Err(Failure::Final(match stand.record.as_deref().map(Checkpoint::decode) {
        Some(Ok(record)) if record.epoch > ours.epoch => fenced(&record, ours.epoch),
        // The target lost its last second, or all: what it holds is for the record to say.
        Some(Ok(record)) if record.epoch == ours.epoch && record.sequence < ours.sequence => {
            rewound("the target does not hold what it confirmed")
        }
        Some(Ok(record)) if is_taken(&record, ours.epoch) => {
            Error::new(Code::SourceResharded, "another shard of the task has taken slots of this one over")
        }
        None => rewound("the record on the target is gone"),
        Some(_) => Error::new(Code::Fenced, "somebody else changed the record on the target"),
    }))
}

/// True if another shard of our task broke the record to take slots over.
fn is_taken(record: &Checkpoint, epoch: Epoch) -> bool {
    record.epoch == epoch && record.phase == Phase::Taken
}

pub(super) fn rewound(why: &str) -> Error {
    Error::new(Code::TargetRewound, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_there_says_why_nothing_may_be_written() {
        let ours = Checkpoint { holder: None, epoch: Epoch(7), sequence: 10, copy: 1, phase: Phase::Copying };
        let stand = |record: Option<Checkpoint>, claim: Option<&str>| Stand {
            record: record.map(|record| record.encode().into_bytes()),
            claim: claim.map(|text| text.as_bytes().to_vec()),
        };
        for (stand, expected) in [
            (stand(Some(ours.clone()), Some("7")), None),
            // Under a program that knew no claims, or flushed away by the data itself.
            (stand(Some(ours.clone()), None), None),
            (stand(Some(ours.clone()), Some("8")), Some(Code::Fenced)),
            (stand(Some(Checkpoint { epoch: Epoch(8), ..ours.clone() }), Some("7")), Some(Code::Fenced)),
            (stand(Some(Checkpoint { sequence: 9, ..ours.clone() }), Some("7")), Some(Code::TargetRewound)),
            (stand(Some(Checkpoint { sequence: 11, ..ours.clone() }), Some("7")), Some(Code::Fenced)),
            (
                stand(Some(Checkpoint { sequence: 12, phase: Phase::Taken, ..ours.clone() }), Some("7")),
                Some(Code::SourceResharded),
            ),
            (stand(None, Some("7")), Some(Code::TargetRewound)),
        ] {
            let found = judge(&stand, &ours).err().map(|failure| match failure {
                Failure::Lost(error) | Failure::Final(error) => error.code,
            });
            assert_eq!(found, expected, "{stand:?}");
        }
    }
}
