//! Keeps the target to ourselves while a task runs: takes the right to write from other users where that was asked for, and notices whoever
//! writes all the same. One shard of a task does it for all. What users were allowed before is stored by the coordinator before anything is
//! changed, and put back when the task releases the target, by whichever agent does that.

mod acl;
mod clients;
mod eye;
mod keep;

use std::sync::{Arc, Mutex, PoisonError};

use dts_common::ids::ShardId;
use dts_proto::v1::{GuardRules, TargetGuard, UserRules};
use tokio::sync::Notify;

pub use acl::{restore, users};
pub use keep::keep;

/// What is asked for, what is stored, and what is to be stored.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    task: String,
    shared: Arc<Mutex<Shared>>,
    /// Something came to be stored.
    stored: Arc<Notify>,
    /// Something is to be reported.
    changed: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Shared {
    level: TargetGuard,
    /// The coordinator has them: these users may be changed.
    stored: Vec<UserRules>,
    found: Vec<UserRules>,
}

impl Guard {
    /// `changed` is notified when users were found.
    pub fn new(shard: &ShardId, level: TargetGuard, stored: Vec<UserRules>, changed: Arc<Notify>) -> Self {
        let level = match level {
            // One shard is enough, and two would count everything twice.
            _ if shard.index > 0 => TargetGuard::Off,
            TargetGuard::Unspecified => TargetGuard::Watch,
            level => level,
        };
        let shared = Shared { level, stored, found: Vec::new() };
        let (task, stored) = (shard.task.clone(), Arc::default());
        Self { task, shared: Arc::new(Mutex::new(shared)), stored, changed }
    }

    /// Whose.
    fn task(&self) -> &str {
        &self.task
    }

    fn with<T>(&self, look: impl FnOnce(&mut Shared) -> T) -> T {
        look(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What is asked for.
    pub fn level(&self) -> TargetGuard {
        self.with(|shared| shared.level)
    }

    /// The coordinator has stored these.
    pub fn store(&self, rules: Vec<UserRules>) {
        let news = self.with(|shared| {
            shared.found.retain(|found| !rules.iter().any(|rule| is_same(rule, found)));
            let news = shared.stored != rules;
            shared.stored = rules;
            news
        });
        if news {
            self.stored.notify_one();
        }
    }

    /// What users were allowed before.
    pub fn stored(&self) -> Vec<UserRules> {
        self.with(|shared| shared.stored.clone())
    }

    /// Users that may be changed once the coordinator has stored what they were allowed.
    pub fn found(&self) -> Option<GuardRules> {
        let users = self.with(|shared| shared.found.clone());
        (!users.is_empty()).then_some(GuardRules { users })
    }

    fn find(&self, user: UserRules) {
        let news = self.with(|shared| {
            let known = shared.found.iter().chain(&shared.stored).any(|found| is_same(found, &user));
            if !known {
                shared.found.push(user);
            }
            !known
        });
        if news {
            self.changed.notify_one();
        }
    }

    fn is_stored(&self, server: &str, user: &str) -> bool {
        self.with(|shared| shared.stored.iter().any(|rule| rule.server == server && rule.user == user))
    }
}

fn is_same(one: &UserRules, other: &UserRules) -> bool {
    (&one.server, &one.user) == (&other.server, &other.user)
}
