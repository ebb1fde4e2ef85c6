//! One command for a cluster: which slot it goes to, how it is cut where its keys live in different slots, or what has to be
//! done in its place. Pure; `docs/cluster-targets.md` lists every case.
//!
//! A command of a replication stream did succeed on the source: `MSETNX` has set, `RENAMENX` has renamed, `SMOVE` has moved.

use std::collections::BTreeMap;

use dts_common::redis::command_table::{Access, Key, UnknownKeys, keys_of};
use dts_common::redis::resp;
use dts_common::redis::slot::slot;
use dts_common::redis::slot_tag::tag;

use crate::target::RESERVED_PREFIX;

/// What becomes of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Split {
    /// It changes nothing that a cluster holds.
    Nothing,
    /// As it is, in this slot.
    Whole(u16),
    /// One command for each slot: together they do the same.
    Parts(Vec<(u16, Vec<u8>)>),
    /// As it is, on every master; may be repeated.
    Everywhere(Vec<u8>),
    /// Every master is emptied.
    Flush,
    /// Done by its effect: see there.
    Effect(Effect),
    /// Cannot be done exactly.
    Refused(&'static str),
}

/// What a command over several slots does, step by step. Everything before it has to be applied, and nothing behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The value and expiry of `from` are read, `to` becomes them; then `from` goes, if it is to.
    Copy {
        /// Read.
        from: Vec<u8>,
        /// Written.
        to: Vec<u8>,
        /// `RENAME`.
        remove: bool,
    },
    /// The element at one end of `from` is read, pushed to one end of `to`, then popped from `from`.
    Move {
        /// The list that loses it.
        from: Vec<u8>,
        /// From its left end.
        from_left: bool,
        /// The list that gets it.
        to: Vec<u8>,
        /// At its left end.
        to_left: bool,
    },
    /// `command` stands in `slot`, but for these keys: they are read, and written beside it under other names for its time.
    Gather {
        /// Where the command is run.
        slot: u16,
        /// The keys of other slots, and the names that they have in `command`.
        sources: Vec<(Vec<u8>, Vec<u8>)>,
        /// With those names.
        command: Vec<u8>,
    },
}

/// Finds out what becomes of a command, given by its words.
pub fn split(words: &[&[u8]]) -> Split {
    let Some(name) = words.first().map(|name| name.to_ascii_lowercase()) else { return Split::Nothing };
    match name.as_slice() {
        b"publish" => return words.get(1).map_or(Split::Nothing, |channel| Split::Whole(slot(channel))),
        b"flushall" | b"flushdb" => return Split::Flush,
        b"swapdb" | b"move" => return Split::Refused("a cluster has one database"),
        b"script" => return Split::Everywhere(encoded(words)),
        b"function" => return function(words),
        _ => {}
    }
    let keys = match keys_of(words) {
        Ok(keys) => keys,
        Err(UnknownKeys::Command) => return Split::Refused("nobody knows which keys it has"),
        Err(UnknownKeys::Malformed) => return Split::Refused("it has a form that nobody knows"),
    };
    let slot_of = |key: &Key| words.get(key.at).map_or(0, |word| slot(word));
    let Some(first) = keys.first().map(slot_of) else {
        return Split::Refused("it names no key, so nobody knows where to run it");
    };
    if name == b"copy" && other_database(words) {
        return Split::Refused("a cluster has one database");
    }
    if keys.iter().all(|key| slot_of(key) == first) {
        return Split::Whole(first);
    }
    across(&name, words, &keys)
}

