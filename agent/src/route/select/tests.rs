//! What becomes of commands under a filter, a map, a policy: as texts of what the target gets.

use std::sync::Arc;

use dts_common::position::Position;
use dts_common::redis::rdb::Family;
use dts_common::redis::resp::{self, CommandParser};
use dts_common::redis::version::ServerVersion;
use dts_proto::v1::{BorderPolicy, Filter, FlushPolicy};

use super::super::{Held, Progress, Scripts, StreamEncoder};
use super::*;

/// Keys that begin with `in`.
fn by_name() -> Filter {
    Filter { include_prefixes: vec!["in".into()], ..Filter::default() }
}

fn by_type(types: &[&str]) -> Filter {
    Filter { types: types.iter().map(|name| (*name).to_owned()).collect(), ..Filter::default() }
}

fn skipping(filter: Filter) -> Filter {
    Filter { on_border: BorderPolicy::Skip.into(), ..filter }
}

/// What becomes of commands of a stream, with the counts of filtered and skipped ones.
struct Run {
    filter: Filter,
    map: Vec<(u32, u32)>,
    on_flush: FlushPolicy,
}

impl Run {
    fn of(filter: Filter) -> Self {
        Self { filter, map: Vec::new(), on_flush: FlushPolicy::Unspecified }
    }

    fn encoder(&self) -> StreamEncoder {
        let version = ServerVersion { family: Family::Redis, major: 7, minor: 0, patch: 0 };
        let position = Position { history: None, offset: 0, db: 0 };
        let dialect = Dialect { version, source: version, databases: 16 };
        let map = self.map.iter().copied().collect();
        let selection = Selection::new(Some(&self.filter), &map, self.on_flush.into()).unwrap();
        let reserved = vec![b"__dts:t:0:position".to_vec(), b"__dts:t:0:scripts".to_vec()];
        let (scripts, progress, held) = (Scripts::default(), Progress::default(), Held::default());
        StreamEncoder::new(dialect, position, reserved, scripts, progress, held, false).selecting(Arc::new(selection))
    }

    fn run(&self, commands: &[&str]) -> Result<(Vec<String>, u64, u64)> {
        let mut encoder = self.encoder();
        encoder.feed(0, 0, &stream(commands))?;
        let found = texts(&mut encoder);
        Ok((found, encoder.progress().filtered_commands, encoder.progress().skipped_commands))
    }

    fn texts(&self, commands: &[&str]) -> Vec<String> {
        self.run(commands).unwrap().0
    }
}

fn stream(commands: &[&str]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for command in commands {
        resp::command(&mut bytes, &command.split(' ').map(str::as_bytes).collect::<Vec<_>>());
    }
    bytes
}

fn texts(encoder: &mut StreamEncoder) -> Vec<String> {
    let mut bytes = Vec::new();
    while let Some(chunk) = encoder.next_chunk(true) {
        bytes.extend_from_slice(&chunk.bytes);
    }
    let (mut parser, mut at, mut found) = (CommandParser::default(), 0, Vec::new());
    while let Some(length) = parser.parse(&bytes[at..]).unwrap() {
        let words: Vec<_> =
            parser.arguments().iter().map(|(s, e)| String::from_utf8_lossy(&bytes[at + s..at + e])).collect();
        found.push(words.join(" "));
        at += length;
    }
    found
}

const NOTHING: [&str; 0] = [];

#[test]
fn what_is_covered_passes_and_the_rest_is_counted() {
    let (found, filtered, skipped) = Run::of(by_name())
        .run(&["SET in1 a", "SET out a", "PUBLISH c m", "SINTERSTORE out in1 in2", "INCR in2"])
        .unwrap();
    assert_eq!(found, ["SET in1 a", "PUBLISH c m", "INCR in2"]);
    assert_eq!((filtered, skipped), (2, 0));
}

#[test]
fn commands_on_several_keys_do_the_same_to_the_covered_ones() {
    let run = Run::of(by_name());
    for (command, expected) in [
        ("DEL in1 out in2", vec!["DEL in1 in2"]),
        ("UNLINK out in1", vec!["UNLINK in1"]),
        ("MSET in1 a out b in2 c", vec!["MSET in1 a in2 c"]),
        ("MSETNX out b in2 c", vec!["MSET in2 c"]),
        ("MSETEX 2 out a in1 b KEEPTTL", vec!["SET in1 b KEEPTTL"]),
        ("RENAME in1 out", vec!["DEL in1"]),
        ("COPY in1 out", vec![]),
        ("SMOVE in1 out m", vec!["SREM in1 m"]),
        ("SMOVE out in1 m", vec!["SADD in1 m"]),
        ("RPOPLPUSH in1 out", vec!["RPOP in1"]),
        ("LMOVE in1 out LEFT RIGHT", vec!["LPOP in1"]),
        ("LMOVE in1 out right left", vec!["RPOP in1"]),
        ("PFCOUNT in1 out", vec![]),
        ("DEL out", vec![]),
        ("RENAME in1 in2", vec!["RENAME in1 in2"]),
    ] {
        assert_eq!(run.texts(&[command]), expected, "{command}");
    }
}

