//! Fence F4, on top of the others: the connections that write data log in as a user that is there for this task, shard and epoch only. Who takes
//! over removes the users of earlier epochs behind raising the fence: the server closes their connections at once, with all that these had
//! sent and it had not run. `docs/decisions/0017-fence-levels.md` says what that is good for.
//!
//! The password is drawn at random, is never written anywhere, and is known to the server by its hash only.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_common::hex::hex;
use dts_common::ids::{Epoch, ShardId};
use futures_util::future::join_all;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};
use ring::digest::{SHA256, digest};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::RwLock;
use tokio::time::timeout;

use super::connection::Connection;
use super::fence;
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};

/// Users of ours on a target begin with this; so do the names of connections.
const PREFIX: &str = "dts:";
/// All that a stream may bring, and scripts of it may call; nothing that administers, but what ends the connections of our own predecessors.
const RIGHTS: [&[u8]; 5] = [b"+@all", b"-@admin", b"+client|setname", b"+client|list", b"+client|kill"];
/// For what is tidied beside the way: a server that does not answer is tidied by the next claim.
const BESIDE: Duration = Duration::from_secs(3);

/// A shard's user under one epoch.
#[derive(Debug)]
pub struct EpochUser {
    shard: ShardId,
    epoch: Epoch,
    password: SecretString,
    /// There may be something to remove.
    used: AtomicBool,
    /// True once the epoch is over here: nothing creates the user any more.
    over: RwLock<bool>,
}

/// A standalone target, and as whom its data is written.
#[derive(Clone, Debug)]
pub(super) struct Door {
    pub(super) endpoint: Endpoint,
    pub(super) user: Option<Arc<EpochUser>>,
    /// It was claimed before: where our record is gone by now the task is over, or the target has lost it all.
    pub(super) claimed: bool,
}

impl EpochUser {
    /// With a password of its own.
    pub fn new(shard: &ShardId, epoch: Epoch) -> Self {
        let password = hex(rand::random::<[u8; 32]>()).into();
        Self { shard: shard.clone(), epoch, password, used: AtomicBool::new(false), over: RwLock::new(false) }
    }

    fn prefix(&self) -> String {
        format!("{PREFIX}{}:{}:", self.shard.task, self.shard.index)
    }

    fn name(&self) -> String {
        format!("{}{}", self.prefix(), self.epoch)
    }

    /// A connection that is logged in as this user, which is created, or given back its rights, by our own login.
    pub(super) async fn enter(&self, endpoint: &Endpoint) -> Result<Connection> {
        let over = self.over.read().await;
        if *over {
            return Err(Error::new(Code::Fenced, "this epoch is over"));
        }
        self.used.store(true, Ordering::Relaxed);
        self.create(&mut Client::connect_named(endpoint, Side::Target).await?).await?;
        drop(over);
        let own = Endpoint { username: Some(self.name()), password: Some(self.password.clone()), ..endpoint.clone() };
        Connection::open(&own).await.map_err(|error| match error.code {
            // Somebody has removed it since. Whether a later epoch did the record will say.
            Code::TargetAuth => Error::new(Code::TargetLost, format!("the user of this epoch is gone from {endpoint}")),
            _ => error,
        })
    }

    async fn create(&self, login: &mut Client) -> Result<()> {
        let (name, hash) = (
            self.name(),
            format!("#{}", hex(digest(&SHA256, self.password.expose_secret().as_bytes()).as_ref().iter().copied())),
        );
        let begin: [&[u8]; 7] = [b"ACL", b"SETUSER", name.as_bytes(), b"reset", b"on", hash.as_bytes(), b"~*"];
        let with_channels = [&begin[..], &[b"&*"], &RIGHTS].concat();
        let mut said = login.ask(&with_channels).await?;
        if matches!(&said, BytesFrame::Error(text) if text.contains("'&*'")) {
            // 6.0 has no rights about channels.
            said = login.ask(&[&begin[..], &RIGHTS].concat()).await?;
        }
        match said {
            BytesFrame::Error(text) => Err(refused(&text, "create a user (ACL SETUSER)")),
            _ => Ok(()),
        }
    }

    /// Ends the users of earlier epochs on a server. Only behind raising the fence: else they could come back before it is.
    pub(super) async fn expel(&self, server: &Endpoint) -> Result<()> {
        if fence::is_off() {
            return Ok(());
        }
        self.remove(server, |epoch| epoch < self.epoch.0).await
    }

