//! A store whose requests are timed and whose errors are counted.

use std::time::{Duration, Instant};

use dts_common::error::Result;
use metrics::{counter, histogram};

use super::{Lease, Store, Transaction, Versioned, Watch};

/// Any store, measured.
#[derive(Clone, Debug)]
pub struct Metered<S>(pub S);

async fn measured<T>(request: &'static str, answer: impl Future<Output = Result<T>>) -> Result<T> {
    let begun = Instant::now();
    let answer = answer.await;
    histogram!("dts_store_request_seconds", "request" => request).record(begun.elapsed());
    if let Err(error) = &answer {
        counter!("dts_store_errors_total", "request" => request, "code" => error.code.as_str()).increment(1);
    }
    answer
}

impl<S: Store> Store for Metered<S> {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        measured("get", Box::pin(self.0.get(key))).await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        measured("list", Box::pin(self.0.list(prefix))).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Option<u64>> {
        measured("commit", Box::pin(self.0.commit(transaction))).await
    }

    fn watch(&self, prefix: &str, after: u64) -> Watch {
        self.0.watch(prefix, after)
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease> {
        measured("grant", Box::pin(self.0.grant(ttl))).await
    }

    async fn keep_alive(&self, lease: Lease) -> Result<bool> {
        measured("keep_alive", Box::pin(self.0.keep_alive(lease))).await
    }

    async fn revoke(&self, lease: Lease) -> Result<()> {
        measured("revoke", Box::pin(self.0.revoke(lease))).await
    }
}
