//! A connection to the source up to the point where data flows. Each command waits for its reply: a PSYNC with
//! replies still pending is refused (replication.c, `syncCommand`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use dts_common::error::{Code, Result};
use dts_common::position::ReplicationId;
use secrecy::ExposeSecret as _;
use tokio::sync::watch;

use crate::client::{REPLY_TIMEOUT, dial};
use crate::endpoint::{Endpoint, Side};

use super::answer::{self, Answer, garbage, refused};
use super::beat::Beat;
use super::input::Input;
use super::payload::Payload;

/// How long the source may be silent from PSYNC to the end of the snapshot: a diskless one sends no newlines from
/// the fork on, and a fork can take long.
pub(super) const SNAPSHOT_SILENCE: Duration = Duration::from_secs(300);
/// The newest Valkey whose RDB is understood; Valkey 9 chooses the RDB's version by this (`replicaRdbVersion`).
const VERSION: &[u8] = b"9.1.0";

#[derive(Debug)]
pub(super) struct Link {
    pub(super) input: Input,
    pub(super) beat: Beat,
    /// The source knows REPLCONF. One that does not would answer each ACK with an error in the stream.
    pub(super) replconf: bool,
    /// The source's clock minus ours, ms.
    skew: i64,
}

impl Link {
    /// Connects and introduces itself, without a listening-port: nobody shall come to us.
    pub(super) async fn connect(endpoint: &Endpoint, acknowledged: watch::Receiver<u64>) -> Result<Self> {
        let (read, write) = dial(endpoint, Side::Source).await?.into_split();
        let mut link = Self { input: Input::new(read), beat: Beat::new(write, acknowledged), replconf: true, skew: 0 };
        link.log_in(endpoint).await?;
        link.ping().await?;
        link.introduce(&[b"capa", b"eof"]).await?;
        link.introduce(&[b"capa", b"psync2"]).await?;
        link.introduce(&[b"version", VERSION]).await?;
        link.ask_time().await?;
        Ok(link)
    }

    /// Asks for the history after an offset, or for everything.
    pub(super) async fn psync(&mut self, after: Option<(ReplicationId, u64)>) -> Result<Answer> {
        match after {
            Some((history, offset)) => {
                let next = offset.saturating_add(1).to_string();
                self.beat.command(&[b"PSYNC", history.as_str().as_bytes(), next.as_bytes()]).await?;
            }
            None => self.beat.command(&[b"PSYNC", b"?", b"-1"]).await?,
        }
        self.input.listen();
        answer::psync(&self.input.line(SNAPSHOT_SILENCE).await?)
    }

    /// Asks for everything the old way.
    pub(super) async fn sync(&mut self) -> Result<()> {
        self.beat.command(&[b"SYNC"]).await
    }

    /// Waits for the snapshot to begin.
    pub(super) async fn payload(&mut self) -> Result<Payload> {
        self.input.listen();
        answer::payload(&self.input.line(SNAPSHOT_SILENCE).await?)
    }

    /// The source's clock, ms since 1970.
    pub(super) fn source_ms(&self) -> u64 {
        now_ms().saturating_add_signed(self.skew)
    }

    async fn ask(&mut self, command: &[&[u8]]) -> Result<BytesMut> {
        self.beat.command(command).await?;
        self.input.listen();
        self.input.line(REPLY_TIMEOUT).await
    }

    async fn log_in(&mut self, endpoint: &Endpoint) -> Result<()> {
        let Some(password) = &endpoint.password else { return Ok(()) };
        let password = password.expose_secret().as_bytes();
        let reply = match &endpoint.username {
            Some(user) => self.ask(&[b"AUTH", user.as_bytes(), password]).await?,
            None => self.ask(&[b"AUTH", password]).await?,
        };
        expect_status("AUTH", &reply)
    }

    async fn ping(&mut self) -> Result<()> {
        let reply = self.ask(&[b"PING"]).await?;
        match expect_status("PING", &reply) {
            // The right to PING is not needed.
            Err(error) if error.code == Code::SourcePermission => Ok(()),
            outcome => outcome,
        }
    }

    /// One option per command: a server stops at the first it does not know.
    async fn introduce(&mut self, option: &[&[u8]; 2]) -> Result<()> {
        if !self.replconf {
            return Ok(());
        }
        let reply = self.ask(&[b"REPLCONF", option[0], option[1]]).await?;
        match reply.split_first() {
            Some((b'+', _)) => Ok(()),
            Some((b'-', error)) => {
                let error = String::from_utf8_lossy(error);
                self.replconf = !answer::unknown_command(&error);
                let refusal = refused("REPLCONF", &error);
                // Any other refusal is of an option that this version does not know.
                if error.starts_with("ERR ") && refusal.code == Code::SourceProtocol { Ok(()) } else { Err(refusal) }
            }
            _ => Err(garbage("REPLCONF", &reply)),
        }
    }

    async fn ask_time(&mut self) -> Result<()> {
        let asked = now_ms();
        let reply = self.ask(&[b"TIME"]).await?;
        match reply.first() {
            Some(b'*') => {}
            Some(b'-') => return Ok(()),
            _ => return Err(garbage("TIME", &reply)),
        }
        let seconds = self.number().await?;
        let micros = self.number().await?;
        let theirs = seconds.saturating_mul(1000).saturating_add(micros / 1000);
        let ours = asked.midpoint(now_ms());
        self.skew = i64::try_from(i128::from(theirs) - i128::from(ours)).unwrap_or_default();
        Ok(())
    }

    /// A bulk string that is a number.
    async fn number(&mut self) -> Result<u64> {
        let header = self.input.line(REPLY_TIMEOUT).await?;
        let digits = self.input.line(REPLY_TIMEOUT).await?;
        let number = std::str::from_utf8(&digits).ok().and_then(|digits| digits.parse().ok());
        number.filter(|_| header.starts_with(b"$")).ok_or_else(|| garbage("TIME", &digits))
    }
}

fn expect_status(command: &str, reply: &[u8]) -> Result<()> {
    match reply.split_first() {
        Some((b'+', _)) => Ok(()),
        Some((b'-', error)) => Err(refused(command, &String::from_utf8_lossy(error))),
        _ => Err(garbage(command, reply)),
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
