//! What survives the coordinator: tasks (`task/<id>`), and the last epoch of every shard (`epoch/<id>/<index>`). Progress is
//! not stored: agents report it. Positions are not stored: the targets hold them. No secret is stored in clear.
//!
//! Every commit gets the next revision; revisions grow over everything and never repeat.

mod embedded;

pub use embedded::Embedded;

use std::future::Future;

use dts_common::error::Result;

/// A stored value and the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned {
    /// The value.
    pub value: Vec<u8>,
    /// Revision of its last change.
    pub revision: u64,
}

/// One atomic change.
#[derive(Clone, Debug, Default)]
pub struct Transaction {
    /// Keys and the revision that each must have; 0: must be absent.
    pub compares: Vec<(String, u64)>,
    /// Written if all compares hold; `None` deletes.
    pub writes: Vec<(String, Option<Vec<u8>>)>,
}

/// A durable, ordered map.
pub trait Store: Send + Sync + 'static {
    /// One value.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Versioned>>> + Send;
    /// All values under a prefix, by key.
    fn list(&self, prefix: &str) -> impl Future<Output = Result<Vec<(String, Versioned)>>> + Send;
    /// The revision of the commit once it is durable; `None` if a compare did not hold.
    fn commit(&self, transaction: Transaction) -> impl Future<Output = Result<Option<u64>>> + Send;
}

/// What every store has to do; run by each implementation's tests.
#[cfg(test)]
pub(crate) async fn conformance(store: &impl Store) {
    let put = |key: &str, value: &str, compare: Option<u64>| Transaction {
        compares: compare.map(|revision| (key.to_owned(), revision)).into_iter().collect(),
        writes: vec![(key.to_owned(), Some(value.as_bytes().to_vec()))],
    };
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
    let both =
        Transaction { compares: vec![("a/1".into(), first)], writes: vec![("a/2".into(), None), ("b/1".into(), None)] };
    assert_eq!(store.commit(both.clone()).await.unwrap(), None);
    assert!(store.get("a/2").await.unwrap().is_some(), "a refused transaction changes nothing");
    let both = Transaction { compares: vec![("a/1".into(), second)], ..both };
    let last = store.commit(both).await.unwrap().unwrap();
    assert!(store.get("a/2").await.unwrap().is_none() && store.get("b/1").await.unwrap().is_none());
    let again = store.commit(put("a/2", "new", Some(0))).await.unwrap().unwrap();
    assert!(again > last, "a revision never repeats, also for a key that was deleted");
}
