//! Against a real etcd, with more sources than it takes in one transaction; and with a store that dies in between, at every step.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use dts_proto::v1::{Endpoint, Mode, TaskAction, TaskSpec};
use dts_tests::etcd::Etcd as Server;

use super::super::Engine;
use super::*;
use crate::secret::Sealer;
use crate::store::{Embedded, Etcd, EtcdConfig, Lease, Versioned, Watch};

const SOURCES: u32 = 350;

/// A store that takes so many commits more; the last of them has no answer, and may have happened.
#[derive(Clone)]
struct Dying<S> {
    store: S,
    left: Arc<AtomicI64>,
    happens: bool,
}

impl<S> Dying<S> {
    fn after(store: S, commits: i64, happens: bool) -> Self {
        Self { store, left: Arc::new(AtomicI64::new(commits)), happens }
    }
}

impl<S: Store> Store for Dying<S> {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        self.store.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        self.store.list(prefix).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Option<u64>> {
        let gone = || Err(Error::new(Code::StoreUnavailable, "gone"));
        match self.left.fetch_sub(1, Ordering::Relaxed) {
            1.. => self.store.commit(transaction).await,
            0 if self.happens => {
                self.store.commit(transaction).await?;
                gone()
            }
            _ => gone(),
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

async fn engine<S: Store>(store: S) -> Engine<S> {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, [7; 32]).unwrap();
    Engine::open(store, Arc::new(Sealer::read(&key).unwrap()), Duration::from_secs(10)).await.unwrap()
}

/// Sources from this number on.
fn spec(first: u32, count: u32) -> TaskSpec {
    let at = |number: u32| Endpoint { host: format!("h{number}"), port: 6379, ..Endpoint::default() };
    TaskSpec {
        name: "many".into(),
        sources: (first..first + count).map(at).collect(),
        target: Some(at(first + 100_000)),
        mode: Mode::Sync.into(),
        ..TaskSpec::default()
    }
}

async fn created<S: Store>(engine: &Engine<S>, spec: TaskSpec) -> String {
    engine.create(spec, String::new()).await.unwrap().id
}

/// As a start does once the check has passed.
async fn start<S: Store>(engine: &Engine<S>, id: &str) -> Result<()> {
    let mut world = engine.world.lock().await;
    engine.go(&mut world, id, true).await
}

async fn cancel<S: Store>(engine: &Engine<S>, id: &str) -> Result<()> {
    engine.request(id, 0, TaskAction::Cancel).await.map(drop)
}

async fn taken(store: &impl Store) -> usize {
    store.list("lock/").await.unwrap().len()
}

fn many() -> usize {
    usize::try_from(SOURCES).unwrap() + 1
}

/// Everything that is asked of it, over any store.
async fn takes_all_or_nothing<S: Store>(store: S) {
    let engine = engine(store.clone()).await;
    let [first, second] =
        [created(&engine, spec(0, SOURCES)).await, created(&engine, spec(SOURCES - 1, SOURCES)).await];
    start(&engine, &first).await.unwrap();
    assert_eq!(taken(&store).await, many());
    // The world knows the other; without it the store does.
    assert_eq!(start(&engine, &second).await.unwrap_err().code, Code::InstanceBusy);
    let hidden = engine.world.lock().await.tasks.remove(&first).unwrap();
    let error = start(&engine, &second).await.unwrap_err();
    assert!(error.code == Code::InstanceBusy && error.message.contains(&first), "{error:?}");
    assert_eq!(taken(&store).await, many(), "what was taken before the conflict is given back");
    let view = engine.get(&second).await.unwrap();
    assert_eq!(view.state(), TaskState::Created);
    engine.world.lock().await.tasks.insert(first.clone(), hidden);
    cancel(&engine, &first).await.unwrap();
    assert_eq!(taken(&store).await, 0);
    start(&engine, &second).await.unwrap();
    assert_eq!(taken(&store).await, many());
    cancel(&engine, &second).await.unwrap();
    for id in [&first, &second] {
        engine.request(id, 0, TaskAction::Delete).await.unwrap();
    }
    assert_eq!(taken(&store).await, 0);
    assert!(store.list("task/").await.unwrap().is_empty());
}

/// Whoever leads next gives back what nobody needs, wherever the one before it died.
async fn outlives_a_death_anywhere<S: Store>(store: S) {
    for happens in [false, true] {
        for commits in 0.. {
            let id = created(&engine(store.clone()).await, spec(0, SOURCES)).await;
            let dying = engine(Dying::after(store.clone(), commits, happens)).await;
            let started = start(&dying, &id).await;
            drop(dying);
            let next = engine(store.clone()).await;
            next.tick().await.unwrap();
            let runs = next.get(&id).await.unwrap().state() == TaskState::Verifying;
            assert_eq!(taken(&store).await, if runs { many() } else { 0 }, "{commits} {happens}");
            assert!(runs || started.is_err());
            if !runs {
                start(&next, &id).await.unwrap();
                assert_eq!(taken(&store).await, many());
            }
            // And dies on the way out as well.
            let dying = engine(Dying::after(store.clone(), commits, happens)).await;
            let _may_have_no_answer = cancel(&dying, &id).await;
            drop(dying);
            let next = engine(store.clone()).await;
            next.tick().await.unwrap();
            let over = next.get(&id).await.unwrap().state() == TaskState::Cancelled;
            assert_eq!(taken(&store).await, if over { 0 } else { many() }, "{commits} {happens}");
            if !over {
                cancel(&next, &id).await.unwrap();
            }
            next.request(&id, 0, TaskAction::Delete).await.unwrap();
            assert_eq!(taken(&store).await, 0);
            if started.is_ok() {
                break;
            }
        }
    }
}

fn etcd(server: &Server) -> Etcd {
    Etcd::new(EtcdConfig { endpoints: server.endpoints(), prefix: "/dts".into(), ..EtcdConfig::default() }).unwrap()
}

#[tokio::test]
async fn hundreds_of_servers_are_taken_all_or_none_over_etcd() {
    let server = Server::start(1).unwrap();
    Box::pin(takes_all_or_nothing(etcd(&server))).await;
}

#[tokio::test]
async fn a_leader_that_dies_while_it_takes_or_gives_leaves_nothing_that_blocks_over_etcd() {
    let server = Server::start(1).unwrap();
    Box::pin(outlives_a_death_anywhere(etcd(&server))).await;
}

#[tokio::test]
async fn an_embedded_store_does_the_same() {
    let dir = tempfile::tempdir().unwrap();
    Box::pin(takes_all_or_nothing(Embedded::open(&dir.path().join("one")).unwrap())).await;
    Box::pin(outlives_a_death_anywhere(Embedded::open(&dir.path().join("another")).unwrap())).await;
}

#[tokio::test]
async fn a_thousand_masters_are_no_more_than_etcd_takes() {
    let server = Server::start(1).unwrap();
    let store = etcd(&server);
    let engine = engine(store.clone()).await;
    let id = Box::pin(created(&engine, spec(0, 1000))).await;
    Box::pin(start(&engine, &id)).await.unwrap();
    assert_eq!(taken(&store).await, 1001);
    Box::pin(cancel(&engine, &id)).await.unwrap();
    assert_eq!(taken(&store).await, 0);
}
