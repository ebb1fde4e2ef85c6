//! A connection for single questions (INFO, SCAN, SELECT …): one command, one reply, each bounded in time.
//! The data path has its own, faster ones, which begin with [`dial()`] as well.

use std::time::Duration;

use bytes::BytesMut;
use dts_common::error::{Code, Error, Result};
use dts_common::redis::resp;
use redis_protocol::resp2::decode::decode_bytes_mut;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};
use secrecy::ExposeSecret as _;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use crate::dial::{self, Stream, dial};
use crate::endpoint::{Endpoint, Side};

/// How long a reply may take; a loading or forking server can be slow.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(60);
/// No single question of ours has a longer answer.
const LONGEST_REPLY: usize = 256 << 20;
/// Room for a read.
pub const READ: usize = 64 << 10;

/// A connection that is logged in.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    buffer: BytesMut,
    side: Side,
    name: String,
}

impl Client {
    /// Connects and logs in. Nothing is ever sent behind an AUTH before its answer.
    pub async fn connect(endpoint: &Endpoint, side: Side) -> Result<Self> {
        let stream = dial(endpoint, side).await?;
        let mut client = Self { stream, buffer: BytesMut::new(), side, name: endpoint.to_string() };
        match client.log_in(endpoint).await {
            Ok(()) => Ok(client),
            Err(error) => Err(dial::explain(endpoint, side, error).await),
        }
    }

    /// The same under a name, so that who watches the target does not take us for somebody else; where it may not be set, that is all that is lost.
    pub async fn connect_named(endpoint: &Endpoint, side: Side) -> Result<Self> {
        let mut client = Self::connect(endpoint, side).await?;
        if side == Side::Target && !endpoint.routes {
            client.ask(&[b"CLIENT", b"SETNAME", b"dts"]).await?;
        }
        Ok(client)
    }

    async fn log_in(&mut self, endpoint: &Endpoint) -> Result<()> {
        if let Some(password) = &endpoint.password {
            let password = password.expose_secret().as_bytes();
            let reply = match &endpoint.username {
                Some(user) => self.ask(&[b"AUTH", user.as_bytes(), password]).await?,
                None => self.ask(&[b"AUTH", password]).await?,
            };
            if let BytesFrame::Error(text) = reply {
                return Err(self.refused("AUTH", &text));
            }
        }
        match self.ask(&[b"PING"]).await? {
            BytesFrame::Error(text) => Err(self.refused("PING", &text)),
            _ => Ok(()),
        }
    }

    /// One command, its reply; an error reply is a reply.
    pub async fn ask(&mut self, command: &[&[u8]]) -> Result<BytesFrame> {
        let mut bytes = Vec::new();
        resp::command(&mut bytes, command);
        self.send(&bytes).await?;
        self.reply().await
    }

    /// One command whose error reply is an error of ours.
    pub async fn call(&mut self, command: &[&[u8]]) -> Result<BytesFrame> {
        match self.ask(command).await? {
            BytesFrame::Error(text) => Err(self.refused(&String::from_utf8_lossy(command[0]), &text)),
            reply => Ok(reply),
        }
    }

    /// Sends already encoded commands; read as many replies with [`Client::reply`].
    pub async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        match timeout(REPLY_TIMEOUT, dial::send(&mut self.stream, bytes)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(dial::broken(self.side, &self.name, &error)),
            Err(_) => Err(self.lost("it takes no bytes")),
        }
    }

    /// The next reply.
    pub async fn reply(&mut self) -> Result<BytesFrame> {
        loop {
            if let Some((frame, _, _)) =
                decode_bytes_mut(&mut self.buffer).map_err(|error| self.lost(&error.to_string()))?
            {
                return Ok(frame);
            }
            if self.buffer.len() > LONGEST_REPLY {
                return Err(self.lost("its reply does not end"));
            }
            // What is cut off is parsed again with every read: so each is a large one.
            if self.buffer.capacity() - self.buffer.len() < READ / 4 {
                self.buffer.reserve(READ);
            }
            match timeout(REPLY_TIMEOUT, self.stream.read_buf(&mut self.buffer)).await {
                Ok(Ok(0)) => return Err(self.lost("it closed the connection")),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(dial::broken(self.side, &self.name, &error)),
                Err(_) => return Err(self.lost(&format!("no reply within {} s", REPLY_TIMEOUT.as_secs()))),
            }
        }
    }

    /// A section of INFO as text.
    pub async fn info(&mut self, section: &str) -> Result<Info> {
        let reply = self.call(&[b"INFO", section.as_bytes()]).await?;
        Ok(Info(reply.as_str().unwrap_or_default().to_owned()))
    }

    fn lost(&self, why: &str) -> Error {
        Error::new(self.side.lost(), format!("lost {}: {why}", self.name))
    }

    /// The error that an error reply is.
    pub fn refused(&self, command: &str, reply: &str) -> Error {
        Error::new(self.side.refusal(reply), format!("{} refuses {command}: {reply}", self.name))
    }
}

