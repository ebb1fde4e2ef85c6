//! Drives one attempt: records of the spool in, instructions for the target out. The phases of a shard are the modes of
//! this driver; it alone decides what is written next. Dropping it at any await loses nothing that the target's record
//! does not know to be missing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_common::ids::{Epoch, ShardId};
use dts_common::position::{Position, ReplicationId};
use dts_common::selection::Selection;
use dts_proto::v1::{Directive, ShardPhase};
use tokio::sync::watch;

use crate::complete::Marker;
use crate::endpoint::Endpoint;
use crate::mend::Mends;
use crate::outlet::Outlet;
use crate::route::{
    Clear, Commit, Dialect, Fingerprinter, Held, Progress, Scripts, SnapshotEncoder, Strays, StreamEncoder,
};
use crate::source::Record;
use crate::spool;
use crate::status::Board;
use crate::sweep::{self, KeyIndex, Scan};
use crate::target::cluster::SlotRecords;
use crate::target::{Destination, reserved_key};
use crate::topology::{Others, Owner, Proof, Topology};

/// How long a batch waits for the target to have room before more is gathered.
const GATHER: Duration = Duration::from_millis(5);
/// Of the name of a key.
const LONGEST_SHOWN: usize = 64;

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

/// A full copy.
pub(crate) struct Copying {
    encoder: SnapshotEncoder,
    /// What the snapshot holds, if the target may hold keys that it does not.
    index: Option<(KeyIndex, Fingerprinter)>,
    history: Option<ReplicationId>,
    offset: u64,
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
            Record::Snapshot(bytes) => {
                let Mode::Copying(copying) = &mut self.mode else { return Err(out_of_order("snapshot bytes")) };
                copying.encoder.in_pieces_of(self.outlet.piece());
                copying.encoder.feed(&bytes)?;
                if let Some((index, _)) = &mut copying.index {
                    index.add(&copying.encoder.take_fingerprints())?;
                }
                while let Some(chunk) = copying.encoder.next_chunk(false) {
                    self.outlet.send(chunk).await?;
                }
                Ok(())
            }
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

    /// Deletes every key that this shard moves, and no other. Cut off and begun again it ends the same: the position stays before it, and slots
    /// of a cluster that were brought further are left alone.
    async fn clear(&mut self, clear: Clear) -> Result<()> {
        self.outlet.settled().await?;
        let destination = self.context.destination.clone();
        loop {
            let parts = destination.parts().await?;
            let mut walked = Ok(());
            for server in &parts.servers {
                walked = self.clear_one(server, &clear).await;
                if walked.is_err() {
                    break;
                }
            }
            self.outlet.settled().await?;
            match walked {
                Ok(()) if destination.is_still(&parts).await? => return Ok(()),
                Err(error) if !destination.has_moved(&error) => return Err(error),
                // Keys that changed their place meanwhile may not have been seen.
                _ => {}
            }
        }
    }

    async fn clear_one(&mut self, server: &Endpoint, clear: &Clear) -> Result<()> {
        let mut scan = Scan::open(server, |_| true).await?;
        while let Some(mut page) = scan.next_page().await? {
            let Context { owner, selection, .. } = &self.context;
            page.keys.retain(|key| owner.may_own(key) && selection.holds(page.db, key));
            if clear.databases.contains(&page.db) && !page.keys.is_empty() {
                self.delete(&page, Some(clear.offset), clear.commit.clone()).await?;
            }
        }
        Ok(())
    }

    /// `offset`: where the stream asked for it.
    async fn delete(&mut self, page: &sweep::Page, offset: Option<u64>, commit: Commit) -> Result<u64> {
        if self.context.owner == Owner::Unnamed {
            return self.delete_unclaimed(page, offset).await.map_err(|error| match error.code {
                // Another source, not ours: waiting for it is not our source's outage.
                Code::SourceLost | Code::SourceUnreachable => Error::new(Code::SourceBusy, error.message),
                _ => error,
            });
        }
        self.outlet.send(sweep::delete_chunk(page, offset, commit)).await?;
        Ok(u64::try_from(page.keys.len()).unwrap_or(u64::MAX))
    }

