//! A connection to one master, and what is done over it. Before it writes anything it has named itself, and has ended every
//! connection of this shard there that an earlier epoch or an earlier connection of ours has left: what these had sent and the
//! master had not run is gone with them. So nothing of theirs can be applied behind what is read here.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dts_common::error::{Code, Error, Result};
use dts_common::ids::{Epoch, ShardId};
use dts_common::redis::resp;
use tokio::time::Instant;

use super::record;
use crate::endpoint::Endpoint;
use crate::target::connection::{Connection, Replies};
use crate::target::refusal::{self, is_the_scripts_own, named};
use crate::target::reply::Reply;

use crate::target::{Checkpoint, EpochUser, fence};

/// Who connects.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub(super) shard: ShardId,
    pub(super) epoch: Epoch,
    /// The shards of the task share the records.
    pub(super) shared: bool,
    /// As whom, if not as our login.
    pub(super) user: Option<Arc<EpochUser>>,
}

impl Identity {
    /// The key of a slot's record.
    fn key(&self, slot: u16) -> String {
        record::key(&self.shard, self.shared, slot)
    }
}

/// One thing to do; each is all or nothing on the target.
#[derive(Clone, Debug)]
pub(super) enum Item {
    /// Reads the record of a slot.
    Read(u16),
    /// Writes the record of a slot, or removes it, if it is still this one.
    Swap { slot: u16, expected: Option<Checkpoint>, next: Option<Checkpoint> },
    /// Commands and the record behind them, as one transaction.
    Write { slot: u16, commands: Bytes, count: u32, next: Checkpoint },
    /// A command that has no slot.
    Command(Bytes),
}

/// What became of it.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The record that stands there.
    Found(Option<Vec<u8>>),
    /// Done.
    Done,
    /// Not done, and nothing of it: another master has the slot, or nobody now.
    Away(Away, Error),
    /// Not done, and trying again does not help.
    Failed(Error),
}

/// Why a slot cannot be written here now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Away {
    /// This node has it.
    Moved { host: String, port: u16 },
    /// It is on its way to another node.
    OnItsWay,
    /// The cluster, or the node, does not serve.
    Down,
}

/// A connection that may write.
#[derive(Debug)]
pub(super) struct Link {
    identity: Identity,
    endpoint: Endpoint,
    name: String,
    connection: Connection,
    /// How long the master took to answer when it had nothing else to do.
    pub(super) round_trip: Duration,
}

impl Link {
    pub(super) async fn open(endpoint: &Endpoint, identity: &Identity) -> Result<Self> {
        let Identity { shard, epoch, user, .. } = identity;
        let name = format!("dts:{}:{}:{epoch}:{:08x}", shard.task, shard.index, rand::random::<u32>());
        let mut connection = match user {
            None => Connection::open(endpoint).await?,
            Some(user) => user.enter(endpoint).await?,
        };
        let since = Instant::now();
        connection.call(&[b"CLIENT", b"SETNAME", name.as_bytes()]).await?;
        let round_trip = since.elapsed();
        let mut link = Self { identity: identity.clone(), endpoint: endpoint.clone(), name, connection, round_trip };
        link.evict(&BTreeSet::new()).await?;
        Ok(link)
    }

