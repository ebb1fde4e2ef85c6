//! A command with an argument that is too large to wait for: its bytes go on as they come, inside of one transaction.
//! What stands behind the value (an expiry, a condition) is known only when the value has passed: such a value passes into a
//! key of ours, which takes the name of the real one in the same transaction.

use std::ops::Range;

use dts_common::error::{Code, Error, Result};
use dts_common::redis::command::{Handling, Unit, handling};
use dts_common::redis::command_table::Words;
use dts_common::redis::resp;

use super::out::Out;
use super::rewrite::Rewriter;
use crate::target::RESERVED_PREFIX;

/// From this size on a command is not waited for.
pub(super) const LARGE: usize = 1 << 20;
/// What is collected is options: words and numbers.
const LONGEST_OPTION: usize = 64;
const LONGEST_HEADER: usize = 16;

/// A command on its way.
#[derive(Debug)]
pub(super) struct Large {
    kind: Kind,
    key: Vec<u8>,
    /// Arguments whose bytes pass, and from where on they are kept as well.
    passing: Range<usize>,
    options_from: usize,
    arguments: usize,
    /// The argument that is being read.
    at: usize,
    state: State,
    options: Vec<Vec<u8>>,
}

#[derive(Debug)]
enum Kind {
    /// As it came.
    Verbatim,
    /// `SETEX`, `PSETEX`: the expiry stood before the value.
    Expiring(Unit, i64),
    /// `SET` with options: into a key of ours first.
    Set,
    /// `RESTORE`: into a key of ours first; with this expiry, absolute or not.
    Restore(i64),
}

#[derive(Debug)]
enum State {
    Header(Vec<u8>),
    /// Bytes that are left, with the CRLF.
    Body(usize),
}

/// What is known of it before its value is.
pub(super) struct Head<'a> {
    pub(super) arguments: usize,
    pub(super) whole: &'a [&'a [u8]],
}

impl Words for Head<'_> {
    fn count(&self) -> usize {
        self.arguments
    }

    fn word(&self, at: usize) -> Option<&[u8]> {
        self.whole.get(at).copied()
    }
}

impl Large {
    /// The command of `arguments` arguments of which these are whole, if it can pass in parts, and how it begins.
    pub(super) fn begin(arguments: usize, whole: &[&[u8]], rewriter: &Rewriter) -> Option<(Self, Vec<u8>)> {
        let (name, key) = (*whole.first()?, *whole.get(1)?);
        let own = rewriter.owns_all(&Head { arguments, whole });
        if key.starts_with(RESERVED_PREFIX.as_bytes()) || !own {
            return None;
        }
        let how = handling(name);
        let number = |index: usize| std::str::from_utf8(whole.get(index)?).ok()?.parse::<i64>().ok();
        let temporary = rewriter.large_key();
        let (kind, passing, options_from) = match how {
            _ if rewriter.passes_as_it_is(how, name) => (Kind::Verbatim, 0..arguments, arguments),
            Handling::Set if arguments == 3 => (Kind::Verbatim, 0..arguments, arguments),
            Handling::Set => (Kind::Set, 2..3, 3),
            Handling::SetEx(unit) if arguments == 4 => (Kind::Expiring(unit, number(2)?), 3..4, arguments),
            Handling::Restore if arguments >= 4 => {
                // Older targets know none of the options.
                let passing = 3..if rewriter.knows_restore_options() { arguments } else { 4 };
                (Kind::Restore(number(2)?), passing, 4)
            }
            _ => return None,
        };
        let mut head = Vec::new();
        let written: &[&[u8]] = match kind {
            Kind::Verbatim => &[],
            Kind::Expiring(..) => &[b"SET", key],
            Kind::Set => &[b"SET", temporary],
            Kind::Restore(_) => &[b"RESTORE", temporary, b"0"],
        };
        resp::array_header(&mut head, written.len() + passing.len());
        written.iter().for_each(|word| resp::bulk(&mut head, word));
        let state = State::Header(Vec::new());
        let key = key.to_vec();
        Some((Self { kind, key, passing, options_from, arguments, at: 0, state, options: Vec::new() }, head))
    }

    /// Takes bytes that follow the command's own header; how many belonged to it, and whether it is over.
    pub(super) fn take(&mut self, bytes: &[u8], out: &mut Out) -> Result<(usize, bool)> {
        let mut taken = 0;
        while self.at < self.arguments {
            let rest = &bytes[taken..];
            if rest.is_empty() {
                return Ok((taken, false));
            }
            let passes = self.passing.contains(&self.at);
            match &mut self.state {
                State::Header(header) => {
                    let end = memchr::memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
                    header.extend_from_slice(&rest[..end]);
                    taken += end;
                    if header.len() > LONGEST_HEADER {
                        return Err(malformed());
                    }
                    if header.ends_with(b"\n") {
                        let length = length(header).ok_or_else(malformed)?;
                        if passes {
                            out.bytes.extend_from_slice(header);
                        }
                        if self.at >= self.options_from {
                            self.options.push(Vec::new());
                        }
                        self.state = State::Body(length + 2);
                    }
                }
                State::Body(left) => {
                    let here = rest.len().min(*left);
                    if passes {
                        out.bytes.extend_from_slice(&rest[..here]);
                    }
                    if let Some(option) = self.options.last_mut() {
                        option.extend_from_slice(&rest[..here]);
                        if option.len() > LONGEST_OPTION {
                            return Err(malformed());
                        }
                    }
                    *left -= here;
                    taken += here;
                    if *left == 0 {
                        self.at += 1;
                        self.state = State::Header(Vec::new());
                    }
                }
            }
        }
        Ok((taken, true))
    }

    /// The value has passed: the rest of the command.
    pub(super) fn finish(self, rewriter: &mut Rewriter, db: u32, out: &mut Out) {
        out.commands += 1;
        let key = &self.key;
        let options: Vec<&[u8]> = self.options.iter().map(|option| option.trim_ascii_end()).collect();
        let has = |name: &[u8]| options.iter().any(|option| option.eq_ignore_ascii_case(name));
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<i64>().ok();
        let named = |rewriter: &Rewriter, out: &mut Out| out.command(&[b"RENAME", rewriter.large_key(), key]);
        let expire = |rewriter: &mut Rewriter, unit, value, out: &mut Out| {
            let at = rewriter.at(unit, value, db, key);
            out.command(&[b"PEXPIREAT", key, at.as_bytes()]);
        };
        match self.kind {
            Kind::Verbatim => {}
            Kind::Expiring(unit, value) => expire(rewriter, unit, value, out),
            Kind::Restore(ttl) => {
                named(rewriter, out);
                if ttl > 0 {
                    let unit = if has(b"ABSTTL") { Unit::AtMillis } else { Unit::Millis };
                    expire(rewriter, unit, ttl, out);
                }
            }
            Kind::Set => {
                let expiry = options.windows(2).find_map(|pair| Some((Unit::of_option(pair[0])?, number(pair[1])?)));
                if has(b"KEEPTTL") {
                    rewriter.name_keeping_ttl(key, out);
                } else {
                    named(rewriter, out);
                }
                if let Some((unit, value)) = expiry {
                    expire(rewriter, unit, value, out);
                }
            }
        }
    }
}

fn length(header: &[u8]) -> Option<usize> {
    std::str::from_utf8(header.strip_prefix(b"$")?.strip_suffix(b"\r\n")?).ok()?.parse().ok()
}

fn malformed() -> Error {
    Error::new(Code::SourceProtocol, "a large command of the stream is not one")
}
