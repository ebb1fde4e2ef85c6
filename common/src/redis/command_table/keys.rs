//! Where the keys of a command stand.

use super::{Words, find};

/// What a command does to one of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reads it.
    Read,
    /// Changes it: what it was before matters.
    ReadWrite,
    /// Writes it anew: what it was before does not matter, or is all that stays (options such as `KEEPTTL` aside).
    Overwrite,
    /// Deletes it.
    Remove,
    /// Not a key, a sharded channel: it has a slot, and no data.
    Channel,
}

/// One key of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    /// The word that is the key; word 0 is the command.
    pub at: usize,
    /// What is done to it.
    pub access: Access,
}

/// Why nobody can say which keys a command has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnknownKeys {
    /// No server of the fleet knows this command: a module's, or a newer one.
    Command,
    /// It is known, and does not have the form that it should.
    Malformed,
}

/// Where the first key stands.
#[derive(Debug)]
enum Begin {
    Index(usize),
    /// Behind a keyword, looked for from there on; from the end, if negative.
    Keyword(Vec<u8>, i64),
    Unknown,
}

/// Which keys follow.
#[derive(Debug)]
enum Find {
    /// Every `step`-th up to `last`, counted from the first; from the end, if negative, and then only a `limit`-th of them.
    Range {
        last: i64,
        step: usize,
        limit: usize,
    },
    /// As many as a word says, which stands `count` behind the beginning.
    Counted {
        count: usize,
        first: usize,
        step: usize,
    },
    Unknown,
}

/// A key specification of COMMAND.
#[derive(Debug)]
pub(super) struct Spec {
    access: Access,
    begin: Begin,
    find: Find,
}

impl Spec {
    /// From the form in the table.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (access, rest) = text.split_once('@')?;
        let (begin, find) = rest.split_once('/')?;
        let access = match access.trim_end_matches('?') {
            "RO" => Access::Read,
            "RW" => Access::ReadWrite,
            "OW" => Access::Overwrite,
            "RM" => Access::Remove,
            "CH" => Access::Channel,
            _ => return None,
        };
        let begin = match begin.split_once('>') {
            Some((keyword, from)) => Begin::Keyword(keyword.as_bytes().to_vec(), from.parse().ok()?),
            None if begin == "?" => Begin::Unknown,
            None => Begin::Index(begin.parse().ok()?),
        };
        let mut numbers = find.trim_start_matches('#').split(',').map(|number| number.parse::<i64>().ok());
        let mut next = || numbers.next().flatten();
        let mut size = || usize::try_from(next()?).ok();
        let find = if find == "?" {
            Find::Unknown
        } else if find.starts_with('#') {
            Find::Counted { count: size()?, first: size()?, step: size()? }
        } else {
            Find::Range { last: next()?, step: usize::try_from(next()?).ok()?, limit: usize::try_from(next()?).ok()? }
        };
        Some(Self { access, begin, find })
    }

    /// The word, if it is one key at a fixed place.
    pub(super) fn only_key(&self) -> Option<usize> {
        match (&self.begin, &self.find, self.access) {
            (_, _, Access::Channel) => None,
            (Begin::Index(at), Find::Range { last: 0, .. }, _) => Some(*at),
            _ => None,
        }
    }

    fn add<W: Words + ?Sized>(&self, command: &W, keys: &mut Vec<Key>) -> Result<(), UnknownKeys> {
        let count = command.count();
        let begin = match &self.begin {
            Begin::Index(at) => *at,
            Begin::Keyword(keyword, from) => match behind(command, keyword, *from) {
                Some(at) => at,
                // An option that was not given.
                None => return Ok(()),
            },
            Begin::Unknown => return Err(UnknownKeys::Malformed),
        };
        let (first, last, step) = match self.find {
            Find::Range { last, step, limit } => {
                let last = match usize::try_from(last) {
                    Ok(last) => begin + last,
                    Err(_) if limit > 1 => begin + count.saturating_sub(begin) / limit - 1,
                    Err(_) => {
                        let back = usize::try_from(last.unsigned_abs()).map_err(|_| UnknownKeys::Malformed)?;
                        count.checked_sub(back).ok_or(UnknownKeys::Malformed)?
                    }
                };
                (begin, last, step)
            }
            Find::Counted { count: at, first, step } => {
                let keys = command.word(begin + at).and_then(number).ok_or(UnknownKeys::Malformed)?;
                if keys == 0 {
                    return Ok(());
                }
                let last = keys
                    .checked_sub(1)
                    .and_then(|more| more.checked_mul(step))
                    .and_then(|more| more.checked_add(begin + first));
                (begin + first, last.ok_or(UnknownKeys::Malformed)?, step)
            }
            Find::Unknown => return Err(UnknownKeys::Malformed),
        };
        if first > last || last >= count {
            return Err(UnknownKeys::Malformed);
        }
        keys.extend((first..=last).step_by(step.max(1)).map(|at| Key { at, access: self.access }));
        Ok(())
    }
}