#[test]
fn what_brings_in_data_from_outside_stops_by_name_or_is_skipped_and_counted() {
    for command in [
        "RENAME out in1",
        "COPY out in1",
        "RPOPLPUSH out in1",
        "LMOVE out in1 LEFT LEFT",
        "SUNIONSTORE in1 in2 out",
        "BITOP AND in1 out",
        "PFMERGE in1 out",
        "ZUNIONSTORE in1 2 in2 out",
        "ZRANGESTORE in1 out 0 1",
        "SORT out STORE in1",
        "SORT in1 BY w_* STORE in2",
        "SORT in1 GET # GET *->f STORE in2",
        "GEORADIUS out 1 2 3 km STORE in1",
        "EVAL x 1 in1",
        "EVALSHA x 0",
        "JSON.SET in1 $ 1",
        "SET",
    ] {
        let error = Run::of(by_name()).run(&[command]).unwrap_err();
        assert_eq!(error.code, Code::FilterBorder, "{command}");
        assert!(error.message.contains(command.split(' ').next().unwrap()), "{error}");
        assert!(!error.message.contains("in1"), "keys are kept out of logs");
        let (found, _, skipped) = Run::of(skipping(by_name())).run(&[command]).unwrap();
        let written = found.iter().filter(|text| !text.contains("__dts:") && *text != "SELECT 0").count();
        assert_eq!((written, skipped), (0, 1), "{command} {found:?}");
    }
    assert_eq!(Run::of(by_name()).texts(&["SORT in1 BY nosort STORE in2"]), ["SORT in1 BY nosort STORE in2"]);
}

#[test]
fn a_trusted_script_passes_with_its_keys_and_is_remembered_without() {
    let trusting = Run::of(Filter { trust_scripts: true, ..by_name() });
    let hash = "11f6ad8ec52a2984abaafd7c3b516503785c2072";
    let keep = format!("HSET __dts:t:0:scripts {hash} x");
    let sha = format!("EVALSHA {hash} 1 in1");
    assert_eq!(trusting.texts(&["EVAL x 1 out", &sha]), [keep.as_str(), "EVAL x 1 in1"]);
    assert_eq!(trusting.run(&["EVAL x 2 in1 out"]).unwrap_err().code, Code::FilterBorder);
    let unfiltered = Run::of(Filter::default()).texts(&["EVAL x 1 out"]);
    assert_eq!(unfiltered, [keep.as_str(), "EVAL x 1 out"]);
}

#[test]
fn a_type_that_is_not_covered_takes_the_place_of_one_that_is() {
    let hashes = Run::of(by_type(&["hash"]));
    for (command, expected) in [
        ("HSET k f v", vec!["HSET k f v"]),
        ("SET k v", vec!["DEL k"]),
        ("SETEX k 5 v", vec!["DEL k"]),
        ("MSET a 1 b 2", vec!["DEL a b"]),
        ("SUNIONSTORE k a b", vec!["DEL k"]),
        ("BITOP AND k a", vec!["DEL k"]),
        ("SORT a STORE k", vec!["DEL k"]),
        ("GEORADIUS a 1 2 3 km STORE k", vec!["DEL k"]),
        ("ZUNIONSTORE k 1 a", vec!["DEL k"]),
        ("INCR k", vec![]),
        ("LPUSH k a", vec![]),
        ("RPOPLPUSH a b", vec![]),
        ("SMOVE a b m", vec![]),
        ("PERSIST k", vec!["PERSIST k"]),
        ("DEL k", vec!["DEL k"]),
        ("COPY a b REPLACE", vec!["DEL b", "COPY a b REPLACE"]),
        ("MOVE a 3", vec!["MOVE a 3"]),
        ("RESTORE k 0 \u{4}payload", vec!["RESTORE k 0 \u{4}payload REPLACE"]),
        ("RESTORE k 0 \0payload", vec!["DEL k"]),
    ] {
        assert_eq!(hashes.texts(&[command]), expected, "{command}");
    }
    let rename = hashes.texts(&["RENAME a b"]);
    assert!(rename.len() == 1 && rename[0].starts_with("EVAL") && rename[0].ends_with(" 2 a b"), "{rename:?}");
    for command in ["EVAL x 1 k", "JSON.SET k $ 1"] {
        assert_eq!(hashes.run(&[command]).unwrap_err().code, Code::FilterBorder, "{command}");
    }
    // Whether these read a set or a sorted set, only the source knows.
    for (types, command) in [(["zset"], "ZUNIONSTORE k 1 a"), (["list"], "SORT a STORE k")] {
        assert_eq!(Run::of(by_type(&types)).run(&[command]).unwrap_err().code, Code::FilterBorder);
    }
    assert_eq!(Run::of(by_type(&["zset", "set"])).texts(&["ZUNIONSTORE k 1 a"]), ["ZUNIONSTORE k 1 a"]);
}

