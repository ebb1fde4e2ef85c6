//! Which commands may be applied again. No server tells; this list is kept by hand.
//!
//! *Safe* means: if the commands of a stream are applied again, in order, from some earlier point up to the point that the data has reached,
//! the data ends as it is. That is so if every command sets something to a value that does not depend on what was there (`SET`, `HSET`, `DEL`), and
//! fails if only one of them computes (`INCR`), moves (`RENAME`, `LMOVE`) or appends (`RPUSH`, `XADD`): one such command makes everything
//! that touches its keys unsafe, from the earlier point on.
//!
//! In between the data goes back in time. A safe command may then meet a key of another type (`WRONGTYPE`), which is to be tolerated
//! inside of the replay and nowhere else.
//!
//! `SREM`, `HDEL`, `ZREM` look safe and are not: replayed on a later state they may take a key's last member away, and with it the expiry
//! that the key has, which nothing in the stream gives back.

use super::{Words, find};

/// True if this command, as it stands here, may be applied again as a part of an ordered replay. Unknown commands may not.
///
/// Judge what is written to the target, not what the source sent: `SETEX` is not safe, the `SET … PXAT` that it becomes is.
pub fn is_replay_safe<W: Words + ?Sized>(command: &W) -> bool {
    let Some(info) = find(command) else { return false };
    let has = |from: usize, words: &[&[u8]]| (from..command.count()).any(|at| is_any(command, at, words));
    match info.name {
        "del" | "unlink" | "flushall" | "flushdb" => true,
        "mset" | "hset" | "hmset" | "sadd" | "setbit" | "setrange" | "pfadd" => true,
        "persist" | "hpersist" | "xdel" | "xack" | "xgroup|setid" => true,
        // Conditions (NX, XX, GT, IFEQ …) look at what is there; a relative expiry counts from another moment.
        "set" => only_options(command, 3, &[(b"PXAT", 1), (b"EXAT", 1), (b"KEEPTTL", 0), (b"GET", 0)]),
        "pexpireat" | "expireat" => command.count() == 3,
        "hpexpireat" | "hexpireat" => command.word(3).is_some_and(|word| word.eq_ignore_ascii_case(b"FIELDS")),
        "hsetex" => {
            command.word(2).is_some_and(|word| {
                [&b"FIELDS"[..], b"PXAT", b"EXAT", b"KEEPTTL"].iter().any(|option| word.eq_ignore_ascii_case(option))
            }) && !has(3, &[b"FNX", b"FXX"])
        }
        "zadd" => !is_any(command, 2, &[b"NX", b"XX", b"GT", b"LT", b"INCR", b"CH"]),
        "geoadd" => !is_any(command, 2, &[b"NX", b"XX", b"CH"]),
        "restore" | "restore-asking" => {
            has(4, &[b"REPLACE"]) && (has(4, &[b"ABSTTL"]) || command.word(2) == Some(b"0".as_slice()))
        }
        "function|load" => is_any(command, 2, &[b"REPLACE"]),
        "function|flush" | "script|load" | "script|flush" => true,
        _ => !info.replicated(),
    }
}

fn is_any<W: Words + ?Sized>(command: &W, at: usize, words: &[&[u8]]) -> bool {
    command.word(at).is_some_and(|word| words.iter().any(|known| word.eq_ignore_ascii_case(known)))
}

/// True if from there on stand these options and nothing else, each with its number of words.
fn only_options<W: Words + ?Sized>(command: &W, from: usize, options: &[(&[u8], usize)]) -> bool {
    let mut at = from;
    while let Some(word) = command.word(at) {
        let Some((_, words)) = options.iter().find(|(name, _)| word.eq_ignore_ascii_case(name)) else { return false };
        at += 1 + words;
    }
    at == command.count()
}

#[cfg(test)]
mod tests {
    use super::super::all;
    use super::*;

    fn safe(command: &str) -> bool {
        is_replay_safe(command.split(' ').collect::<Vec<_>>().as_slice())
    }