fn across(name: &[u8], words: &[&[u8]], keys: &[Key]) -> Split {
    let word = |at: usize| words.get(at).copied().unwrap_or_default();
    match name {
        b"del" | b"unlink" | b"touch" | b"exists" => each(word(0), &words[1..], 1),
        b"mset" | b"msetnx" => each(b"MSET", &words[1..], 2),
        b"pfcount" => Split::Nothing,
        b"smove" => Split::Parts(vec![
            (slot(word(2)), encoded(&[b"SADD", word(2), word(3)])),
            (slot(word(1)), encoded(&[b"SREM", word(1), word(3)])),
        ]),
        b"rename" | b"renamenx" | b"copy" => {
            Split::Effect(Effect::Copy { from: word(1).to_vec(), to: word(2).to_vec(), remove: name != b"copy" })
        }
        b"rpoplpush" | b"brpoplpush" => Split::Effect(Effect::Move {
            from: word(1).to_vec(),
            from_left: false,
            to: word(2).to_vec(),
            to_left: true,
        }),
        b"lmove" | b"blmove" => Split::Effect(Effect::Move {
            from: word(1).to_vec(),
            from_left: word(3).eq_ignore_ascii_case(b"left"),
            to: word(2).to_vec(),
            to_left: word(4).eq_ignore_ascii_case(b"left"),
        }),
        b"eval" | b"evalsha" | b"fcall" => Split::Refused("a script over several slots"),
        b"sort" if words.iter().any(|word| word.contains(&b'*') && word.len() > 1) => {
            Split::Refused("its patterns name keys of any slot")
        }
        _ => gather(words, keys),
    }
}

/// Cuts the words behind the name, of which every `step` belong to one key.
fn each(name: &[u8], words: &[&[u8]], step: usize) -> Split {
    let mut parts: BTreeMap<u16, Vec<&[u8]>> = BTreeMap::new();
    for words in words.chunks(step) {
        let key = words.first().copied().unwrap_or_default();
        parts.entry(slot(key)).or_insert_with(|| vec![name]).extend(words);
    }
    Split::Parts(parts.into_iter().map(|(slot, words)| (slot, encoded(&words))).collect())
}

/// One key is written, all others are only read.
fn gather(words: &[&[u8]], keys: &[Key]) -> Split {
    let mut written = keys.iter().filter(|key| key.access != Access::Read);
    let (Some(to), None) = (written.next(), written.next()) else {
        return Split::Refused("it changes keys of several slots");
    };
    let home = words.get(to.at).map_or(0, |word| slot(word));
    let mut sources: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut renamed: Vec<Vec<u8>> = words.iter().map(|word| word.to_vec()).collect();
    for key in keys {
        let Some(word) = words.get(key.at).filter(|word| slot(word) != home) else { continue };
        let known = sources.iter().find(|(source, _)| source == word).map(|(_, name)| name.clone());
        let name = known.unwrap_or_else(|| {
            let name = format!("{RESERVED_PREFIX}{{{}}}:source:{}", tag(home), sources.len()).into_bytes();
            sources.push((word.to_vec(), name.clone()));
            name
        });
        if let Some(place) = renamed.get_mut(key.at) {
            *place = name;
        }
    }
    let command = encoded(&renamed.iter().map(Vec::as_slice).collect::<Vec<_>>());
    Split::Effect(Effect::Gather { slot: home, sources, command })
}

/// Functions have no slot. What is run a second time must not fail.
fn function(words: &[&[u8]]) -> Split {
    let is = |at: usize, text: &[u8]| words.get(at).is_some_and(|word| word.eq_ignore_ascii_case(text));
    let mut words = words.to_vec();
    if is(1, b"load") && !is(2, b"replace") {
        words.insert(2, b"REPLACE");
    } else if is(1, b"restore") && !is(3, b"flush") {
        words.truncate(3);
        words.push(b"REPLACE");
    }
    Split::Everywhere(encoded(&words))
}

fn other_database(words: &[&[u8]]) -> bool {
    let option = words.iter().skip(3).position(|word| word.eq_ignore_ascii_case(b"db"));
    option.and_then(|at| words.get(at + 4)).is_some_and(|db| *db != b"0")
}

