//! A command in words that the target knows, with its expiry held.

use dts_common::redis::command::{Fields, Handling, Unit};

use super::{Command, Rewriter};
use crate::route::out::Out;

impl Rewriter {
    /// `None`: it passes as it is.
    pub(super) fn rewritten(&mut self, how: Handling, command: &Command<'_>, db: u32, out: &mut Out) -> Option<()> {
        let version = self.dialect.version;
        let key = command.argument(1);
        match how {
            Handling::Expire(unit, Fields::Key) => {
                let at = self.at(unit, command.number(2)?, db, key?);
                out.command(&[b"PEXPIREAT", key?, at.as_bytes()]);
            }
            Handling::Expire(unit, Fields::Hash) => {
                // A condition (NX, XX, GT, LT) held on the source.
                let fields = command.find(0..command.arguments.len(), b"FIELDS")?;
                self.holds_field_expiry = true;
                let at = self.at(unit, command.number(2)?, db, key?);
                let mut words = vec![b"HPEXPIREAT", key?, at.as_bytes()];
                words.extend(command.from(fields));
                out.command(&words);
            }
            Handling::Set => self.set(command, db, out)?,
            Handling::SetEx(unit) => {
                let at = self.at(unit, command.number(2)?, db, key?);
                self.set_at(key?, command.argument(3)?, &at, out);
            }
            Handling::GetEx => {
                let option = command.argument(2)?;
                match Unit::of_option(option) {
                    Some(unit) => {
                        let at = self.at(unit, command.number(3)?, db, key?);
                        out.command(&[b"PEXPIREAT", key?, at.as_bytes()]);
                    }
                    None => out.command(&[option, key?]),
                }
            }
            Handling::Restore => self.restore(command, db, out)?,
            Handling::HSetEx if !self.knows_hsetex() => self.hset_ex(command, db, out)?,
            Handling::HSetEx => {
                let fields = command.find(0..command.arguments.len(), b"FIELDS")?;
                let (unit, number) = command.expiry(2..fields)?;
                self.holds_field_expiry = true;
                let at = self.at(unit, number, db, key?);
                let mut words = vec![b"HSETEX", key?, b"PXAT", at.as_bytes()];
                words.extend(command.from(fields));
                out.command(&words);
            }
            Handling::MSetEx => self.mset_ex(command, db, out)?,
            Handling::BRPopLPush => out.command(&[b"RPOPLPUSH", key?, command.argument(2)?]),
            Handling::Unlink if !version.at_least(4, 0) => {
                let words: Vec<&[u8]> = std::iter::once(&b"DEL"[..]).chain(command.from(1)).collect();
                out.command(&words);
            }
            Handling::Flush => {
                out.command(&[command.argument(0)?]);
                if db == 0 || command.argument(0)?.eq_ignore_ascii_case(b"FLUSHALL") {
                    self.keep_scripts(out);
                }
            }
            Handling::SwapDb => {
                out.raw(command.raw);
                self.after_swap(command.number(1)?, command.number(2)?, out);
            }
            Handling::Eval => {
                // What it renames, nobody sees.
                self.held.add_everything();
                self.learn(key?, out);
                // Keeping it selected db 0.
                out.select(db, &self.dialect).ok()?;
                return None;
            }
            Handling::EvalSha => {
                self.held.add_everything();
                let body = self.scripts.body(key?)?;
                let words: Vec<&[u8]> = [b"EVAL", body].into_iter().chain(command.from(2)).collect();
                out.command(&words);
            }
            Handling::Script => {
                if key?.eq_ignore_ascii_case(b"LOAD") {
                    self.learn(command.argument(2)?, out);
                }
                return None;
            }
            Handling::HSet if !version.at_least(4, 0) => {
                let words: Vec<&[u8]> = std::iter::once(&b"HMSET"[..]).chain(command.from(1)).collect();
                out.command(&words);
            }
            Handling::Pop if !version.at_least(6, 2) && command.arguments.len() > 2 => {
                for _ in 0..command.number(2)? {
                    out.command(&[command.argument(0)?, key?]);
                }
            }
            Handling::LMove if !version.at_least(6, 2) => {
                if !command.is(3, b"RIGHT") || !command.is(4, b"LEFT") {
                    return None;
                }
                out.command(&[b"RPOPLPUSH", key?, command.argument(2)?]);
            }
            Handling::XMeta if !version.at_least(7, 0) => self.older_x_meta(command, out)?,
            Handling::SPublish if !version.at_least(7, 0) => {}
            Handling::Rename => {
                let database =
                    command.find(3..command.arguments.len(), b"DB").and_then(|index| command.number(index + 1));
                let to = database.and_then(|db| u32::try_from(db).ok()).unwrap_or(db);
                self.held.add(to, command.argument(2)?);
                return None;
            }
            Handling::Move => {
                let to = u32::try_from(command.number(2)?).ok()?;
                self.held.add(to, key?);
                if self.dialect.source.at_least(3, 0) {
                    return None;
                }
                // 2.8 forgets the expiry of what it moves.
                out.raw(command.raw);
                out.select(to, &self.dialect).ok()?;
                out.command(&[b"PERSIST", key?]);
            }
            _ => {
                // A module's command may do anything to names.
                if command.argument(0)?.contains(&b'.') {
                    self.held.add_everything();
                }
                return None;
            }
        }
        Some(())
    }
}
