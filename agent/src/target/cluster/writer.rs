//! Commands by slot, a transaction at a time for each, over one connection to each master.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dts_common::error::{Code, Error, Result};
use dts_common::redis::resp::CommandParser;
use dts_common::redis::slot::SLOTS;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::Job;
use super::ledger::Ledger;
use super::lines::{Event, Lines};
use super::link::{Away, Identity, Item, Outcome};
use super::record;
use super::slot::{Place, Slot};
use super::topology::Topology;
use crate::limits::Throttle;
use crate::retry::Retry;
use crate::route::{Chunk, Commit, Mark, Split, split};
use crate::target::session::rewound;
use crate::target::{Applied, Checkpoint, Instruction, Phase};

/// So much may wait for its slots.
const BUDGET: usize = 16 << 20;
/// While copying so much is gathered, so that a slot's transaction is worth its record.
const GATHER: usize = 8 << 20;
/// … unless nothing came for so long.
const PATIENCE: Duration = Duration::from_millis(5);
/// How often slots that nothing was written to get the position of the others, and not before so many bytes passed.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
const REFRESH_BYTES: u64 = 64 << 10;
/// A round that takes longer is a reason to ask who owns what.
const LONG_ROUND: Duration = Duration::from_secs(2);
/// How long what is on its way may take at the end.
const DRAIN: Duration = Duration::from_secs(5);
/// Waiting for a slot that was sent away: doubles.
const AWAY: Duration = Duration::from_millis(20);
const LONGEST_AWAY: Duration = Duration::from_millis(500);
const ASK_AFTER: Duration = Duration::from_millis(50);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(300);
/// Stands for no slot in a round of commands that have none.
pub(super) const NO_SLOT: u16 = u16::MAX;

