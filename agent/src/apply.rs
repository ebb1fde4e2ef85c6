//! Drives one attempt: records of the spool in, instructions for the target out. The phases of a shard are the modes of
//! this driver; it alone decides what is written next. Dropping it at any await loses nothing that the target's record
//! does not know to be missing.

mod copy;
mod delete;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_common::ids::{Epoch, ShardId};
use dts_common::position::{Position, ReplicationId};
use dts_common::selection::Selection;
use dts_proto::v1::{Directive, ShardPhase};
use tokio::sync::watch;

use self::copy::Copying;
use crate::complete::Marker;
use crate::endpoint::Endpoint;
use crate::mend::Mends;
use crate::outlet::Outlet;
use crate::route::{Dialect, Held, Progress, Scripts, StreamEncoder};
use crate::source::Record;
use crate::spool;
use crate::status::Board;
use crate::target::{Destination, reserved_key};
use crate::topology::{Owner, Proof, Topology};

/// How long a batch waits for the target to have room before more is gathered.
const GATHER: Duration = Duration::from_millis(5);

/// What stays the same for one attempt.
#[derive(Clone, Debug)]
pub struct Context {
    /// The shard.
    pub shard: ShardId,
    /// Our authority over it.
    pub epoch: Epoch,
    /// Where the data comes from.
    pub source: Endpoint,
    /// Where the data goes.
    pub target: Endpoint,
    /// The same, as what it is.
    pub destination: Destination,
    /// What the target understands.
    pub dialect: Dialect,
    /// What is moved.
    pub selection: Arc<Selection>,
    /// The task's sources.
    pub topology: Topology,
    /// Which keys of the target are ours.
    pub owner: Owner,
    /// What was proved of the source, if it is a node of a cluster.
    pub proof: Option<Proof>,
    /// The target's own histories: a stream that brings them goes round.
    pub target_histories: Vec<ReplicationId>,
    /// A way back that goes on where the other way ended: the keys that are there have expiries which nobody holds yet.
    pub holds_first: bool,
    /// What is to be repaired.
    pub mends: Mends,
    /// Where progress is shown.
    pub board: Board,
    /// A directory of this shard's own.
    pub scratch: PathBuf,
}

/// Where an attempt begins, as the target's record says.
pub struct Start {
    /// Go on from here; `None`: copy.
    pub resume: Option<Resume>,
    /// Number of the last full copy.
    pub copy: u64,
    /// True if the target may hold keys of it.
    pub dirty: bool,
}

/// What is needed to go on.
pub struct Resume {
    /// Up to here the target holds everything.
    pub position: Position,
    /// The script bodies that the target keeps for us.
    pub scripts: Scripts,
    /// True if hash fields on the target may carry held expiries.
    pub holds_field_expiry: bool,
}

/// What the driver is doing.
pub(crate) enum Mode {
    /// The source has not begun to send.
    Waiting,
    /// A snapshot comes in.
    Copying(Box<Copying>),
    /// The snapshot is written, the stream follows.
    Streaming(Box<StreamEncoder>),
}

/// The driver.
pub struct Driver {
    pub(crate) context: Context,
    pub(crate) directive: watch::Receiver<Directive>,
    pub(crate) reader: spool::Reader,
    pub(crate) outlet: Outlet,
    pub(crate) mode: Mode,
    pub(crate) marker: Option<Marker>,
    /// The stream is to be taken up to here, for now.
    pub(crate) cut_at: Option<u64>,
    /// What is behind that.
    pub(crate) ahead: Option<Record>,
    copy: u64,
    dirty: bool,
}

impl Driver {
    /// A driver at the start of an attempt.
    pub fn new(
        context: Context,
        start: Start,
        directive: watch::Receiver<Directive>,
        reader: spool::Reader,
        outlet: Outlet,
    ) -> Self {
        let mode = match start.resume {
            None => Mode::Waiting,
            Some(resume) => {
                context.board.phase(ShardPhase::CatchingUp);
                let progress = Progress::default();
                let held = Held::everything();
                streaming(&context, resume.position, resume.scripts, progress, held, resume.holds_field_expiry)
            }
        };
        Self {
            context,
            directive,
            reader,
            outlet,
            mode,
            marker: None,
            cut_at: None,
            ahead: None,
            copy: start.copy,
            dirty: start.dirty,
        }
    }

    /// Until directed to release, or an error.
    pub async fn run(&mut self) -> Result<()> {
        let mut drained = false;
        if self.context.holds_first && matches!(self.mode, Mode::Streaming(_)) {
            self.hold_what_is_there().await?;
        }
        while !self.released() {
            let drain = *self.directive.borrow() == Directive::Drain;
            if drain && !drained && matches!(self.mode, Mode::Streaming(_)) {
                self.drain().await?;
                drained = true;
            } else {
                self.step().await?;
            }
        }
        Ok(())
    }

