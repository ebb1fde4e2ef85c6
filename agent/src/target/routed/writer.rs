//! Writes batch after batch, at least once: the record is read before a batch and written behind it, and what was sent when a connection
//! broke is sent again. Which commands may have been applied twice by that is counted by name.

use std::sync::Arc;

use dts_common::error::{Code, Error, Result};
use dts_common::redis::resp;
use tokio::sync::{mpsc, watch};

use super::waves::{Step, Waves};
use super::{Job, ahead_key};
use crate::leash::unfenced;
use crate::retry::Retry;
use crate::route::Commit;
use crate::target::claim::fenced;
use crate::target::connection::Connection;
use crate::target::refusal::{diverged, is_the_scripts_own};
use crate::target::reply::Reply;
use crate::target::session::rewound;
use crate::target::{Applied, Checkpoint, Instruction, Notes, Phase, reserved_key};

/// A command on which the endpoint hangs up so often, and not on the question before it, is one that it does not know.
const HANG_UPS: u32 = 3;
/// What proxies say when a server behind them is away: nobody knows whether the command arrived.
const OUTAGES: [&str; 11] = [
    "Connection refused",
    "Connection timed out",
    "Connection reset",
    "Operation timed out",
    "Host is down",
    "No route to host",
    "Network is unreachable",
    "Broken pipe",
    "upstream failure",
    "no upstream host",
    "server connection",
];

/// Writes what it is told, and confirms.
#[derive(Debug)]
pub struct Writer {
    job: Job,
    position_key: String,
    ahead_key: String,
    /// `None`: given up, and no other yet.
    connection: Option<Connection>,
    /// What stands on the target.
    record: Checkpoint,
    /// The target may hold changes up to here, from an attempt before this one.
    ahead: u64,
    retry: Retry,
    copy: u64,
    /// Of the transaction that is not whole.
    gathered: Vec<u8>,
    notes: Notes,
    applied: Applied,
}

