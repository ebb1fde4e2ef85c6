//! Taking in: a chunk of the stream becomes commands of slots. A commit may come in several chunks; nothing of it is dispatched before
//! the last of them.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dts_common::error::{Code, Error, Result};
use dts_common::redis::resp::CommandParser;
use tokio::time::Instant;

use super::Writer;
use crate::route::{Chunk, Commit, Mark, Split, split};
use crate::target::{Instruction, Phase};

/// The chunks of a commit whose end has not come.
#[derive(Debug, Default)]
pub(super) struct Parts {
    bytes: BytesMut,
    marks: Vec<Mark>,
    commands: u32,
}

impl Parts {
    /// Gives the whole commit if this chunk ends it.
    fn add(&mut self, chunk: Chunk) -> Option<(Bytes, Vec<Mark>, Commit)> {
        let Chunk { bytes, commands, commit, marks } = chunk;
        if self.bytes.is_empty()
            && let Some(commit) = commit
        {
            return Some((bytes, marks, commit));
        }
        let before = self.commands;
        self.bytes.extend_from_slice(&bytes);
        self.marks.extend(marks.iter().map(|mark| Mark { commands: before + mark.commands, ..*mark }));
        self.commands += commands;
        let commit = commit?;
        let Self { bytes, marks, .. } = std::mem::take(self);
        Some((bytes.freeze(), marks, commit))
    }
}

/// The transaction of the source that is taken in now.
#[derive(Default)]
struct Group {
    begin: u64,
    slot: u16,
    counted: bool,
}

impl Writer {
    pub(super) async fn take(&mut self, instruction: Instruction) -> Result<()> {
        self.last_taken = Instant::now();
        match instruction {
            Instruction::BeginCopy { copy } => {
                self.settle().await?;
                (self.copy, self.phase) = (copy, Phase::Copying);
                self.applied.last = None;
                self.slots.iter_mut().for_each(|slot| slot.applied = 0);
                self.write_all_records()?;
                self.ledger.close(None);
                self.publish();
                Ok(())
            }
            Instruction::Chunk(chunk) => self.chunk(chunk).await,
        }
    }

    async fn chunk(&mut self, chunk: Chunk) -> Result<()> {
        self.job.pace.spent(chunk.bytes.len() as u64);
        let Some((bytes, marks, commit)) = self.parts.add(chunk) else { return Ok(()) };
        self.dispatching = true;
        let _opened = self.ledger.current();
        if commit.position.is_some() && self.phase == Phase::Copying {
            // The copy is over once every slot says so.
            self.reached(&commit, None);
            self.write_all_records()?;
        }
        self.dispatch(&bytes, &marks, &commit).await?;
        self.reached(&commit, None);
        self.ledger.close(Some(commit));
        self.dispatching = false;
        self.publish();
        Ok(())
    }

    async fn dispatch(&mut self, bytes: &Bytes, marks: &[Mark], commit: &Commit) -> Result<()> {
        let mut parser = CommandParser::default();
        let (mut at, mut index, mut group) = (0, 0, Group::default());
        let mut marks = marks.iter().peekable();
        let mut before = None;
        while at < bytes.len() {
            let parsed = parser.parse(&bytes[at..]).ok().flatten();
            let length = parsed.ok_or_else(|| Error::new(Code::Internal, "a chunk does not end with a command"))?;
            let raw = bytes.slice(at..at + length);
            at += length;
            index += 1;
            while let Some(passed) = marks.next_if(|mark| mark.commands < index) {
                before = Some(passed.offset);
            }
            let mark = marks.peek().copied();
            let words: Vec<&[u8]> = parser.arguments().iter().filter_map(|(from, to)| raw.get(*from..*to)).collect();
            if words.first().is_some_and(|name| name.eq_ignore_ascii_case(b"SELECT")) {
                continue;
            }
            let offset = mark.map_or(u64::MAX, |mark| mark.offset);
            match split(&words) {
                Split::Nothing => {}
                Split::Whole(slot) => {
                    self.cut(&mut group, mark, slot);
                    self.put(slot, &raw, 1, offset)?;
                }
                Split::Parts(parts) => {
                    for (slot, command) in parts {
                        self.cut(&mut group, mark, slot);
                        self.put(slot, &command, 1, offset)?;
                    }
                }
                Split::Refused(why) => self.refused(&words, why)?,
                other => {
                    if let Some(before) = before {
                        self.reached(commit, Some(before));
                    }
                    self.settle().await?;
                    self.at_once(other, offset, commit).await?;
                }
            }
        }
        Ok(())
    }

    /// Counts transactions of the source that are not one on the target.
    fn cut(&mut self, group: &mut Group, mark: Option<&Mark>, slot: u16) {
        let Some(mark) = mark.filter(|mark| mark.group > 0) else { return };
        if group.begin != mark.group {
            *group = Group { begin: mark.group, slot, counted: false };
        } else if group.slot != slot && !group.counted {
            group.counted = true;
            Arc::make_mut(&mut self.applied.notes).cut_transactions += 1;
        }
    }

    fn refused(&mut self, words: &[&[u8]], why: &str) -> Result<()> {
        let name = String::from_utf8_lossy(words.first().copied().unwrap_or_default()).to_uppercase();
        if self.job.skip {
            *Arc::make_mut(&mut self.applied.notes).skipped.entry(name).or_default() += 1;
            return Ok(());
        }
        let error = Error::new(Code::TargetUnsupported, format!("a cluster cannot do what {name} does: {why}"));
        Err(words.get(1).map_or(error.clone(), |key| error.about_key(key)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Progress;

    #[test]
    fn a_commit_in_several_chunks_is_one_whose_marks_count_from_its_beginning() {
        let commit = || Some(Commit { position: None, holds_field_expiry: false, progress: Progress::default() });
        let chunk = |text: &'static str, commands, commit| {
            let marks = vec![Mark { commands, offset: 1, group: 0 }];
            Chunk { bytes: text.into(), commands, commit, marks }
        };
        let mut parts = Parts::default();
        let mut add = |text, commands, commit| {
            let (bytes, marks, _) = parts.add(chunk(text, commands, commit))?;
            Some((bytes, marks.iter().map(|mark| mark.commands).collect::<Vec<_>>()))
        };
        assert_eq!(add("a", 2, commit()), Some(("a".into(), vec![2])));
        assert_eq!(add("b", 2, None), None);
        assert_eq!(add("c", 3, None), None);
        assert_eq!(add("d", 1, commit()), Some(("bcd".into(), vec![2, 5, 6])));
        assert_eq!(add("e", 4, commit()), Some(("e".into(), vec![4])), "nothing of the one before is left");
    }
}