#[test]
fn a_renamed_key_of_a_covered_type_may_carry_its_held_expiry() {
    let mut encoder = Run::of(by_type(&["hash"])).encoder();
    encoder.feed(0, 0, &stream(&["RENAME a b"])).unwrap();
    assert_eq!(encoder.take_held().into_keys().unwrap().next_page(9), Some((0, vec![b"b".to_vec()])));
}

#[test]
fn databases_are_mapped_wherever_a_command_names_them() {
    let run = Run { map: vec![(0, 2), (2, 0)], ..Run::of(Filter::default()) };
    for (command, expected) in [
        ("SET k v", vec!["SELECT 2", "SET k v", "SELECT 0"]),
        ("MOVE k 2", vec!["SELECT 2", "MOVE k 0", "SELECT 0"]),
        ("MOVE k 5", vec!["SELECT 2", "MOVE k 5", "SELECT 0"]),
        ("COPY k l DB 2", vec!["SELECT 2", "COPY k l DB 0", "SELECT 0"]),
        ("SWAPDB 2 7", vec!["SWAPDB 0 7", "SELECT 7", "DEL __dts:t:0:position __dts:t:0:scripts", "SELECT 0"]),
        ("FLUSHDB", vec!["SELECT 2", "FLUSHDB", "SELECT 0"]),
    ] {
        assert_eq!(run.texts(&[command]), expected, "{command}");
    }
    assert_eq!(run.texts(&["SELECT 2", "SET k v"]), ["SET k v"]);
    let mut encoder = run.encoder();
    encoder.feed(0, 0, &stream(&["SELECT 2", "PEXPIREAT k 5", "SELECT 0", "MOVE k 2"])).unwrap();
    assert_eq!(
        encoder.take_held().into_keys().unwrap().next_page(9),
        Some((0, vec![b"k".to_vec()])),
        "by the target's number"
    );
    assert_eq!(encoder.position().db, 0, "the position has the source's number");
}

#[test]
fn what_crosses_into_a_covered_database_is_over_the_border() {
    let run = Run::of(Filter { databases: vec![0, 1], ..Filter::default() });
    assert_eq!(run.texts(&["SELECT 5", "SET k v", "FLUSHDB", "MOVE k 6", "SWAPDB 5 6"]), NOTHING);
    assert_eq!(run.texts(&["MOVE k 5", "COPY k l DB 5", "MOVE k 1"]), ["DEL k", "MOVE k 1"]);
    for commands in [["SELECT 5", "MOVE k 0"], ["SELECT 5", "COPY k k DB 0"], ["SELECT 0", "SWAPDB 1 5"]] {
        assert_eq!(run.run(&commands).unwrap_err().code, Code::FilterBorder, "{commands:?}");
    }
    assert_eq!(run.texts(&["JSON.SET k $ 1", "SELECT 5", "JSON.SET k $ 1"]), ["JSON.SET k $ 1"]);
}

#[test]
fn a_flush_empties_what_the_task_moves_and_nothing_else() {
    let databases = Run { map: vec![(1, 4)], ..Run::of(Filter { databases: vec![0, 1], ..Filter::default() }) };
    assert_eq!(databases.texts(&["FLUSHALL"]), ["FLUSHDB", "SELECT 4", "FLUSHDB", "SELECT 0"]);
    assert_eq!(Run::of(Filter::default()).texts(&["FLUSHALL"]), ["FLUSHALL"]);
    assert_eq!(databases.texts(&["SELECT 9", "FLUSHDB"]), NOTHING);
}

