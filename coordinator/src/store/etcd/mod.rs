//! The store of a fleet: an etcd of one or more members. Keys lie under a prefix; epochs are etcd's revisions. Every call is
//! bounded, and goes to the next member when one fails; a commit whose answer was lost is asked for again and recognised.

mod connection;
mod watch;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use etcd_client::{Compare, CompareOp, GetOptions, PutOptions, Txn, TxnOp, TxnOpResponse};
use futures_util::StreamExt as _;

use self::connection::Members;
use super::{Lease, Store, Transaction, Versioned, Watch};

pub use self::connection::Config;

/// A store in etcd.
#[derive(Clone, Debug)]
pub struct Etcd(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    members: Members,
    prefix: String,
}

impl Etcd {
    /// Reads certificates and the like; connects when it is used.
    pub fn new(config: Config) -> Result<Self> {
        let prefix = format!("{}/", config.prefix.trim_end_matches('/'));
        Ok(Self(Arc::new(Shared { members: Members::new(config)?, prefix })))
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.0.prefix)
    }

    /// The values under a prefix, and the revision of which they are.
    async fn snapshot(&self, prefix: &str) -> Result<(Vec<(String, Versioned)>, u64)> {
        let prefix = self.key(prefix);
        let options = GetOptions::new().with_prefix();
        let mut found = self
            .0
            .members
            .call("list", |mut client| {
                let (prefix, options) = (prefix.clone(), options.clone());
                async move { client.get(prefix, Some(options)).await }
            })
            .await?;
        let revision = found.header().map_or(0, |header| header.revision().unsigned_abs());
        let values = found.take_kvs().into_iter().filter_map(|pair| self.found(pair)).collect();
        Ok((values, revision))
    }

    /// A pair without our prefix; others' keys do not stand under it.
    fn found(&self, pair: etcd_client::KeyValue) -> Option<(String, Versioned)> {
        let key = pair.key_str().ok()?.strip_prefix(&self.0.prefix)?.to_owned();
        let revision = pair.mod_revision().unsigned_abs();
        Some((key, Versioned { value: pair.into_key_value().1, revision }))
    }

    /// If its condition does not hold, it answers with what stands at the keys that it would have written.
    fn request(&self, transaction: &Transaction) -> Txn {
        let compare = |(key, revision): &(String, u64)| match revision {
            0 => Compare::create_revision(self.key(key), CompareOp::Equal, 0),
            _ => Compare::mod_revision(self.key(key), CompareOp::Equal, i64::try_from(*revision).unwrap_or(i64::MAX)),
        };
        let options = transaction.lease.map(|Lease(id)| PutOptions::new().with_lease(id));
        let write = |(key, value): &(String, Option<Vec<u8>>)| match value {
            Some(value) => TxnOp::put(self.key(key), value.clone(), options.clone()),
            None => TxnOp::delete(self.key(key), None),
        };
        let look = |(key, _): &(String, Option<Vec<u8>>)| TxnOp::get(self.key(key), None);
        Txn::new()
            .when(transaction.compares.iter().map(compare).collect::<Vec<_>>())
            .and_then(transaction.writes.iter().map(write).collect::<Vec<_>>())
            .or_else(transaction.writes.iter().map(look).collect::<Vec<_>>())
    }
}

/// The revision of a commit that an earlier attempt of ours made: what it would write stands there already.
fn made_before(transaction: &Transaction, found: Vec<TxnOpResponse>, present: u64) -> Option<u64> {
    let mut made = None;
    for ((_, value), found) in transaction.writes.iter().zip(found) {
        let TxnOpResponse::Get(found) = found else { return None };
        match (value, found.kvs().first()) {
            (Some(value), Some(pair)) if pair.value() == value => made = Some(pair.mod_revision().unsigned_abs()),
            (None, None) => {}
            _ => return None,
        }
    }
    made.or(Some(present))
}

/// Of etcd: a lease that a put names does not exist (any more).
fn lease_is_gone(error: &etcd_client::Error) -> bool {
    match error {
        etcd_client::Error::GRpcStatus(status) => {
            status.code() == tonic::Code::NotFound && status.message().contains("lease")
        }
        // What the crate makes of an answer with no time left.
        etcd_client::Error::LeaseKeepAliveError(message) => message == "lease not found",
        _ => false,
    }
}

impl Store for Etcd {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        let key = self.key(key);
        let mut found = self
            .0
            .members
            .call("get", |mut client| {
                let key = key.clone();
                async move { client.get(key, None).await }
            })
            .await?;
        Ok(found.take_kvs().pop().and_then(|pair| self.found(pair)).map(|(_, found)| found))
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        Ok(self.snapshot(prefix).await?.0)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Option<u64>> {
        let request = self.request(&transaction);
        let attempts = AtomicU32::new(0);
        let answer = self
            .0
            .members
            .call("commit", |mut client| {
                attempts.fetch_add(1, Ordering::Relaxed);
                let request = request.clone();
                async move {
                    match client.txn(request).await {
                        Err(error) if lease_is_gone(&error) => Ok(None),
                        answer => answer.map(Some),
                    }
                }
            })
            .await?;
        let Some(answer) = answer else { return Ok(None) };
        let revision = answer.header().map_or(0, |header| header.revision().unsigned_abs());
        Ok(match answer.succeeded() {
            true => Some(revision),
            false if attempts.into_inner() > 1 => made_before(&transaction, answer.op_responses(), revision),
            false => None,
        })
    }

    fn watch(&self, prefix: &str, after: u64) -> Watch {
        let watching = watch::Watching::new(self.clone(), prefix, after);
        futures_util::stream::unfold(watching, watch::Watching::next).boxed()
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        let granted =
            self.0.members.call("grant", |mut client| async move { client.lease_grant(seconds, None).await }).await?;
        Ok(Lease(granted.id()))
    }

    async fn keep_alive(&self, Lease(id): Lease) -> Result<bool> {
        let beat = |mut client: etcd_client::Client| async move {
            match client.lease_keep_alive(id).await {
                // One beat a call: a stream that hangs is noticed by the call's own bound.
                Ok(_) => Ok(true),
                Err(error) if lease_is_gone(&error) => Ok(false),
                Err(error) => Err(error),
            }
        };
        self.0.members.call("keep alive", beat).await
    }

    async fn revoke(&self, Lease(id): Lease) -> Result<()> {
        let revoke = |mut client: etcd_client::Client| async move {
            match client.lease_revoke(id).await {
                Err(error) if lease_is_gone(&error) => Ok(()),
                other => other.map(drop),
            }
        };
        self.0.members.call("revoke", revoke).await
    }
}

impl From<etcd_client::Error> for Refusal {
    fn from(error: etcd_client::Error) -> Self {
        use tonic::Code as Grpc;
        let refused = |status: &tonic::Status| {
            Self::ForGood(Error::new(Code::StoreRefused, format!("etcd: {}", status.message())))
        };
        match &error {
            etcd_client::Error::GRpcStatus(status) => match status.code() {
                Grpc::PermissionDenied => refused(status),
                // Not logged in, or not to be.
                Grpc::InvalidArgument
                    if ["authentication", "user name"].iter().any(|word| status.message().contains(word)) =>
                {
                    refused(status)
                }
                code => Self::ForNow(format!("{code}: {}", status.message())),
            },
            other => Self::ForNow(other.to_string()),
        }
    }
}

/// What an error of etcd means for the caller.
enum Refusal {
    /// Another member, or the same later, may do it.
    ForNow(String),
    /// Asking again does not help.
    ForGood(Error),
}

#[cfg(test)]
mod tests;
