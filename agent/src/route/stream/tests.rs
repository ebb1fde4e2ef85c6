use dts_common::redis::expiry::hold;
use dts_common::redis::rdb::Family;
use dts_common::redis::resp;
use dts_common::redis::version::ServerVersion;
use proptest::prelude::*;

use super::*;
use crate::route::large::LARGE;

fn new(major: u32, minor: u32) -> StreamEncoder {
    let version = ServerVersion { family: Family::Redis, major, minor, patch: 0 };
    let position = Position { history: None, offset: 0, db: 0 };
    let reserved = vec![b"__dts:t:0:position".to_vec(), b"__dts:t:0:scripts".to_vec(), b"__dts:t:0:large".to_vec()];
    let dialect = Dialect { version, source: version, databases: 16 };
    let (scripts, progress, held) = (Scripts::default(), Progress::default(), Held::default());
    StreamEncoder::new(dialect, position, reserved, scripts, progress, held, false)
}

fn stream(commands: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for command in commands {
        let words: Vec<&[u8]> = command.split(' ').map(str::as_bytes).collect();
        resp::command(&mut bytes, &words);
    }
    bytes
}

/// The commands of all chunks, as text.
fn texts(encoder: &mut StreamEncoder) -> Vec<String> {
    let mut bytes = Vec::new();
    let mut promised = 0;
    while let Some(chunk) = encoder.next_chunk(true) {
        bytes.extend_from_slice(&chunk.bytes);
        promised += chunk.commands;
    }
    let found = commands_of(&bytes);
    assert_eq!(usize::try_from(promised).unwrap(), found.len(), "replies promised");
    found
}

fn commands_of(bytes: &[u8]) -> Vec<String> {
    let (mut parser, mut at, mut found) = (CommandParser::default(), 0, Vec::new());
    while let Some(length) = parser.parse(&bytes[at..]).unwrap() {
        let words: Vec<_> =
            parser.arguments().iter().map(|(s, e)| String::from_utf8_lossy(&bytes[at + s..at + e])).collect();
        found.push(words.join(" "));
        at += length;
    }
    found
}

fn encoded(major: u32, minor: u32, commands: &[&str]) -> Vec<String> {
    let mut encoder = new(major, minor);
    encoder.feed(0, 1_000_000, &stream(commands)).unwrap();
    texts(&mut encoder)
}

#[test]
fn a_relative_expiry_becomes_absolute_and_is_held() {
    let at = |ms| hold(ms).to_string();
    assert_eq!(encoded(7, 0, &["EXPIRE k 10"]), [format!("PEXPIREAT k {}", at(1_010_000))]);
    assert_eq!(encoded(7, 0, &["pexpireat k 5000 GT"]), [format!("PEXPIREAT k {}", at(5000))]);
    assert_eq!(encoded(7, 0, &["SETEX k 10 v"]), [format!("SET k v PXAT {}", at(1_010_000))]);
    assert_eq!(encoded(7, 0, &["SET k v PX 10 NX"]), [format!("SET k v PXAT {}", at(1_000_010))]);
    assert_eq!(encoded(6, 0, &["SET k v EX 10"]), ["SET k v".to_owned(), format!("PEXPIREAT k {}", at(1_010_000))]);
    assert_eq!(
        encoded(5, 0, &["RESTORE k 10 payload"]),
        [format!("RESTORE k {} payload REPLACE ABSTTL", at(1_000_010))]
    );
    assert_eq!(
        encoded(4, 0, &["RESTORE k 10 payload"]),
        ["RESTORE k 0 payload REPLACE".to_owned(), format!("PEXPIREAT k {}", at(1_000_010))]
    );
    assert_eq!(encoded(7, 4, &["HEXPIRE k 10 FIELDS 1 f"]), [format!("HPEXPIREAT k {} FIELDS 1 f", at(1_010_000))]);
}

#[test]
fn an_older_target_gets_what_it_knows() {
    let at = hold(5000).to_string();
    assert_eq!(encoded(3, 2, &["HSET h a 1 b 2"]), ["HMSET h a 1 b 2"]);
    assert_eq!(encoded(5, 0, &["LPOP l 2"]), ["LPOP l", "LPOP l"]);
    assert_eq!(encoded(5, 0, &["LMOVE a b RIGHT LEFT"]), ["RPOPLPUSH a b"]);
    assert_eq!(encoded(6, 0, &["XGROUP SETID s g 1-1 ENTRIESREAD 4"]), ["XGROUP SETID s g 1-1"]);
    assert!(encoded(6, 0, &["XGROUP CREATECONSUMER s g c"]).is_empty());
    assert!(encoded(5, 0, &["SET k v KEEPTTL"])[0].starts_with("EVAL"));
    assert_eq!(
        encoded(7, 4, &["HSETEX h PXAT 5000 FIELDS 1 f v"]),
        ["HSET h f v".to_owned(), format!("HPEXPIREAT h {at} FIELDS 1 f")]
    );
    assert_eq!(encoded(7, 0, &["HSETEX h KEEPTTL FIELDS 1 f v"]), ["HSET h f v"]);
    assert_eq!(encoded(8, 0, &["LPOP l 2", "HSETEX h KEEPTTL FIELDS 1 f v"]).len(), 2);
}