    /// The same on servers that are not written to now, as far as they answer.
    pub(super) async fn expel_beside(&self, servers: &[Endpoint]) {
        let each = servers.iter().map(|server| async move {
            if let Err(error) = timeout(BESIDE, self.expel(server)).await.unwrap_or_else(|_| Err(silent(server))) {
                tracing::debug!(%error, "users of earlier epochs may be left on a server that is not written to");
            }
        });
        join_all(each).await;
    }

    /// Removes what this shard has left anywhere under any epoch up to ours. Masters have to be rid of it; others as far as they answer.
    pub async fn remove_all(&self, masters: &[Endpoint], others: &[Endpoint]) -> Result<()> {
        *self.over.write().await = true;
        for master in masters {
            self.remove(master, |epoch| epoch <= self.epoch.0).await?;
        }
        self.remove_beside(others).await;
        Ok(())
    }

    /// Removes our own user, for nobody writes as it any more. Best effort: the next claim does it, or the release.
    pub async fn retire(&self, servers: &[Endpoint]) {
        *self.over.write().await = true;
        self.remove_beside(servers).await;
    }

    async fn remove_beside(&self, servers: &[Endpoint]) {
        let each = servers.iter().map(|server| async move {
            let removed = timeout(BESIDE, self.remove(server, |epoch| epoch <= self.epoch.0)).await;
            if let Err(error) = removed.unwrap_or_else(|_| Err(silent(server))) {
                tracing::warn!(shard = %self.shard, %error, "a user of ours may be left on the target");
            }
        });
        join_all(each).await;
    }

    /// True if there may be a user to remove.
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    async fn remove(&self, server: &Endpoint, which: impl Fn(u64) -> bool) -> Result<()> {
        let mut login = Client::connect_named(server, Side::Target).await?;
        let users = match login.ask(&[b"ACL", b"USERS"]).await? {
            BytesFrame::Array(users) => users,
            BytesFrame::Error(text) => return Err(refused(&text, "list users (ACL USERS)")),
            _ => return Err(refused("", "list users (ACL USERS)")),
        };
        let prefix = self.prefix();
        let of_epoch =
            |name: &&str| name.strip_prefix(&prefix).and_then(|epoch| epoch.parse().ok()).is_some_and(&which);
        for name in users.iter().filter_map(|user| user.as_str()).filter(of_epoch) {
            if let BytesFrame::Error(text) = login.ask(&[b"ACL", b"DELUSER", name.as_bytes()]).await? {
                return Err(refused(&text, "remove a user (ACL DELUSER)"));
            }
            tracing::info!(user = name, %server, "a user of ours is gone from the target");
        }
        Ok(())
    }
}

/// True for a user that a shard of the task writes as, or wrote.
pub fn is_of(task: &str, user: &str) -> bool {
    let numbers = user.strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix(task)?.strip_prefix(':'));
    numbers
        .and_then(|numbers| numbers.split_once(':'))
        .is_some_and(|(index, epoch)| index.parse::<u32>().is_ok() && epoch.parse::<u64>().is_ok())
}

fn silent(server: &Endpoint) -> Error {
    Error::new(Code::TargetLost, format!("{server} does not answer"))
}

fn refused(reply: &str, what: &str) -> Error {
    let reply = reply.split(", with args").next().unwrap_or_default();
    Error::new(Side::Target.refusal(reply), format!("our login cannot {what} on the target: {reply}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_of_the_task_is_known_by_its_name() {
        let shard = ShardId { task: "0193-task".into(), index: 12 };
        let user = EpochUser::new(&shard, Epoch(77));
        assert_eq!(user.name(), "dts:0193-task:12:77");
        assert!(is_of("0193-task", &user.name()));
        for other in ["dts", "dts:0193-task", "dts:0193-task:12", "dts:0193-task:12:x", "dts:other:12:77", "default"] {
            assert!(!is_of("0193-task", other), "{other}");
        }
    }

    #[test]
    fn the_password_is_another_each_time_and_is_not_shown() {
        let shard = ShardId { task: "t".into(), index: 0 };
        let [one, other] = [1, 1].map(|epoch| EpochUser::new(&shard, Epoch(epoch)));
        let password = one.password.expose_secret();
        assert!(password.len() == 64 && password != other.password.expose_secret());
        assert!(!format!("{one:?}").contains(password));
    }
}
