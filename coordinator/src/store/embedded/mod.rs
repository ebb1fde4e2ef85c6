//! The store of a single coordinator: one redb file, durable at each commit, locked against a second process. A key under a
//! lease outlives a restart by the whole of its lease.

mod live;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use futures_util::StreamExt as _;
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use tokio::sync::watch;
use tokio::time::Instant;

use self::live::Live;
use super::{Event, Lease, Store, Transaction, Versioned, Watch};

/// Key -> revision (8 bytes, little-endian), then the value.
const DATA: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("data");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Key -> time to live of its lease, in milliseconds.
const LEASED: TableDefinition<'_, &str, u64> = TableDefinition::new("leased");
const REVISION: &str = "revision";
/// A watch reads the file again after an error.
const AGAIN: Duration = Duration::from_secs(1);

/// A store in a file.
#[derive(Clone, Debug)]
pub struct Embedded(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    database: Database,
    live: Mutex<Live>,
    changed: watch::Sender<u64>,
}

impl Embedded {
    /// Opens or makes the file.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error: redb::Error| {
            let why = match &error {
                redb::Error::DatabaseAlreadyOpen => {
                    "another process uses it; stop that one, or use another state directory".to_owned()
                }
                other => other.to_string(),
            };
            Error::new(Code::AgentDisk, format!("store {}: {why}", path.display()))
        };
        let database = Database::create(path).map_err(|error| failed(error.into()))?;
        let begin = || -> Result<Live, redb::Error> {
            let write = database.begin_write()?;
            let live = {
                write.open_table(DATA)?;
                let meta = write.open_table(META)?;
                let mut live = Live::since(meta.get(REVISION)?.map_or(0, |value| value.value()));
                for entry in write.open_table(LEASED)?.iter()? {
                    let (key, ttl) = entry?;
                    let lease = live.grant(Duration::from_millis(ttl.value()), Instant::now());
                    live.hold(key.value(), Some(lease));
                }
                live
            };
            write.commit()?;
            Ok(live)
        };
        let live = Mutex::new(begin().map_err(failed)?);
        Ok(Self(Arc::new(Shared { database, live, changed: watch::Sender::new(0) })))
    }

    /// Works on the file, when what has run out is gone.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T> {
        let shared = self.0.clone();
        let done = tokio::task::spawn_blocking(move || {
            shared.expire()?;
            work(&shared)
        });
        match done.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Error::new(Code::AgentDisk, format!("store: {error}"))),
            Err(error) => Err(Error::new(Code::Internal, format!("store: {error}"))),
        }
    }

    /// The values under a prefix, and the revision of which they are.
    async fn snapshot(&self, prefix: &str) -> Result<(Vec<(String, Versioned)>, u64)> {
        let prefix = prefix.to_owned();
        self.blocking(move |shared| {
            let read = shared.database.begin_read()?;
            let table = read.open_table(DATA)?;
            let mut found = Vec::new();
            for entry in table.range(prefix.as_str()..)? {
                let (key, value) = entry?;
                if !key.value().starts_with(&prefix) {
                    break;
                }
                found.push((key.value().to_owned(), versioned(value.value())));
            }
            let revision = read.open_table(META)?.get(REVISION)?.map_or(0, |value| value.value());
            Ok((found, revision))
        })
        .await
    }
}

impl Shared {
    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Deletes what goes with leases that ran out.
    fn expire(&self) -> Result<(), redb::Error> {
        let mut live = self.live();
        for lease in live.due(Instant::now()) {
            self.end(&mut live, lease)?;
        }
        Ok(())
    }

    fn end(&self, live: &mut Live, lease: Lease) -> Result<(), redb::Error> {
        let writes: Vec<_> = live.end(lease).into_iter().map(|key| (key, None)).collect();
        if !writes.is_empty() {
            self.commit(live, &Transaction { writes, ..Transaction::default() })?;
        }
        Ok(())
    }

    /// One commit after the other: who holds `live` is the only writer.
    fn commit(&self, live: &mut Live, transaction: &Transaction) -> Result<Option<u64>, redb::Error> {
        let ttl = match transaction.lease.map(|lease| live.ttl(lease)) {
            Some(None) => return Ok(None),
            Some(Some(ttl)) => Some(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX)),
            None => None,
        };
        let write = self.database.begin_write()?;
        let mut events = Vec::new();
        let revision = {
            let mut data = write.open_table(DATA)?;
            let mut meta = write.open_table(META)?;
            let mut leased = write.open_table(LEASED)?;
            for (key, expected) in &transaction.compares {
                let found = data.get(key.as_str())?.map_or(0, |value| versioned(value.value()).revision);
                if found != *expected {
                    return Ok(None);
                }
            }
            let revision = meta.get(REVISION)?.map_or(0, |value| value.value()) + 1;
            meta.insert(REVISION, revision)?;
            for (key, value) in &transaction.writes {
                match ttl.filter(|_| value.is_some()) {
                    Some(ttl) => drop(leased.insert(key.as_str(), ttl)?),
                    None => drop(leased.remove(key.as_str())?),
                }
                match value {
                    Some(value) => {
                        let bytes = [&revision.to_le_bytes()[..], value].concat();
                        data.insert(key.as_str(), bytes.as_slice())?;
                        events.push(Event::Put(key.clone(), Versioned { value: value.clone(), revision }));
                    }
                    None if data.remove(key.as_str())?.is_some() => events.push(Event::Delete(key.clone(), revision)),
                    None => {}
                }
            }
            revision
        };
        write.commit()?;
        for (key, value) in &transaction.writes {
            live.hold(key, transaction.lease.filter(|_| value.is_some()));
        }
        live.remember(revision, events);
        self.changed.send_replace(revision);
        Ok(Some(revision))
    }
}