    /// True once nothing more is to be written.
    pub(crate) fn released(&self) -> bool {
        *self.directive.borrow() == Directive::Release
    }

    /// Takes a record; with none at hand, sends what is pending and waits for anything to happen.
    pub(crate) async fn step(&mut self) -> Result<()> {
        self.context.mends.note(self.outlet.applied_offset());
        Box::pin(self.mend()).await?;
        self.step_on().await
    }

    /// The same without looking for repairs.
    pub(crate) async fn step_on(&mut self) -> Result<()> {
        if let Some(record) = self.ahead.take() {
            return self.take(record).await;
        }
        if let Some(record) = self.reader.try_next()? {
            return self.take(record).await;
        }
        if self.outlet.has_room() {
            self.flush().await?;
        } else {
            self.outlet.room(GATHER).await;
            return Ok(());
        }
        let record = tokio::select! {
            record = self.reader.next() => record?,
            changed = self.directive.changed() => {
                return changed.map_err(|_| Error::new(Code::Internal, "the supervisor is gone"));
            }
            () = self.outlet.confirmed() => return Ok(()),
            () = self.context.mends.asked() => return Ok(()),
        };
        match record {
            Some(record) => self.take(record).await,
            None => Err(Error::new(Code::SourceLost, "the source stage ended")),
        }
    }

    pub(crate) async fn take(&mut self, record: Record) -> Result<()> {
        match record {
            Record::SnapshotBegin { history, offset, .. } => self.begin_copy(history, offset).await,
            Record::Snapshot(bytes) => self.copy_on(&bytes).await,
            Record::SnapshotEnd => self.end_copy().await,
            Record::Renamed(history) => {
                if let Mode::Streaming(encoder) = &mut self.mode {
                    encoder.rename_history(history);
                }
                Ok(())
            }
            Record::Stream { offset, received_ms, mut bytes } => {
                let room = self.cut_at.and_then(|cut| usize::try_from(cut.checked_sub(offset)?).ok());
                if let Some(room) = room.filter(|room| *room < bytes.len()) {
                    let rest = bytes.split_off(room);
                    self.ahead = Some(Record::Stream { offset: offset + room as u64, received_ms, bytes: rest });
                }
                let Mode::Streaming(encoder) = &mut self.mode else { return Err(out_of_order("stream bytes")) };
                if let Some(marker) = &mut self.marker {
                    marker.look(offset, &bytes);
                }
                encoder.in_pieces_of(self.outlet.piece());
                let fed = encoder.feed(offset, received_ms, &bytes);
                self.hand_on().await?;
                fed
            }
        }
    }

    /// Sends what is whole, and clears what a flush of the source left.
    async fn hand_on(&mut self) -> Result<()> {
        loop {
            let Mode::Streaming(encoder) = &mut self.mode else { return Ok(()) };
            if let Some(chunk) = encoder.next_chunk(false) {
                self.outlet.send(chunk).await?;
            } else if let Some(clear) = encoder.take_clear() {
                self.clear(clear).await?;
            } else {
                return Ok(());
            }
        }
    }

    /// Sends what is pending up to the last legal position.
    pub(crate) async fn flush(&mut self) -> Result<()> {
        loop {
            let chunk = match &mut self.mode {
                Mode::Waiting => None,
                Mode::Copying(copying) => copying.encoder.next_chunk(true),
                Mode::Streaming(encoder) => encoder.next_chunk(true),
            };
            match chunk {
                Some(chunk) => self.outlet.send(chunk).await?,
                None => return Ok(()),
            }
        }
    }
}

fn streaming(
    context: &Context,
    position: Position,
    scripts: Scripts,
    progress: Progress,
    held: Held,
    holds_field_expiry: bool,
) -> Mode {
    let [record, claim, large] = ["position", "claim", "large"].map(|name| reserved_key(&context.shard, name));
    let scripts_key = context.destination.scripts_key(&context.shard, &context.owner);
    let reserved = [record, scripts_key, large, claim].map(String::into_bytes);
    let dialect = context.dialect;
    let mut encoder =
        StreamEncoder::new(dialect, position, reserved.to_vec(), scripts, progress, held, holds_field_expiry);
    if !matches!(context.destination, Destination::Standalone(_)) {
        encoder.mark_commands();
    }
    let encoder = encoder.selecting(context.selection.clone()).ending_loops(context.target_histories.clone());
    Mode::Streaming(Box::new(encoder.owned_by(context.owner.clone())))
}

fn out_of_order(what: &str) -> Error {
    Error::new(Code::Internal, format!("{what} came out of order"))
}
