//! What the source hears from us: commands during the handshake, a sign of life every second afterwards.

use std::time::Duration;

use dts_common::error::{Error, Result};
use dts_common::redis::resp;
use tokio::io::AsyncWriteExt as _;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval, timeout};

use super::input::lost;

const PERIOD: Duration = Duration::from_secs(1);
/// The source reads few bytes from us, so a full socket means that it reads none.
const SEND_TIMEOUT: Duration = Duration::from_secs(30);

/// What a sign of life says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    /// A newline: alive, nothing else. It starts no stream and acknowledges nothing.
    Alive,
    /// What the target holds, as far as it was received from this source.
    Acknowledge { received: u64 },
}

#[derive(Debug)]
pub(super) struct Beat {
    half: OwnedWriteHalf,
    acknowledged: watch::Receiver<u64>,
    due: Interval,
    pub(super) sign: Sign,
    out: Vec<u8>,
    /// Something may have been sent by half, so nothing more can be.
    failed: Option<Error>,
}

impl Beat {
    pub(super) fn new(half: OwnedWriteHalf, acknowledged: watch::Receiver<u64>) -> Self {
        let mut due = interval(PERIOD);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { half, acknowledged, due, sign: Sign::Alive, out: Vec::new(), failed: None }
    }

    /// Waits until a sign is due.
    pub(super) async fn due(&mut self) {
        self.due.tick().await;
    }

    /// Gives the sign.
    pub(super) async fn sign(&mut self) -> Result<()> {
        self.out.clear();
        match self.sign {
            Sign::Alive => self.out.push(b'\n'),
            Sign::Acknowledge { received } => {
                // The target's offset may still be that of an earlier history.
                let held = (*self.acknowledged.borrow()).min(received);
                resp::command(&mut self.out, &[b"REPLCONF", b"ACK", held.to_string().as_bytes()]);
            }
        }
        self.flush().await
    }

    pub(super) async fn command(&mut self, args: &[&[u8]]) -> Result<()> {
        self.out.clear();
        resp::command(&mut self.out, args);
        self.flush().await
    }

    async fn flush(&mut self) -> Result<()> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let error = match timeout(SEND_TIMEOUT, self.half.write_all(&self.out)).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => lost(&error.to_string()),
            Err(_) => lost("the source takes no bytes"),
        };
        self.failed = Some(error.clone());
        Err(error)
    }
}
