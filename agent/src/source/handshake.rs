//! From a socket to the source's answer to PSYNC or SYNC. Every reply is read before the next question is sent: a source
//! refuses a PSYNC that arrives while answers are pending (`syncCommand`).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use dts_common::error::{Code, Error, Result};
use dts_common::position::ReplicationId;
use dts_common::redis::resp;
use secrecy::ExposeSecret as _;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::Wanted;
use crate::client::REPLY_TIMEOUT;
use crate::dial::{self, Stream, dial};
use crate::endpoint::{Endpoint, Side};

/// A source that prepares a snapshot sends newlines; a diskless one may be silent while it forks and waits.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(300);
const LONGEST_LINE: usize = 64 << 10;
const READ: usize = 256 << 10;
/// Room for less than this is not worth a read. Records share what was allocated for a read: as long as there is room in
/// it nothing new is allocated, so that small reads do not hold much more memory than they weigh.
const LEAST_READ: usize = 32 << 10;
/// Without a port we are shown with port 0, which sentinels take for a replica that is down, and clients for one to try. Every version takes
/// this one, and no sentinel makes a replica of it.
const NO_PORT: &[u8] = b"-1";
/// The newest Valkey whose snapshots we read: without it Valkey 9 writes a format that cannot hold field expiries.
const ANNOUNCED_VERSION: &[u8] = b"9.1.0";

/// A socket with what was read from it.
pub(super) struct Wire {
    stream: Stream,
    pub(super) buffer: BytesMut,
    name: String,
}

/// How the source goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A snapshot follows, then the history from the offset.
    Full { history: ReplicationId, offset: u64 },
    /// The history goes on, perhaps under a new name.
    Continue { renamed: Option<ReplicationId> },
    /// A snapshot follows, of a source that speaks SYNC only.
    Plain,
}

impl Wire {
    pub(super) async fn connect(endpoint: &Endpoint) -> Result<Self> {
        let stream = dial(endpoint, Side::Source).await?;
        Ok(Self { stream, buffer: BytesMut::with_capacity(READ), name: endpoint.to_string() })
    }

    /// Logs in, says what we understand, and asks the time: how far its clock is ahead of ours, in ms.
    pub(super) async fn introduce(&mut self, endpoint: &Endpoint) -> Result<i64> {
        if let Some(password) = &endpoint.password {
            let password = password.expose_secret().as_bytes();
            let reply = match &endpoint.username {
                Some(user) => self.ask(&[b"AUTH", user.as_bytes(), password]).await?,
                None => self.ask(&[b"AUTH", password]).await?,
            };
            self.accept("AUTH", &reply)?;
        }
        let reply = self.ask(&[b"PING"]).await?;
        self.accept("PING", &reply)?;
        // One option a command: an unknown one stops the loop over the rest. Old sources know none of them.
        for option in [
            [&b"listening-port"[..], NO_PORT],
            [b"capa", b"eof"],
            [b"capa", b"psync2"],
            [b"version", ANNOUNCED_VERSION],
        ] {
            let reply = self.ask(&[b"REPLCONF", option[0], option[1]]).await?;
            if reply.starts_with("-NOPERM") || reply.starts_with("-NOAUTH") {
                self.accept("REPLCONF", &reply)?;
            }
        }
        let before = now_ms();
        Ok(self.time().await?.map_or(0, |theirs| theirs - i64::midpoint(before, now_ms())))
    }

    async fn time(&mut self) -> Result<Option<i64>> {
        let head = self.ask(&[b"TIME"]).await?;
        if head != "*2" {
            return Ok(None);
        }
        let mut numbers = [0; 2];
        for number in &mut numbers {
            self.line(REPLY_TIMEOUT).await?;
            *number = self.line(REPLY_TIMEOUT).await?.parse().unwrap_or(0);
        }
        Ok(Some(numbers[0] * 1000 + numbers[1] / 1000))
    }

    /// PSYNC, or SYNC where PSYNC is not known.
    pub(super) async fn replicate(&mut self, wanted: Option<Wanted>) -> Result<Answer> {
        let (id, offset) = match wanted {
            Some(Wanted { history, offset }) => (history.to_string(), (offset + 1).to_string()),
            None => ("?".to_owned(), "-1".to_owned()),
        };
        self.send(&[b"PSYNC", id.as_bytes(), offset.as_bytes()]).await?;
        let reply = self.line(SNAPSHOT_PATIENCE).await?;
        // Renamed, ancient, or not granted: SYNC may still be.
        if reply.starts_with("-ERR unknown command") || reply.starts_with("-NOPERM") {
            self.send(&[b"SYNC"]).await?;
            return Ok(Answer::Plain);
        }
        self.accept("PSYNC", &reply)?;
        answer(&reply).ok_or_else(|| {
            Error::new(
                Code::SourceProtocol,
                format!("{} answers PSYNC with something that is not a Redis's answer", self.name),
            )
        })
    }