/// A section of INFO.
#[derive(Clone, Debug)]
pub struct Info(String);

impl Info {
    /// Of another command that answers like INFO.
    pub fn of(reply: &BytesFrame) -> Self {
        Self(reply.as_str().unwrap_or_default().to_owned())
    }

    /// A field's value, if it is there.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.fields().find_map(|(name, value)| (name == field).then_some(value))
    }

    /// A numeric field, if it is there.
    pub fn number(&self, field: &str) -> Option<u64> {
        self.get(field)?.parse().ok()
    }

    /// All fields.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(':'))
    }
}

impl Side {
    /// The row for a server that cannot be reached.
    pub fn unreachable(self) -> Code {
        match self {
            Self::Source => Code::SourceUnreachable,
            Self::Target => Code::TargetUnreachable,
        }
    }

    /// The row for a connection that broke.
    pub fn lost(self) -> Code {
        match self {
            Self::Source => Code::SourceLost,
            Self::Target => Code::TargetLost,
        }
    }

    /// The row for TLS that does not come about.
    pub fn tls(self) -> Code {
        match self {
            Self::Source => Code::SourceTls,
            Self::Target => Code::TargetTls,
        }
    }

    /// The row for an error reply, by its first word.
    pub fn refusal(self, reply: &str) -> Code {
        let source = self == Self::Source;
        // 7.0 and later say why a transaction was discarded.
        let reply = reply.split_once("because of: ").map_or(reply, |(_, why)| why);
        let word = reply.split(' ').next().unwrap_or_default();
        match word {
            "NOAUTH" | "WRONGPASS" => {
                if source {
                    Code::SourceAuth
                } else {
                    Code::TargetAuth
                }
            }
            "NOPERM" => {
                if source {
                    Code::SourcePermission
                } else {
                    Code::TargetPermission
                }
            }
            "LOADING" | "BUSY" | "MASTERDOWN" | "NOMASTERLINK" | "TRYAGAIN" | "MISCONF" | "NOREPLICAS" => {
                if source {
                    Code::SourceBusy
                } else {
                    Code::TargetBusy
                }
            }
            "OOM" if !source => Code::TargetFull,
            "READONLY" | "MOVED" | "CLUSTERDOWN" if !source => Code::TargetRole,
            // Before 6.0 a wrong password, or a password where none is set, is a plain ERR; so is a missing one before 2.8.
            // Up to 3.2, of a replica without its master; of a fork that failed.
            "ERR" if source && (reply.contains("not connected with my master") || reply.contains("BGSAVE failed")) => {
                Code::SourceBusy
            }
            "ERR"
                if reply.contains("invalid password")
                    || reply.contains("no password is set")
                    || reply.contains("operation not permitted") =>
            {
                if source {
                    Code::SourceAuth
                } else {
                    Code::TargetAuth
                }
            }
            _ => {
                if source {
                    Code::SourceProtocol
                } else {
                    Code::TargetUnsupported
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_finds_its_row_in_every_versions_words() {
        for (reply, code) in [
            ("NOAUTH Authentication required.", Code::TargetAuth),
            ("ERR operation not permitted", Code::TargetAuth),
            ("WRONGPASS invalid username-password pair", Code::TargetAuth),
            ("NOPERM this user has no permissions", Code::TargetPermission),
            ("EXECABORT Transaction discarded because of: OOM command not allowed", Code::TargetFull),
            ("EXECABORT Transaction discarded because of: READONLY You can't write", Code::TargetRole),
            ("LOADING Redis is loading the dataset in memory", Code::TargetBusy),
            ("MISCONF Errors writing to the AOF file", Code::TargetBusy),
            ("ERR unknown command", Code::TargetUnsupported),
        ] {
            assert_eq!(Side::Target.refusal(reply), code, "{reply}");
        }
        for reply in [
            "NOMASTERLINK Can't SYNC while not connected",
            "ERR Can't SYNC while not connected with my master",
            "ERR BGSAVE failed, replication can't continue",
        ] {
            assert_eq!(Side::Source.refusal(reply), Code::SourceBusy, "{reply}");
        }
    }
}
