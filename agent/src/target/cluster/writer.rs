//! Commands by slot, a transaction at a time for each, over one connection to each master.
//!
//! ```text
//! instructions -> intake (commands of slots) -> slots (what waits) -> rounds (what is sent, and what became of it) -> confirm
//! ```

mod intake;
mod rounds;
mod slots;

use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use self::intake::Parts;
use self::slots::Slots;
use super::Job;
use super::ledger::Ledger;
use super::lines::{Event, Lines};
use super::link::Identity;
use super::record;
use super::slot::Slot;
use super::topology::Topology;
use crate::limits::Throttle;
use crate::retry::Retry;
use crate::route::Commit;
use crate::target::{Applied, Checkpoint, Instruction, Phase};

/// So much may wait for its slots.
const BUDGET: usize = 16 << 20;
/// What is gathered goes if nothing came for so long.
const PATIENCE: Duration = Duration::from_millis(5);
/// How often slots that nothing was written to get the position of the others, and not before so many bytes passed.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
const REFRESH_BYTES: u64 = 64 << 10;
/// A round that takes longer is a reason to ask who owns what.
const LONG_ROUND: Duration = Duration::from_secs(2);
/// How long what is on its way may take at the end.
const DRAIN: Duration = Duration::from_secs(5);
const ASK_AFTER: Duration = Duration::from_millis(50);

/// Writes what it is told, and confirms.
#[derive(Debug)]
pub struct Writer {
    pub(super) job: Job,
    pub(super) topology: Topology,
    slots: Slots,
    lines: Lines,
    events: mpsc::Receiver<Event>,
    ledger: Ledger,
    copy: u64,
    /// What a record says once everything that was taken for its slot is applied.
    pub(super) phase: Phase,
    /// Bytes that wait or are on their way.
    queued: usize,
    /// True if what is gathered may go.
    flush: bool,
    last_taken: Instant,
    asking: bool,
    /// True while a chunk is taken in.
    dispatching: bool,
    refreshed: (Instant, u64),
    /// Masters that have still to answer a command without a slot.
    commands_left: usize,
    pub(super) retry: Retry,
    parts: Parts,
    applied: Applied,
    confirm: watch::Sender<Applied>,
}

impl Writer {
    pub(super) fn new(
        job: Job,
        identity: Identity,
        topology: Topology,
        records: Vec<(u16, Checkpoint)>,
        before: Option<&Checkpoint>,
        retry: Retry,
    ) -> Self {
        let (sender, events) = mpsc::channel(64);
        let now = Instant::now();
        let nothing = || Checkpoint { holder: None, epoch: job.epoch, sequence: 0, copy: 0, phase: Phase::Claimed };
        let summary = before.cloned().unwrap_or_else(nothing);
        let applied = Applied { checkpoint: Some(summary.clone()), ..Applied::default() };
        let refreshed = (now, record::offset(&summary));
        Self {
            job,
            topology,
            slots: Slots::new(records),
            lines: Lines::new(identity, sender),
            events,
            ledger: Ledger::default(),
            copy: summary.copy,
            phase: summary.phase,
            queued: 0,
            flush: false,
            last_taken: now,
            asking: false,
            dispatching: false,
            refreshed,
            commands_left: 0,
            retry,
            parts: Parts::default(),
            confirm: watch::channel(applied.clone()).0,
            applied,
        }
    }

    /// Until the sender is gone and what was taken is written, or it takes too long.
    pub async fn run(
        mut self,
        mut instructions: mpsc::Receiver<Instruction>,
        confirm: watch::Sender<Applied>,
    ) -> Result<()> {
        self.confirm = confirm;
        self.publish();
        loop {
            self.pump();
            let (room, until) = (self.queued < BUDGET, self.deadline());
            tokio::select! {
                instruction = paced(&mut self.job.pace, &mut instructions), if room => match instruction {
                    Some(instruction) => self.take(instruction).await?,
                    None => break,
                },
                event = self.events.recv() => self.handle(event)?,
                () = sleep_until(until) => self.on_time()?,
            }
        }
        // What does not get through is known by the records to be missing.
        timeout(DRAIN, self.settle()).await.unwrap_or(Ok(()))
    }

