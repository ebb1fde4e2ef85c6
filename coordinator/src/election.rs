//! Who leads: a key under a lease. Whoever writes it into an empty place leads until the lease may have run out, by its own clock;
//! every commit of that time compares the key's revision, so what a deposed leader still tries to write is refused.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dts_common::backoff::Backoff;
use dts_common::error::{Code, Error, Result};
use futures_util::StreamExt as _;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::alarm::Alarms;
use crate::engine::Engine;
use crate::secret::Sealer;
use crate::store::{Event, Lease, Store, Transaction, Versioned, Watch};

const LEADER: &str = "leader";
/// A leader that goes gives its lease back, if the store answers this soon.
const RESIGN: Duration = Duration::from_secs(1);
/// How soon it is noticed that an agent fell silent.
const LOOK: Duration = Duration::from_millis(100);

/// What a coordinator is now.
pub enum Seat<S> {
    /// It leads.
    Leading(Leading<S>),
    /// Another leads, at this address, or nobody.
    Following(Option<String>),
}

/// What serves while a coordinator leads.
pub struct Leading<S> {
    /// Does the work.
    pub engine: Arc<Engine<Guarded<S>>>,
    /// Tells people.
    pub alarms: Arc<Alarms<Guarded<S>>>,
    /// Ends what was opened while it led.
    pub ends: CancellationToken,
    term: Option<Term>,
}

impl<S> Leading<S> {
    /// The only coordinator of its store.
    pub fn alone(engine: Engine<Guarded<S>>, alarms: Alarms<Guarded<S>>, ends: CancellationToken) -> Self {
        Self { engine: Arc::new(engine), alarms: Arc::new(alarms), ends, term: None }
    }

    /// By its own clock.
    pub fn holds(&self) -> bool {
        self.term.as_ref().is_none_or(Term::holds)
    }
}

/// The time for which a coordinator leads.
#[derive(Clone, Debug)]
struct Term {
    /// Of the leader key.
    revision: u64,
    until: Arc<Mutex<Instant>>,
    ends: CancellationToken,
}

impl Term {
    fn until(&self) -> Instant {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn prolong(&self, until: Instant) {
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = until;
    }

    fn holds(&self) -> bool {
        !self.ends.is_cancelled() && Instant::now() < self.until()
    }
}

/// A store that takes commits only while its owner leads.
#[derive(Clone, Debug)]
pub struct Guarded<S> {
    store: S,
    term: Option<Term>,
}

impl<S> Guarded<S> {
    /// For the only coordinator of its store.
    pub fn alone(store: S) -> Self {
        Self { store, term: None }
    }
}

fn deposed() -> Error {
    Error::new(Code::NoLeader, "this coordinator does not lead any more")
}

impl<S: Store> Store for Guarded<S> {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        self.store.list(prefix).await
    }

    async fn commit(&self, mut transaction: Transaction) -> Result<Option<u64>> {
        let Some(term) = &self.term else { return self.store.commit(transaction).await };
        if !term.holds() {
            return Err(deposed());
        }
        transaction.compares.push((LEADER.to_owned(), term.revision));
        if let Some(revision) = self.store.commit(transaction).await? {
            return Ok(Some(revision));
        }
        // Which of the compares was it?
        match self.store.get(LEADER).await? {
            Some(leader) if leader.revision == term.revision => Ok(None),
            _ => {
                term.ends.cancel();
                Err(deposed())
            }
        }
    }

    fn watch(&self, prefix: &str, after: u64) -> Watch {
        self.store.watch(prefix, after)
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        self.store.grant(ttl).await
    }

    async fn keep_alive(&self, lease: Lease) -> Result<bool> {
        self.store.keep_alive(lease).await
    }

    async fn revoke(&self, lease: Lease) -> Result<()> {
        self.store.revoke(lease).await
    }
}

/// What a leader's engine is opened with.
#[derive(Clone)]
pub struct Opener {
    /// Of the passwords.
    pub sealer: Arc<Sealer>,
    /// An agent that is silent for so long is taken for gone.
    pub agent_ttl: Duration,
    /// Of this coordinator: files whose end alarms may tell.
    pub certificates: Vec<PathBuf>,
}

impl Opener {
    /// Reads what is stored.
    pub async fn open<S: Store>(&self, store: Guarded<S>) -> Result<(Engine<Guarded<S>>, Alarms<Guarded<S>>)> {
        let engine = Engine::open(store.clone(), self.sealer.clone(), self.agent_ttl).await?;
        Ok((engine, Alarms::open(store, self.sealer.clone(), self.certificates.clone()).await?))
    }
}