    async fn delete_unclaimed(&mut self, page: &sweep::Page, offset: Option<u64>) -> Result<u64> {
        self.outlet.settled().await?;
        let Context { shard, epoch, topology, selection, .. } = &self.context;
        let source_db = selection.source_db(page.db).unwrap_or(page.db);
        let mut others = Others::connect(topology.others(shard.index), page.db, source_db).await?;
        match &self.context.destination {
            Destination::Standalone(target) => {
                let key = reserved_key(shard, "position");
                let record = self.outlet.record().map(|record| record.encode()).unwrap_or_default();
                others.delete_unclaimed(target, (&key, &record), &page.keys).await
            }
            Destination::Routed(_) => {
                Err(Error::new(Code::TargetUnsupported, "keys behind an endpoint are not listed"))
            }
            Destination::Cluster(seeds) => {
                let records = SlotRecords::of(seeds, shard, *epoch).await?;
                others.delete_unclaimed_of_slots(&records, offset.unwrap_or(u64::MAX), &page.keys).await
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

    async fn begin_copy(&mut self, history: Option<ReplicationId>, offset: u64) -> Result<()> {
        if self.outlet.is_open() {
            // Half a command is on its way: only a new connection gets rid of it.
            return Err(Error::new(Code::TargetRewound, "the source began a new copy in the middle of a transaction"));
        }
        self.context.board.phase(ShardPhase::Copying);
        self.copy += 1;
        self.outlet.begin_copy(self.copy).await?;
        let fingerprinter = self.dirty.then(Fingerprinter::new);
        let context = &self.context;
        // Other sources' functions are theirs.
        let forgets = self.dirty
            && context.owner == Owner::Everything
            && !context.selection.excludes_command(b"FUNCTION")
            && sweep::has_functions(&context.destination).await;
        let mut encoder = SnapshotEncoder::new(context.dialect, context.selection.clone(), fingerprinter.clone())
            .owned_by(context.owner.clone());
        if forgets {
            encoder.forget_functions();
        }
        let index = fingerprinter.map(|fingerprinter| (KeyIndex::new(context.scratch.join("keys")), fingerprinter));
        self.dirty = true;
        self.marker = None;
        self.mode = Mode::Copying(Box::new(Copying { encoder, index, history, offset }));
        Ok(())
    }

    async fn end_copy(&mut self) -> Result<()> {
        let Mode::Copying(mut copying) = std::mem::replace(&mut self.mode, Mode::Waiting) else {
            return Err(out_of_order("the end of a snapshot"));
        };
        let facts = copying.encoder.finish()?;
        while let Some(chunk) = copying.encoder.next_chunk(true) {
            self.outlet.send(chunk).await?;
        }
        self.outlet.settled().await?;
        self.judge_strays(&facts.strays)?;
        let progress = copying.encoder.progress();
        if let Some((mut index, fingerprinter)) = copying.index {
            index.add(&copying.encoder.take_fingerprints())?;
            self.context.board.phase(ShardPhase::Sweeping);
            self.sweep(index, fingerprinter, progress).await?;
        }
        let position = Position { history: copying.history, offset: copying.offset, db: facts.stream_db };
        let holds_field_expiry = facts.holds_field_expiry;
        self.outlet.commit(Commit { position: Some(position), holds_field_expiry, progress }).await?;
        self.mode = streaming(&self.context, position, facts.scripts, progress, facts.held, holds_field_expiry);
        self.context.board.phase(ShardPhase::CatchingUp);
        Ok(())
    }

    /// Deletes what the target holds and the snapshot does not.
    async fn sweep(&mut self, index: KeyIndex, fingerprinter: Fingerprinter, progress: Progress) -> Result<()> {
        let (destination, selection) = (self.context.destination.clone(), self.context.selection.clone());
        let mut parts = destination.parts().await?;
        let first = parts.servers.first().unwrap_or(&self.context.target).clone();
        let mut stale = index.stale(&first, selection, fingerprinter, self.context.owner.clone()).await?;
        loop {
            let mut walked = Ok(());
            for server in &parts.servers {
                walked = self.sweep_one(&mut stale, server, progress).await;
                if walked.is_err() {
                    break;
                }
            }
            self.outlet.settled().await?;
            match walked {
                Ok(()) if destination.is_still(&parts).await? => return Ok(()),
                Err(error) if !destination.has_moved(&error) => return Err(error),
                // Keys that changed their place meanwhile may not have been seen.
                _ => parts = destination.parts().await?,
            }
        }
    }

    async fn sweep_one(&mut self, stale: &mut sweep::Stale, server: &Endpoint, progress: Progress) -> Result<()> {
        stale.go_on_at(server).await?;
        while let Some(page) = stale.next_page().await? {
            let commit = Commit { position: None, holds_field_expiry: false, progress };
            let keys = self.delete(&page, None, commit).await?;
            self.context.board.update(|status| {
                status.snapshot.get_or_insert_default().swept_keys += keys;
            });
        }
        Ok(())
    }
}

impl Driver {
    /// Keys that another shard owns were not written; whether that is all right is for the user to say.
    fn judge_strays(&self, strays: &Strays) -> Result<()> {
        self.context.board.update(|status| status.stray_keys = strays.count);
        let Some((_, first)) = strays.first.first() else { return Ok(()) };
        let message =
            format!("{} keys on {} belong to other sources: they were not copied", strays.count, self.context.source);
        if self.context.topology.stop_at_strays {
            return Err(Error::new(Code::SourceStrays, message).about_key(first));
        }
        let shown = |(db, key): &(u32, Vec<u8>)| {
            format!("{:?} in db {db}", String::from_utf8_lossy(&key[..key.len().min(LONGEST_SHOWN)]))
        };
        let listed: Vec<String> = strays.first.iter().map(shown).collect();
        let warning = format!("{message}; the first are {}", listed.join(", "));
        self.context.board.update(|status| status.warnings.push(warning));
        Ok(())
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
