//! What the source sends: lines during the handshake, bytes afterwards.

use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use dts_common::error::{Code, Error, Result};
use tokio::io::AsyncReadExt as _;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::{Instant, timeout_at};

/// What is read at once.
const CHUNK: usize = 256 << 10;
/// Below this much room in the buffer a new one is begun.
const LEAST_ROOM: usize = 16 << 10;
const LONGEST_LINE: usize = 64 << 10;

#[derive(Debug)]
pub(super) struct Input {
    half: OwnedReadHalf,
    /// Received and not taken.
    pub(super) buffer: BytesMut,
    heard: Instant,
}

impl Input {
    pub(super) fn new(half: OwnedReadHalf) -> Self {
        Self { half, buffer: BytesMut::with_capacity(CHUNK), heard: Instant::now() }
    }

    /// Silence counts from now.
    pub(super) fn listen(&mut self) {
        self.heard = Instant::now();
    }

    /// Reads what is there, at least a byte; the source may be silent for so long. Giving up the wait loses nothing.
    pub(super) async fn fill(&mut self, silence: Duration) -> Result<()> {
        if self.buffer.capacity() - self.buffer.len() < LEAST_ROOM {
            self.buffer.reserve(CHUNK);
        }
        match timeout_at(self.heard + silence, self.half.read_buf(&mut self.buffer)).await {
            Ok(Ok(0)) => Err(lost("the source closed the link")),
            Ok(Ok(_)) => {
                self.listen();
                Ok(())
            }
            Ok(Err(error)) => Err(lost(&error.to_string())),
            Err(_) => Err(lost(&format!("the source was silent for {} s", silence.as_secs()))),
        }
    }

    /// The next line that is not empty, without its end: bare newlines only say that the source is alive.
    pub(super) async fn line(&mut self, silence: Duration) -> Result<BytesMut> {
        let mut searched = 0;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[searched..]) {
                let mut line = self.buffer.split_to(searched + at);
                self.buffer.advance(1);
                searched = 0;
                if line.ends_with(b"\r") {
                    line.truncate(line.len() - 1);
                }
                if !line.is_empty() {
                    return Ok(line);
                }
                continue;
            }
            searched = self.buffer.len();
            if searched > LONGEST_LINE {
                return Err(Error::new(Code::SourceProtocol, "the source sends a line without an end"));
            }
            self.fill(silence).await?;
        }
    }
}

/// The link is gone.
pub(super) fn lost(why: &str) -> Error {
    Error::new(Code::SourceLost, why)
}
