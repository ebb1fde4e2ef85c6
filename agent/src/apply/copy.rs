//! A full copy: begun where a snapshot begins, over once the target holds it and nothing else.

use dts_common::error::{Code, Error, Result};
use dts_common::position::{Position, ReplicationId};
use dts_proto::v1::ShardPhase;

use super::{Driver, Mode, out_of_order, streaming};
use crate::route::{Commit, Fingerprinter, SnapshotEncoder, Strays};
use crate::sweep::{self, KeyIndex};
use crate::topology::Owner;

/// Of the name of a key.
const LONGEST_SHOWN: usize = 64;

/// A full copy.
pub(crate) struct Copying {
    pub(super) encoder: SnapshotEncoder,
    /// What the snapshot holds, if the target may hold keys that it does not.
    index: Option<(KeyIndex, Fingerprinter)>,
    history: Option<ReplicationId>,
    offset: u64,
}

impl Driver {
    pub(super) async fn begin_copy(&mut self, history: Option<ReplicationId>, offset: u64) -> Result<()> {
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

    /// Takes bytes of the snapshot.
    pub(super) async fn copy_on(&mut self, bytes: &[u8]) -> Result<()> {
        let Mode::Copying(copying) = &mut self.mode else { return Err(out_of_order("snapshot bytes")) };
        copying.encoder.in_pieces_of(self.outlet.piece());
        copying.encoder.feed(bytes)?;
        if let Some((index, _)) = &mut copying.index {
            index.add(&copying.encoder.take_fingerprints())?;
        }
        while let Some(chunk) = copying.encoder.next_chunk(false) {
            self.outlet.send(chunk).await?;
        }
        Ok(())
    }

    pub(super) async fn end_copy(&mut self) -> Result<()> {
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