fn encoded(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    resp::command(&mut bytes, words);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Split {
        split(&text.split(' ').map(str::as_bytes).collect::<Vec<_>>())
    }

    fn bytes(text: &str) -> Vec<u8> {
        encoded(&text.split(' ').map(str::as_bytes).collect::<Vec<_>>())
    }

    #[test]
    fn one_slot_passes_as_it_is() {
        let home = slot(b"x");
        for text in ["SET {x}a 1", "DEL {x}a {x}b", "RENAME {x}a {x}b", "EVAL s 2 {x}a {x}b", "xgroup create {x}s g 0"]
        {
            assert_eq!(of(text), Split::Whole(home), "{text}");
        }
        assert_eq!(of("PUBLISH x m"), Split::Whole(home));
        assert_eq!(of("COPY {x}a {x}b DB 0"), Split::Whole(home));
    }

    #[test]
    fn keys_of_several_slots_part_in_their_order() {
        let (a, b) = (slot(b"a"), slot(b"b"));
        assert!(b < a);
        assert_eq!(of("DEL a b {a}2"), Split::Parts(vec![(b, bytes("DEL b")), (a, bytes("DEL a {a}2"))]));
        assert_eq!(of("MSETNX a 1 b 2 a 3"), Split::Parts(vec![(b, bytes("MSET b 2")), (a, bytes("MSET a 1 a 3"))]));
        assert_eq!(of("SMOVE a b m"), Split::Parts(vec![(b, bytes("SADD b m")), (a, bytes("SREM a m"))]));
    }

    #[test]
    fn what_needs_a_value_says_which() {
        let copy = |remove| Split::Effect(Effect::Copy { from: b"a".to_vec(), to: b"b".to_vec(), remove });
        assert_eq!((of("RENAMENX a b"), of("COPY a b REPLACE")), (copy(true), copy(false)));
        let moved = |from_left, to_left| {
            Split::Effect(Effect::Move { from: b"a".to_vec(), from_left, to: b"b".to_vec(), to_left })
        };
        assert_eq!((of("RPOPLPUSH a b"), of("LMOVE a b LEFT RIGHT")), (moved(false, true), moved(true, false)));
    }

    #[test]
    fn a_result_is_computed_in_the_slot_of_its_key() {
        let home = slot(b"a");
        let name = |n| format!("__dts:{{{}}}:source:{n}", tag(home));
        for (text, expected, sources) in [
            ("SUNIONSTORE a b c b {a}2", format!("SUNIONSTORE a {} {} {} {{a}}2", name(0), name(1), name(0)), 2),
            ("ZUNIONSTORE a 2 b {a}c WEIGHTS 1 2", format!("ZUNIONSTORE a 2 {} {{a}}c WEIGHTS 1 2", name(0)), 1),
            ("BITOP AND a b", format!("BITOP AND a {}", name(0)), 1),
            ("SORT b LIMIT 0 5 STORE a", format!("SORT {} LIMIT 0 5 STORE a", name(0)), 1),
            (
                "GEOSEARCHSTORE a b FROMMEMBER m BYRADIUS 1 m",
                format!("GEOSEARCHSTORE a {} FROMMEMBER m BYRADIUS 1 m", name(0)),
                1,
            ),
            ("PFMERGE a b", format!("PFMERGE a {}", name(0)), 1),
        ] {
            let Split::Effect(Effect::Gather { slot, sources: found, command }) = of(text) else { panic!("{text}") };
            assert_eq!((slot, found.len(), command), (home, sources, bytes(&expected)), "{text}");
        }
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for text in [
            "SWAPDB 0 1",
            "MOVE a 1",
            "COPY a b DB 2",
            "EVAL s 2 a b",
            "EVAL s 0",
            "JSON.SET a $ 1",
            "SORT b BY w_* STORE a",
        ] {
            assert!(matches!(of(text), Split::Refused(_)), "{text}");
        }
    }

    #[test]
    fn what_has_no_slot_goes_everywhere_and_can_be_repeated() {
        assert_eq!(of("FUNCTION LOAD code"), Split::Everywhere(bytes("FUNCTION LOAD REPLACE code")));
        assert_eq!(of("FUNCTION RESTORE dump APPEND"), Split::Everywhere(bytes("FUNCTION RESTORE dump REPLACE")));
        assert_eq!(of("FLUSHDB"), Split::Flush);
    }
}