    /// Ends every other connection of this shard, unless a later epoch has one: then it is we who have to go. Those of the shards that slots
    /// were taken from are ended whatever their epoch: they come back, and read what is theirs.
    pub(super) async fn evict(&mut self, taken_from: &BTreeSet<u32>) -> Result<()> {
        if fence::is_off() {
            return Ok(());
        }
        let Reply::Bulk(Some(list)) = self.connection.call(&[b"CLIENT", b"LIST"]).await? else {
            return Err(Error::new(Code::TargetPermission, "the target does not list its clients"));
        };
        let ours = format!("dts:{}:{}:", self.identity.shard.task, self.identity.shard.index);
        let theirs: Vec<String> =
            taken_from.iter().map(|index| format!("dts:{}:{index}:", self.identity.shard.task)).collect();
        for line in String::from_utf8_lossy(&list).lines() {
            let field = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
            let (Some(id), Some(name)) = (field("id"), field("name")) else { continue };
            let epoch = name.strip_prefix(&ours).and_then(|rest| Some(rest.split_once(':')?.0));
            if name == self.name || (epoch.is_none() && !theirs.iter().any(|theirs| name.starts_with(theirs))) {
                continue;
            }
            if let Some(epoch) = epoch
                && epoch.parse::<u64>().is_ok_and(|epoch| epoch > self.identity.epoch.0)
            {
                return Err(Error::new(Code::Fenced, "a later epoch is connected to the target"));
            }
            self.connection.send(&command(&[b"CLIENT", b"KILL", b"ID", id.as_bytes()])).await?;
            if let Reply::Error(text) = self.connection.reply().await?
                && !text.contains("No such client")
            {
                return Err(self.connection.refused(&text));
            }
        }
        match &self.identity.user {
            Some(user) => user.expel(&self.endpoint).await,
            None => Ok(()),
        }
    }

    /// Does all of them, in their order; an error means that nobody knows which were done.
    pub(super) async fn round(&mut self, items: &[Item]) -> Result<Vec<Outcome>> {
        let mut bytes = Vec::new();
        items.iter().for_each(|item| self.encode(item, &mut bytes));
        let (sending, replies) = self.connection.sending(&bytes);
        let reading = async move {
            let mut outcomes = Vec::with_capacity(items.len());
            for item in items {
                outcomes.push(outcome(item, replies).await?);
            }
            Ok(outcomes)
        };
        let ((), outcomes) = tokio::try_join!(sending, reading)?;
        Ok(outcomes)
    }

    fn encode(&self, item: &Item, out: &mut Vec<u8>) {
        const SWAP: &[u8] = b"if (redis.call('GET', KEYS[1]) or '') == ARGV[1] then \
            if ARGV[2] == '' then redis.call('DEL', KEYS[1]) else redis.call('SET', KEYS[1], ARGV[2]) end return 1 end return 0";
        match item {
            Item::Read(slot) => resp::command(out, &[b"GET", self.identity.key(*slot).as_bytes()]),
            Item::Swap { slot, expected, next } => {
                let [expected, next] =
                    [expected, next].map(|record| record.as_ref().map(Checkpoint::encode).unwrap_or_default());
                let key = self.identity.key(*slot);
                resp::command(out, &[b"EVAL", SWAP, b"1", key.as_bytes(), expected.as_bytes(), next.as_bytes()]);
            }
            Item::Write { slot, count: 0, next, .. } => self.set(*slot, next, out),
            Item::Write { slot, commands, next, .. } => {
                out.extend_from_slice(b"*1\r\n$5\r\nMULTI\r\n");
                out.extend_from_slice(commands);
                self.set(*slot, next, out);
                out.extend_from_slice(b"*1\r\n$4\r\nEXEC\r\n");
            }
            Item::Command(bytes) => out.extend_from_slice(bytes),
        }
    }

    fn set(&self, slot: u16, record: &Checkpoint, out: &mut Vec<u8>) {
        resp::command(out, &[b"SET", self.identity.key(slot).as_bytes(), record.encode().as_bytes()]);
    }
}

