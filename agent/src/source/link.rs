//! One link to the source, from its handshake to its loss.

use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_common::redis::resp;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::copies::Copies;
use super::handshake::{Answer, Wire, now_ms};
use super::payload::Payload;
use super::{Received, Record, Wanted};
use crate::dial;
use crate::endpoint::{Endpoint, Side};
use crate::limits::Throttle;
use crate::retry::Retry;
use crate::spool;

const BEAT: Duration = Duration::from_secs(1);
/// A diskless source sends nothing behind its snapshot before an ACK that comes after it saw its child end
/// (`repl_start_cmd_stream_on_ack`), and keeps everything for us meanwhile: so the first ACKs follow each other quickly.
const FIRST_BEAT: Duration = Duration::from_millis(50);
const FIRST_BEATS: u32 = 40;
/// Longer than a source with default settings waits for more replicas before it forks (`repl-diskless-sync-delay`: 5 s).
const PATIENCE: Duration = Duration::from_secs(7);
/// A source pings every 10 s; 60 s is what servers themselves call a dead link (`repl-timeout`).
const SILENCE: Duration = Duration::from_secs(60);
/// While a child writes a snapshot to the socket there may be nothing for long.
const SNAPSHOT_SILENCE: Duration = Duration::from_secs(300);

pub(super) struct Link<'a> {
    pub(super) endpoint: &'a Endpoint,
    /// A copy is not wanted.
    pub(super) continue_only: bool,
    pub(super) spool: &'a mut spool::Writer,
    pub(super) received: &'a watch::Sender<Received>,
    pub(super) acknowledged: &'a watch::Receiver<u64>,
    pub(super) retry: &'a mut Retry,
    pub(super) copies: &'a mut Copies,
    pub(super) pace: &'a mut Throttle,
    /// Where the next link is to begin: everything before it is in the spool.
    pub(super) wanted: &'a mut Option<Wanted>,
}

