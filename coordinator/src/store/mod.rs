//! What survives the coordinator: tasks (`task/<id>`), their verifications (`verify/<id>/<number>`), the last epoch of every shard (`epoch/<id>/<index>`), who leads (`leader`,
//! leased), which agents live (`agent/<name>`, leased), which of them shall get no shards (`cordon/<name>`), the hashes of tokens that
//! are not spent (`token/<id>`), the last calls that changed something (`audit/<number>`), earlier runs of checks (`run/<id>/<number>`),
//! which servers running tasks hold (`lock/source/<host:port>`, `lock/target/<host:port>`), and the proof of the sealing key (`seal`). Progress is not stored: agents
//! report it. Positions are what the targets hold; a copy of them, about a minute old, stands in `position/<id>`. No secret is stored in clear.
//!
//! Every commit gets the next revision; revisions grow over everything and never repeat.

#[cfg(test)]
mod conformance;
mod embedded;
mod etcd;
mod metered;

pub use embedded::Embedded;
pub use etcd::{Config as EtcdConfig, Etcd};
pub use metered::Metered;

use std::future::Future;
use std::time::Duration;

use dts_common::error::Result;
use futures_util::stream::BoxStream;

/// Keys that are written in one transaction where there are many: etcd takes 128 operations by default, and the guard is one.
pub const MOST_WRITES: usize = 100;

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
    /// What is written goes with this lease; one that is gone counts as a compare that does not hold.
    pub lease: Option<Lease>,
}

/// A promise to come back in time: keys written under it are deleted when it is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Lease(pub i64);

/// What a watch sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Everything that there is: the first event of a watch from 0, and again when changes were forgotten before they were seen.
    Reset(Vec<(String, Versioned)>),
    /// A key has this value now.
    Put(String, Versioned),
    /// A key was deleted, at this revision.
    Delete(String, u64),
}

/// Changes in order, none twice, none left out but before a `Reset`. It never ends: it waits for a store that is away.
pub type Watch = BoxStream<'static, Event>;

/// A durable, ordered map.
pub trait Store: Clone + Send + Sync + 'static {
    /// One value.
    fn get(&self, key: &str) -> impl Future<Output = Result<Option<Versioned>>> + Send;
    /// All values under a prefix, by key.
    fn list(&self, prefix: &str) -> impl Future<Output = Result<Vec<(String, Versioned)>>> + Send;
    /// The revision of the commit once it is durable; `None` if a compare did not hold. After an error it may have happened or not,
    /// and may still happen.
    fn commit(&self, transaction: Transaction) -> impl Future<Output = Result<Option<u64>>> + Send;
    /// Changes under a prefix after this revision; 0: what is there, then its changes.
    fn watch(&self, prefix: &str, after: u64) -> Watch;
    /// A lease that ends this long after it was kept alive last; a server may round it up to seconds and bear with it a little longer.
    fn grant(&self, ttl: Duration) -> impl Future<Output = Result<Lease>> + Send;
    /// Renews a lease; false if it has ended.
    fn keep_alive(&self, lease: Lease) -> impl Future<Output = Result<bool>> + Send;
    /// Ends a lease at once.
    fn revoke(&self, lease: Lease) -> impl Future<Output = Result<()>> + Send;
}