#[test]
fn exact_expiries_are_written_as_they_are_and_renamed_keys_are_named() {
    let mut encoder = new(7, 0);
    encoder.set_exact();
    encoder.feed(0, 0, &stream(&["PEXPIREAT k 5000", "RENAME a b", "MOVE c 3", "COPY d e DB 2"])).unwrap();
    assert_eq!(texts(&mut encoder)[0], "PEXPIREAT k 5000");
    let mut held = encoder.take_held().into_keys().unwrap();
    for (db, key) in [(0, "b"), (2, "e"), (3, "c")] {
        assert_eq!(held.next_page(10), Some((db, vec![key.as_bytes().to_vec()])));
    }
    assert!(held.is_empty() && encoder.take_held().into_keys().unwrap().is_empty());
}

#[test]
fn what_is_held_is_named_and_what_hides_its_keys_means_all() {
    let mut encoder = new(7, 0);
    encoder.feed(0, 0, &stream(&["SETEX a 10 v", "SET b v", "EXPIRE c 5", "HPEXPIREAT h 99 FIELDS 1 f"])).unwrap();
    let mut held = encoder.take_held().into_keys().unwrap();
    assert_eq!(held.next_page(10), Some((0, [b"a", b"c", b"h"].map(|key| key.to_vec()).to_vec())));
    for hiding in ["SWAPDB 1 2", "EVAL x 0", "JSON.SET k $ 1"] {
        let mut fresh = new(7, 0);
        fresh.feed(0, 0, &stream(&[hiding])).unwrap();
        assert!(fresh.take_held().into_keys().is_none(), "{hiding}");
    }
}

#[test]
fn a_group_stays_in_one_transaction_and_no_commit_stands_inside_it() {
    let mut encoder = new(7, 0);
    let bytes = stream(&["SET a 1", "MULTI", "SELECT 3", "SET b 2", "SET c 3"]);
    let before = stream(&["SET a 1"]).len() as u64;
    encoder.feed(0, 0, &bytes).unwrap();
    assert_eq!(encoder.position(), Position { history: None, offset: before, db: 0 });
    assert_eq!(texts(&mut encoder), ["SET a 1"]);
    encoder.feed(bytes.len() as u64, 0, &stream(&["EXEC"])).unwrap();
    assert_eq!(texts(&mut encoder), ["SELECT 3", "SET b 2", "SET c 3", "SELECT 0"]);
    assert_eq!(encoder.position().db, 3);
}

#[test]
fn a_huge_group_passes_in_parts_of_one_transaction() {
    let mut encoder = new(7, 0);
    let value = "v".repeat(100_000);
    let mut commands = vec!["SET before 1".to_owned(), "MULTI".into()];
    commands.extend((0..40).map(|i| format!("SET k{i} {value}")));
    commands.push("EXEC".into());
    let bytes = stream(&commands.iter().map(String::as_str).collect::<Vec<_>>());
    let mut offset = 0;
    let (mut chunks, mut commits) = (0, 0);
    for piece in bytes.chunks(50_000) {
        encoder.feed(offset, 0, piece).unwrap();
        offset += piece.len() as u64;
        while let Some(chunk) = encoder.next_chunk(true) {
            assert!(chunk.bytes.len() < 2 << 20);
            chunks += 1;
            commits += u32::from(chunk.commit.is_some());
        }
    }
    assert_eq!(commits, 2, "one before the group, one at its end");
    assert!(chunks > 3);
    assert_eq!(encoder.position().offset, bytes.len() as u64);
}