fn number(text: &[u8]) -> Option<usize> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// The word behind a keyword.
fn behind<W: Words + ?Sized>(command: &W, keyword: &[u8], from: i64) -> Option<usize> {
    let is_it = |at: &usize| command.word(*at).is_some_and(|word| word.eq_ignore_ascii_case(keyword));
    let found = match usize::try_from(from) {
        Ok(from) => (from..command.count()).find(is_it),
        Err(_) => (1..=command.count().checked_sub(usize::try_from(from.unsigned_abs()).ok()?)?).rev().find(is_it),
    };
    found.map(|at| at + 1)
}

/// The keys of a command, in the order of its words; none for a command without. Exact, but for what no command says: keys that a
/// script or a function touches without naming them, keys of `SORT … BY`, `GET` patterns (a stream has `SORT` only with `STORE`),
/// and the other database of `COPY … DB` and `MOVE`, where the same name is touched again.
pub fn keys_of<W: Words + ?Sized>(command: &W) -> Result<Vec<Key>, UnknownKeys> {
    let info = find(command).ok_or(UnknownKeys::Command)?;
    let mut keys = Vec::with_capacity(1);
    match info.name {
        // The specs of these are incomplete by the servers' own word: their options may repeat, and the last one counts.
        "sort" => stored(command, 2, &SORT, &mut keys)?,
        "georadius" => stored(command, 6, &GEORADIUS, &mut keys)?,
        "georadiusbymember" => stored(command, 5, &GEORADIUS, &mut keys)?,
        _ => {
            for spec in &info.specs {
                spec.add(command, &mut keys)?;
            }
            keys.sort_unstable_by_key(|key| key.at);
        }
    }
    Ok(keys)
}

/// Options by how many words each takes beside its own.
type Options = [(&'static [u8], usize)];
const SORT: [(&[u8], usize); 7] =
    [(b"ASC", 0), (b"DESC", 0), (b"ALPHA", 0), (b"LIMIT", 2), (b"BY", 1), (b"GET", 1), (b"STORE", 1)];
const GEORADIUS: [(&[u8], usize); 9] = [
    (b"WITHDIST", 0),
    (b"WITHHASH", 0),
    (b"WITHCOORD", 0),
    (b"ANY", 0),
    (b"ASC", 0),
    (b"DESC", 0),
    (b"COUNT", 1),
    (b"STORE", 1),
    (b"STOREDIST", 1),
];

/// One key that is read, and where the last `STORE` or `STOREDIST` among the options puts the result.
fn stored<W: Words + ?Sized>(
    command: &W,
    options: usize,
    known: &Options,
    keys: &mut Vec<Key>,
) -> Result<(), UnknownKeys> {
    let (mut at, mut to) = (options, None);
    while let Some(word) = command.word(at) {
        let (name, words) =
            known.iter().find(|(name, _)| word.eq_ignore_ascii_case(name)).ok_or(UnknownKeys::Malformed)?;
        if name.starts_with(b"STORE") {
            to = Some(at + 1);
        }
        at += 1 + words;
    }
    if command.count() < options || at != command.count() {
        return Err(UnknownKeys::Malformed);
    }
    keys.push(Key { at: 1, access: Access::Read });
    keys.extend(to.map(|at| Key { at, access: Access::Overwrite }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(command: &str) -> Result<Vec<usize>, UnknownKeys> {
        let words: Vec<&str> = command.split(' ').collect();
        Ok(keys_of(words.as_slice())?.into_iter().map(|key| key.at).collect())
    }

    // What servers say of the same commands: `common/tests/key_positions.rs`.
    #[test]
    fn a_command_without_keys_has_none_and_an_unknown_one_is_unknown() {
        assert_eq!(at("FLUSHALL"), Ok(vec![]));
        assert_eq!(at("PUBLISH c m"), Ok(vec![]));
        assert_eq!(at("JSON.SET k $ 1"), Err(UnknownKeys::Command));
    }

    #[test]
    fn a_malformed_command_is_an_error_and_no_panic() {
        for command in [
            "SET",
            "EVAL x",
            "EVAL x 3 a",
            "ZUNIONSTORE to 18446744073709551615 a",
            "SORT a LIMIT 1",
            "SORT a NONSENSE",
            "XREADGROUP GROUP g c STREAMS",
        ] {
            assert_eq!(at(command), Err(UnknownKeys::Malformed), "{command}");
        }
    }

    #[test]
    fn a_sharded_channel_is_no_key_and_has_a_slot() {
        let keys = keys_of(["SPUBLISH", "c", "m"].as_slice()).unwrap();
        assert_eq!(keys, [Key { at: 1, access: Access::Channel }]);
    }

    #[test]
    fn access_tells_what_is_read_and_what_is_written() {
        let of = |command: &str| -> Vec<Access> {
            let words: Vec<&str> = command.split(' ').collect();
            keys_of(words.as_slice()).unwrap().into_iter().map(|key| key.access).collect()
        };
        assert_eq!(of("SUNIONSTORE a b c"), [Access::Overwrite, Access::Read, Access::Read]);
        assert_eq!(of("RENAME a b"), [Access::ReadWrite, Access::Overwrite]);
        assert_eq!(of("DEL a b"), [Access::Remove, Access::Remove]);
        assert_eq!(of("sort a by x* store b"), [Access::Read, Access::Overwrite]);
    }
}
