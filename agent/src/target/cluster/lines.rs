//! The connections to the masters, each with a task of its own that does one round after the other.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use dts_common::backoff::Backoff;
use dts_common::error::{Code, Error, Result};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use super::link::{Identity, Item, Link, Outcome};
use super::topology::Topology;
use crate::endpoint::Endpoint;
use crate::target::span::span;

/// What a round may hold at least: far away it is more.
const ROUND_BYTES: usize = 1 << 20;
const ROUND_ITEMS: usize = 4096;

/// What happened.
#[derive(Debug)]
pub(super) enum Event {
    /// A connection may write.
    Up { line: u64, round_trip: Duration },
    /// A round is over.
    Done { line: u64, outcomes: Vec<(u16, Outcome)> },
    /// A connection broke, or did not come about.
    Lost { line: u64, error: Error },
    /// The cluster, asked again.
    Topology(Result<Topology>),
}

/// One connection.
#[derive(Debug)]
pub(super) struct Line {
    /// Never repeats.
    pub(super) number: u64,
    pub(super) endpoint: Endpoint,
    rounds: mpsc::Sender<Vec<(u16, Item)>>,
    abort: AbortHandle,
    up: bool,
    round_bytes: usize,
    /// The slots whose turn has not come.
    pub(super) ready: VecDeque<u16>,
    /// The slots of the round that is on its way, and since when.
    pub(super) sent: Vec<u16>,
    pub(super) since: Instant,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Lines {
    identity: Identity,
    pub(super) open: HashMap<String, Line>,
    /// Masters that were not reached: when they are tried again.
    closed: HashMap<String, (Instant, Backoff)>,
    last: u64,
    tasks: JoinSet<()>,
    events: mpsc::Sender<Event>,
}

impl Lines {
    pub(super) fn new(identity: Identity, events: mpsc::Sender<Event>) -> Self {
        Self { identity, open: HashMap::new(), closed: HashMap::new(), last: 0, tasks: JoinSet::new(), events }
    }

    /// The line to a master, opened if it is not; or when it may be tried.
    pub(super) fn to(&mut self, endpoint: &Endpoint) -> std::result::Result<&mut Line, Instant> {
        let name = endpoint.to_string();
        if let Some((until, _)) = self.closed.get(&name)
            && *until > Instant::now()
            && !self.open.contains_key(&name)
        {
            return Err(*until);
        }
        let Self { identity, open, last, tasks, events, .. } = self;
        Ok(open.entry(name).or_insert_with(|| {
            *last += 1;
            let (rounds, to_do) = mpsc::channel(1);
            let abort = tasks.spawn(work(*last, endpoint.clone(), identity.clone(), to_do, events.clone()));
            Line {
                number: *last,
                endpoint: endpoint.clone(),
                rounds,
                abort,
                up: false,
                round_bytes: ROUND_BYTES,
                ready: VecDeque::new(),
                sent: Vec::new(),
                since: Instant::now(),
            }
        }))
    }

    /// Ends a line: gives the slots that were waiting for it, and those whose outcome nobody knows.
    pub(super) fn close(&mut self, number: u64) -> Option<(Endpoint, Vec<u16>, Vec<u16>)> {
        let name = self.open.iter().find(|(_, line)| line.number == number)?.0.clone();
        let line = self.open.remove(&name)?;
        line.abort.abort();
        let first = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        let (until, backoff) = self.closed.entry(name).or_insert_with(|| (Instant::now(), first));
        *until = Instant::now() + backoff.next_delay();
        Some((line.endpoint, line.ready.into(), line.sent))
    }

    pub(super) fn by_number(&mut self, number: u64) -> Option<&mut Line> {
        self.open.values_mut().find(|line| line.number == number)
    }

    /// A line may write.
    pub(super) fn is_up(&mut self, number: u64, round_trip: Duration) {
        let Some(line) = self.by_number(number) else { return };
        (line.up, line.round_bytes) = (true, span(round_trip, ROUND_BYTES));
        let name = line.endpoint.to_string();
        self.closed.remove(&name);
    }

    /// True if no master is out of reach.
    pub(super) fn all_well(&self) -> bool {
        self.closed.is_empty()
    }

    /// Asks the cluster again, after a while.
    pub(super) fn ask_again(&mut self, known: Vec<Endpoint>, after: Duration) {
        let events = self.events.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(after).await;
            let _nobody_waits_any_more = events.send(Event::Topology(Topology::find(&known).await)).await;
        });
        // Those that ended are of no more interest.
        while self.tasks.try_join_next().is_some() {}
    }

    /// Masters that own nothing any more are forgotten.
    pub(super) fn forget_others(&mut self, masters: &[Endpoint]) -> Vec<u64> {
        let stays = |name: &String| masters.iter().any(|master| master.to_string() == *name);
        self.closed.retain(|name, _| stays(name));
        self.open.iter().filter(|(name, _)| !stays(name)).map(|(_, line)| line.number).collect()
    }
}

impl Line {
    /// True if a round may begin.
    pub(super) fn is_free(&self) -> bool {
        self.up && self.sent.is_empty() && !self.ready.is_empty()
    }

    /// Begins a round with what `next` gives for the slots in line.
    pub(super) fn begin(&mut self, mut next: impl FnMut(u16) -> Option<(Item, usize)>) {
        let (mut items, mut bytes) = (Vec::new(), 0);
        let most = ROUND_ITEMS * self.round_bytes / ROUND_BYTES;
        while bytes < self.round_bytes && items.len() < most {
            let Some(slot) = self.ready.pop_front() else { break };
            if let Some((item, size)) = next(slot) {
                bytes += size;
                items.push((slot, item));
            }
        }
        if items.is_empty() {
            return;
        }
        self.round(items);
    }

    /// Begins a round of these.
    pub(super) fn round(&mut self, items: Vec<(u16, Item)>) {
        self.sent = items.iter().map(|(slot, _)| *slot).collect();
        self.since = Instant::now();
        // There is room: the round before is over. A task that ended has said so.
        let _told_by_its_own_event = self.rounds.try_send(items);
    }

    /// True once the line may write.
    pub(super) fn is_up(&self) -> bool {
        self.up
    }
}

async fn work(
    line: u64,
    endpoint: Endpoint,
    identity: Identity,
    mut rounds: mpsc::Receiver<Vec<(u16, Item)>>,
    events: mpsc::Sender<Event>,
) {
    let lost = match Link::open(&endpoint, &identity).await {
        Err(error) => error,
        Ok(mut link) => {
            if events.send(Event::Up { line, round_trip: link.round_trip }).await.is_err() {
                return;
            }
            loop {
                let Some(round) = rounds.recv().await else { return };
                let (slots, items): (Vec<u16>, Vec<Item>) = round.into_iter().unzip();
                let outcomes = match link.round(&items).await {
                    Ok(outcomes) => outcomes,
                    Err(error) => break error,
                };
                let outcomes = slots.into_iter().zip(outcomes).collect();
                if events.send(Event::Done { line, outcomes }).await.is_err() {
                    return;
                }
            }
        }
    };
    // A node that is no master any more, or loads, is one that does not serve.
    let error = match lost.code {
        Code::TargetRole => Error { code: Code::TargetBusy, ..lost },
        _ => lost,
    };
    let _nobody_waits_any_more = events.send(Event::Lost { line, error }).await;
}