/// Does the work of the clock until it is dropped.
pub async fn keep_time<S: Store>(engine: &Engine<S>, agent_ttl: Duration) {
    let (mut tick, mut look) = (interval(agent_ttl / 4), interval(LOOK));
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let done = tokio::select! {
            _ = tick.tick() => engine.tick().await,
            () = engine.registered() => engine.tick().await,
            _ = look.tick() => engine.look().await,
        };
        if let Err(error) = done {
            tracing::error!(%error, "the clock's work failed");
        }
    }
}

/// A coordinator that may lead.
pub struct Candidate<S> {
    /// Where the leader key stands.
    pub store: S,
    /// Tells this process from another.
    pub id: String,
    /// Where the others reach it.
    pub address: String,
    /// A leader that the store does not hear for so long is deposed.
    pub ttl: Duration,
    /// Opens what it serves when it leads.
    pub opener: Opener,
    /// Tells what it is now.
    pub seat: watch::Sender<Seat<S>>,
}

impl<S: Store> Candidate<S> {
    /// Follows, leads, follows again, until cancelled.
    pub async fn run(&self, cancel: CancellationToken) -> Result<()> {
        let mut watch = self.store.watch(LEADER, 0);
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        // Unknown until the watch has told.
        let mut vacant = false;
        loop {
            if vacant {
                vacant = false;
                let stood = tokio::select! {
                    stood = self.stand() => stood,
                    () = cancel.cancelled() => return Ok(()),
                };
                match stood {
                    Ok(Some((lease, term))) => {
                        self.lead(lease, term, &cancel).await?;
                        backoff.reset();
                    }
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(%error, "cannot stand for the lead");
                        vacant = true;
                        tokio::select! {
                            () = tokio::time::sleep(backoff.next_delay()) => {}
                            () = cancel.cancelled() => return Ok(()),
                        }
                        continue;
                    }
                }
            }
            let event = tokio::select! {
                event = watch.next() => event,
                () = cancel.cancelled() => return Ok(()),
            };
            let leader = match event {
                Some(Event::Reset(found)) => found.into_iter().find(|(key, _)| key == LEADER).map(|(_, found)| found),
                Some(Event::Put(key, found)) if key == LEADER => Some(found),
                Some(Event::Delete(key, _)) if key == LEADER => None,
                Some(_) => continue,
                None => return Err(Error::new(Code::Internal, "a watch ended")),
            };
            vacant = leader.is_none();
            self.seat.send_replace(Seat::Following(leader.and_then(|found| self.address_of(&found))));
        }
    }

    /// Of another; what we wrote ourselves is a lead that is over.
    fn address_of(&self, leader: &Versioned) -> Option<String> {
        let text = std::str::from_utf8(&leader.value).ok()?;
        let (id, address) = text.split_once(' ')?;
        (id != self.id).then(|| address.to_owned())
    }

    /// Writes the leader key, if it is not there.
    async fn stand(&self) -> Result<Option<(Lease, Term)>> {
        let sent = Instant::now();
        let lease = self.store.grant(self.ttl).await?;
        let write = Transaction {
            compares: vec![(LEADER.to_owned(), 0)],
            writes: vec![(LEADER.to_owned(), Some(format!("{} {}", self.id, self.address).into_bytes()))],
            lease: Some(lease),
        };
        let committed = self.store.commit(write).await;
        if !matches!(committed, Ok(Some(_))) {
            // It may stand there all the same: not for long.
            self.resign(lease).await;
        }
        Ok(committed?.map(|revision| {
            let until = Arc::new(Mutex::new(until(self.ttl, sent)));
            (lease, Term { revision, until, ends: CancellationToken::new() })
        }))
    }

    async fn lead(&self, lease: Lease, term: Term, cancel: &CancellationToken) -> Result<()> {
        let serve = async {
            let guarded = Guarded { store: self.store.clone(), term: Some(term.clone()) };
            let (engine, alarms) = Box::pin(self.opener.open(guarded)).await?;
            let (engine, alarms) = (Arc::new(engine), Arc::new(alarms));
            tracing::info!(term = term.revision, "leading");
            let leading = Leading {
                engine: engine.clone(),
                alarms: alarms.clone(),
                ends: term.ends.clone(),
                term: Some(term.clone()),
            };
            self.seat.send_replace(Seat::Leading(leading));
            tokio::select! {
                () = keep_time(&engine, self.opener.agent_ttl) => {}
                () = alarms.run(&engine) => {}
            }
            Ok(())
        };
        // By itself: a leader that is busy is no leader less.
        let kept = AbortOnDropHandle::new(tokio::spawn(keep(self.store.clone(), self.ttl, lease, term.clone())));
        let ended: Result<()> = tokio::select! {
            () = term.ends.cancelled() => Ok(()),
            () = cancel.cancelled() => Ok(()),
            failed = serve => failed,
        };
        tracing::info!(term = term.revision, "not leading any more");
        term.ends.cancel();
        self.seat.send_replace(Seat::Following(None));
        if let Err(error) = kept.await {
            tracing::error!(%error, "keeping the lead broke");
        }
        self.resign(lease).await;
        match ended {
            Err(error) if error.code.retry() => {
                tracing::warn!(%error, "could not lead");
                Ok(())
            }
            other => other,
        }
    }

    async fn resign(&self, lease: Lease) {
        let _ended_or_runs_out = timeout(RESIGN, self.store.revoke(lease)).await;
    }
}

