//! What every store has to do; run by each implementation's tests.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;

use super::{Event, MOST_WRITES, Store, Transaction, Versioned, Watch};

pub(crate) fn put(key: &str, value: &str, compare: Option<u64>) -> Transaction {
    Transaction {
        compares: compare.map(|revision| (key.to_owned(), revision)).into_iter().collect(),
        writes: vec![(key.to_owned(), Some(value.as_bytes().to_vec()))],
        ..Transaction::default()
    }
}

fn delete(key: &str) -> Transaction {
    Transaction { writes: vec![(key.to_owned(), None)], ..Transaction::default() }
}

pub(crate) async fn next(watch: &mut Watch) -> Event {
    tokio::time::timeout(Duration::from_secs(30), watch.next()).await.expect("an event in time").expect("it never ends")
}

/// Everything; `forget` makes the store forget the changes so far.
pub(crate) async fn all<S: Store>(store: &S, forget: impl AsyncFn(&S)) {
    transactions(store).await;
    as_many_writes_as_are_promised(store).await;
    watches(store).await;
    a_watch_that_missed_forgotten_changes_sees_all_there_is(store, forget).await;
    leases(store).await;
}

async fn transactions(store: &impl Store) {
    assert_eq!(store.get("a/1").await.unwrap(), None);
    let first = store.commit(put("a/1", "x", Some(0))).await.unwrap().unwrap();
    assert_eq!(store.commit(put("a/1", "y", Some(0))).await.unwrap(), None, "it is not absent any more");
    let found = store.get("a/1").await.unwrap().unwrap();
    assert_eq!((found.value.as_slice(), found.revision), (&b"x"[..], first));
    let second = store.commit(put("a/1", "z", Some(first))).await.unwrap().unwrap();
    assert!(second > first);
    assert_eq!(store.commit(put("a/1", "w", Some(first))).await.unwrap(), None, "the revision is an old one");
    store.commit(put("a/2", "q", None)).await.unwrap().unwrap();
    store.commit(put("b/1", "other", None)).await.unwrap().unwrap();
    let listed = store.list("a/").await.unwrap();
    assert_eq!(listed.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["a/1", "a/2"]);
    let both = Transaction {
        compares: vec![("a/1".into(), first)],
        writes: vec![("a/2".into(), None), ("b/1".into(), None)],
        ..Transaction::default()
    };
    assert_eq!(store.commit(both.clone()).await.unwrap(), None);
    assert!(store.get("a/2").await.unwrap().is_some(), "a refused transaction changes nothing");
    let both = Transaction { compares: vec![("a/1".into(), second)], ..both };
    let last = store.commit(both).await.unwrap().unwrap();
    assert!(store.get("a/2").await.unwrap().is_none() && store.get("b/1").await.unwrap().is_none());
    let again = store.commit(put("a/2", "new", Some(0))).await.unwrap().unwrap();
    assert!(again > last, "a revision never repeats, also for a key that was deleted");
}

/// Beside the keys that are written a transaction may compare the leader's, and a task's.
async fn as_many_writes_as_are_promised(store: &impl Store) {
    let keys: Vec<String> = (0..MOST_WRITES).map(|number| format!("m/{number:03}")).collect();
    let (leader, task) = (store.commit(put("m", "leads", None)).await, store.commit(put("n", "lists", None)).await);
    let guards = vec![("m".to_owned(), leader.unwrap().unwrap()), ("n".to_owned(), task.unwrap().unwrap())];
    let absent = keys.iter().map(|key| (key.clone(), 0));
    let take = Transaction {
        compares: guards.iter().cloned().chain(absent).collect(),
        writes: keys.iter().map(|key| (key.clone(), Some(b"mine".to_vec()))).collect(),
        ..Transaction::default()
    };
    let taken = store.commit(take.clone()).await.unwrap().unwrap();
    assert_eq!(store.commit(take).await.unwrap(), None, "none of them is absent any more");
    assert_eq!(store.list("m/").await.unwrap().len(), MOST_WRITES);
    let give = Transaction {
        compares: guards.into_iter().chain(keys.iter().map(|key| (key.clone(), taken))).collect(),
        writes: keys.iter().map(|key| (key.clone(), None)).collect(),
        ..Transaction::default()
    };
    store.commit(give).await.unwrap().unwrap();
    assert!(store.list("m/").await.unwrap().is_empty());
}

