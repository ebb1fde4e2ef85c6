//! Users of the target: who there is, and changing what they may. Rules hold hashes of passwords, and go into no log.

use std::collections::HashMap;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::UserRules;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use super::Guard;
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::pipeline::Job;
use crate::target::{self, Destination, cluster};
use crate::verify::destination;

/// What takes the right to write.
const NO_WRITES: &[u8] = b"-@write";

/// Every user but ours with its rules, and our login; an error in words if that cannot be asked. What the task's shards write as is ours.
pub async fn users(
    to: &mut Client,
    task: &str,
) -> Result<std::result::Result<(String, Vec<(String, String)>), String>> {
    let refused = |reply: &BytesFrame| match reply {
        BytesFrame::Error(text) if text.starts_with("NOPERM") => "our user may not ask for users (ACL)".to_owned(),
        _ => "the target knows no users (before 6.0)".to_owned(),
    };
    let own = to.ask(&[b"ACL", b"WHOAMI"]).await?;
    let Some(own) = own.as_str().filter(|_| !matches!(own, BytesFrame::Error(_))).map(str::to_owned) else {
        return Ok(Err(refused(&own)));
    };
    let listed = to.ask(&[b"ACL", b"LIST"]).await?;
    let BytesFrame::Array(lines) = &listed else { return Ok(Err(refused(&listed))) };
    let user = |line: &BytesFrame| {
        let (name, rules) = line.as_str()?.strip_prefix("user ")?.split_once(' ')?;
        (name != own && !target::is_of(task, name)).then(|| (name.to_owned(), rules.to_owned()))
    };
    let all = lines.iter().filter_map(user).collect();
    Ok(Ok((own, all)))
}

/// What we have made of each user of a server.
#[derive(Debug, Default)]
pub(super) struct Restricted(HashMap<String, String>);

impl Restricted {
    /// Takes the right to write from every other user whose rules are stored; gives who cannot write now. In words: why nothing can be done.
    pub(super) async fn look(
        &mut self,
        to: &mut Client,
        server: &str,
        guard: &Guard,
    ) -> Result<std::result::Result<Vec<String>, String>> {
        let all = match users(to, guard.task()).await? {
            Ok((_, all)) => all,
            Err(why) => return Ok(Err(why)),
        };
        let mut changed = false;
        for (user, rules) in all.iter().filter(|(user, rules)| self.0.get(user) != Some(rules)) {
            if !guard.is_stored(server, user) {
                guard.find(UserRules { server: server.into(), user: user.clone(), rules: rules.clone() });
                continue;
            }
            let mut command: Vec<&[u8]> = vec![b"ACL", b"SETUSER", user.as_bytes(), NO_WRITES];
            // From 7.0 on a user may have rules beside its own.
            command.extend(rules.contains('(').then_some(&b"clearselectors"[..]));
            if let BytesFrame::Error(text) = to.ask(&command).await? {
                let why = if text.starts_with("NOPERM") { "may not change users" } else { "cannot change users" };
                return Ok(Err(format!("our user {why} (ACL SETUSER)")));
            }
            changed = true;
        }
        if changed && let Ok((_, now)) = users(to, guard.task()).await? {
            self.0 = now.into_iter().filter(|(user, _)| guard.is_stored(server, user)).collect();
            tracing::info!(server, users = self.0.len(), "other users of the target cannot write any more");
        }
        let mut users: Vec<String> = self.0.keys().cloned().collect();
        users.sort_unstable();
        Ok(Ok(users))
    }
}

/// Gives every user back what it was allowed; done already counts as done.
pub async fn restore(job: &Job) -> Result<()> {
    let rules = job.guard.stored();
    if rules.is_empty() {
        return Ok(());
    }
    let servers = match destination(job).await? {
        Destination::Cluster(seeds) => cluster::Topology::find(&seeds).await?.nodes,
        _ => vec![job.target.clone()],
    };
    for server in servers {
        let name = server.to_string();
        let theirs: Vec<&UserRules> = rules.iter().filter(|rule| rule.server == name).collect();
        if !theirs.is_empty() {
            give_back(&server, &job.shard.task, &theirs).await?;
        }
    }
    Ok(())
}

/// What of the rules we have changed: which commands, and the rules beside. Passwords, flags, keys and channels are as they were.
fn commands(rules: &str) -> Vec<&[u8]> {
    let (own, beside) = rules.find('(').map_or((rules, ""), |at| rules.split_at(at));
    let own = own.split(' ').filter(|word| word.starts_with(['+', '-']));
    let clear = (!beside.is_empty()).then_some("clearselectors");
    let beside = beside.split(' ').filter(|word| !word.is_empty());
    std::iter::once("-@all").chain(own).chain(clear).chain(beside).map(str::as_bytes).collect()
}

async fn give_back(server: &Endpoint, task: &str, rules: &[&UserRules]) -> Result<()> {
    let mut to = Client::connect(server, Side::Target).await?;
    let denied = |why: String| Error::new(Code::TargetPermission, format!("rights of users are not given back: {why}"));
    let (_, now) = users(&mut to, task).await?.map_err(denied)?;
    // A user that is gone meanwhile stays away.
    let is_there = |rule: &&&UserRules| now.iter().any(|(user, rules)| *user == rule.user && *rules != rule.rules);
    for rule in rules.iter().filter(is_there) {
        let mut command: Vec<&[u8]> = vec![b"ACL", b"SETUSER", rule.user.as_bytes()];
        command.extend(commands(&rule.rules));
        if matches!(to.ask(&command).await?, BytesFrame::Error(_)) {
            return Err(denied(format!("ACL SETUSER {} is refused", rule.user)));
        }
    }
    let (_, after) = users(&mut to, task).await?.map_err(denied)?;
    for (user, found) in &after {
        if let Some(rule) = rules.iter().find(|rule| rule.user == *user && rule.rules != *found) {
            return Err(denied(format!("those of {} are not what they were", rule.user)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_changed_is_put_back() {
        let words =
            |rules| commands(rules).iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect::<Vec<_>>();
        assert_eq!(words("on #ab ~* &* +@all -flushall"), ["-@all", "+@all", "-flushall"]);
        let selective = words("on #ab ~* resetchannels -@all +get (~s:* resetchannels -@all +@write)");
        let expected = ["-@all", "-@all", "+get", "clearselectors", "(~s:*", "resetchannels", "-@all", "+@write)"];
        assert_eq!(selective, expected);
    }
}
