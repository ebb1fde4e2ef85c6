//! A watch that goes on: over lost connections, restarts, changes of etcd's leader, and compaction.

use std::collections::VecDeque;
use std::time::Duration;

use dts_common::backoff::Backoff;
use etcd_client::{EventType, WatchOptions, WatchStream};

use super::{Etcd, Refusal};
use crate::store::{Event, Versioned};

/// Where a watch stands.
pub(super) struct Watching {
    store: Etcd,
    prefix: String,
    /// Everything up to here was seen; `None`: see all there is.
    seen: Option<u64>,
    queue: VecDeque<Event>,
    stream: Option<(WatchStream, usize)>,
    backoff: Backoff,
}

impl Watching {
    pub(super) fn new(store: Etcd, prefix: &str, after: u64) -> Self {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));
        let seen = (after > 0).then_some(after);
        Self { store, prefix: prefix.to_owned(), seen, queue: VecDeque::new(), stream: None, backoff }
    }

    pub(super) async fn next(mut self) -> Option<(Event, Self)> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some((event, self));
            }
            if let Err(why) = self.advance().await {
                self.stream = None;
                let delay = self.backoff.next_delay();
                tracing::debug!(prefix = self.prefix, why, "a watch begins again");
                tokio::time::sleep(delay).await;
            }
        }
    }

    async fn advance(&mut self) -> Result<(), String> {
        let Some(seen) = self.seen else {
            let (found, revision) = self.store.snapshot(&self.prefix).await.map_err(|error| error.to_string())?;
            self.seen = Some(revision);
            self.queue.push_back(Event::Reset(found));
            return Ok(());
        };
        let members = &self.store.0.members;
        let Some((stream, at)) = &mut self.stream else {
            let key = self.store.key(&self.prefix);
            let from = i64::try_from(seen + 1).unwrap_or(i64::MAX);
            let options = WatchOptions::new().with_prefix().with_start_revision(from);
            let opened = members.attempt(|mut client| async move {
                let stream = client.watch(key, Some(options)).await?;
                Ok(stream)
            });
            let at = members.present();
            let stream = opened.await.map_err(|refusal| match refusal {
                Refusal::ForNow(why) => why,
                Refusal::ForGood(error) => error.to_string(),
            })?;
            self.stream = Some((stream, at));
            return Ok(());
        };
        let at = *at;
        let broken = |why: String| {
            members.pass_over(at);
            Err(why)
        };
        let answer = match stream.message().await {
            Ok(Some(answer)) => answer,
            Ok(None) => return broken("it ended".into()),
            Err(error) => return broken(error.to_string()),
        };
        if answer.compact_revision() > 0 {
            // What came after `seen` is forgotten.
            (self.seen, self.stream) = (None, None);
            return Ok(());
        }
        if answer.canceled() {
            return broken(format!("it was cancelled: {}", answer.cancel_reason()));
        }
        self.backoff.reset();
        for event in answer.events() {
            let Some((key, found)) = event.kv().cloned().and_then(|pair| self.store.found(pair)) else { continue };
            self.seen = Some(found.revision);
            self.queue.push_back(match event.event_type() {
                EventType::Put => Event::Put(key, found),
                EventType::Delete => {
                    let Versioned { revision, .. } = found;
                    Event::Delete(key, revision)
                }
            });
        }
        Ok(())
    }
}
