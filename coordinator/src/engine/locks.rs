//! The servers that a task keeps for itself, however many: one key a server, and a store takes only so many in one transaction.
//!
//! What fits goes with the task's state. More than that goes by steps, of which the task itself keeps the list: it names all that it may hold *before* the first is
//! taken, and *until* the last is given back. So whoever leads next finds keys that nobody needs by their task, and gives them back. While keys are
//! taken each transaction compares the task's revision: what an earlier leader, or an earlier attempt, still sends is refused once the list was written anew.

use std::collections::HashSet;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{Task, TaskState};

use super::{Engine, Held, World, lost_race};
use crate::store::{MOST_WRITES, Store, Transaction};
use crate::task::{self, Stored, occupies};

/// The task's own key is one of a transaction's writes.
const TOGETHER: usize = MOST_WRITES - 1;
const LOCKS: &str = "lock/";

/// What changes with a state.
struct Change {
    wanted: Vec<String>,
    take: Vec<String>,
    give: Vec<String>,
}

impl Change {
    /// Servers are taken at the start, and given back at the end. A task that an earlier version started has none.
    fn of(held: &Held) -> Self {
        let (state, before) = (held.view().state(), &held.stored.locks);
        let wanted = match state {
            TaskState::Verifying => task::locks(held.view().spec.as_ref().unwrap_or(&Default::default())),
            state if occupies(state, held.stored.ran) => before.clone(),
            _ => Vec::new(),
        };
        let less = |all: &[String], these: &[String]| -> Vec<String> {
            let these: HashSet<&String> = these.iter().collect();
            all.iter().filter(|key| !these.contains(key)).cloned().collect()
        };
        Self { take: less(&wanted, before), give: less(before, &wanted), wanted }
    }
}

/// A task lists keys that it has no right to: somebody died before they were given back.
fn is_owed(stored: &Stored) -> bool {
    let state = stored.task.as_ref().map(Task::state).unwrap_or_default();
    !stored.locks.is_empty() && !occupies(state, stored.ran)
}

impl<S: Store> Engine<S> {
    /// Saves the state that the task has come to, with the servers that belong to it: all of them, or the state is not taken.
    pub(super) async fn save_with_locks(&self, held: &mut Held) -> Result<()> {
        if is_owed(&held.saved) {
            let next = std::mem::replace(&mut held.stored, held.saved.clone());
            self.give_back(held).await?;
            held.stored = Stored { locks: Vec::new(), ..next };
        }
        let Change { wanted, take, give } = Change::of(held);
        if take.len() + give.len() <= TOGETHER {
            return self.save_at_once(held, wanted, take, give).await;
        }
        if !take.is_empty() {
            self.take(held, take).await?;
        }
        // What is given back stays on the list until it is gone.
        held.stored.locks = if give.is_empty() { wanted } else { std::mem::take(&mut held.stored.locks) };
        self.save(held).await?;
        if !give.is_empty()
            && let Err(error) = self.give_back(held).await
        {
            tracing::warn!(task = &*held.id, %error, "servers are given back later");
        }
        Ok(())
    }

    async fn save_at_once(
        &self,
        held: &mut Held,
        wanted: Vec<String>,
        take: Vec<String>,
        give: Vec<String>,
    ) -> Result<()> {
        held.stored.locks = wanted;
        let mut change = Transaction::default();
        for key in &take {
            change.compares.push((key.clone(), 0));
            change.writes.push((key.clone(), Some(held.id.as_bytes().to_vec())));
        }
        change.writes.extend(give.into_iter().map(|key| (key, None)));
        let saved = self.save_with(held, change).await;
        match saved {
            Err(error) if error.code == Code::RevisionConflict && !take.is_empty() => {
                Err(self.in_the_way(held, &take).await?.unwrap_or(error))
            }
            saved => saved,
        }
    }

    /// Takes all of these, or none: the task as it was says meanwhile that it may hold them.
    async fn take(&self, held: &mut Held, keys: Vec<String>) -> Result<()> {
        let next = std::mem::replace(&mut held.stored, held.saved.clone());
        held.stored.locks.extend(keys.iter().cloned());
        self.save(held).await?;
        for some in keys.chunks(MOST_WRITES) {
            let mut change = Transaction::default();
            change.compares.push((held.key(), held.revision));
            for key in some {
                change.compares.push((key.clone(), 0));
                change.writes.push((key.clone(), Some(held.id.as_bytes().to_vec())));
            }
            match self.store.commit(change).await {
                Ok(Some(_)) => {}
                Ok(None) => {
                    let why = self.in_the_way(held, &keys).await?.unwrap_or_else(lost_race);
                    self.give_back(held).await?;
                    return Err(why);
                }
                Err(error) => {
                    held.unsure = true;
                    return Err(error);
                }
            }
        }
        held.stored = next;
        Ok(())
    }

    /// Gives all that a task lists back, as far as it has it.
    async fn give_back(&self, held: &mut Held) -> Result<()> {
        // From here on nothing of an earlier attempt can take any of them.
        self.save(held).await?;
        let listed: HashSet<&String> = held.stored.locks.iter().collect();
        let mut taken = self.store.list(LOCKS).await?;
        taken.retain(|(key, found)| listed.contains(key) && found.value == held.id.as_bytes());
        for some in taken.chunks(MOST_WRITES) {
            let change = Transaction {
                compares: some.iter().map(|(key, found)| (key.clone(), found.revision)).collect(),
                writes: some.iter().map(|(key, _)| (key.clone(), None)).collect(),
                ..Transaction::default()
            };
            if self.store.commit(change).await?.is_none() {
                return Err(lost_race());
            }
        }
        held.stored.locks.clear();
        self.save(held).await
    }

    /// The task that has one of these servers, if it is not this one.
    async fn in_the_way(&self, held: &Held, keys: &[String]) -> Result<Option<Error>> {
        let wanted: HashSet<&String> = keys.iter().collect();
        let taken = self.store.list(LOCKS).await?;
        let other = taken.iter().find(|(key, found)| wanted.contains(key) && found.value != held.id.as_bytes());
        Ok(other.map(|(key, found)| {
            let server = key.trim_start_matches(LOCKS).replacen('/', " ", 1);
            let message = format!("{server} is in use by task {}", String::from_utf8_lossy(&found.value));
            Error::new(Code::InstanceBusy, message)
        }))
    }

    /// Before a task is forgotten: so many keys may not fit into what forgets it.
    pub(super) async fn give_back_all(&self, held: &mut Held) -> Result<()> {
        if held.stored.locks.is_empty() { Ok(()) } else { self.give_back(held).await }
    }

    /// Servers that somebody who died was about to take, or to give back.
    pub(super) async fn give_back_owed(&self, world: &mut World) {
        for held in world.tasks.values_mut().filter(|held| !held.unsure && is_owed(&held.stored)) {
            match self.give_back(held).await {
                Ok(()) => tracing::info!(task = &*held.id, "servers that the task does not need are given back"),
                Err(error) => tracing::warn!(task = &*held.id, %error, "servers are given back later"),
            }
        }
    }
}

#[cfg(test)]
mod tests;
