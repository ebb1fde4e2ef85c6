//! What a process knows beside the file: leases, and the changes of late. Pure.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::{Event, Lease};

/// Changes that are remembered for watches that come late.
pub(super) const REMEMBERED: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Live {
    leases: HashMap<Lease, (Duration, Instant)>,
    holders: HashMap<String, Lease>,
    last_lease: i64,
    recent: VecDeque<(u64, Event)>,
    /// Changes up to this revision may be forgotten.
    forgotten: u64,
    /// Revision of the last change that was remembered.
    newest: u64,
}

impl Live {
    /// Nothing is remembered of before this revision.
    pub(super) fn since(revision: u64) -> Self {
        Self { forgotten: revision, newest: revision, ..Self::default() }
    }

    pub(super) fn grant(&mut self, ttl: Duration, now: Instant) -> Lease {
        self.last_lease += 1;
        let lease = Lease(self.last_lease);
        self.leases.insert(lease, (ttl, now + ttl));
        lease
    }

    /// Its time to live, if it has not ended.
    pub(super) fn ttl(&self, lease: Lease) -> Option<Duration> {
        self.leases.get(&lease).map(|(ttl, _)| *ttl)
    }

    pub(super) fn keep_alive(&mut self, lease: Lease, now: Instant) -> bool {
        self.leases.get_mut(&lease).map(|(ttl, ends)| *ends = now + *ttl).is_some()
    }

    /// The keys that go with a lease that ends now.
    pub(super) fn end(&mut self, lease: Lease) -> Vec<String> {
        self.leases.remove(&lease);
        self.holders.iter().filter(|(_, of)| **of == lease).map(|(key, _)| key.clone()).collect()
    }

    pub(super) fn due(&self, now: Instant) -> Vec<Lease> {
        self.leases.iter().filter(|(_, (_, ends))| *ends <= now).map(|(lease, _)| *lease).collect()
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.leases.values().map(|(_, ends)| *ends).min()
    }

    /// Who holds the key from now on.
    pub(super) fn hold(&mut self, key: &str, lease: Option<Lease>) {
        match lease {
            Some(lease) => drop(self.holders.insert(key.to_owned(), lease)),
            None => drop(self.holders.remove(key)),
        }
    }

    pub(super) fn remember(&mut self, revision: u64, events: Vec<Event>) {
        self.newest = revision;
        self.recent.extend(events.into_iter().map(|event| (revision, event)));
        while self.recent.len() > REMEMBERED {
            if let Some((revision, _)) = self.recent.pop_front() {
                self.forgotten = revision;
            }
        }
    }

    /// Changes under a prefix after a revision, and the revision up to which they reach; `None` if some are forgotten.
    pub(super) fn after(&self, revision: u64, prefix: &str) -> Option<(Vec<Event>, u64)> {
        if revision < self.forgotten {
            return None;
        }
        let of_prefix = |event: &Event| match event {
            Event::Put(key, _) | Event::Delete(key, _) => key.starts_with(prefix),
            Event::Reset(_) => false,
        };
        let events = self.recent.iter().filter(|(at, event)| *at > revision && of_prefix(event));
        Some((events.map(|(_, event)| event.clone()).collect(), self.newest.max(revision)))
    }
}
