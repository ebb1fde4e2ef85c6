//! Looks, raises, tells: the leader's loop over its alarms.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{Agent, Alarm, AlarmPolicy, Task};
use prost::Message as _;
use tokio::sync::{Mutex, Notify};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::certificate;
use super::check::for_each_secret;
use super::deliver::{Http, Message, deliver};
use super::evaluate::{Condition, Key, World, conditions, is_unknown};
use super::ledger::{attempted, is_done, is_past, pause, raise, repeat, resolve, stays};
use super::since::Since;
use super::stored::{self, Held, OPEN, PAST, POLICY, StoredPolicy};
use crate::engine::Engine;
use crate::secret::Sealer;
use crate::store::{Store, Transaction};

/// How soon after a change it is looked.
const LOOK: Duration = Duration::from_millis(250);
/// Time passes without changes too.
const IDLE: Duration = Duration::from_secs(1);
const CERTIFICATES: Duration = Duration::from_secs(60);
/// Messages on their way at once.
const MOST_FLYING: usize = 32;
/// Alarms that are remembered when they are over.
const MOST_PAST: usize = 10_000;

/// The alarms of the coordinator that leads.
#[derive(Debug)]
pub struct Alarms<S> {
    pub(super) store: S,
    pub(super) sealer: Arc<Sealer>,
    pub(super) http: Http,
    pub(super) book: Mutex<Book>,
    pub(super) woken: Notify,
    certificates: Vec<PathBuf>,
}

/// Policies and alarms by id.
#[derive(Debug, Default)]
pub(super) struct Book {
    pub(super) policies: BTreeMap<String, Held<StoredPolicy>>,
    /// On, or not told yet.
    pub(super) open: BTreeMap<String, Held<Alarm>>,
}

/// A message by what it is for.
type Slot = (String, String);

/// What there is at one moment.
struct Seen {
    tasks: Vec<Task>,
    agents: Vec<Agent>,
    differing: BTreeMap<String, u64>,
}

/// What the loop remembers between two rounds.
#[derive(Default)]
struct Work {
    since: Since,
    certificates: Vec<(String, SystemTime)>,
    flying: JoinSet<(Slot, u32, std::result::Result<(), String>)>,
    busy: HashSet<Slot>,
    /// When a message that was not taken is tried again.
    next: HashMap<Slot, Instant>,
}

impl<S: Store> Alarms<S> {
    /// Reads what is stored.
    pub async fn open(store: S, sealer: Arc<Sealer>, certificates: Vec<PathBuf>) -> Result<Self> {
        let http =
            Http::new().map_err(|error| Error::new(Code::Internal, format!("authorities of this host: {error}")))?;
        let mut book = Book::default();
        for (key, found) in store.list(POLICY).await? {
            book.policies.insert(key[POLICY.len()..].to_owned(), Held::decode(&key, &found)?);
        }
        for (key, found) in store.list(OPEN).await? {
            book.open.insert(key[OPEN.len()..].to_owned(), Held::decode(&key, &found)?);
        }
        let alarms = Self { store, sealer, http, book: Mutex::new(book), woken: Notify::new(), certificates };
        alarms.forget_oldest().await?;
        Ok(alarms)
    }

