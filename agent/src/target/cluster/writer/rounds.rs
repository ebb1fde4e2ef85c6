//! Rounds: slots with work stand in line for their masters, and what became of what was sent decides where each goes next.

use std::time::Duration;

use bytes::Bytes;
use dts_common::error::{Code, Error, Result};
use tokio::time::Instant;

use super::{ASK_AFTER, Writer};
use crate::endpoint::Endpoint;
use crate::target::Phase;
use crate::target::cluster::lines::Event;
use crate::target::cluster::link::{Away, Item, Outcome};
use crate::target::cluster::slot::Place;
use crate::target::cluster::topology::Topology;
use crate::target::session::rewound;

/// While copying so much is gathered, so that a slot's transaction is worth its record.
const GATHER: usize = 8 << 20;
/// Waiting for a slot that was sent away: doubles.
const AWAY: Duration = Duration::from_millis(20);
const LONGEST_AWAY: Duration = Duration::from_millis(500);
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(300);
/// Stands for no slot in a round of commands that have none.
const NO_SLOT: u16 = u16::MAX;

impl Writer {
    /// Brings a slot that has work, and is at rest, in line.
    pub(super) fn schedule(&mut self, number: u16) {
        if !self.slots.get(number).is_some_and(|slot| slot.place == Place::Rest && slot.has_work()) {
            return;
        }
        let line = match self.topology.owner(number) {
            Some(owner) => self.lines.to(owner),
            None => Err(Instant::now() + ASK_AGAIN_AFTER),
        };
        match line {
            Ok(line) => {
                line.ready.push_back(number);
                self.slots.put(number, Place::Ready);
            }
            Err(until) => {
                self.slots.hold(number, until);
                self.ask(ASK_AFTER);
            }
        }
    }

    /// Something of a slot is over, or it may go elsewhere.
    pub(super) fn reschedule(&mut self, number: u16) {
        self.slots.put(number, Place::Rest);
        self.schedule(number);
    }

    /// Begins a round on every line that is free.
    pub(super) fn pump(&mut self) {
        if self.phase == Phase::Copying && !self.flush && self.queued < GATHER {
            return;
        }
        let Self { lines, slots, copy, phase, .. } = self;
        for line in lines.open.values_mut().filter(|line| line.is_free()) {
            let number = line.number;
            line.begin(|slot| {
                let slot = slots.put(slot, Place::Sent)?;
                slot.next(number, *copy, phase)
            });
        }
    }

    pub(super) fn handle(&mut self, event: Option<Event>) -> Result<()> {
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
            let confirmed = match (self.slots.get_mut(number_of_slot), outcome) {
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
                    self.slots.hold(number_of_slot, Instant::now() + delay);
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
            self.reschedule(number_of_slot);
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
            match self.slots.get_mut(number) {
                Some(slot) => slot.lost(),
                None => return Err(rewound("a command for every master was cut off at one")),
            }
            self.slots.hold(number, until);
        }
        ready.into_iter().for_each(|number| self.slots.hold(number, until));
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
        ready.into_iter().for_each(|number| self.reschedule(number));
        if self.slots.next_try().is_some() || !self.lines.all_well() {
            self.ask(ASK_AGAIN_AFTER);
        }
        Ok(())
    }

    /// Asks the cluster who owns what, once at a time.
    pub(super) fn ask(&mut self, after: Duration) {
        if !std::mem::replace(&mut self.asking, true) {
            self.lines.ask_again(self.known(), after);
        }
    }

    /// Nodes that may tell who owns what.
    pub(in crate::target::cluster) fn known(&self) -> Vec<Endpoint> {
        self.topology.nodes.iter().chain(&self.job.seed).cloned().collect()
    }

    /// Sends a command to every master; they have to answer before [`Writer::settle`] returns.
    pub(in crate::target::cluster) async fn everywhere(&mut self, command: &[u8]) -> Result<()> {
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
                    _ => self.happens().await?,
                }
            }
        }
        self.settle().await
    }
}
