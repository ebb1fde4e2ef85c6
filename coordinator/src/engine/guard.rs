//! What users of a target were allowed before a task took it from them: stored, sealed, before anything is changed, until it was given back.

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{GuardRules, ShardPhase, ShardReport, TaskState, UserRules};

use super::{Engine, Held};
use crate::store::Store;

/// More users are not changed.
const MOST: usize = 1000;

impl<S: Store> Engine<S> {
    /// What the first shard of a task gives back at its end.
    pub(super) fn guard_rules(&self, held: &Held) -> Result<Option<GuardRules>> {
        if held.stored.guard.is_empty() {
            return Ok(None);
        }
        let users = read(&self.sealer.open_text(&held.stored.guard)?)?;
        Ok(Some(GuardRules { users }))
    }

    /// Stores what an agent is about to change. What is stored already was there before any change, and stays.
    pub(super) async fn take_guard(&self, held: &mut Held, shard: &mut ShardReport) -> Result<()> {
        let Some(found) = shard.guard_rules.take() else { return Ok(()) };
        // Who is about to give back takes nothing any more.
        let keeps = matches!(
            held.task().state(),
            TaskState::Preparing
                | TaskState::FullSync
                | TaskState::IncrSync
                | TaskState::Interrupted
                | TaskState::Completing
        );
        if !keeps || held.stored.releasing || held.unsure {
            return Ok(());
        }
        let mut users = self.guard_rules(held)?.unwrap_or_default().users;
        let known = users.len();
        for user in found.users {
            let is_known = users.iter().any(|held| (&held.server, &held.user) == (&user.server, &user.user));
            if !is_known && users.len() < MOST && is_plain(&user) {
                users.push(user);
            }
        }
        if users.len() == known {
            return Ok(());
        }
        held.stored.guard = self.sealer.seal_text(&write(&users))?;
        held.stored.note(format!("the right to write to the target is taken from {} users", users.len()), None);
        self.save(held).await
    }
}

/// The task is over: what was taken was given back, or somebody has to do it.
pub(super) fn settle(held: &mut Held) {
    if held.stored.guard.is_empty() {
        return;
    }
    let released = held.statuses.get(&0).is_some_and(|status| status.phase() == ShardPhase::Released);
    held.stored.guard.clear();
    held.stored.note(
        match released {
            true => "users of the target have the rights that they had before",
            false => "RIGHTS OF USERS OF THE TARGET WERE NOT GIVEN BACK: the target could not be reached; look at ACL LIST there",
        },
        None,
    );
}

/// ACL allows no white space in any of them.
fn is_plain(user: &UserRules) -> bool {
    let plain = |text: &str| !text.is_empty() && !text.contains(char::is_whitespace);
    plain(&user.server) && plain(&user.user) && !user.rules.contains('\n')
}

/// A line a user.
fn write(users: &[UserRules]) -> String {
    users.iter().map(|user| format!("{} {} {}\n", user.server, user.user, user.rules)).collect()
}

fn read(text: &str) -> Result<Vec<UserRules>> {
    let user = |line: &str| {
        let mut words = line.splitn(3, ' ').map(str::to_owned);
        Some(UserRules { server: words.next()?, user: words.next()?, rules: words.next()? })
    };
    let broken = || Error::new(Code::Internal, "the stored rules of the target's users cannot be read");
    text.lines().map(|line| user(line).ok_or_else(broken)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_stored_as_they_are() {
        let of = |user: &str, rules: &str| UserRules { server: "h:1".into(), user: user.into(), rules: rules.into() };
        let users = vec![of("default", "on nopass ~* &* +@all"), of("app", "on #ab (~x -@all +get) ~*")];
        assert_eq!(read(&write(&users)).unwrap(), users);
        assert!(read("h:1 app").is_err() && !is_plain(&of("a b", "on")));
    }
}