impl Link<'_> {
    /// Ends with the loss of the link.
    pub(super) async fn run(mut self) -> Error {
        match self.try_run().await {
            Ok(never) => match never {},
            Err(error) => error,
        }
    }

    async fn try_run(&mut self) -> Result<std::convert::Infallible> {
        let mut wire = Wire::connect(self.endpoint).await?;
        let skew_ms = match wire.introduce(self.endpoint).await {
            Ok(skew_ms) => skew_ms,
            Err(error) => return Err(dial::explain(self.endpoint, Side::Source, error).await),
        };
        let answer = self.patiently(wire.replicate(*self.wanted)).await?;
        tracing::info!(source = %self.endpoint, continued = matches!(answer, Answer::Continue { .. }), "replicating");
        let (history, mut offset) = match (answer, *self.wanted) {
            (Answer::Continue { renamed }, Some(wanted)) => {
                if let Some(history) = renamed.filter(|history| *history != wanted.history) {
                    self.spool.push(Record::Renamed(history)).await?;
                    *self.wanted = Some(Wanted { history, ..wanted });
                }
                (Some(renamed.unwrap_or(wanted.history)), wanted.offset)
            }
            (Answer::Continue { .. }, None) => {
                return Err(Error::new(Code::SourceProtocol, "the source continues what nobody asked for"));
            }
            (Answer::Full { .. } | Answer::Plain, Some(_)) if self.continue_only => {
                let message =
                    format!("{} does not hold the stream any more from where the way back begins", self.endpoint);
                return Err(Error::new(Code::WayBackLost, message));
            }
            (Answer::Full { history, offset }, _) => {
                self.snapshot(&mut wire, Some(history), offset).await?;
                // The copy is whole in the spool: a link that breaks before the first command goes on behind it.
                *self.wanted = Some(Wanted { history, offset });
                (Some(history), offset)
            }
            (Answer::Plain, _) => {
                self.snapshot(&mut wire, None, 0).await?;
                (None, 0)
            }
        };
        self.retry.succeeded();
        self.received.send_modify(|received| {
            (received.history, received.offset) = (history, offset);
            (received.speaks_psync, received.connected) = (history.is_some(), true);
        });
        let mut beat = interval(FIRST_BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut beats = 0;
        let mut heard = Instant::now();
        loop {
            if !wire.buffer.is_empty() {
                heard = Instant::now();
                let bytes = wire.buffer.split().freeze();
                let length = bytes.len() as u64;
                self.pace.spent(length);
                let received_ms = u64::try_from(now_ms() + skew_ms).unwrap_or(0);
                self.spool.push(Record::Stream { offset, received_ms, bytes }).await?;
                offset += length;
                *self.wanted = history.map(|history| Wanted { history, offset });
                self.received.send_modify(|received| received.offset = offset);
            }
            tokio::select! {
                filled = async { self.pace.ready().await; wire.fill().await } => filled?,
                _ = beat.tick() => {
                    beats += 1;
                    if beats == FIRST_BEATS {
                        beat = interval(BEAT);
                        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
                    }
                    if heard.elapsed() > SILENCE {
                        return Err(wire.lost(&format!("silent for {} s", SILENCE.as_secs())));
                    }
                    // A link without offsets has nothing to acknowledge, but a diskless source waits for an ACK.
                    let held = if history.is_some() { *self.acknowledged.borrow() } else { 0 }.to_string();
                    let mut beat = Vec::new();
                    resp::command(&mut beat, &[b"REPLCONF", b"ACK", held.as_bytes()]);
                    wire.write(&beat).await?;
                }
            }
        }
    }

    /// Brings a whole snapshot into the spool.
    async fn snapshot(
        &mut self,
        wire: &mut Wire,
        history: Option<dts_common::position::ReplicationId>,
        offset: u64,
    ) -> Result<()> {
        // From here on a broken link means a new copy.
        *self.wanted = None;
        self.copies.begun();
        let head = self.patiently(wire.payload_head()).await?;
        let mut payload = Payload::from_head(&head)
            .ok_or_else(|| Error::new(Code::SourceProtocol, "what the source sends is not the head of a snapshot"))?;
        let size = payload.size();
        self.spool.push(Record::SnapshotBegin { history, offset, size }).await?;
        let lost = self.received.borrow().lost;
        self.received.send_replace(Received {
            lost,
            history,
            offset,
            snapshot_received: 0,
            snapshot_total: size.unwrap_or(0),
            speaks_psync: history.is_some(),
            connected: true,
        });
        let mut beat = interval(BEAT);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            let (bytes, over) = payload.take(&mut wire.buffer);
            if !bytes.is_empty() {
                heard = Instant::now();
                let length = bytes.len() as u64;
                self.pace.spent(length);
                self.spool.push(Record::Snapshot(bytes)).await?;
                self.received.send_modify(|received| received.snapshot_received += length);
            }
            if over {
                break;
            }
            tokio::select! {
                filled = async { self.pace.ready().await; wire.fill().await } => filled?,
                _ = beat.tick() => {
                    if heard.elapsed() > SNAPSHOT_SILENCE {
                        return Err(wire.lost(&format!("silent for {} s in a snapshot", SNAPSHOT_SILENCE.as_secs())));
                    }
                    // An ACK now could start the stream before the mark was seen; an empty line only says that we live. Up to
                    // 4.0 a source takes two bytes for its end, and would read what follows a bare newline without its first.
                    wire.write(b"\r\n").await?;
                }
            }
        }
        self.copies.whole();
        self.spool.push(Record::SnapshotEnd).await
    }

    /// A source may take long to begin: it forks, saves for somebody else, rewrites its AOF. That is said, and waited for.
    async fn patiently<T>(&self, answer: impl Future<Output = Result<T>>) -> Result<T> {
        let mut answer = std::pin::pin!(answer);
        tokio::select! {
            answer = &mut answer => return answer,
            () = sleep(PATIENCE) => {}
        }
        let message =
            format!("waiting for {} to begin its snapshot: it may be saving for somebody else", self.endpoint);
        self.retry.until(Error::new(Code::SourceBusy, message), answer).await?
    }
}
