//! A connection to the target that sends and reads at the same time, so that neither side's buffers can fill for good.

use bytes::{Buf as _, BytesMut};
use dts_common::error::{Code, Error, Result};
use dts_common::redis::resp;
use secrecy::ExposeSecret as _;
use tokio::io::AsyncReadExt as _;
use tokio::time::timeout;

use super::reply::{self, Reply};
use crate::client::{READ, REPLY_TIMEOUT};
use crate::dial::{self, ReadHalf, WriteHalf, dial};
use crate::endpoint::{Endpoint, Side};

const WRITE: usize = 64 << 10;

fn named() -> Vec<u8> {
    let mut bytes = Vec::new();
    resp::command(&mut bytes, &[b"CLIENT", b"SETNAME", b"dts"]);
    bytes
}

#[derive(Debug)]
pub(super) struct Connection {
    read: Replies,
    write: WriteHalf,
}

/// What the target answers.
#[derive(Debug)]
pub(super) struct Replies {
    half: ReadHalf,
    buffer: BytesMut,
    name: String,
}

impl Connection {
    /// Connects and logs in; nothing is sent behind an AUTH before its answer.
    pub(super) async fn open(endpoint: &Endpoint) -> Result<Self> {
        let (read, write) = dial::split(dial(endpoint, Side::Target).await?);
        let read = Replies { half: read, buffer: BytesMut::new(), name: endpoint.to_string() };
        let mut connection = Self { read, write };
        if let Some(password) = &endpoint.password {
            let password = password.expose_secret().as_bytes();
            match &endpoint.username {
                Some(user) => connection.call(&[b"AUTH", user.as_bytes(), password]).await?,
                None => connection.call(&[b"AUTH", password]).await?,
            };
        }
        if !endpoint.routes {
            // By its name nobody takes us for somebody else; where it may not be set that is all that is lost.
            connection.send(&named()).await?;
            connection.reply().await?;
        }
        Ok(connection)
    }

    /// One command, its reply; an error reply is an error.
    pub(super) async fn call(&mut self, command: &[&[u8]]) -> Result<Reply> {
        let mut bytes = Vec::new();
        resp::command(&mut bytes, command);
        self.send(&bytes).await?;
        match self.read.next().await? {
            Reply::Error(text) => Err(self.refused(&text)),
            reply => Ok(reply),
        }
    }

    /// Sends `bytes` while reading `replies` replies, each handed to `each`.
    pub(super) async fn exchange(&mut self, bytes: &[u8], replies: u64, each: impl FnMut(u64, Reply)) -> Result<()> {
        let Self { read, write } = self;
        let name = read.name.clone();
        let sending = send(write, &name, bytes);
        let (sent, got) = {
            let reading = read.take(replies, each);
            tokio::pin!(sending);
            tokio::pin!(reading);
            tokio::join!(sending, reading)
        };
        sent.and(got)
    }

    /// Sending `bytes`, and the replies to read meanwhile.
    pub(super) fn sending<'a>(
        &'a mut self,
        bytes: &'a [u8],
    ) -> (impl Future<Output = Result<()>> + 'a, &'a mut Replies) {
        let Self { read, write } = self;
        let name = read.name.clone();
        (async move { send(write, &name, bytes).await }, read)
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) -> Result<()> {
        send(&mut self.write, &self.read.name, bytes).await
    }

    /// The next reply; the elements of an array follow as replies of their own.
    pub(super) async fn reply(&mut self) -> Result<Reply> {
        self.read.next().await
    }

    /// The error that an element of EXEC's reply is, if it is one. What an element holds in turn is passed over: a script
    /// may return errors among its values.
    pub(super) async fn element(&mut self) -> Result<Option<String>> {
        self.read.element().await
    }

    pub(super) fn refused(&self, reply: &str) -> Error {
        self.read.refused(reply)
    }
}

async fn send(write: &mut WriteHalf, name: &str, bytes: &[u8]) -> Result<()> {
    for piece in bytes.chunks(WRITE) {
        match timeout(REPLY_TIMEOUT, dial::send(write, piece)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(dial::broken(Side::Target, name, &error)),
            Err(_) => return Err(lost(name, "it takes no bytes")),
        }
    }
    Ok(())
}

impl Replies {
    /// See [`Connection::element`].
    pub(super) async fn element(&mut self) -> Result<Option<String>> {
        let mut left = match self.next().await? {
            Reply::Error(text) => return Ok(Some(text)),
            Reply::Array(Some(elements)) => elements,
            _ => 0,
        };
        while left > 0 {
            left -= 1;
            if let Reply::Array(Some(elements)) = self.next().await? {
                left = left.saturating_add(elements);
            }
        }
        Ok(None)
    }

    pub(super) fn refused(&self, reply: &str) -> Error {
        // An unknown command is answered with its arguments, which are the user's data.
        let shown = reply.split(", with args").next().unwrap_or_default();
        Error::new(Side::Target.refusal(reply), format!("{}: {shown}", self.name))
    }

    pub(super) async fn next(&mut self) -> Result<Reply> {
        loop {
            let parsed = reply::parse(&self.buffer).map_err(|error| lost(&self.name, &error.to_string()))?;
            if let Some((reply, length)) = parsed {
                self.buffer.advance(length);
                return Ok(reply);
            }
            // Left to itself the buffer stays at the 64 bytes that it begins with: a read for every seven replies.
            if self.buffer.capacity() - self.buffer.len() < READ / 4 {
                self.buffer.reserve(READ);
            }
            match timeout(REPLY_TIMEOUT, self.half.read_buf(&mut self.buffer)).await {
                Ok(Ok(0)) => return Err(lost(&self.name, "it closed the connection")),
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(dial::broken(Side::Target, &self.name, &error)),
                Err(_) => return Err(lost(&self.name, &format!("no reply within {} s", REPLY_TIMEOUT.as_secs()))),
            }
        }
    }

    async fn take(&mut self, replies: u64, mut each: impl FnMut(u64, Reply)) -> Result<()> {
        for index in 0..replies {
            each(index, self.next().await?);
        }
        Ok(())
    }
}

fn lost(name: &str, why: &str) -> Error {
    Error::new(Code::TargetLost, format!("lost {name}: {why}"))
}