/// The store counts from when it heard us, so from later; the rest is for clocks that do not run alike.
fn until(ttl: Duration, sent: Instant) -> Instant {
    sent + ttl * 9 / 10
}

/// Keeps the lease until the term may be over, and ends the term then.
async fn keep<S: Store>(store: S, ttl: Duration, lease: Lease, term: Term) {
    let kept = async {
        loop {
            let sent = Instant::now();
            match timeout(term.until().saturating_duration_since(sent), store.keep_alive(lease)).await {
                Ok(Ok(true)) => term.prolong(until(ttl, sent)),
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(error)) => tracing::warn!(%error, "the lead could not be confirmed"),
            }
            tokio::time::sleep(ttl / 5).await;
        }
    };
    term.ends.run_until_cancelled(kept).await;
    term.ends.cancel();
}

#[cfg(test)]
mod tests {
    use dts_tests::etcd::Etcd as Server;

    use super::*;
    use crate::store::{Etcd, EtcdConfig};

    fn candidate(server: &Server, id: &str, dir: &std::path::Path) -> (Candidate<Etcd>, watch::Receiver<Seat<Etcd>>) {
        let config = EtcdConfig { endpoints: server.endpoints(), prefix: "/dts".into(), ..EtcdConfig::default() };
        let (seat, seen) = watch::channel(Seat::Following(None));
        let sealer = Arc::new(Sealer::open(&dir.join("key")).unwrap());
        let opener = Opener { sealer, agent_ttl: Duration::from_secs(10), certificates: Vec::new() };
        let store = Etcd::new(config).unwrap();
        let ttl = Duration::from_secs(2);
        (Candidate { store, id: id.into(), address: format!("http://{id}"), ttl, opener, seat }, seen)
    }

    #[tokio::test]
    async fn the_write_of_a_deposed_leader_is_refused_and_its_successors_is_taken() {
        let (server, dir) = (Server::start(1).unwrap(), tempfile::tempdir().unwrap());
        let ((first, _), (second, _)) =
            (candidate(&server, "first", dir.path()), candidate(&server, "second", dir.path()));
        let (lease, term) = first.stand().await.unwrap().unwrap();
        assert!(second.stand().await.unwrap().is_none(), "two lead");
        let old = Guarded { store: first.store.clone(), term: Some(term.clone()) };
        let write = || Transaction { writes: vec![("k".into(), Some(b"v".to_vec()))], ..Transaction::default() };
        old.commit(write()).await.unwrap().unwrap();
        // Its process stands still: its lease ends, and its own clock is not asked.
        first.store.revoke(lease).await.unwrap();
        term.prolong(Instant::now() + Duration::from_secs(3600));
        let (_, successor) = second.stand().await.unwrap().unwrap();
        assert!(successor.revision > term.revision);
        assert_eq!(old.commit(write()).await.unwrap_err().code, Code::NoLeader);
        assert!(!term.holds(), "it does not know yet");
        let new = Guarded { store: second.store.clone(), term: Some(successor) };
        new.commit(write()).await.unwrap().unwrap();
        let stale = Transaction { compares: vec![("k".into(), 1)], ..write() };
        assert_eq!(new.commit(stale).await.unwrap(), None, "the leader key was not the reason");
    }

    #[tokio::test]
    async fn a_leader_that_etcd_does_not_hear_stops_by_its_own_clock_and_leads_again() {
        let (mut server, dir) = (Server::start(1).unwrap(), tempfile::tempdir().unwrap());
        let (only, mut seen) = candidate(&server, "only", dir.path());
        let cancel = CancellationToken::new();
        let run = {
            let cancel = cancel.clone();
            tokio::spawn(async move { Box::pin(only.run(cancel)).await })
        };
        let leads = |seat: &Seat<Etcd>| matches!(seat, Seat::Leading(leading) if leading.holds());
        timeout(Duration::from_secs(10), seen.wait_for(leads)).await.unwrap().unwrap();
        server.kill(0).unwrap();
        let begun = Instant::now();
        timeout(Duration::from_secs(10), seen.wait_for(|seat| !leads(seat))).await.unwrap().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
        server.restart(0).unwrap();
        timeout(Duration::from_secs(20), seen.wait_for(leads)).await.unwrap().unwrap();
        cancel.cancel();
        run.await.unwrap().unwrap();
        assert!(server.ctl(&["get", "/dts/leader"]).unwrap().is_empty(), "it did not resign");
    }
}