async fn watches(store: &impl Store) {
    let first = store.commit(put("w/1", "one", None)).await.unwrap().unwrap();
    let value = |text: &str, revision| Versioned { value: text.as_bytes().to_vec(), revision };
    let mut everything = store.watch("w/", 0);
    assert_eq!(next(&mut everything).await, Event::Reset(vec![("w/1".into(), value("one", first))]));
    let second = store.commit(put("w/2", "two", None)).await.unwrap().unwrap();
    store.commit(put("elsewhere", "x", None)).await.unwrap().unwrap();
    let third = store.commit(delete("w/1")).await.unwrap().unwrap();
    // From now, and from a revision that is past: the same changes in the same order.
    for mut watch in [everything, store.watch("w/", first)] {
        assert_eq!(next(&mut watch).await, Event::Put("w/2".into(), value("two", second)));
        assert_eq!(next(&mut watch).await, Event::Delete("w/1".into(), third));
    }
}

async fn a_watch_that_missed_forgotten_changes_sees_all_there_is<S: Store>(store: &S, forget: impl AsyncFn(&S)) {
    let old = store.commit(put("c/1", "old", None)).await.unwrap().unwrap();
    let kept = store.commit(put("c/2", "kept", None)).await.unwrap().unwrap();
    store.commit(delete("c/1")).await.unwrap().unwrap();
    forget(store).await;
    let mut watch = store.watch("c/", old);
    let Event::Reset(found) = next(&mut watch).await else { panic!("it does not say that it missed something") };
    assert_eq!(found, [("c/2".into(), Versioned { value: b"kept".to_vec(), revision: kept })]);
    let after = store.commit(put("c/3", "after", None)).await.unwrap().unwrap();
    let expected = Event::Put("c/3".into(), Versioned { value: b"after".to_vec(), revision: after });
    assert_eq!(next(&mut watch).await, expected);
}

async fn leases(store: &impl Store) {
    let ttl = Duration::from_secs(2);
    let leased = |key: &str, lease| Transaction { lease: Some(lease), ..put(key, "here", None) };
    let (kept, left, ended) =
        (store.grant(ttl).await.unwrap(), store.grant(ttl).await.unwrap(), store.grant(ttl).await.unwrap());
    for (key, lease) in [("l/kept", kept), ("l/left", left), ("l/ended", ended)] {
        store.commit(leased(key, lease)).await.unwrap().unwrap();
    }
    let mut watch = store.watch("l/", 0);
    assert!(matches!(next(&mut watch).await, Event::Reset(found) if found.len() == 3));
    store.revoke(ended).await.unwrap();
    assert!(
        matches!(next(&mut watch).await, Event::Delete(key, _) if key == "l/ended"),
        "a revoked lease takes its keys"
    );
    assert!(!store.keep_alive(ended).await.unwrap());
    assert_eq!(store.commit(leased("l/late", ended)).await.unwrap(), None, "an ended lease writes nothing");
    let begun = Instant::now();
    let gone = loop {
        tokio::select! {
            event = next(&mut watch) => break event,
            () = tokio::time::sleep(ttl / 4) => assert!(store.keep_alive(kept).await.unwrap()),
        }
    };
    assert!(matches!(gone, Event::Delete(key, _) if key == "l/left"), "a lease that is not kept ends");
    assert!(begun.elapsed() > ttl / 2 && begun.elapsed() < 4 * ttl, "{:?}", begun.elapsed());
    assert!(!store.keep_alive(left).await.unwrap());
    assert!(store.get("l/kept").await.unwrap().is_some() && store.get("l/left").await.unwrap().is_none());
    // Without its lease a key stays.
    store.commit(put("l/kept", "for good", None)).await.unwrap().unwrap();
    store.revoke(kept).await.unwrap();
    assert!(store.get("l/kept").await.unwrap().is_some());
}