    /// The head of the payload: `$length` or `$EOF:mark`.
    pub(super) async fn payload_head(&mut self) -> Result<String> {
        let head = self.line(SNAPSHOT_PATIENCE).await.map_err(|lost| match lost.code {
            // A source whose BGSAVE fails hangs up without a word.
            Code::SourceLost => Error::new(
                Code::SourceBusy,
                format!("{} before its snapshot: its BGSAVE may have failed (rdb_last_bgsave_status)", lost.message),
            ),
            _ => lost,
        })?;
        if head.starts_with("-ERR unknown command") {
            return Err(Error::new(Code::SourceNoReplication, format!("{} knows neither PSYNC nor SYNC", self.name)));
        }
        self.accept("SYNC", &head)?;
        Ok(head)
    }

    async fn ask(&mut self, command: &[&[u8]]) -> Result<String> {
        self.send(command).await?;
        self.line(REPLY_TIMEOUT).await
    }

    async fn send(&mut self, command: &[&[u8]]) -> Result<()> {
        let mut bytes = Vec::new();
        resp::command(&mut bytes, command);
        self.write(&bytes).await
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<()> {
        match timeout(REPLY_TIMEOUT, dial::send(&mut self.stream, bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(dial::broken(Side::Source, &self.name, &error)),
            Err(_) => Err(self.lost("it takes no bytes")),
        }
    }

    /// Reads what is there into the buffer. Dropping the future loses nothing.
    pub(super) async fn fill(&mut self) -> Result<()> {
        if self.buffer.capacity() - self.buffer.len() < LEAST_READ {
            self.buffer.reserve(READ);
        }
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(self.lost("it closed the connection")),
            Ok(_) => Ok(()),
            Err(error) => Err(dial::broken(Side::Source, &self.name, &error)),
        }
    }

    /// The next line that is not empty: bare newlines are keep-alives.
    async fn line(&mut self, patience: Duration) -> Result<String> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.buffer) {
                let line = self.buffer.split_to(end + 1);
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if !line.is_empty() {
                    return Ok(line);
                }
                continue;
            }
            if self.buffer.len() > LONGEST_LINE {
                return Err(Error::new(Code::SourceProtocol, format!("{} does not answer like a Redis", self.name)));
            }
            timeout(patience, self.fill())
                .await
                .map_err(|_| self.lost(&format!("silent for {} s", patience.as_secs())))??;
        }
    }

    fn accept(&self, command: &str, reply: &str) -> Result<()> {
        let Some(error) = reply.strip_prefix('-') else { return Ok(()) };
        let code = match error {
            _ if command == "PING" && error.starts_with("NOAUTH") => Code::SourceAuth,
            _ => Side::Source.refusal(error),
        };
        Err(Error::new(code, format!("{} refuses {command}: {error}", self.name)))
    }

    pub(super) fn lost(&self, why: &str) -> Error {
        Error::new(Code::SourceLost, format!("lost {}: {why}", self.name))
    }
}

fn answer(reply: &str) -> Option<Answer> {
    let mut words = reply.split_ascii_whitespace();
    match words.next()? {
        "+FULLRESYNC" => {
            Some(Answer::Full { history: words.next()?.parse().ok()?, offset: words.next()?.parse().ok()? })
        }
        "+CONTINUE" => Some(Answer::Continue { renamed: words.next().map(str::parse).transpose().ok()? }),
        _ => None,
    }
}

pub(super) fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_to_psync_is_understood_and_garbage_is_not() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        let history = id.parse().unwrap();
        assert_eq!(answer(&format!("+FULLRESYNC {id} 12")), Some(Answer::Full { history, offset: 12 }));
        assert_eq!(answer("+CONTINUE"), Some(Answer::Continue { renamed: None }));
        assert_eq!(answer(&format!("+CONTINUE {id}")), Some(Answer::Continue { renamed: Some(history) }));
        for garbage in ["+OK", "+FULLRESYNC x 1", "+CONTINUE short", "HTTP/1.1 400"] {
            assert_eq!(answer(garbage), None, "{garbage}");
        }
    }
}
