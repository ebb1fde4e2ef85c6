//! The command table as real servers describe it: COMMAND and COMMAND DOCS, merged over the families.
//!
//! One line a command: name (`container|subcommand`), group, first version of Redis, of Valkey (`-`: never), flags, key specs.
//! A key spec is `ACCESS@BEGIN/FIND`: access RO, RW, OW, RM, CH (a channel: has a slot, names no key), with `?` where the
//! servers themselves call the spec incomplete; begin an index, `KEYWORD>START`, or `?`; find `LAST,STEP,LIMIT`,
//! `#COUNT,FIRST,STEP`, or `?`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail, ensure};
use redis::{Connection, Value};

use crate::server::{Server, root};

/// Flags that the product asks for.
const FLAGS: [&str; 1] = ["write"];

/// Where the table is kept.
pub fn path() -> PathBuf {
    root().join("common/src/redis/command_table/commands.tsv")
}

#[derive(Default)]
struct Row {
    group: String,
    since: [Option<String>; 2],
    flags: String,
    keys: String,
}

/// Asks the newest server of either family; `older` ones must know no write that those forgot.
pub fn generate(redis: &Server, valkey: &Server, older: &[Server]) -> Result<String> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for (family, server) in [redis, valkey].into_iter().enumerate() {
        let mut connection = server.connect()?;
        let mut docs = BTreeMap::new();
        read_docs(&ask(&mut connection, &["COMMAND", "DOCS"])?, &mut docs)?;
        for (name, info) in commands(&mut connection)? {
            let (group, since) = docs.get(&name).with_context(|| format!("{name} has no documentation"))?;
            let row = rows.entry(name).or_default();
            row.since[family] = Some(since.clone());
            if family == 0 || row.since[0].is_none() {
                row.group.clone_from(group);
                row.flags = flags(&info)?;
                row.keys = key_specs(&info)?;
            }
        }
    }
    for server in older {
        for (name, info) in commands(&mut server.connect()?)? {
            // STRALGO and others that only read came and went.
            let known = rows.contains_key(&name) || flags(&info)?.is_empty();
            ensure!(known, "{name} was removed: the table needs a row for it");
        }
    }
    let mut text = String::new();
    for (name, row) in rows {
        let [redis, valkey] = row.since.map(|since| since.unwrap_or_else(|| "-".into()));
        writeln!(text, "{name}\t{}\t{redis}\t{valkey}\t{}\t{}", row.group, row.flags, row.keys)?;
    }
    Ok(text)
}

fn ask(connection: &mut Connection, words: &[&str]) -> Result<Value> {
    let mut command = redis::Cmd::new();
    for word in words {
        command.arg(*word);
    }
    Ok(command.query(connection)?)
}

/// Every command and subcommand, with its description.
fn commands(connection: &mut Connection) -> Result<BTreeMap<String, Vec<Value>>> {
    let mut found = BTreeMap::new();
    let mut open = vec![ask(connection, &["COMMAND"])?];
    while let Some(list) = open.pop() {
        for command in array(&list)? {
            let info = array(command)?.to_vec();
            if let Some(subcommands) = info.get(9) {
                open.push(subcommands.clone());
            }
            found.insert(text(info.first().context("a command without a name")?)?.to_lowercase(), info);
        }
    }
    Ok(found)
}

fn read_docs(docs: &Value, into: &mut BTreeMap<String, (String, String)>) -> Result<()> {
    for pair in array(docs)?.chunks_exact(2) {
        let field = |name| field(&pair[1], name);
        let group = field("group")?.map_or(Ok(String::new()), text)?;
        let since = field("since")?.map_or(Ok("-".into()), text)?;
        into.insert(text(&pair[0])?.to_lowercase(), (group, since));
        if let Some(subcommands) = field("subcommands")? {
            read_docs(subcommands, into)?;
        }
    }
    Ok(())
}

fn flags(info: &[Value]) -> Result<String> {
    let found: Vec<String> = array(&info[2])?.iter().map(text).collect::<Result<_>>()?;
    Ok(FLAGS.into_iter().filter(|flag| found.iter().any(|found| found == flag)).collect::<Vec<_>>().join(","))
}

fn key_specs(info: &[Value]) -> Result<String> {
    array(&info[8])?.iter().map(key_spec).collect::<Result<Vec<_>>>().map(|specs| specs.join(" "))
}

fn key_spec(spec: &Value) -> Result<String> {
    let flags: Vec<String> = array(field(spec, "flags")?.context("flags")?)?.iter().map(text).collect::<Result<_>>()?;
    let has = |flag: &str| flags.iter().any(|found| found == flag);
    let access = ["RO", "RW", "OW", "RM"].into_iter().find(|access| has(access));
    let access = if has("not_key") { "CH" } else { access.context("a key spec without access")? };
    let doubt = if has("incomplete") { "?" } else { "" };
    let (kind, begin) = kind_and_spec(spec, "begin_search")?;
    let begin = match kind.as_str() {
        "index" => number(begin, "index")?.to_string(),
        "keyword" => format!("{}>{}", text(field(begin, "keyword")?.context("keyword")?)?, number(begin, "startfrom")?),
        "unknown" => "?".into(),
        other => bail!("begin_search {other}"),
    };
    let (kind, find) = kind_and_spec(spec, "find_keys")?;
    let find = match kind.as_str() {
        "range" => format!("{},{},{}", number(find, "lastkey")?, number(find, "keystep")?, number(find, "limit")?),
        "keynum" => {
            format!("#{},{},{}", number(find, "keynumidx")?, number(find, "firstkey")?, number(find, "keystep")?)
        }
        "unknown" => "?".into(),
        other => bail!("find_keys {other}"),
    };
    Ok(format!("{access}{doubt}@{begin}/{find}"))
}

