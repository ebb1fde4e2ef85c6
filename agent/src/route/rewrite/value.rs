//! Commands that write a value with its expiry, in words that the target knows.

use dts_common::redis::command::Unit;
use dts_common::redis::rdb::Family;

use super::{Command, Rewriter};
use crate::route::out::Out;

impl Rewriter {
    pub(super) fn set_at(&self, key: &[u8], value: &[u8], at: &str, out: &mut Out) {
        if self.dialect.version.at_least(6, 2) {
            out.command(&[b"SET", key, value, b"PXAT", at.as_bytes()]);
        } else {
            out.command(&[b"SET", key, value]);
            out.command(&[b"PEXPIREAT", key, at.as_bytes()]);
        }
    }

    /// Conditions held on the source, and nobody reads the old value.
    pub(super) fn set(&mut self, command: &Command<'_>, db: u32, out: &mut Out) -> Option<()> {
        if command.arguments.len() <= 3 {
            return None;
        }
        let (key, value) = (command.argument(1)?, command.argument(2)?);
        let options = 3..command.arguments.len();
        if let Some((unit, number)) = command.expiry(options.clone()) {
            let at = self.at(unit, number, db, key);
            self.set_at(key, value, &at, out);
        } else if command.find(options, b"KEEPTTL").is_some() {
            self.set_keeping_ttl(key, value, out);
        } else {
            out.command(&[b"SET", key, value]);
        }
        Some(())
    }

    pub(super) fn set_keeping_ttl(&self, key: &[u8], value: &[u8], out: &mut Out) {
        // To the millisecond: before 6.0 nothing says it in one command.
        const BY_SCRIPT: &[u8] = b"local t = redis.call('PTTL', KEYS[1]) redis.call('SET', KEYS[1], ARGV[1]) \
            if t > 0 then redis.call('PEXPIRE', KEYS[1], t) end";
        if self.dialect.version.at_least(6, 0) {
            out.command(&[b"SET", key, value, b"KEEPTTL"]);
        } else {
            out.command(&[b"EVAL", BY_SCRIPT, b"1", key, value]);
        }
    }

    /// The large value takes the name of a key whose expiry stays.
    pub(in crate::route) fn name_keeping_ttl(&self, key: &[u8], out: &mut Out) {
        const EXACT: &[u8] = b"local t = redis.call('PEXPIRETIME', KEYS[2]) redis.call('RENAME', KEYS[1], KEYS[2]) \
            if t > 0 then redis.call('PEXPIREAT', KEYS[2], t) end";
        const TO_THE_MILLISECOND: &[u8] = b"local t = redis.call('PTTL', KEYS[2]) \
            redis.call('RENAME', KEYS[1], KEYS[2]) if t > 0 then redis.call('PEXPIRE', KEYS[2], t) end";
        let script = if self.dialect.version.at_least(7, 0) { EXACT } else { TO_THE_MILLISECOND };
        out.command(&[b"EVAL", script, b"2", self.large_key(), key]);
    }

    pub(super) fn knows_hsetex(&self) -> bool {
        match self.dialect.version.family {
            Family::Redis => self.dialect.version.at_least(8, 0),
            Family::Valkey => self.dialect.version.at_least(9, 0),
        }
    }

    /// `HSETEX` as HSET and, where fields can expire, HPEXPIREAT. `KEEPTTL` cannot be said where they can: refused there by name.
    pub(super) fn hset_ex(&mut self, command: &Command<'_>, db: u32, out: &mut Out) -> Option<()> {
        let key = command.argument(1)?;
        let at_fields = command.find(0..command.arguments.len(), b"FIELDS")?;
        let pairs: Vec<&[u8]> = command.from(at_fields + 2).collect();
        let expiry = command.expiry(2..at_fields);
        let keeps = command.find(2..at_fields, b"KEEPTTL").is_some();
        let can_expire = self.dialect.version.has_field_expiry();
        if (expiry.is_some() && !can_expire) || (keeps && can_expire) {
            return None;
        }
        for pair in pairs.chunks_exact(2) {
            out.command(&[b"HSET", key, pair[0], pair[1]]);
            if let Some((unit, number)) = expiry {
                self.holds_field_expiry = true;
                let at = self.at(unit, number, db, key);
                out.command(&[b"HPEXPIREAT", key, at.as_bytes(), b"FIELDS", b"1", pair[0]]);
            }
        }
        Some(())
    }

