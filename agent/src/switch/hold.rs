//! Holding a source's writes: in pieces that end by themselves, or by refusing them, which has to be ended.

use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{ClosedUser, HoldMethod, SwitchOverSpec};
use tokio::time::{Instant, timeout};

use super::close;
use super::writes::{self, Moment};
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};

/// A pause that is not renewed ends after this.
const PIECE: Duration = Duration::from_secs(3);
const RENEW_EVERY: Duration = Duration::from_secs(1);
/// An answer that takes longer is worth nothing.
const ANSWER: Duration = Duration::from_secs(2);
/// If the order does not say.
const HOLD_FOR: u32 = 30_000;

/// Held writes; or, where their owner has stopped the writers, nothing but a look now and then.
#[derive(Debug)]
pub(super) struct Hold {
    /// Whose writes.
    pub(super) master: Endpoint,
    client: Client,
    began: Instant,
    renewed: Instant,
    bound: Duration,
    by: By,
    writes: u64,
}

/// What keeps writes away.
#[derive(Debug)]
enum By {
    Pause,
    /// These were closed out.
    Users(Vec<ClosedUser>),
    /// Their owner.
    Word,
}

impl Hold {
    /// Holds, and tells the barrier.
    pub(super) async fn begin(master: Endpoint, spec: &SwitchOverSpec, users: &[ClosedUser]) -> Result<(Self, Moment)> {
        let mut client = Client::connect(&master, Side::Source).await?;
        let bound = Duration::from_millis(if spec.hold_for_ms == 0 { HOLD_FOR } else { spec.hold_for_ms }.into());
        let by = match spec.hold_method() {
            _ if spec.writers_stopped => By::Word,
            HoldMethod::Acl => {
                close::close(&mut client, users).await?;
                By::Users(users.to_vec())
            }
            HoldMethod::Pause | HoldMethod::Unspecified => {
                pause(&mut client, PIECE.min(bound)).await?;
                By::Pause
            }
        };
        // From the answer on no write is acknowledged.
        let began = Instant::now();
        let found = writes::count(&mut client).await?;
        let hold = Self { master, client, began, renewed: began, bound, by, writes: found.writes };
        Ok((hold, found))
    }

    pub(super) fn millis(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX).max(1)
    }

    /// Keeps it up. Never beyond its bound.
    pub(super) async fn renew(&mut self) -> Result<()> {
        if self.renewed.elapsed() < RENEW_EVERY {
            return Ok(());
        }
        let left = self.bound.saturating_sub(self.began.elapsed());
        if left.is_zero() {
            return Err(Error::new(Code::ActionNotAllowed, "writes were held for as long as they may be"));
        }
        let kept = timeout(ANSWER, self.keep(left)).await;
        match kept {
            Ok(Ok(())) => {
                self.renewed = Instant::now();
                Ok(())
            }
            Ok(Err(error)) if !error.code.retry() => Err(error),
            // A new connection goes on; whether a write came in between is seen at the end.
            _ => {
                let again = timeout(ANSWER, Client::connect(&self.master, Side::Source)).await;
                self.client = again.map_err(|_| Error::new(Code::SourceLost, "the source does not answer"))??;
                Ok(())
            }
        }
    }

    async fn keep(&mut self, left: Duration) -> Result<()> {
        let why = match self.by {
            By::Pause => return pause(&mut self.client, PIECE.min(left)).await,
            By::Users(_) => "the source is written to: a user that was not there before, or that somebody let back in",
            By::Word => "the source is written to: the writers were not stopped",
        };
        match writes::count(&mut self.client).await?.writes == self.writes {
            true => Ok(()),
            false => Err(Error::new(Code::ActionNotAllowed, why)),
        }
    }

    /// Lets whoever waits, or was closed out, go on.
    pub(super) async fn end(&mut self) -> Result<()> {
        match &self.by {
            By::Pause => self.client.call(&[b"CLIENT", b"UNPAUSE"]).await.map(drop),
            By::Users(users) => close::open(&mut Client::connect(&self.master, Side::Source).await?, users).await,
            By::Word => Ok(()),
        }
    }

    /// What was held is closed for good: whoever waits may be told so.
    pub(super) async fn end_closed(&mut self) -> Result<()> {
        match self.by {
            By::Users(_) => Ok(()),
            By::Pause | By::Word => self.end().await,
        }
    }

    /// Hangs up on clients that wait: what they wanted to write is not acknowledged, and does not happen.
    pub(super) async fn send_away(&mut self) -> Result<()> {
        if matches!(self.by, By::Pause) {
            self.client.call(&[b"CLIENT", b"KILL", b"TYPE", b"normal", b"SKIPME", b"yes"]).await?;
        }
        Ok(())
    }
}

async fn pause(client: &mut Client, piece: Duration) -> Result<()> {
    let ms = piece.as_millis().max(1).to_string();
    client.call(&[b"CLIENT", b"PAUSE", ms.as_bytes(), b"WRITE"]).await.map(drop)
}
