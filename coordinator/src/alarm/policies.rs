//! What a person asks of alarms.

use std::time::{Duration, SystemTime};

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{Alarm, AlarmDelivery, AlarmEvent, AlarmPolicy};
use futures_util::future::join_all;
use prost::Message as _;

use super::check::{check, for_each_secret, redact, update};
use super::deliver::{Message, deliver};
use super::desk::{Alarms, Book};
use super::message;
use super::stored::{Held, PAST, POLICY, StoredPolicy};
use crate::store::{Store, Transaction};

/// An alert of a test ends twice as soon.
const TEST: Duration = Duration::from_secs(30);

fn not_found(id: &str) -> Error {
    Error::new(Code::AlarmPolicyNotFound, format!("there is no alarm policy {id:?}"))
}

fn answer(held: &Held<StoredPolicy>) -> AlarmPolicy {
    AlarmPolicy { revision: held.revision, ..redact(held.value.policy.clone().unwrap_or_default()) }
}

/// One that is not deleted, at this revision.
fn held<'a>(book: &'a Book, id: &str, revision: u64) -> Result<&'a Held<StoredPolicy>> {
    let held = book.policies.get(id).filter(|held| !held.value.deleted).ok_or_else(|| not_found(id))?;
    if revision != 0 && revision != held.revision {
        let message = format!("the policy is at revision {}, the request names {revision}", held.revision);
        return Err(Error::new(Code::RevisionConflict, message));
    }
    Ok(held)
}

impl<S: Store> Alarms<S> {
    /// Stores a new policy; the same request again gives the first one.
    pub async fn create(&self, mut policy: AlarmPolicy, request_id: String) -> Result<AlarmPolicy> {
        check(&policy)?;
        let mut book = self.book.lock().await;
        let same = |held: &&Held<StoredPolicy>| !request_id.is_empty() && held.value.request_id == request_id;
        if let Some(held) = book.policies.values().find(same) {
            return Ok(answer(held));
        }
        for_each_secret(&mut policy, |secret| self.sealer.seal_text(secret))?;
        policy.id = uuid::Uuid::now_v7().to_string();
        policy.created_at = Some(SystemTime::now().into());
        policy.revision = 0;
        let value = StoredPolicy { policy: Some(policy), request_id, deleted: false };
        self.put(&mut book, Held { value, revision: 0, unsaved: false }).await
    }

    /// One policy.
    pub async fn get(&self, id: &str) -> Result<AlarmPolicy> {
        held(&*self.book.lock().await, id, 0).map(answer)
    }

    /// All policies after this id, oldest first.
    pub async fn list(&self, after: &str) -> Vec<AlarmPolicy> {
        let book = self.book.lock().await;
        let alive = book.policies.iter().filter(|(id, held)| id.as_str() > after && !held.value.deleted);
        alive.map(|(_, held)| answer(held)).collect()
    }

    /// Changes what the mask names.
    pub async fn update(
        &self,
        id: &str,
        revision: u64,
        mut from: AlarmPolicy,
        paths: &[String],
    ) -> Result<AlarmPolicy> {
        let mut book = self.book.lock().await;
        let mut held = held(&book, id, revision)?.clone();
        let policy = held.value.policy.get_or_insert_default();
        for_each_secret(&mut from, |secret| self.sealer.seal_text(secret))?;
        update(policy, from, paths)?;
        check(policy)?;
        self.put(&mut book, held).await
    }

    /// Its alarms are resolved and told, then it is gone.
    pub async fn delete(&self, id: &str, revision: u64) -> Result<()> {
        let mut book = self.book.lock().await;
        let mut held = held(&book, id, revision)?.clone();
        held.value.deleted = true;
        self.put(&mut book, held).await.map(drop)
    }

    async fn put(&self, book: &mut Book, mut held: Held<StoredPolicy>) -> Result<AlarmPolicy> {
        let id = held.value.policy.as_ref().map(|policy| policy.id.clone()).unwrap_or_default();
        let key = format!("{POLICY}{id}");
        let write = Transaction {
            compares: vec![(key.clone(), held.revision)],
            writes: vec![(key.clone(), Some(held.value.encode_to_vec()))],
            ..Transaction::default()
        };
        match self.store.commit(write).await {
            Ok(Some(revision)) => held.revision = revision,
            failed => {
                // It may be there or not: what is there counts.
                match self.store.get(&key).await? {
                    Some(found) => drop(book.policies.insert(id, Held::decode(&key, &found)?)),
                    None => drop(book.policies.remove(&id)),
                }
                failed?;
                return Err(Error::new(
                    Code::RevisionConflict,
                    "the store holds a newer policy than this coordinator knew of",
                ));
            }
        }
        let answer = answer(&held);
        book.policies.insert(id, held);
        self.woken.notify_one();
        Ok(answer)
    }

    /// Tells every receiver that nothing is wrong.
    pub async fn test(&self, id: &str) -> Result<Vec<AlarmDelivery>> {
        let policy = held(&*self.book.lock().await, id, 0)?.value.policy.clone().unwrap_or_default();
        let now = SystemTime::now();
        let mut alarm = message::test(&policy.id, &policy.name, uuid::Uuid::now_v7().to_string(), now.into());
        let sent = policy.receivers.iter().map(|receiver| {
            let (alarm, event) = (alarm.clone(), AlarmEvent::Test);
            async move {
                let mut told = AlarmDelivery {
                    receiver: receiver.name.clone(),
                    event: event.into(),
                    sequence: 1,
                    attempts: 1,
                    ..AlarmDelivery::default()
                };
                let result = match self.opened(receiver.clone()) {
                    Ok(receiver) => {
                        let message = Message { alarm, event, sequence: 1, receiver, repeat: TEST };
                        deliver(&self.http, &message).await
                    }
                    Err(error) => Err(error.message),
                };
                match result {
                    Ok(()) => told.delivered_at = Some(SystemTime::now().into()),
                    Err(error) => (told.error, told.given_up) = (error, true),
                }
                told
            }
        });
        alarm.deliveries = join_all(sent.collect::<Vec<_>>()).await;
        let deliveries = alarm.deliveries.clone();
        let key = format!("{PAST}{}", alarm.id);
        self.store
            .commit(Transaction { writes: vec![(key, Some(alarm.encode_to_vec()))], ..Transaction::default() })
            .await?;
        Ok(deliveries)
    }

    /// Alarms that fit, newest first.
    pub async fn alarms(&self, fits: impl Fn(&Alarm) -> bool) -> Result<Vec<Alarm>> {
        Ok(self.all().await?.into_iter().filter(fits).collect())
    }
}