fn versioned(bytes: &[u8]) -> Versioned {
    let (revision, value) = bytes.split_at_checked(8).unwrap_or_default();
    Versioned { value: value.to_vec(), revision: u64::from_le_bytes(revision.try_into().unwrap_or_default()) }
}

/// Where a watch stands.
struct Watching {
    store: Embedded,
    prefix: String,
    /// Everything up to here was seen; `None`: see all there is.
    seen: Option<u64>,
    queue: VecDeque<Event>,
}

impl Watching {
    async fn next(mut self) -> Option<(Event, Self)> {
        let mut changed = self.store.0.changed.subscribe();
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some((event, self));
            }
            changed.mark_unchanged();
            let Some(seen) = self.seen else {
                match self.store.snapshot(&self.prefix).await {
                    Ok((found, revision)) => {
                        self.seen = Some(revision);
                        self.queue.push_back(Event::Reset(found));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "a watch cannot read the store");
                        tokio::time::sleep(AGAIN).await;
                    }
                }
                continue;
            };
            let (news, due) = {
                let live = self.store.0.live();
                (live.after(seen, &self.prefix), live.next_due())
            };
            match news {
                None => self.seen = None,
                Some((events, _)) if events.is_empty() => {
                    let due = due.unwrap_or_else(|| Instant::now() + AGAIN);
                    tokio::select! {
                        _ = changed.changed() => {}
                        () = tokio::time::sleep_until(due) => {
                            // Leases end by the clock, also when nobody asks; an error comes back to who asks.
                            let _deleted = self.store.blocking(|_| Ok(())).await;
                        }
                    }
                }
                Some((events, revision)) => {
                    self.seen = Some(revision);
                    self.queue.extend(events);
                }
            }
        }
    }
}

impl Store for Embedded {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        let key = key.to_owned();
        self.blocking(move |shared| {
            let table = shared.database.begin_read()?.open_table(DATA)?;
            Ok(table.get(key.as_str())?.map(|value| versioned(value.value())))
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        Ok(self.snapshot(prefix).await?.0)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Option<u64>> {
        self.blocking(move |shared| shared.commit(&mut shared.live(), &transaction)).await
    }

    fn watch(&self, prefix: &str, after: u64) -> Watch {
        let seen = (after > 0).then_some(after);
        let watching = Watching { store: self.clone(), prefix: prefix.to_owned(), seen, queue: VecDeque::new() };
        futures_util::stream::unfold(watching, Watching::next).boxed()
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        Ok(self.0.live().grant(ttl, Instant::now()))
    }

    async fn keep_alive(&self, lease: Lease) -> Result<bool> {
        self.blocking(move |shared| Ok(shared.live().keep_alive(lease, Instant::now()))).await
    }

    async fn revoke(&self, lease: Lease) -> Result<()> {
        self.blocking(move |shared| shared.end(&mut shared.live(), lease)).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance::{self, put};
    use super::*;

    #[tokio::test]
    async fn it_does_what_every_store_has_to() {
        let dir = tempfile::tempdir().unwrap();
        let store = Embedded::open(&dir.path().join("store.redb")).unwrap();
        conformance::all(&store, async |store: &Embedded| {
            for _ in 0..=live::REMEMBERED {
                store.commit(put("elsewhere", "again", None)).await.unwrap().unwrap();
            }
        })
        .await;
    }

    #[tokio::test]
    async fn what_was_committed_is_there_after_reopening_and_revisions_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let store = Embedded::open(&path).unwrap();
        let first = store.commit(put("k", "v", None)).await.unwrap().unwrap();
        let lease = store.grant(Duration::from_millis(100)).await.unwrap();
        let leased = Transaction { lease: Some(lease), ..put("leased", "v", None) };
        let second = store.commit(leased).await.unwrap().unwrap();
        assert!(Embedded::open(&path).unwrap_err().message.contains("another process"));
        drop(store);
        let store = Embedded::open(&path).unwrap();
        assert_eq!(store.get("k").await.unwrap().unwrap().value, b"v");
        let mut watch = store.watch("leased", second);
        assert!(matches!(conformance::next(&mut watch).await, Event::Delete(..)), "its lease runs on after a restart");
        assert!(store.commit(put("k", "v", None)).await.unwrap().unwrap() > first);
    }
}