#[test]
fn a_flush_under_a_filter_on_keys_is_done_key_by_key_between_what_is_before_and_behind_it() {
    let run = Run::of(by_name());
    let mut encoder = run.encoder();
    let bytes = stream(&["SET in1 a", "FLUSHDB", "SET in2 b", "FLUSHALL", "SET in3 c"]);
    encoder.feed(0, 0, &bytes).unwrap();
    assert!(encoder.take_clear().is_none(), "what is before it comes first");
    assert_eq!(texts(&mut encoder), ["SET in1 a"]);
    let first = encoder.take_clear().unwrap();
    let before = stream(&["SET in1 a"]).len() as u64;
    assert_eq!((first.databases, first.commit.position.unwrap().offset), (vec![0], before));
    assert_eq!(texts(&mut encoder), ["SET in2 b"]);
    assert_eq!(encoder.take_clear().unwrap().databases.len(), 16);
    assert_eq!(texts(&mut encoder), ["SET in3 c"]);
    assert_eq!(encoder.position().offset, bytes.len() as u64);
}

#[test]
fn a_flush_in_a_group_takes_what_the_group_did_before_it_or_is_over_the_border() {
    let run = Run::of(by_name());
    let mut encoder = run.encoder();
    encoder.feed(0, 0, &stream(&["MULTI", "SET in1 a", "FLUSHDB", "SET in2 b", "EXEC"])).unwrap();
    assert_eq!(encoder.take_clear().unwrap().databases, [0]);
    assert_eq!(texts(&mut encoder), ["SELECT 0", "SET in2 b"]);
    for reaching in ["COPY in1 in2 DB 3", "MOVE in1 3", "SWAPDB 0 3", "FUNCTION FLUSH"] {
        let grouped = ["MULTI", reaching, "FLUSHDB", "EXEC"];
        assert_eq!(run.run(&grouped).unwrap_err().code, Code::FilterBorder, "{reaching}");
    }
    let grouped = ["MULTI", "SET in1 a", "SELECT 3", "FLUSHDB", "EXEC"];
    let kept = vec!["SELECT 0".to_owned(), "SET in1 a".to_owned()];
    assert_eq!(Run::of(skipping(by_name())).run(&grouped).unwrap(), (kept, 0, 1));
}

#[test]
fn a_flush_is_ignored_or_stops_by_policy() {
    let with = |on_flush| Run { on_flush, ..Run::of(Filter::default()) };
    assert_eq!(
        with(FlushPolicy::Ignore).run(&["SET k v", "FLUSHALL", "FLUSHDB"]).unwrap(),
        (vec!["SET k v".to_owned()], 0, 2)
    );
    let error = with(FlushPolicy::Stop).run(&["FLUSHALL"]).unwrap_err();
    assert_eq!(error.code, Code::FlushStopped);
}

#[test]
fn a_large_value_goes_where_its_database_is_mapped_or_is_dropped() {
    let filter = Filter { types: vec!["string".into()], exclude_commands: vec!["APPEND".into()], ..by_name() };
    let run = Run { map: vec![(0, 2), (2, 0)], ..Run::of(filter) };
    let value = "v".repeat(3 << 20);
    for (command, covered) in [
        (format!("SET in1 {value}"), true),
        (format!("SET in1 {value} KEEPTTL"), true),
        (format!("SET out {value}"), false),
        (format!("LPUSH in1 {value}"), false),
        (format!("APPEND in1 {value}"), false),
    ] {
        let (mut encoder, mut offset, mut sent) = (run.encoder(), 0, Vec::new());
        for piece in stream(&[&command, "SET in2 b"]).chunks(100_000) {
            encoder.feed(offset, 0, piece).unwrap();
            offset += piece.len() as u64;
            while let Some(chunk) = encoder.next_chunk(false) {
                sent.extend_from_slice(&chunk.bytes);
            }
        }
        while let Some(chunk) = encoder.next_chunk(true) {
            sent.extend_from_slice(&chunk.bytes);
        }
        let text = String::from_utf8(sent).unwrap();
        assert_eq!(text.contains(&value), covered, "{command:.20}");
        assert!(text.starts_with("*2\r\n$6\r\nSELECT\r\n$1\r\n2\r\n"), "{text:.60}");
        assert!(text.contains("in2") && !text.contains("out"));
    }
}

#[test]
fn excluded_commands_are_dropped_also_inside_of_a_group() {
    let run = Run::of(Filter { exclude_commands: vec!["publish".into(), "INCR".into()], ..Filter::default() });
    assert_eq!(
        run.run(&["PUBLISH c m", "MULTI", "incr k", "SET k v", "EXEC"]).unwrap(),
        (vec!["SELECT 0".to_owned(), "SET k v".to_owned()], 2, 0)
    );
}