async fn outcome(item: &Item, replies: &mut Replies) -> Result<Outcome> {
    let (commands, count) = match item {
        Item::Write { commands, count, .. } if *count > 0 => (commands, *count),
        item => {
            return Ok(match (item, replies.next().await?) {
                (Item::Read(_), Reply::Bulk(found)) => Outcome::Found(found),
                // Functions that are gone already.
                (Item::Command(_), Reply::Error(text)) if text.contains("Library not found") => Outcome::Done,
                (_, Reply::Error(text)) => refused(&text, replies),
                // Whether a swap took place is read afterwards.
                (Item::Swap { .. } | Item::Write { .. } | Item::Command(_), _) => Outcome::Done,
                _ => Outcome::Failed(Error::new(Code::Fenced, "the record on the target is not one of ours")),
            });
        }
    };
    // MULTI, the commands, the record: all of them queued, or the first error of the three.
    let mut first: Option<(u32, String)> = None;
    let (mut begun, mut ran) = (true, false);
    for index in 0..count + 2 {
        match replies.next().await? {
            Reply::Error(text) => {
                begun &= index > 0;
                first.get_or_insert((index, text));
            }
            reply => ran |= index > 0 && reply != Reply::Line(b"QUEUED".to_vec()),
        }
    }
    let executed = replies.next().await?;
    if ran {
        // Up to 5.0 a server that is busy with a script refuses MULTI too, and may have become free behind it.
        let message = "the target ran commands outside of their transaction";
        return Ok(Outcome::Failed(Error::new(Code::Diverged, message)));
    }
    match executed {
        Reply::Array(Some(elements)) if elements as u64 == u64::from(count) + 1 && begun => {
            let mut failed = None;
            for index in 0..elements as u64 {
                if let Some(text) = replies.element().await?
                    && failed.is_none()
                    && !is_the_scripts_own(&text, || named(commands, Some(index)).name)
                {
                    failed = Some((index, text));
                }
            }
            Ok(failed.map_or(Outcome::Done, |(index, text)| Outcome::Failed(refusal::of(commands, Some(index), &text))))
        }
        Reply::Error(text) => {
            let (index, text) = first.unwrap_or((0, text));
            let outcome = refused(&text, replies);
            Ok(match outcome {
                Outcome::Failed(error) => {
                    let name = named(commands, u64::from(index).checked_sub(1)).name;
                    let message = format!("{} (for {name}; nothing of its transaction was applied)", error.message);
                    Outcome::Failed(Error { message, ..error })
                }
                outcome => outcome,
            })
        }
        _ => Err(Error::new(Code::TargetLost, "the target answers EXEC with something else")),
    }
}

/// What an error reply means for the slot.
fn refused(text: &str, replies: &Replies) -> Outcome {
    let error = replies.refused(text);
    match away(text) {
        // Nobody knows where the slot is now: neither is it the wrong role of the target.
        Some(away) => Outcome::Away(away, Error { code: Code::TargetBusy, ..error }),
        None if error.code == Code::TargetBusy => Outcome::Away(Away::Down, error),
        None => Outcome::Failed(error),
    }
}

fn away(text: &str) -> Option<Away> {
    let text = text.split_once("because of: ").map_or(text, |(_, why)| why);
    let mut words = text.split(' ');
    match words.next()? {
        "MOVED" => {
            let (host, port) = words.nth(1)?.rsplit_once(':')?;
            Some(Away::Moved { host: host.to_owned(), port: port.parse().ok()? })
        }
        "ASK" | "TRYAGAIN" => Some(Away::OnItsWay),
        "CLUSTERDOWN" | "READONLY" | "MASTERDOWN" | "LOADING" => Some(Away::Down),
        _ => None,
    }
}

fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    resp::command(&mut bytes, words);
    bytes
}

/// Removes a key of ours, there or not.
pub(super) fn delete(key: &str) -> Item {
    Item::Command(command(&[b"DEL", key.as_bytes()]).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirection_is_told_from_a_refusal() {
        assert_eq!(away("MOVED 5 10.0.0.1:7000"), Some(Away::Moved { host: "10.0.0.1".into(), port: 7000 }));
        assert_eq!(away("MOVED 5 :7000"), Some(Away::Moved { host: String::new(), port: 7000 }));
        assert_eq!(away("ASK 5 10.0.0.1:7000"), Some(Away::OnItsWay));
        assert_eq!(away("EXECABORT Transaction discarded because of: TRYAGAIN Multiple keys"), Some(Away::OnItsWay));
        assert_eq!(away("CLUSTERDOWN Hash slot not served"), Some(Away::Down));
        assert_eq!(away("CROSSSLOT Keys in request don't hash to the same slot"), None);
        assert_eq!(away("OOM command not allowed"), None);
    }
}
