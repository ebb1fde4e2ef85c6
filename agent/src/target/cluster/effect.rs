//! Commands over several slots that are done by their effect, step by step. Everything before them is confirmed when they
//! begin, and nothing behind them is sent before they are done: so the values that they read are those of the source.
//!
//! A step that was lost while a later one, or anything behind it, was kept (the master of the first lost its last second) can
//! not be made again, for what it read is gone or newer: then the target asks for a new copy.

use dts_common::error::{Code, Error, Result};
use dts_common::redis::resp;
use dts_common::redis::slot::slot;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use super::writer::Writer;
use crate::client::Client;
use crate::endpoint::Side;
use crate::restore::ttls;
use crate::route::{Commit, Effect, Split};
use crate::target::Phase;
use crate::target::session::rewound;

/// Commands of one step.
#[derive(Default)]
struct Step {
    bytes: Vec<u8>,
    count: u32,
}

impl Step {
    fn add(&mut self, words: &[&[u8]]) {
        resp::command(&mut self.bytes, words);
        self.count += 1;
    }
}

impl Writer {
    /// Does what cannot stand among the commands of the slots.
    pub(super) async fn at_once(&mut self, what: Split, offset: u64, commit: &Commit) -> Result<()> {
        match what {
            Split::Everywhere(command) => self.everywhere(&command).await,
            Split::Flush if self.has_applied(None, offset) => {
                // Some slots are behind it already: emptying their masters again would cost them what came since.
                self.copy_again().await
            }
            Split::Flush => {
                self.everywhere(b"*1\r\n$8\r\nFLUSHALL\r\n").await?;
                // The records went too. If this is cut off the next attempt misses them, and copies.
                self.write_all_records()?;
                self.settle().await
            }
            Split::Effect(effect) => self.effect(effect, offset, commit).await,
            Split::Nothing | Split::Whole(_) | Split::Parts(_) | Split::Refused(_) => Ok(()),
        }
    }

    async fn effect(&mut self, effect: Effect, offset: u64, commit: &Commit) -> Result<()> {
        let inside = (offset < u64::MAX).then_some(offset);
        match effect {
            Effect::Copy { from, to, remove } => {
                let mut first = Step::default();
                if self.may_read(&to, &[&from], offset).await? {
                    let value = self.dump(&from).await?.ok_or_else(|| missing(&from))?;
                    first.add(&[b"RESTORE", &to, b"0", &value, b"REPLACE"]);
                    if let Some(at) = self.expiry(&from).await? {
                        first.add(&[b"PEXPIREAT", &to, at.to_string().as_bytes()]);
                    }
                }
                let mut second = Step::default();
                if remove {
                    second.add(&[b"DEL", &from]);
                }
                self.steps([(slot(&to), first), (slot(&from), second)], offset, inside, commit).await
            }
            Effect::Move { from, from_left, to, to_left } => {
                let (mut first, mut second) = (Step::default(), Step::default());
                if self.may_read(&to, &[&from], offset).await? {
                    let index: &[u8] = if from_left { b"0" } else { b"-1" };
                    let element = self.ask_owner(&from, &[b"LINDEX", &from, index]).await?;
                    let element = element.as_bytes().ok_or_else(|| missing(&from))?;
                    first.add(&[if to_left { b"LPUSH" } else { b"RPUSH" }, &to, element]);
                }
                second.add(&[if from_left { b"LPOP" } else { b"RPOP" }, &from]);
                self.steps([(slot(&to), first), (slot(&from), second)], offset, inside, commit).await
            }
            Effect::Gather { slot: home, sources, command } => {
                let mut step = Step::default();
                let read: Vec<&Vec<u8>> = sources.iter().map(|(source, _)| source).collect();
                if self.may_read_into(home, &read, offset).await? {
                    for (source, name) in &sources {
                        if let Some(value) = self.dump(source).await? {
                            step.add(&[b"RESTORE", name, b"0", &value, b"REPLACE"]);
                        }
                    }
                    step.bytes.extend_from_slice(&command);
                    step.count += 1;
                    sources.iter().for_each(|(_, name)| step.add(&[b"DEL", name]));
                }
                self.steps([(home, step), (home, Step::default())], offset, inside, commit).await
            }
        }
    }

    /// One step after the other is confirmed.
    async fn steps(
        &mut self,
        steps: [(u16, Step); 2],
        offset: u64,
        inside: Option<u64>,
        commit: &Commit,
    ) -> Result<()> {
        for (slot, step) in steps {
            if step.count > 0 {
                // The record of this slot says that it is done; those of the others are written by what follows.
                self.reached(commit, inside);
                self.put(slot, &step.bytes, step.count, offset)?;
                self.settle().await?;
            }
        }
        Ok(())
    }

    async fn may_read(&mut self, to: &[u8], from: &[&Vec<u8>], offset: u64) -> Result<bool> {
        self.may_read_into(slot(to), from, offset).await
    }

    /// True if the first step is to be made; an error if it cannot be made any more.
    async fn may_read_into(&mut self, to: u16, from: &[&Vec<u8>], offset: u64) -> Result<bool> {
        let applied = |slot: u16| self.has_applied(Some(slot), offset);
        if applied(to) {
            return Ok(false);
        }
        if from.iter().any(|key| applied(slot(key))) {
            self.copy_again().await?;
        }
        Ok(true)
    }

    /// Leaves word on the target that only a new copy helps, and ends this attempt.
    async fn copy_again(&mut self) -> Result<()> {
        self.phase = Phase::Copying;
        self.write_all_records()?;
        self.settle().await?;
        Err(rewound("a command over several slots was half lost by the target: a new copy is needed"))
    }

    async fn dump(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.ask_owner(key, &[b"DUMP", key]).await?.as_bytes().map(<[u8]>::to_vec))
    }

    /// The absolute expiry, as it stands on the target.
    async fn expiry(&mut self, key: &[u8]) -> Result<Option<i64>> {
        // Asked first for where it is, so that the exact way finds it there.
        let ttl = self.ask_owner(key, &[b"PTTL", key]).await?;
        if matches!(ttl, BytesFrame::Integer(ttl) if ttl < 0) {
            return Ok(None);
        }
        let Some(owner) = self.topology.owner(slot(key)).cloned() else { return Err(nobody()) };
        let mut client = Client::connect(&owner, Side::Target).await?;
        let found = ttls(&mut client, &[key.to_vec()]).await?;
        Ok(found.first().copied().filter(|at| *at >= 0))
    }

    /// Asks the owner of a key, as soon as it has one and that answers.
    async fn ask_owner(&mut self, key: &[u8], words: &[&[u8]]) -> Result<BytesFrame> {
        loop {
            let answer = match self.topology.owner(slot(key)).cloned() {
                Some(owner) => match Client::connect(&owner, Side::Target).await {
                    Ok(mut client) => client.ask(words).await,
                    Err(error) => Err(error),
                },
                None => Err(nobody()),
            };
            let error = match answer {
                Ok(BytesFrame::Error(text)) => Error::new(Code::TargetBusy, format!("a key could not be read: {text}")),
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            self.retry.wait(error).await?;
            if let Ok(topology) = super::Topology::find(&self.known()).await {
                self.topology = topology;
            }
        }
    }
}

fn nobody() -> Error {
    Error::new(Code::TargetBusy, "a slot of the target has no owner")
}

fn missing(key: &[u8]) -> Error {
    Error::new(Code::Diverged, "a key that the source has is missing on the target").about_key(key)
}