impl Writer {
    pub(super) fn new(job: Job, connection: Connection, record: Checkpoint, ahead: u64, retry: Retry) -> Self {
        let applied = Applied { checkpoint: Some(record.clone()), ..Applied::default() };
        let (position_key, ahead_key) = (reserved_key(&job.shard, "position"), ahead_key(&job.shard));
        let (copy, gathered, notes) = (record.copy, Vec::new(), Notes::default());
        let connection = Some(connection);
        Self { job, position_key, ahead_key, connection, record, ahead, retry, copy, gathered, notes, applied }
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
                Instruction::BeginCopy { copy } => self.begin_copy(copy).await?,
                Instruction::Chunk(chunk) => {
                    self.gathered.extend_from_slice(&chunk.bytes);
                    let Some(commit) = chunk.commit else { continue };
                    let batch = std::mem::take(&mut self.gathered);
                    self.write(&batch, &commit).await?;
                    self.applied.commits += 1;
                    self.applied.last = Some(commit);
                }
            }
            self.applied.checkpoint = Some(self.record.clone());
            if *self.applied.notes != self.notes {
                self.applied.notes = Arc::new(self.notes.clone());
            }
            confirm.send_replace(self.applied.clone());
        }
        Ok(())
    }

    /// What a copy before this one wrote and the source has no more could not be found: keys cannot be listed.
    async fn begin_copy(&mut self, copy: u64) -> Result<()> {
        if self.record.phase != Phase::Claimed {
            let message = "the source does not go on from where the target is, so everything would have to be copied again; and through an endpoint that routes, keys that are gone since cannot be found and deleted";
            return Err(Error::new(Code::CopyNotRepeatable, message));
        }
        self.copy = copy;
        self.applied.last = None;
        self.put_record(self.next_record(None)).await
    }

    fn next_record(&self, commit: Option<&Commit>) -> Checkpoint {
        let phase = match commit.and_then(|commit| commit.position) {
            None => Phase::Copying,
            Some(position) => {
                let previous_offset = self.position();
                Phase::Streaming { position, previous_offset, holds_field_expiry: false }
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

    /// The offset that the record names; 0: none.
    fn position(&self) -> u64 {
        match &self.record.phase {
            Phase::Streaming { position, .. } => position.offset,
            _ => 0,
        }
    }

    async fn write(&mut self, batch: &[u8], commit: &Commit) -> Result<()> {
        if commit.holds_field_expiry {
            let message = "expiries of hash fields cannot be given back exactly through an endpoint that routes";
            return Err(Error::new(Code::TargetUnsupported, message));
        }
        let Waves { waves, left_out, .. } = Waves::of(batch, self.job.skip)?;
        for name in left_out {
            *self.notes.skipped.entry(name).or_default() += 1;
        }
        // Everything before this may be there already.
        let again = self.position() < self.ahead;
        if !waves.is_empty() {
            self.announce(commit).await?;
        }
        for wave in waves {
            self.write_wave(wave, again).await?;
        }
        let next = self.next_record(Some(commit));
        self.put_record(next).await?;
        self.retry.succeeded();
        Ok(())
    }

    /// Looks whether the shard is still ours, and says how far the target may be brought now.
    async fn announce(&mut self, commit: &Commit) -> Result<()> {
        let offset = commit.position.map_or(0, |position| position.offset).max(self.ahead).to_string();
        let mut bytes = Vec::new();
        resp::command(&mut bytes, &[b"GET", self.position_key.as_bytes()]);
        resp::command(&mut bytes, &[b"SET", self.ahead_key.as_bytes(), offset.as_bytes()]);
        let answers = self.ask(&bytes, 2).await?;
        self.is_ours(answers.first())
    }

    async fn put_record(&mut self, record: Checkpoint) -> Result<()> {
        let mut bytes = Vec::new();
        resp::command(&mut bytes, &[b"GET", self.position_key.as_bytes()]);
        let answers = self.ask(&bytes, 1).await?;
        self.is_ours(answers.first())?;
        bytes.clear();
        resp::command(&mut bytes, &[b"SET", self.position_key.as_bytes(), record.encode().as_bytes()]);
        self.ask(&bytes, 1).await?;
        self.record = record;
        Ok(())
    }

    fn is_ours(&self, answer: Option<&Reply>) -> Result<()> {
        let Some(Reply::Bulk(found)) = answer else {
            return Err(rewound("the endpoint answers GET with something else"));
        };
        match found.as_deref().map(Checkpoint::decode) {
            Some(Ok(record)) if record == self.record => Ok(()),
            Some(Ok(record)) if record.epoch > self.record.epoch => Err(fenced(&record, self.record.epoch)),
            Some(Ok(record)) if record.epoch == self.record.epoch && record.sequence < self.record.sequence => {
                Err(rewound("the target does not hold what it confirmed"))
            }
            None => Err(rewound("the record on the target is gone")),
            Some(_) => Err(Error::new(Code::Fenced, "somebody else changed the record on the target")),
        }
    }

    /// Questions of ours, and writes of our own keys: asked again where the connection breaks.
    async fn ask(&mut self, bytes: &[u8], count: u64) -> Result<Vec<Reply>> {
        loop {
            let mut answers = Vec::new();
            let asked = match &mut self.connection {
                None => Err(no_connection()),
                Some(connection) => tokio::select! {
                    biased;
                    () = self.job.leash.over() => Err(unfenced()),
                    asked = connection.exchange(bytes, count, |_, reply| answers.push(reply)) => asked,
                },
            };
            let refused = answers.iter().find_map(|answer| match answer {
                Reply::Error(text) => Some(text.clone()),
                _ => None,
            });
            let error = match (asked, refused) {
                (Ok(()), None) => return Ok(answers),
                (Ok(()), Some(text)) if is_outage(&text) => away(&text),
                (Ok(()), Some(text)) => self.refusal(&text),
                (Err(error), _) => error,
            };
            self.reconnect(error).await?;
        }
    }

    /// A connection that answers, under a record that nobody has claimed after us; waits for it.
    async fn reconnect(&mut self, error: Error) -> Result<()> {
        // What it has not sent it does not send any more.
        self.connection = None;
        let mut error = error;
        loop {
            match error.code {
                Code::CoordinatorLost => self.retry.until(error, self.job.leash.slack()).await?,
                _ => self.retry.wait(error).await?,
            }
            let opened = async {
                let mut connection = Connection::open(&self.job.endpoint).await?;
                let found = connection.call(&[b"GET", self.position_key.as_bytes()]).await?;
                Ok((connection, found))
            };
            match opened.await {
                Ok((connection, found)) => {
                    not_claimed_after(&found, &self.record)?;
                    self.connection = Some(connection);
                    return Ok(());
                }
                Err(again) => error = again,
            }
        }
    }

    fn refusal(&self, text: &str) -> Error {
        self.connection.as_ref().map_or_else(no_connection, |connection| connection.refused(text))
    }

    /// Until every command of it is answered.
    async fn write_wave(&mut self, mut left: Vec<Step>, again: bool) -> Result<()> {
        if again {
            left.iter_mut().for_each(|step| self.notes.may_be_twice(step));
        }
        let (mut alone, mut hung_up) = (false, 0);
        while !left.is_empty() {
            let now = if alone { 1 } else { left.len() };
            let (answers, lost) = self.send(&left[..now]).await;
            let answered = answers.len();
            let mut later = left.split_off(answered);
            let mut trouble = lost;
            for (mut step, answer) in left.drain(..).zip(answers) {
                let Some(text) = answer else { continue };
                if is_outage(&text) {
                    self.notes.may_be_twice(&mut step);
                    trouble.get_or_insert_with(|| away(&text));
                    later.push(step);
                } else if let Some(error) = self.judge(&step, &text, again)? {
                    trouble.get_or_insert(error);
                    later.push(step);
                }
            }
            for step in later.iter_mut().take(now - answered) {
                self.notes.may_be_twice(step);
            }
            left = later;
            let Some(error) = trouble else { continue };
            if alone && answered == 0 && error.code == Code::TargetLost {
                hung_up += 1;
                if hung_up == HANG_UPS {
                    let name = left.first().map(|step| step.name.clone()).unwrap_or_default();
                    let message = format!("the endpoint hangs up on {name}: it does not know the command");
                    return Err(Error::new(Code::TargetUnsupported, message));
                }
            } else {
                hung_up = 0;
            }
            alone = true;
            self.reconnect(error).await?;
        }
        Ok(())
    }

    /// Sends these; gives the answers that came, of each the error that it is, and why no more came.
    async fn send(&mut self, steps: &[Step]) -> (Vec<Option<String>>, Option<Error>) {
        let bytes: Vec<u8> = steps.iter().flat_map(|step| step.bytes.iter().copied()).collect();
        self.job.pace.ready().await;
        self.job.pace.spent(bytes.len() as u64);
        let mut answers = Vec::with_capacity(steps.len());
        let Some(connection) = &mut self.connection else { return (answers, Some(no_connection())) };
        let (sending, replies) = connection.sending(&bytes);
        let reading = async {
            for _ in steps {
                answers.push(replies.element().await?);
            }
            Ok(())
        };
        let done: Result<()> = tokio::select! {
            biased;
            () = self.job.leash.over() => Err(unfenced()),
            (sent, read) = async { tokio::join!(sending, reading) } => { let read: Result<()> = read; read.and(sent) }
        };
        (answers, done.err())
    }

    /// What an error reply means: nothing, something to wait for, or the end.
    fn judge(&self, step: &Step, text: &str, again: bool) -> Result<Option<Error>> {
        if is_the_scripts_own(text, || step.name.clone()) {
            return Ok(None);
        }
        let error = self.refusal(text);
        if error.code.retry() {
            return Ok(Some(error));
        }
        if error.code != Code::TargetUnsupported {
            return Err(error);
        }
        if text.contains("unknown command") {
            let message = format!("a server behind the endpoint does not know {}", step.name);
            return Err(Error::new(Code::TargetUnsupported, message));
        }
        // Applied to what is later than it: a key may be of another type by now, or gone.
        if again || step.is_at_risk {
            return Ok(None);
        }
        Err(diverged(&step.name, &step.key, None, text))
    }
}

impl Notes {
    fn may_be_twice(&mut self, step: &mut Step) {
        if !step.is_safe && !step.is_at_risk {
            *self.at_risk.entry(step.name.clone()).or_default() += 1;
        }
        step.is_at_risk = true;
    }
}

/// An error for a record of a later epoch.
fn not_claimed_after(found: &Reply, ours: &Checkpoint) -> Result<()> {
    let Reply::Bulk(Some(found)) = found else { return Ok(()) };
    match Checkpoint::decode(found) {
        Ok(found) if found.epoch > ours.epoch => Err(fenced(&found, ours.epoch)),
        _ => Ok(()),
    }
}

fn no_connection() -> Error {
    Error::new(Code::TargetLost, "there is no connection to the endpoint")
}

fn is_outage(text: &str) -> bool {
    text == "ERR unknown" || OUTAGES.iter().any(|words| text.contains(words))
}

fn away(text: &str) -> Error {
    Error::new(Code::TargetBusy, format!("a server behind the endpoint is away: {text}"))
}