/// Writes what it is told, and confirms.
#[derive(Debug)]
pub struct Writer {
    pub(super) job: Job,
    pub(super) topology: Topology,
    /// By number; those of other shards are missing.
    slots: Vec<Option<Box<Slot>>>,
    pub(super) lines: Lines,
    events: mpsc::Receiver<Event>,
    ledger: Ledger,
    copy: u64,
    /// What a record says once everything that was taken for its slot is applied.
    pub(super) phase: Phase,
    /// Slots that wait, by when they are tried again.
    held: BTreeSet<(Instant, u16)>,
    /// Slots that are not at rest.
    busy: usize,
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
    pub(super) commands_left: usize,
    pub(super) retry: Retry,
    /// The parts of a transaction that has not ended.
    parts: BytesMut,
    parts_marks: Vec<Mark>,
    parts_commands: u32,
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
        let mut slots: Vec<Option<Box<Slot>>> = (0..SLOTS).map(|_| None).collect();
        for (number, record) in records {
            if let Some(place) = slots.get_mut(usize::from(number)) {
                *place = Some(Box::new(Slot::new(number, record)));
            }
        }
        Self {
            job,
            topology,
            slots,
            lines: Lines::new(identity, sender),
            events,
            ledger: Ledger::default(),
            copy: summary.copy,
            phase: summary.phase,
            held: BTreeSet::new(),
            busy: 0,
            queued: 0,
            flush: false,
            last_taken: now,
            asking: false,
            dispatching: false,
            refreshed,
            commands_left: 0,
            retry,
            parts: BytesMut::new(),
            parts_marks: Vec::new(),
            parts_commands: 0,
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

    fn slot(&self, number: u16) -> Option<&Slot> {
        self.slots.get(usize::from(number))?.as_deref()
    }

    fn slot_mut(&mut self, number: u16) -> Option<&mut Slot> {
        self.slots.get_mut(usize::from(number))?.as_deref_mut()
    }

    /// True if an earlier attempt has brought this slot, or with `None` any slot, up to the offset.
    pub(super) fn has_applied(&self, slot: Option<u16>, offset: u64) -> bool {
        match slot {
            Some(number) => self.slot(number).is_some_and(|slot| offset <= slot.applied),
            None => self.slots.iter().flatten().any(|slot| offset <= slot.applied),
        }
    }

    async fn take(&mut self, instruction: Instruction) -> Result<()> {
        self.last_taken = Instant::now();
        match instruction {
            Instruction::BeginCopy { copy } => {
                self.settle().await?;
                (self.copy, self.phase) = (copy, Phase::Copying);
                self.applied.last = None;
                self.slots.iter_mut().flatten().for_each(|slot| slot.applied = 0);
                self.write_all_records()?;
                self.ledger.close(None);
                self.publish();
                Ok(())
            }
            Instruction::Chunk(chunk) => self.chunk(chunk).await,
        }
    }

    async fn chunk(&mut self, chunk: Chunk) -> Result<()> {
        let Chunk { bytes, commands, commit, marks } = chunk;
        self.job.pace.spent(bytes.len() as u64);
        if commit.is_none() || !self.parts.is_empty() {
            let before = self.parts_commands;
            self.parts.extend_from_slice(&bytes);
            self.parts_marks.extend(marks.iter().map(|mark| Mark { commands: before + mark.commands, ..*mark }));
            self.parts_commands += commands;
        }
        let Some(commit) = commit else { return Ok(()) };
        let (bytes, marks) = if self.parts.is_empty() {
            (bytes, marks)
        } else {
            self.parts_commands = 0;
            (std::mem::take(&mut self.parts).freeze(), std::mem::take(&mut self.parts_marks))
        };
        self.dispatching = true;
        let _opened = self.ledger.current();
        if commit.position.is_some() && self.phase == Phase::Copying {
            // The copy is over once every slot says so.
            self.reached(&commit, None);
            self.write_all_records()?;
        }
        self.dispatch(&bytes, &marks, &commit).await?;
        self.reached(&commit, None);
        self.ledger.close(Some(commit));
        self.dispatching = false;
        self.publish();
        Ok(())
    }

    async fn dispatch(&mut self, bytes: &Bytes, marks: &[Mark], commit: &Commit) -> Result<()> {
        let mut parser = CommandParser::default();
        let (mut at, mut index, mut group) = (0, 0, Group::default());
        let mut marks = marks.iter().peekable();
        let mut before = None;
        while at < bytes.len() {
            let parsed = parser.parse(&bytes[at..]).ok().flatten();
            let length = parsed.ok_or_else(|| Error::new(Code::Internal, "a chunk does not end with a command"))?;
            let raw = bytes.slice(at..at + length);
            at += length;
            index += 1;
            while let Some(passed) = marks.next_if(|mark| mark.commands < index) {
                before = Some(passed.offset);
            }
            let mark = marks.peek().copied();
            let words: Vec<&[u8]> = parser.arguments().iter().filter_map(|(from, to)| raw.get(*from..*to)).collect();
            if words.first().is_some_and(|name| name.eq_ignore_ascii_case(b"SELECT")) {
                continue;
            }
            let offset = mark.map_or(u64::MAX, |mark| mark.offset);
            match split(&words) {
                Split::Nothing => {}
                Split::Whole(slot) => {
                    self.cut(&mut group, mark, slot);
                    self.put(slot, &raw, 1, offset)?;
                }
                Split::Parts(parts) => {
                    for (slot, command) in parts {
                        self.cut(&mut group, mark, slot);
                        self.put(slot, &command, 1, offset)?;
                    }
                }
                Split::Refused(why) => self.refused(&words, why)?,
                other => {
                    if let Some(before) = before {
                        self.reached(commit, Some(before));
                    }
                    self.settle().await?;
                    self.at_once(other, offset, commit).await?;
                }
            }
        }
        Ok(())
    }

    /// Counts transactions of the source that are not one on the target.
    fn cut(&mut self, group: &mut Group, mark: Option<&Mark>, slot: u16) {
        let Some(mark) = mark.filter(|mark| mark.group > 0) else { return };
        if group.begin != mark.group {
            *group = Group { begin: mark.group, slot, counted: false };
        } else if group.slot != slot && !group.counted {
            group.counted = true;
            Arc::make_mut(&mut self.applied.notes).cut_transactions += 1;
        }
    }

    fn refused(&mut self, words: &[&[u8]], why: &str) -> Result<()> {
        let name = String::from_utf8_lossy(words.first().copied().unwrap_or_default()).to_uppercase();
        if self.job.skip {
            *Arc::make_mut(&mut self.applied.notes).skipped.entry(name).or_default() += 1;
            return Ok(());
        }
        let error = Error::new(Code::TargetUnsupported, format!("a cluster cannot do what {name} does: {why}"));
        Err(words.get(1).map_or(error.clone(), |key| error.about_key(key)))
    }

    /// Adds commands to a slot, unless an earlier attempt has applied them.
    pub(super) fn put(&mut self, number: u16, commands: &[u8], count: u32, offset: u64) -> Result<()> {
        let commit = self.ledger.current();
        let not_ours = || Error::new(Code::Internal, format!("a command for slot {number}, which is another shard's"));
        let slot = self.slot_mut(number).ok_or_else(not_ours)?;
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
        let ours: Vec<u16> = (0..SLOTS).filter(|slot| self.slot(*slot).is_some()).collect();
        ours.into_iter().try_for_each(|slot| self.put(slot, &[], 0, u64::MAX))
    }

    /// Brings a slot that has work, and is at rest, in line.
    fn schedule(&mut self, number: u16) {
        let Some(slot) = self.slot(number) else { return };
        if slot.place != Place::Rest || !slot.has_work() {
            return;
        }
        self.busy += 1;
        let line = match self.topology.owner(number) {
            Some(owner) => self.lines.to(owner),
            None => Err(Instant::now() + ASK_AGAIN_AFTER),
        };
        let place = match line {
            Ok(line) => {
                line.ready.push_back(number);
                Place::Ready
            }
            Err(until) => {
                self.held.insert((until, number));
                self.ask(ASK_AFTER);
                Place::Held
            }
        };
        if let Some(slot) = self.slot_mut(number) {
            slot.place = place;
        }
    }

    fn rest(&mut self, number: u16) {
        if let Some(slot) = self.slot_mut(number)
            && slot.place != Place::Rest
        {
            slot.place = Place::Rest;
            self.busy -= 1;
        }
    }

    fn hold(&mut self, number: u16, until: Instant) {
        if let Some(slot) = self.slot_mut(number) {
            slot.place = Place::Held;
            self.held.insert((until, number));
        }
    }

    /// Begins a round on every line that is free.
    fn pump(&mut self) {
        if self.phase == Phase::Copying && !self.flush && self.queued < GATHER {
            return;
        }
        let Self { lines, slots, copy, phase, .. } = self;
        for line in lines.open.values_mut().filter(|line| line.is_free()) {
            let number = line.number;
            line.begin(|slot| {
                let slot = slots.get_mut(usize::from(slot))?.as_deref_mut()?;
                slot.place = Place::Sent;
                slot.next(number, *copy, phase)
            });
        }
    }

    /// Until nothing waits and nothing is on its way.
    pub(super) async fn settle(&mut self) -> Result<()> {
        while self.busy > 0 || self.commands_left > 0 {
            self.flush = true;
            self.pump();
            let until = self.deadline();
            tokio::select! {
                event = self.events.recv() => self.handle(event)?,
                () = sleep_until(until) => self.on_time()?,
            }
        }
        Ok(())
    }

    fn deadline(&self) -> Instant {
        let now = Instant::now();
        let tick = if self.queued > 0 && !self.flush { PATIENCE } else { REFRESH_EVERY };
        self.held.first().map_or(now + tick, |(until, _)| (*until).min(now + tick))
    }

    fn on_time(&mut self) -> Result<()> {
        let now = Instant::now();
        while let Some((until, number)) = self.held.first().copied()
            && until <= now
        {
            self.held.remove(&(until, number));
            self.rest(number);
            self.schedule(number);
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
        for number in 0..SLOTS {
            let behind = |slot: &Slot| !slot.has_work() && record::offset(&slot.record) < position.offset;
            if self.slot(number).is_some_and(behind) {
                self.put(number, &[], 0, u64::MAX)?;
            }
        }
        self.ledger.close(None);
        Ok(())
    }

    fn handle(&mut self, event: Option<Event>) -> Result<()> {
        match event {
            None => return Err(Error::new(Code::Internal, "the connections to the target are gone")),
            Some(Event::Up { line, round_trip }) => self.lines.is_up(line, round_trip),
            Some(Event::Done { line, outcomes }) => self.done(line, outcomes)?,
            Some(Event::Lost { line, error }) => {
                if self.lost(line)? {
                    self.retry.failed(&error)?;
                }
            }
            Some(Event::Topology(found)) => self.found(found)?,
        }
        self.publish();
        Ok(())
    }

    fn done(&mut self, number: u64, outcomes: Vec<(u16, Outcome)>) -> Result<()> {
        let Some(line) = self.lines.by_number(number) else { return Ok(()) };
        line.sent.clear();
        let asked = line.endpoint.clone();
        let (mut written, mut down) = (false, None);
        for (number_of_slot, outcome) in outcomes {
            let slot = self.slots.get_mut(usize::from(number_of_slot)).and_then(Option::as_deref_mut);
            let confirmed = match (slot, outcome) {
                (Some(slot), Outcome::Found(found)) => slot.found(number, found.as_deref())?,
                (Some(slot), Outcome::Done) => {
                    written = true;
                    slot.confirmed()
                }
                (Some(slot), Outcome::Away(away, error)) => {
                    slot.sent_away(away != Away::Down);
                    let delay = AWAY.saturating_mul(1 << slot.away.min(8)).min(LONGEST_AWAY);
                    if let Away::Moved { host, port } = &away {
                        self.topology.set_owner(number_of_slot, host, *port, &asked);
                    }
                    if away == Away::Down {
                        down = Some(error);
                    }
                    self.hold(number_of_slot, Instant::now() + delay);
                    self.ask(ASK_AFTER);
                    continue;
                }
                (None, Outcome::Done) => {
                    self.commands_left = self.commands_left.saturating_sub(1);
                    continue;
                }
                (_, Outcome::Failed(error)) => return Err(error),
                (_, _) => return Err(rewound("a command for every master was refused by one")),
            };
            if let Some((commits, bytes)) = confirmed {
                commits.into_iter().for_each(|commit| self.ledger.confirm(commit));
                self.queued -= bytes;
            }
            self.rest(number_of_slot);
            self.schedule(number_of_slot);
        }
        if self.queued == 0 {
            self.flush = false;
        }
        match down {
            Some(error) => drop(self.retry.failed(&error)?),
            None if written && self.lines.all_well() => self.retry.succeeded(),
            None => {}
        }
        Ok(())
    }

    /// A line is gone: what waited for it waits; false if it was gone before.
    fn lost(&mut self, number: u64) -> Result<bool> {
        let Some((_, ready, sent)) = self.lines.close(number) else { return Ok(false) };
        let until = Instant::now() + AWAY;
        for number in sent {
            match self.slot_mut(number) {
                Some(slot) => slot.lost(),
                None => return Err(rewound("a command for every master was cut off at one")),
            }
            self.hold(number, until);
        }
        ready.into_iter().for_each(|number| self.hold(number, until));
        self.ask(ASK_AFTER);
        Ok(true)
    }

    fn found(&mut self, found: Result<Topology>) -> Result<()> {
        self.asking = false;
        match found {
            Ok(topology) => {
                if !topology.agrees(&self.topology) {
                    tracing::info!(masters = topology.masters.len(), "slots of the target have other owners");
                }
                self.topology = topology;
            }
            Err(error) => drop(self.retry.failed(&error)?),
        }
        for number in self.lines.forget_others(&self.topology.masters) {
            self.lost(number)?;
        }
        let ready: Vec<u16> = self.lines.open.values_mut().flat_map(|line| line.ready.drain(..)).collect();
        for number in ready {
            self.rest(number);
            self.schedule(number);
        }
        if !self.held.is_empty() || !self.lines.all_well() {
            self.ask(ASK_AGAIN_AFTER);
        }
        Ok(())
    }

    /// Asks the cluster who owns what, once at a time.
    pub(super) fn ask(&mut self, after: Duration) {
        if !std::mem::replace(&mut self.asking, true) {
            let known = self.topology.nodes.iter().chain(&self.job.seed).cloned().collect();
            self.lines.ask_again(known, after);
        }
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

    /// Sends a command to every master; they have to answer before [`Writer::settle`] returns.
    pub(super) async fn everywhere(&mut self, command: &[u8]) -> Result<()> {
        let masters = self.topology.masters.clone();
        for master in &masters {
            loop {
                match self.lines.to(master) {
                    Ok(line) if line.is_up() => {
                        line.round(vec![(NO_SLOT, Item::Command(Bytes::copy_from_slice(command)))]);
                        self.commands_left += 1;
                        break;
                    }
                    // It comes about, or tells why not.
                    _ => {
                        let until = self.deadline();
                        tokio::select! {
                            event = self.events.recv() => self.handle(event)?,
                            () = sleep_until(until) => self.on_time()?,
                        }
                    }
                }
            }
        }
        self.settle().await
    }
}

/// The transaction of the source that is taken in now.
#[derive(Default)]
struct Group {
    begin: u64,
    slot: u16,
    counted: bool,
}

async fn paced(pace: &mut Throttle, instructions: &mut mpsc::Receiver<Instruction>) -> Option<Instruction> {
    pace.ready().await;
    instructions.recv().await
}