    #[test]
    fn what_sets_is_safe() {
        for command in [
            "SET k v",
            "set k v PXAT 5",
            "SET k v KEEPTTL",
            "MSET a 1 b 2",
            "DEL a b",
            "UNLINK a",
            "FLUSHALL",
            "HSET h f v",
            "SADD s m",
            "ZADD z 1 m",
            "PEXPIREAT k 5",
            "PERSIST k",
            "RESTORE k 0 x REPLACE",
            "RESTORE k 9 x REPLACE ABSTTL",
            "HPEXPIREAT h 5 FIELDS 1 f",
            "HSETEX h PXAT 5 FIELDS 1 f v",
            "SETBIT k 1 1",
            "XDEL s 1-1",
            "XACK s g 1-1",
            "XGROUP SETID s g 1-1",
            "PFADD p a",
            "FUNCTION LOAD REPLACE x",
            "PING",
            "SELECT 3",
            "GET k",
        ] {
            assert!(safe(command), "{command}");
        }
    }

    #[test]
    fn what_computes_moves_appends_or_looks_is_not() {
        for command in [
            "INCR k",
            "DECRBY k 2",
            "INCRBYFLOAT k 1",
            "HINCRBY h f 1",
            "ZINCRBY z 1 m",
            "ZADD z INCR 1 m",
            "ZADD z GT 1 m",
            "BITFIELD k SET u8 0 1",
            "APPEND k v",
            "LPUSH l 1",
            "RPUSHX l 1",
            "LPOP l",
            "LREM l 0 a",
            "LSET l 0 a",
            "LINSERT l BEFORE a b",
            "LTRIM l 0 1",
            "RPOPLPUSH a b",
            "LMOVE a b LEFT LEFT",
            "ZPOPMIN z",
            "ZREMRANGEBYRANK z 0 1",
            "XADD s 1-1 f v",
            "XTRIM s MAXLEN 1",
            "XCLAIM s g c 0 1-1",
            "XGROUP CREATE s g 0",
            "RENAME a b",
            "COPY a b",
            "MOVE a 1",
            "SWAPDB 0 1",
            "SMOVE a b m",
            "SUNIONSTORE a b",
            "BITOP AND a b",
            "SORT a STORE b",
            "PFMERGE a b",
            "EVAL x 0",
            "EVALSHA x 0",
            "FCALL f 0",
            "PUBLISH c m",
            "SPUBLISH c m",
            "PFCOUNT p",
            "SETNX k v",
            "SET k v NX",
            "SET k v EX 5",
            "SET k v IFEQ x",
            "GETSET k v",
            "MSETNX a 1",
            "EXPIRE k 5",
            "PEXPIREAT k 5 GT",
            "HPEXPIREAT h 5 NX FIELDS 1 f",
            "RESTORE k 0 x",
            "RESTORE k 5 x REPLACE",
            "SETEX k 5 v",
            "HSETEX h FNX FIELDS 1 f v",
            "HSETEX h PX 5 FIELDS 1 f v",
            "SREM s m",
            "HDEL h f",
            "ZREM z m",
            "FUNCTION LOAD x",
            "FUNCTION DELETE x",
            "JSON.SET k $ 1",
            "MSETEX 1 k v EX 5",
            "INCREX k",
            "XNACK s g",
        ] {
            assert!(!safe(command), "{command}");
        }
    }

    #[test]
    fn a_new_command_that_writes_is_unsafe_until_somebody_says_otherwise() {
        const SAFE: [&str; 14] = [
            "del", "unlink", "flushall", "flushdb", "mset", "hset", "hmset", "sadd", "setbit", "setrange", "pfadd",
            "persist", "hpersist", "xdel",
        ];
        for info in all().filter(|info| info.write && !info.name.contains('|') && !SAFE.contains(&info.name)) {
            // Without options and with nonsense behind them.
            let safe = is_replay_safe([info.name, "k", "1", "1", "NX", "XX"].as_slice());
            assert!(!safe || ["xack", "zadd", "geoadd"].contains(&info.name), "{}", info.name);
        }
    }
}