    /// `XGROUP` and `XSETID` without what came with 6.2 and 7.0: counters that only serve the shown lag.
    pub(super) fn older_x_meta(&self, command: &Command<'_>, out: &mut Out) -> Option<()> {
        let creates_consumer = command.argument(1)?.eq_ignore_ascii_case(b"CREATECONSUMER");
        if creates_consumer && !self.dialect.version.at_least(6, 2) {
            // The first claim makes it.
            return Some(());
        }
        let mut words = Vec::new();
        let mut arguments = command.from(0);
        while let Some(word) = arguments.next() {
            let dropped = [&b"ENTRIESREAD"[..], b"ENTRIESADDED", b"MAXDELETEDID"];
            if dropped.iter().any(|name| word.eq_ignore_ascii_case(name)) {
                arguments.next();
            } else {
                words.push(word);
            }
        }
        out.command(&words);
        Some(())
    }

    pub(super) fn restore(&mut self, command: &Command<'_>, db: u32, out: &mut Out) -> Option<()> {
        let version = self.dialect.version;
        let (key, ttl, payload) = (command.argument(1)?, command.number(2)?, command.argument(3)?);
        let options: Vec<&[u8]> = command.from(4).collect();
        let absolute = options.iter().any(|word| word.eq_ignore_ascii_case(b"ABSTTL"));
        let unit = if absolute { Unit::AtMillis } else { Unit::Millis };
        let at = (ttl > 0).then(|| self.at(unit, ttl, db, key));
        let modern = version.at_least(5, 0);
        let inline = at.as_deref().filter(|_| modern);
        let mut words: Vec<&[u8]> = vec![b"RESTORE", key, inline.unwrap_or("0").as_bytes(), payload];
        if version.at_least(3, 0) {
            words.push(b"REPLACE");
        } else {
            out.command(&[b"DEL", key]);
        }
        if inline.is_some() {
            words.push(b"ABSTTL");
        }
        if modern {
            for (index, option) in options.iter().enumerate() {
                if option.eq_ignore_ascii_case(b"IDLETIME") || option.eq_ignore_ascii_case(b"FREQ") {
                    words.extend([*option, options.get(index + 1).copied()?]);
                }
            }
        }
        out.command(&words);
        if let Some(at) = at.filter(|_| !modern) {
            out.command(&[b"PEXPIREAT", key, at.as_bytes()]);
        }
        Some(())
    }

    /// `MSETEX n key value … [EX …]` as single SETs.
    pub(super) fn mset_ex(&mut self, command: &Command<'_>, db: u32, out: &mut Out) -> Option<()> {
        let pairs = usize::try_from(command.number(1)?).ok()?;
        let options = 2 + pairs.checked_mul(2)?;
        let expiry = command.expiry(options..command.arguments.len());
        let keep = command.find(options..command.arguments.len(), b"KEEPTTL").is_some();
        command.argument(options - 1)?;
        for pair in 0..pairs {
            let (key, value) = (command.argument(2 + 2 * pair)?, command.argument(3 + 2 * pair)?);
            match expiry {
                Some((unit, number)) => {
                    let at = self.at(unit, number, db, key);
                    self.set_at(key, value, &at, out);
                }
                None if keep => self.set_keeping_ttl(key, value, out),
                None => out.command(&[b"SET", key, value]),
            }
        }
        Some(())
    }
}