fn kind_and_spec<'a>(spec: &'a Value, name: &str) -> Result<(String, &'a Value)> {
    let part = field(spec, name)?.with_context(|| format!("a key spec without {name}"))?;
    let kind = text(field(part, "type")?.context("a type")?)?;
    Ok((kind, field(part, "spec")?.context("a spec")?))
}

/// A field of a map, which RESP2 gives as a flat array.
fn field<'a>(map: &'a Value, name: &str) -> Result<Option<&'a Value>> {
    for pair in array(map)?.chunks_exact(2) {
        if text(&pair[0])? == name {
            return Ok(Some(&pair[1]));
        }
    }
    Ok(None)
}

fn number(map: &Value, name: &str) -> Result<i64> {
    match field(map, name)? {
        Some(Value::Int(value)) => Ok(*value),
        other => bail!("{name} is {other:?}"),
    }
}

fn array(value: &Value) -> Result<&[Value]> {
    match value {
        Value::Array(values) => Ok(values),
        Value::Nil => Ok(&[]),
        other => bail!("not an array: {other:?}"),
    }
}

fn text(value: &Value) -> Result<String> {
    match value {
        Value::BulkString(bytes) => Ok(String::from_utf8(bytes.clone())?),
        Value::SimpleString(text) => Ok(text.clone()),
        Value::Okay => Ok("OK".into()),
        other => bail!("not a text: {other:?}"),
    }
}

/// Where a server's own answers about keys are kept: a command, a tab, its keys.
pub fn key_positions_path() -> PathBuf {
    root().join("common/tests/golden/keys.tsv")
}

/// Forms that a replication stream can have, and some traps. No key is named like another word.
const FORMS: &str = "\
SET k1 v|set k1 v PXAT 5|MSET k1 a k2 b k3 c|MSETEX 2 k1 a k2 b PXAT 5|DEL k1 k2 k3|UNLINK k1|RENAME k1 k2|COPY k1 k2 DB 3 REPLACE|MOVE k1 3|\
SMOVE k1 k2 m|LMOVE k1 k2 LEFT RIGHT|RPOPLPUSH k1 k2|BRPOPLPUSH k1 k2 0|LPOP k1 2|SUNIONSTORE k1 k2 k3|SDIFFSTORE k1 k2|SINTERSTORE k1 k1 k2|\
ZUNIONSTORE k1 2 k2 k3 WEIGHTS 1 2|ZINTERSTORE k1 1 k2|ZDIFFSTORE k1 2 k2 k3|ZRANGESTORE k1 k2 0 -1|BITOP AND k1 k2 k3|PFMERGE k1 k2 k3|\
PFCOUNT k1 k2|SORT k1 STORE k2|SORT k1 BY w_* LIMIT 0 3 GET store STORE k2|SORT k1 STORE x STORE k2|SORT k1 BY STORE STORE k2|SORT k1 ALPHA DESC|\
GEOADD k1 1 2 m|GEORADIUS k1 1 2 3 km STORE k2|GEORADIUS k1 1 2 3 km STORE x STOREDIST k2|GEORADIUS k1 1 2 3 km COUNT 3 ANY ASC STOREDIST k2|\
GEORADIUSBYMEMBER k1 STORE 3 km STORE k2|GEORADIUSBYMEMBER k1 m 3 km|GEOSEARCHSTORE k1 k2 FROMLONLAT 1 2 BYRADIUS 3 km|EVAL script 2 k1 k2 a|\
EVALSHA 00 1 k1|FCALL f 3 k1 k2 k3 STORE|XADD k1 * f v|XGROUP CREATE k1 g 0|xgroup setid k1 g 0|XCLAIM k1 g c 0 1-1|XSETID k1 1-1|\
XREADGROUP GROUP g c COUNT 1 STREAMS k1 k2 0 0|RESTORE k1 0 x REPLACE|RESTORE-ASKING k1 0 x|EXPIRE k1 3|HEXPIRE k1 3 FIELDS 2 f g|HSETEX k1 PXAT 3 FIELDS 1 f v|\
HPEXPIREAT k1 5 FIELDS 1 k2|BITFIELD k1 SET u8 0 1|PFADD k1 a|PFDEBUG ENCODING k1|OBJECT HELP|OBJECT ENCODING k1|LMPOP 2 k1 k2 LEFT|BLMPOP 0 1 k1 LEFT|\
ZMPOP 1 k1 MIN|BLPOP k1 k2 0|BZPOPMIN k1 0|GETEX k1 PX 3|SETRANGE k1 3 x|APPEND k1 x|XACKDEL k1 g IDS 1 1-1|VADD k1 VALUES 1 1 e|ARSET k1 0 v|MSETNX k1 a k2 b";

/// What a server says of the keys of these commands.
pub fn key_positions(server: &Server) -> Result<String> {
    let mut connection = server.connect()?;
    let mut text = String::new();
    for form in FORMS.split('|') {
        let words: Vec<&str> = ["COMMAND", "GETKEYS"].into_iter().chain(form.split(' ')).collect();
        let keys = match ask(&mut connection, &words) {
            Ok(keys) => array(&keys)?.iter().map(self::text).collect::<Result<Vec<_>>>()?.join(" "),
            Err(error) if error.to_string().contains("no key arguments") => String::new(),
            Err(error) => return Err(error.context(form)),
        };
        writeln!(text, "{form}\t{keys}")?;
    }
    Ok(text)
}
