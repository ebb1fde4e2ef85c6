//! Draining the source into the spool, over as many connections as it takes.

use std::convert::Infallible;
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_common::position::{Position, ReplicationId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::endpoint::Endpoint;
use crate::retry::{Retry, Trouble};
use crate::spool;

use super::answer::Answer;
use super::beat::{Beat, Sign};
use super::link::{Link, SNAPSHOT_SILENCE};
use super::{Received, Record};

/// A source pings every 10 s.
const STREAM_SILENCE: Duration = Duration::from_secs(60);

/// Where the source is and how long to keep trying.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// The source.
    pub endpoint: Endpoint,
    /// How long attempts may fail in a row before the error is final.
    pub retry_window: Duration,
}

/// Receives from the source until cancelled or failed for good. With `resume` it asks for what follows that place.
/// `acknowledged` is the offset that the target holds.
pub async fn run(
    config: SourceConfig,
    resume: Option<Position>,
    spool: spool::Writer,
    received: watch::Sender<Received>,
    acknowledged: watch::Receiver<u64>,
    trouble: Trouble,
    cancel: CancellationToken,
) -> Result<()> {
    let place = resume.and_then(|position| Some((position.history?, position.offset)));
    if let Some((history, offset)) = place {
        received.send_modify(|received| {
            received.history = Some(history);
            received.offset = offset;
        });
    }
    let retry = Retry::new(config.retry_window, trouble, cancel.clone());
    let intake = Intake { endpoint: config.endpoint, place, spool, received: &received, acknowledged, retry };
    // Giving up the intake closes its socket.
    let ended = tokio::select! {
        biased;
        () = cancel.cancelled() => Ok(()),
        error = Box::pin(intake.run()) => Err(error),
    };
    received.send_modify(|received| received.connected = false);
    ended
}

struct Intake<'a> {
    endpoint: Endpoint,
    /// The spool was given the history up to here, so the next connection asks for what follows.
    place: Option<(ReplicationId, u64)>,
    spool: spool::Writer,
    received: &'a watch::Sender<Received>,
    acknowledged: watch::Receiver<u64>,
    retry: Retry,
}

impl Intake<'_> {
    async fn run(mut self) -> Error {
        loop {
            let Err(error) = self.connection().await;
            self.received.send_modify(|received| received.connected = false);
            if let Err(error) = self.retry.wait(error).await {
                return error;
            }
        }
    }

    async fn connection(&mut self) -> Result<Infallible> {
        let mut link = Link::connect(&self.endpoint, self.acknowledged.clone()).await?;
        match link.psync(self.place).await? {
            Answer::Continue(history) => self.go_on(&mut link, history).await?,
            Answer::Full { history, offset } => self.snapshot(&mut link, Some(history), offset).await?,
            Answer::Unknown => {
                link.sync().await?;
                self.snapshot(&mut link, None, 0).await?;
            }
        }
        self.stream(&mut link).await
    }

    async fn go_on(&mut self, link: &mut Link, renamed: Option<ReplicationId>) -> Result<()> {
        let Some((old, offset)) = self.place else {
            return Err(Error::new(Code::SourceProtocol, "the source continues what was not begun"));
        };
        let history = renamed.unwrap_or(old);
        if history != old {
            self.push(&mut link.beat, Record::Renamed(history)).await?;
            self.place = Some((history, offset));
        }
        tracing::info!(%history, offset, "the source continues the stream");
        self.received.send_modify(|received| {
            received.history = Some(history);
            received.offset = offset;
            received.speaks_psync = true;
            received.connected = true;
        });
        self.retry.succeeded();
        if link.replconf {
            link.beat.sign = Sign::Acknowledge { received: offset };
        }
        Ok(())
    }

    async fn snapshot(&mut self, link: &mut Link, history: Option<ReplicationId>, offset: u64) -> Result<()> {
        let mut payload = link.payload().await?;
        let size = payload.size();
        tracing::info!(?history, offset, ?size, "the source sends a snapshot");
        self.place = None;
        self.push(&mut link.beat, Record::SnapshotBegin { history, offset, size }).await?;
        self.received.send_modify(|received| {
            *received = Received {
                history,
                offset,
                snapshot_received: 0,
                snapshot_total: size.unwrap_or_default(),
                speaks_psync: history.is_some(),
                connected: true,
            };
        });
        while !payload.done() {
            let bytes = payload.take(&mut link.input.buffer);
            if bytes.is_empty() {
                if !payload.done() {
                    fill(link, SNAPSHOT_SILENCE).await?;
                }
                continue;
            }
            let length = bytes.len() as u64;
            self.retry.succeeded();
            self.push(&mut link.beat, Record::Snapshot(bytes)).await?;
            link.input.listen();
            self.received.send_modify(|received| received.snapshot_received += length);
        }
        self.push(&mut link.beat, Record::SnapshotEnd).await?;
        self.place = history.map(|history| (history, offset));
        // A diskless source sends nothing before an ACK, however it was asked; plain SYNC needs none otherwise.
        if link.replconf && (history.is_some() || size.is_none()) {
            link.beat.sign = Sign::Acknowledge { received: offset };
        }
        link.beat.sign().await
    }

    async fn stream(&mut self, link: &mut Link) -> Result<Infallible> {
        let mut offset = self.received.borrow().offset;
        link.input.listen();
        loop {
            if link.input.buffer.is_empty() {
                fill(link, STREAM_SILENCE).await?;
            }
            let bytes = link.input.buffer.split().freeze();
            let after = offset + bytes.len() as u64;
            let record = Record::Stream { offset, received_ms: link.source_ms(), bytes };
            self.push(&mut link.beat, record).await?;
            link.input.listen();
            offset = after;
            if let Some((_, place)) = &mut self.place {
                *place = offset;
                if let Sign::Acknowledge { received } = &mut link.beat.sign {
                    *received = offset;
                }
            }
            self.received.send_modify(|received| received.offset = offset);
        }
    }

    /// Puts a record into the spool; the source hears from us meanwhile. A sign that fails must not cut off a push
    /// that may be half done: it fails again with the next read.
    async fn push(&mut self, beat: &mut Beat, record: Record) -> Result<()> {
        let mut push = std::pin::pin!(self.spool.push(record));
        loop {
            tokio::select! {
                biased;
                pushed = &mut push => return pushed,
                () = beat.due() => drop(beat.sign().await),
            }
        }
    }
}

/// Waits for bytes; the source hears from us meanwhile.
async fn fill(link: &mut Link, silence: Duration) -> Result<()> {
    loop {
        tokio::select! {
            biased;
            () = link.beat.due() => link.beat.sign().await?,
            filled = link.input.fill(silence) => return filled,
        }
    }
}