    /// True if an earlier attempt has brought this slot, or with `None` any slot, up to the offset.
    pub(super) fn has_applied(&self, slot: Option<u16>, offset: u64) -> bool {
        match slot {
            Some(number) => self.slots.get(number).is_some_and(|slot| offset <= slot.applied),
            None => self.slots.iter().any(|slot| offset <= slot.applied),
        }
    }

    /// Adds commands to a slot, unless an earlier attempt has applied them.
    pub(super) fn put(&mut self, number: u16, commands: &[u8], count: u32, offset: u64) -> Result<()> {
        let commit = self.ledger.current();
        let not_ours = || Error::new(Code::Internal, format!("a command for slot {number}, which is another shard's"));
        let slot = self.slots.get_mut(number).ok_or_else(not_ours)?;
        if offset <= slot.applied {
            return Ok(());
        }
        if slot.add(commands, count, commit) {
            self.ledger.add(commit);
        }
        self.queued += commands.len();
        self.schedule(number);
        Ok(())
    }

    /// Everything up to here was taken: to the end of a commit, or to an offset inside of it.
    pub(super) fn reached(&mut self, commit: &Commit, inside: Option<u64>) {
        if let Some(mut position) = commit.position {
            position.offset = inside.unwrap_or(position.offset);
            let holds_field_expiry = commit.holds_field_expiry;
            self.phase = Phase::Streaming { position, previous_offset: 0, holds_field_expiry };
        }
    }

    /// Every slot gets a record with the phase of now, behind what waits for it.
    pub(super) fn write_all_records(&mut self) -> Result<()> {
        self.slots.numbers(|_| true).into_iter().try_for_each(|slot| self.put(slot, &[], 0, u64::MAX))
    }

    /// Until nothing waits and nothing is on its way.
    pub(super) async fn settle(&mut self) -> Result<()> {
        while !self.slots.are_at_rest() || self.commands_left > 0 {
            self.flush = true;
            self.pump();
            self.happens().await?;
        }
        Ok(())
    }

    /// Waits for whatever happens next.
    async fn happens(&mut self) -> Result<()> {
        let until = self.deadline();
        tokio::select! {
            event = self.events.recv() => self.handle(event),
            () = sleep_until(until) => self.on_time(),
        }
    }

    fn deadline(&self) -> Instant {
        let now = Instant::now();
        let tick = if self.queued > 0 && !self.flush { PATIENCE } else { REFRESH_EVERY };
        self.slots.next_try().map_or(now + tick, |until| until.min(now + tick))
    }

    fn on_time(&mut self) -> Result<()> {
        let now = Instant::now();
        while let Some(number) = self.slots.waited(now) {
            self.reschedule(number);
        }
        if self.last_taken + PATIENCE <= now {
            self.flush = true;
        }
        if self.lines.open.values().any(|line| !line.sent.is_empty() && line.since + LONG_ROUND < now) {
            self.ask(ASK_AFTER);
        }
        self.refresh(now)
    }

    /// A slot that nothing is written to must not hold the place back where the next attempt goes on.
    fn refresh(&mut self, now: Instant) -> Result<()> {
        let Phase::Streaming { position, .. } = self.phase else { return Ok(()) };
        let (at, offset) = self.refreshed;
        if self.dispatching || now < at + REFRESH_EVERY || position.offset < offset + REFRESH_BYTES {
            return Ok(());
        }
        self.refreshed = (now, position.offset);
        let behind = |slot: &Slot| !slot.has_work() && record::offset(&slot.record) < position.offset;
        for number in self.slots.numbers(behind) {
            self.put(number, &[], 0, u64::MAX)?;
        }
        self.ledger.close(None);
        Ok(())
    }

    fn publish(&mut self) {
        while let Some(commit) = self.ledger.next_confirmed() {
            self.applied.commits += 1;
            self.applied.last = Some(commit);
        }
        if let Some(checkpoint) = &mut self.applied.checkpoint {
            checkpoint.copy = self.copy;
            if self.phase == Phase::Copying {
                checkpoint.phase = Phase::Copying;
            }
        }
        self.confirm.send_replace(self.applied.clone());
    }
}

async fn paced(pace: &mut Throttle, instructions: &mut mpsc::Receiver<Instruction>) -> Option<Instruction> {
    pace.ready().await;
    instructions.recv().await
}
