//! One command for an endpoint that routes by the first key it sees: as it is, cut into commands of one key each, or not at all. Pure.
//!
//! A proxy does not look whether the other keys live where the first one does: what needs two of them would run on the wrong server and
//! answer as if nothing were wrong.

use dts_common::redis::command_table::{UnknownKeys, keys_of};
use dts_common::redis::resp;

/// A command of one key.
pub(super) type Single = (Vec<u8>, Vec<u8>);

/// What becomes of a command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It changes no data.
    Nothing,
    /// These, which together do the same.
    Singles(Vec<Single>),
    /// No data, but somebody may miss it: left out and counted.
    LeftOut,
    /// Cannot be done exactly.
    Refused(&'static str),
}

/// Finds out what becomes of a command, given by its words.
pub(super) fn plan(words: &[&[u8]]) -> Plan {
    let Some(name) = words.first().map(|name| name.to_ascii_lowercase()) else { return Plan::Nothing };
    match name.as_slice() {
        b"publish" | b"spublish" => return Plan::LeftOut,
        // Scripts are sent by their bodies.
        b"script" => return Plan::Nothing,
        b"flushall" | b"flushdb" => return Plan::Refused("an endpoint cannot be emptied through itself"),
        b"swapdb" | b"move" => return Plan::Refused("an endpoint has one database"),
        b"function" => return Plan::Refused("it would have to be run on every server behind the endpoint"),
        _ => {}
    }
    let keys = match keys_of(words) {
        Ok(keys) => keys,
        Err(UnknownKeys::Command) => return Plan::Refused("nobody knows which keys it has"),
        Err(UnknownKeys::Malformed) => return Plan::Refused("it has a form that nobody knows"),
    };
    let word = |at: usize| words.get(at).copied().unwrap_or_default();
    let single = |words: &[&[u8]]| {
        let mut bytes = Vec::new();
        resp::command(&mut bytes, words);
        (words.get(1).copied().unwrap_or_default().to_vec(), bytes)
    };
    let Some(first) = keys.first().map(|key| word(key.at)) else {
        return Plan::Refused("it names no key, so nobody knows where it would run");
    };
    // COPY may name another database behind its keys.
    if keys.iter().all(|key| word(key.at) == first) && name != b"copy" {
        let mut bytes = Vec::new();
        resp::command(&mut bytes, words);
        return Plan::Singles(vec![(first.to_vec(), bytes)]);
    }
    match name.as_slice() {
        b"del" | b"unlink" => Plan::Singles(words[1..].iter().map(|key| single(&[word(0), key])).collect()),
        b"touch" | b"exists" | b"pfcount" => Plan::Nothing,
        // A command of a replication stream did succeed on the source.
        b"mset" | b"msetnx" => {
            Plan::Singles(words[1..].chunks_exact(2).map(|pair| single(&[b"SET", pair[0], pair[1]])).collect())
        }
        b"smove" => Plan::Singles(vec![single(&[b"SADD", word(2), word(3)]), single(&[b"SREM", word(1), word(3)])]),
        _ => Plan::Refused("its keys may lie on different servers behind the endpoint"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Plan {
        plan(&text.split(' ').map(str::as_bytes).collect::<Vec<_>>())
    }

    fn texts(text: &str) -> Vec<String> {
        let Plan::Singles(singles) = of(text) else { return Vec::new() };
        let shown = |(_, bytes): Single| String::from_utf8(bytes).unwrap().replace("\r\n", " ");
        singles.into_iter().map(shown).collect()
    }

    #[test]
    fn commands_of_several_keys_are_cut_where_that_is_exact() {
        assert_eq!(texts("DEL a b"), ["*2 $3 DEL $1 a ", "*2 $3 DEL $1 b "]);
        assert_eq!(texts("MSETNX a 1 b 2"), ["*3 $3 SET $1 a $1 1 ", "*3 $3 SET $1 b $1 2 "]);
        assert_eq!(texts("SMOVE a b m"), ["*3 $4 SADD $1 b $1 m ", "*3 $4 SREM $1 a $1 m "]);
        assert_eq!(texts("INCR a"), ["*2 $4 INCR $1 a "]);
        assert_eq!(texts("SUNIONSTORE a a").len(), 1, "one key, twice");
    }

    #[test]
    fn what_a_proxy_would_run_on_the_wrong_server_is_refused() {
        for text in ["RENAME a b", "COPY a b", "SUNIONSTORE a b c", "RPOPLPUSH a b", "EVAL x 2 a b", "BITOP AND a b c"]
        {
            assert!(matches!(of(text), Plan::Refused(_)), "{text}");
        }
        for text in ["FLUSHALL", "SWAPDB 0 1", "EVAL x 0", "FUNCTION LOAD x", "NOBODY.KNOWS a", "COPY a a DB 3"] {
            assert!(matches!(of(text), Plan::Refused(_)), "{text}");
        }
        assert_eq!(of("PUBLISH c m"), Plan::LeftOut);
    }
}