/// The same stream whole and in parts has the same effect: what is large is written under a key of ours first.
#[test]
fn a_large_value_passes_in_parts_whatever_stands_behind_it() {
    let value = "v".repeat(3 << 20);
    let (at, exact) = (hold(1_010_000).to_string(), hold(5000).to_string());
    let temporary = "__dts:t:0:large";
    for (command, expected) in [
        (format!("SET k {value}"), vec![format!("SET k {value}")]),
        (format!("RPUSH k a {value} b"), vec![format!("RPUSH k a {value} b")]),
        (
            format!("SET k {value} PX 10000 NX"),
            vec![format!("SET {temporary} {value}"), format!("RENAME {temporary} k"), format!("PEXPIREAT k {at}")],
        ),
        (format!("SETEX k 10 {value}"), vec![format!("SET k {value}"), format!("PEXPIREAT k {at}")]),
        (
            format!("RESTORE k 5000 {value} REPLACE ABSTTL IDLETIME 7"),
            vec![
                format!("RESTORE {temporary} 0 {value} REPLACE ABSTTL IDLETIME 7"),
                format!("RENAME {temporary} k"),
                format!("PEXPIREAT k {exact}"),
            ],
        ),
    ] {
        for in_group in [false, true] {
            let mut commands = vec!["SELECT 2", "SET before 1"];
            commands.extend(in_group.then_some("MULTI"));
            commands.push(&command);
            commands.extend(in_group.then_some("EXEC"));
            commands.push("SET after 1");
            let bytes = stream(&commands);
            let mut encoder = new(7, 0);
            let (mut sent, mut promised, mut offset, mut largest) = (Vec::new(), 0, 0, 0);
            for piece in bytes.chunks(77_777) {
                encoder.feed(offset, 1_000_000, piece).unwrap();
                offset += piece.len() as u64;
                while let Some(chunk) = encoder.next_chunk(false) {
                    largest = largest.max(chunk.bytes.len());
                    sent.extend_from_slice(&chunk.bytes);
                    promised += chunk.commands;
                }
                assert!(encoder.buffer.len() <= LARGE + 77_777, "it waits for the whole value");
            }
            assert!(largest < 2 * LARGE, "{largest}");
            while let Some(chunk) = encoder.next_chunk(true) {
                sent.extend_from_slice(&chunk.bytes);
                promised += chunk.commands;
            }
            assert_eq!(encoder.position().offset, bytes.len() as u64);
            assert_eq!(encoder.position().db, 2);
            let found: Vec<String> =
                commands_of(&sent).into_iter().filter(|text| !text.starts_with("SELECT")).collect();
            assert_eq!(usize::try_from(promised).unwrap(), commands_of(&sent).len());
            let mut all = vec!["SET before 1".to_owned()];
            all.extend(expected.clone());
            all.push("SET after 1".into());
            assert!(found == all, "{:.100} in a group: {in_group}", command);
        }
    }
}

#[test]
fn pings_move_the_position_and_write_nothing() {
    let mut encoder = new(7, 0);
    let bytes = [stream(&["ping", "REPLCONF GETACK *"]), b"\r\n".to_vec()].concat();
    encoder.feed(0, 0, &bytes).unwrap();
    let chunk = encoder.next_chunk(true).unwrap();
    assert_eq!((chunk.commands, chunk.bytes.len()), (0, 0));
    assert_eq!(chunk.commit.unwrap().position.unwrap().offset, bytes.len() as u64);
}

#[test]
fn a_script_is_sent_by_its_body_and_kept_on_the_target() {
    let found = encoded(7, 0, &["EVAL x 0", "EVALSHA 11F6AD8EC52A2984ABAAFD7C3B516503785C2072 0"]);
    assert_eq!(found, ["HSET __dts:t:0:scripts 11f6ad8ec52a2984abaafd7c3b516503785c2072 x", "EVAL x 0", "EVAL x 0"]);
}

#[test]
fn our_own_keys_survive_a_flush_and_a_swap() {
    let found = encoded(7, 0, &["EVAL x 0", "FLUSHALL", "SWAPDB 0 2"]);
    let keep = "HSET __dts:t:0:scripts 11f6ad8ec52a2984abaafd7c3b516503785c2072 x";
    assert_eq!(
        found,
        [
            keep,
            "EVAL x 0",
            "FLUSHALL",
            keep,
            "SWAPDB 0 2",
            "SELECT 2",
            "DEL __dts:t:0:position __dts:t:0:scripts __dts:t:0:large",
            "SELECT 0",
            keep
        ]
    );
}

#[test]
fn keys_of_another_migration_are_not_carried() {
    assert_eq!(encoded(7, 0, &["SET __dts:other:0:position x", "SET a 1"]), ["SET a 1"]);
}

#[test]
fn commands_of_another_topology_are_refused_by_name() {
    let error = new(7, 0).feed(0, 0, &stream(&["TRIMSLOTS RANGES 1"])).unwrap_err();
    assert_eq!(error.code, Code::TargetUnsupported);
    assert!(error.message.contains("TRIMSLOTS"));
}

#[test]
fn a_gap_in_the_stream_is_an_error() {
    assert!(new(7, 0).feed(1, 0, b"").is_err());
}

proptest! {
    #[test]
    fn cuts_of_the_stream_change_nothing(cuts in prop::collection::vec(1usize..60, 1..40)) {
        let bytes = stream(&["SET a 1", "SELECT 2", "MULTI", "INCR x", "SELECT 0", "LPUSH l 1", "EXEC", "PING", "DEL a", "EXPIRE x 3"]);
        let mut whole = new(7, 0);
        whole.feed(0, 5, &bytes).unwrap();
        let mut cut = new(7, 0);
        let mut at = 0;
        for length in cuts.iter().cycle() {
            let end = (at + length).min(bytes.len());
            cut.feed(at as u64, 5, &bytes[at..end]).unwrap();
            at = end;
            if at == bytes.len() { break; }
        }
        prop_assert_eq!(whole.position(), cut.position());
        prop_assert_eq!(texts(&mut whole), texts(&mut cut));
    }

    #[test]
    fn no_stream_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _malformed_or_not = new(7, 0).feed(0, 0, &bytes);
    }
}
