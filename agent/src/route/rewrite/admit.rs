//! What may be written where other shards' keys lie too, and what ends a stream rather than being written.

use dts_common::error::{Code, Error, Result};
use dts_common::redis::command::Handling;
use dts_common::redis::command_table::{Access, Key, Words, keys_of};

use super::{Command, Rewriter};
use crate::route::out::Out;
use crate::target::{Checkpoint, Phase};
use crate::topology::Owner;

/// True if a script may flush; better once too often.
fn flushes(body: &[u8]) -> bool {
    body.to_ascii_lowercase().windows(5).any(|word| word == b"flush")
}

/// Every source has the same libraries, and each tells of them: they are loaded over each other, and never unloaded, because the
/// others may still need them. True if the command passes as it is.
fn shared_function(command: &Command<'_>, out: &mut Out) -> bool {
    if command.is(1, b"LOAD") && !command.is(2, b"REPLACE") {
        let words: Vec<&[u8]> = [&b"FUNCTION"[..], b"LOAD", b"REPLACE"].into_iter().chain(command.from(2)).collect();
        out.command(&words);
        return false;
    }
    !command.is(1, b"DELETE") && !command.is(1, b"FLUSH")
}

impl Rewriter {
    /// What another task writes to the source says in the same transaction where it comes from: from our target, and it would go round for ever.
    pub(super) fn ends_loops(&self, command: &Command<'_>) -> Result<()> {
        let Some(Ok(record)) = command.argument(2).map(Checkpoint::decode) else { return Ok(()) };
        match record.phase {
            Phase::Streaming { position, .. }
                if position.history.is_some_and(|history| self.target_histories.contains(&history)) =>
            {
                Err(Error::new(Code::GoesRound, "another task writes to the source what comes from this task's target"))
            }
            _ => Ok(()),
        }
    }

    /// On a target with other shards' keys: false if the command is not to be written, or is written already.
    pub(super) fn admits(&self, how: Handling, command: &Command<'_>, out: &mut Out) -> Result<bool> {
        let name = command.argument(0).unwrap_or_default();
        let refused = |what: &str| {
            Err(Error::new(Code::TargetUnsupported, format!("{what}, and the target holds other sources' keys too")))
        };
        match how {
            Handling::SwapDb => return refused("the source swaps databases"),
            Handling::Eval if command.argument(1).is_some_and(flushes) => {
                return refused("the source runs a script that flushes");
            }
            Handling::EvalSha if command.argument(1).and_then(|hash| self.scripts.body(hash)).is_some_and(flushes) => {
                return refused("the source runs a script that flushes");
            }
            _ if name.eq_ignore_ascii_case(b"FUNCTION") => return Ok(shared_function(command, out)),
            _ => {}
        }
        if matches!(self.owner, Owner::Everything | Owner::Unnamed) {
            return Ok(true);
        }
        let moves = |what: &str| {
            let what = format!("the source sends {what}: slots move between its masters");
            // Codis's map is a part of the task: it does not follow.
            let code = if matches!(self.owner, Owner::Slots(_)) { Code::SourceResharded } else { Code::SourceTopology };
            Err(Error::new(code, what))
        };
        let of_slots = matches!(self.owner, Owner::Slots(_));
        if of_slots && (how == Handling::Refuse || name.eq_ignore_ascii_case(b"RESTORE-ASKING")) {
            return moves(&String::from_utf8_lossy(name));
        }
        let keys = keys_of(command).unwrap_or_default();
        let foreign = |key: &Key| {
            key.access != Access::Channel && command.argument(key.at).is_some_and(|key| !self.owner.may_own(key))
        };
        if !keys.iter().any(foreign) {
            return Ok(true);
        }
        // A master that lost a slot deletes what it still has of it, and old copies behind a proxy expire: of the keys that the
        // owner has, nothing.
        if keys.iter().all(foreign) && (how == Handling::Unlink || name.eq_ignore_ascii_case(b"DEL")) {
            return Ok(false);
        }
        if matches!(self.owner, Owner::Ring(..)) {
            let key = keys.iter().find(|key| foreign(key)).and_then(|key| command.argument(key.at));
            let what =
                "the source changes a key that by the ring another one owns: it is not the ring that the proxy uses";
            return Err(Error::new(Code::SourceTopology, what).about_key(key.unwrap_or_default()));
        }
        moves("a change of a key that was not its own")
    }

    /// True if all keys of the command are known to be ours.
    pub(in crate::route) fn owns_all(&self, command: &impl Words) -> bool {
        let Owner::Slots(_) = &self.owner else { return true };
        let own = |key: &Key| command.word(key.at).is_some_and(|key| self.owner.may_own(key));
        keys_of(command).is_ok_and(|keys| keys.iter().all(own))
    }
}