    /// Until it is dropped. Messages that are on their way then are sent again by the next leader.
    pub async fn run(&self, engine: &Engine<S>) {
        let (mut work, mut changes) = (Work::default(), engine.changes());
        let (mut looked, mut read): (Option<Instant>, Option<Instant>) = (None, None);
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.woken.notified() => looked = None,
                Some(landed) = work.flying.join_next(), if !work.flying.is_empty() => {
                    if let Ok((slot, sequence, result)) = landed {
                        self.landed(&mut work, slot, sequence, result).await;
                    }
                }
            }
            let idle = {
                let book = self.book.lock().await;
                book.policies.is_empty() && book.open.is_empty()
            };
            if idle {
                continue;
            }
            let changed = changes.has_changed().unwrap_or(false);
            if looked.is_none_or(|at| at.elapsed() >= if changed { LOOK } else { IDLE }) {
                changes.mark_unchanged();
                looked = Some(Instant::now());
                if read.is_none_or(|at| at.elapsed() >= CERTIFICATES) {
                    read = looked;
                    let files = self.certificates.clone();
                    let found = tokio::task::spawn_blocking(move || certificate::read(&files)).await;
                    work.certificates = found.unwrap_or_default();
                }
                let seen = Seen {
                    tasks: engine.list().await,
                    agents: engine.agents().await,
                    differing: engine.differing().await,
                };
                if let Err(error) = self.look(&mut work, &seen).await {
                    tracing::warn!(%error, "alarms could not be stored");
                }
            }
            self.send(&mut work).await;
        }
    }

    async fn look(&self, work: &mut Work, seen: &Seen) -> Result<()> {
        let (now, instant) = (SystemTime::now(), Instant::now());
        let Seen { tasks, agents, differing } = seen;
        let world = World { tasks, agents, differing, certificates: &work.certificates, now };
        let mut guard = self.book.lock().await;
        let book = &mut *guard;
        let policies: Vec<AlarmPolicy> = book
            .policies
            .values()
            .filter(|held| !held.value.deleted)
            .filter_map(|held| held.value.policy.clone())
            .collect();
        let holding = conditions(&policies, world);
        let of = |key: &Key| holding.iter().find(|condition| condition.key == *key);
        let policy = |id: &str| policies.iter().find(|policy| policy.id == id);
        for held in book.open.values_mut().filter(|held| held.value.resolved_at.is_none()) {
            let key = Key::of(&held.value);
            let condition = of(&key);
            let holds = condition.is_some() || (policy(&key.policy).is_some() && is_unknown(&held.value, world));
            if work.since.is_over(instant, &key, holds) {
                tracing::info!(alarm = held.value.id, kind = held.value.kind().as_str_name(), "alarm resolved");
                resolve(&mut held.value, now);
                held.unsaved = true;
            } else if let (Some(condition), Some(policy)) = (condition, policy(&key.policy)) {
                held.unsaved |= stays(&mut held.value, policy, condition, now);
            }
        }
        let on: HashSet<Key> = book
            .open
            .values()
            .filter(|held| held.value.resolved_at.is_none())
            .map(|held| Key::of(&held.value))
            .collect();
        let ripe: Vec<Condition> = work.since.ripe(instant, holding.clone());
        for condition in ripe.iter().filter(|condition| !on.contains(&condition.key)) {
            let Some(policy) = policy(&condition.key.policy) else { continue };
            let id = uuid::Uuid::now_v7().to_string();
            let value = raise(id.clone(), policy, condition, now);
            tracing::info!(alarm = id, kind = value.kind().as_str_name(), task = value.task_id, "alarm raised");
            book.open.insert(id, Held { value, revision: 0, unsaved: true });
        }
        self.save_all(book).await
    }

    /// Stores what changed, and puts what is past where it belongs.
    async fn save_all(&self, book: &mut Book) -> Result<()> {
        for held in book.open.values_mut().filter(|held| held.unsaved) {
            self.save(held).await?;
        }
        let past: Vec<String> =
            book.open.iter().filter(|(_, held)| is_past(&held.value)).map(|(id, _)| id.clone()).collect();
        for id in past {
            let Some(held) = book.open.get(&id) else { continue };
            let open = format!("{OPEN}{id}");
            let archive = Transaction {
                compares: vec![(open.clone(), held.revision)],
                writes: vec![(open, None), (format!("{PAST}{id}"), Some(held.value.encode_to_vec()))],
                ..Transaction::default()
            };
            self.store.commit(archive).await?;
            book.open.remove(&id);
        }
        let used: HashSet<String> = book.open.values().map(|held| held.value.policy_id.clone()).collect();
        let gone =
            |(id, held): (&String, &Held<StoredPolicy>)| (held.value.deleted && !used.contains(id)).then(|| id.clone());
        for id in book.policies.iter().filter_map(gone).collect::<Vec<_>>() {
            self.store
                .commit(Transaction { writes: vec![(format!("{POLICY}{id}"), None)], ..Transaction::default() })
                .await?;
            book.policies.remove(&id);
        }
        Ok(())
    }

    /// Only the leader writes alarms: what it knows is what is to stand there.
    async fn save(&self, held: &mut Held<Alarm>) -> Result<()> {
        let key = format!("{OPEN}{}", held.value.id);
        for _ in 0..2 {
            let write = Transaction {
                compares: vec![(key.clone(), held.revision)],
                writes: vec![(key.clone(), Some(held.value.encode_to_vec()))],
                ..Transaction::default()
            };
            if let Some(revision) = self.store.commit(write).await? {
                (held.revision, held.unsaved) = (revision, false);
                return Ok(());
            }
            // An earlier write of ours that had no answer has arrived.
            held.revision = self.store.get(&key).await?.map_or(0, |found| found.revision);
        }
        Err(Error::new(Code::RevisionConflict, "somebody else writes alarms"))
    }

    /// Sends what is stored and due.
    async fn send(&self, work: &mut Work) {
        let mut book = self.book.lock().await;
        let Book { policies, open } = &mut *book;
        for held in open.values_mut().filter(|held| !held.unsaved) {
            let policy = policies.get(&held.value.policy_id).and_then(|held| held.value.policy.as_ref());
            for at in 0..held.value.deliveries.len() {
                let delivery = &held.value.deliveries[at];
                let slot = (held.value.id.clone(), delivery.receiver.clone());
                let waits = work.next.get(&slot).is_some_and(|next| *next > Instant::now());
                if is_done(delivery) || waits || work.busy.contains(&slot) || work.flying.len() >= MOST_FLYING {
                    continue;
                }
                let Some((policy, receiver)) = policy.and_then(|policy| {
                    let receiver = policy.receivers.iter().find(|receiver| receiver.name == delivery.receiver)?;
                    Some((policy, receiver.clone()))
                }) else {
                    let delivery = &mut held.value.deliveries[at];
                    (delivery.given_up, delivery.error) = (true, "the policy has no such receiver any more".into());
                    held.unsaved = true;
                    continue;
                };
                let (event, sequence) = (delivery.event(), delivery.sequence);
                let receiver = self.opened(receiver);
                let message = receiver.map(|receiver| Message {
                    alarm: held.value.clone(),
                    event,
                    sequence,
                    receiver,
                    repeat: repeat(policy),
                });
                let http = self.http.clone();
                work.busy.insert(slot.clone());
                work.flying.spawn(async move {
                    let result = match message {
                        Ok(message) => deliver(&http, &message).await,
                        Err(error) => Err(error.message),
                    };
                    (slot, sequence, result)
                });
            }
        }
    }

    /// With its secret in clear.
    pub(super) fn opened(&self, receiver: dts_proto::v1::AlarmReceiver) -> Result<dts_proto::v1::AlarmReceiver> {
        let mut alone = AlarmPolicy { receivers: vec![receiver], ..AlarmPolicy::default() };
        for_each_secret(&mut alone, |sealed| self.sealer.open_text(sealed))?;
        Ok(alone.receivers.remove(0))
    }

    async fn landed(&self, work: &mut Work, slot: Slot, sequence: u32, result: std::result::Result<(), String>) {
        work.busy.remove(&slot);
        work.next.remove(&slot);
        let mut book = self.book.lock().await;
        let Some(held) = book.open.get_mut(&slot.0) else { return };
        let outcome = if result.is_ok() { "delivered" } else { "failed" };
        metrics::counter!("dts_alarm_deliveries_total", "outcome" => outcome).increment(1);
        if let Err(error) = &result {
            tracing::warn!(alarm = slot.0, receiver = slot.1, error, "an alarm could not be delivered");
        }
        if !attempted(&mut held.value, &slot.1, sequence, result, SystemTime::now()) {
            return;
        }
        held.unsaved = true;
        let attempts = held.value.deliveries.iter().find(|delivery| delivery.receiver == slot.1 && !is_done(delivery));
        if let Some(delivery) = attempts {
            work.next.insert(slot, Instant::now() + pause(delivery.attempts));
        }
        if let Err(error) = self.save_all(&mut book).await {
            tracing::warn!(%error, "what became of an alarm could not be stored");
        }
    }

    async fn forget_oldest(&self) -> Result<()> {
        let past = self.store.list(PAST).await?;
        let too_many = past.len().saturating_sub(MOST_PAST);
        for (key, _) in past.into_iter().take(too_many) {
            self.store.commit(Transaction { writes: vec![(key, None)], ..Transaction::default() }).await?;
        }
        Ok(())
    }

    /// All that are known, newest first.
    pub(super) async fn all(&self) -> Result<Vec<Alarm>> {
        let mut alarms = Vec::new();
        for (key, found) in self.store.list(PAST).await? {
            alarms.push(stored::alarm(&key, &found)?);
        }
        alarms.extend(self.book.lock().await.open.values().map(|held| held.value.clone()));
        alarms.sort_by(|left, right| right.id.cmp(&left.id));
        alarms.dedup_by(|left, right| left.id == right.id);
        Ok(alarms)
    }
}
