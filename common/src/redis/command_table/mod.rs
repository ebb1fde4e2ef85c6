//! What commands are: the table that real servers give of themselves (`commands.tsv`, written by the `command-table` program of
//! the tests, which compare it with the fleet), and by hand what no server tells: whether a command may be replayed.
//!
//! ```
//! use dts_common::redis::command_table::{Access, find, keys_of};
//! let words: &[&[u8]] = &[b"ZUNIONSTORE", b"to", b"2", b"a", b"b"];
//! let keys = keys_of(words).unwrap();
//! assert_eq!(keys.iter().map(|key| (key.at, key.access)).collect::<Vec<_>>(), [(1, Access::Overwrite), (3, Access::Read), (4, Access::Read)]);
//! assert!(find(words).unwrap().write);
//! ```

mod keys;
mod replay;
mod words;

use std::collections::HashMap;
use std::sync::LazyLock;

pub use keys::{Access, Key, UnknownKeys, keys_of};
pub use replay::is_replay_safe;
pub use words::Words;

use self::keys::Spec;
use super::rdb::Family;
use super::version::ServerVersion;

/// A command, or a subcommand of a container (`XGROUP CREATE`).
#[derive(Debug)]
pub struct CommandInfo {
    /// In lower case, a subcommand as `xgroup|create`.
    pub name: &'static str,
    /// What it belongs to.
    pub group: Group,
    /// True if it changes data or functions by itself.
    pub write: bool,
    /// The first versions that know it.
    redis: Option<(u32, u32)>,
    valkey: Option<(u32, u32)>,
    specs: Vec<Spec>,
    /// True if it is only a name for subcommands.
    container: bool,
}

impl CommandInfo {
    /// The first version of a family that has it, without the patch level; `None`: no version has.
    pub fn since(&self, family: Family) -> Option<(u32, u32)> {
        match family {
            Family::Redis => self.redis,
            Family::Valkey => self.valkey,
        }
    }

    /// True if it may stand in a replication stream: what writes, and what runs scripts, tells channels, or refreshes the count
    /// that a HyperLogLog keeps.
    pub fn replicated(&self) -> bool {
        self.write || self.group == Group::Scripting || matches!(self.name, "publish" | "spublish" | "pfcount")
    }

    /// The word that is its key, if it always has exactly one.
    pub fn only_key(&self) -> Option<usize> {
        let [spec] = self.specs.as_slice() else { return None };
        spec.only_key()
    }

    /// True if a server of this version knows it (its options may be newer).
    pub fn known_to(&self, server: &ServerVersion) -> bool {
        self.since(server.family).is_some_and(|(major, minor)| server.at_least(major, minor))
    }
}

/// What a command belongs to: for those on data, the type that its (first) key has, or is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Strings, with bitmaps and HyperLogLogs.
    String,
    /// Lists.
    List,
    /// Sets.
    Set,
    /// Sorted sets, with geo data.
    Zset,
    /// Hashes.
    Hash,
    /// Streams.
    Stream,
    /// Arrays (Redis 8.8).
    Array,
    /// Vector sets (Redis 8.0), which count as a module's.
    Module,
    /// Keys of any type.
    Generic,
    /// Scripts and functions.
    Scripting,
    /// Nothing of a key: connections, servers, clusters, transactions, channels.
    Other,
}

impl Group {
    fn named(name: &str) -> Self {
        match name {
            "string" | "bitmap" | "hyperloglog" => Self::String,
            "list" => Self::List,
            "set" => Self::Set,
            "sorted-set" | "geo" => Self::Zset,
            "hash" => Self::Hash,
            "stream" => Self::Stream,
            "array" => Self::Array,
            "module" => Self::Module,
            "generic" => Self::Generic,
            "scripting" => Self::Scripting,
            _ => Self::Other,
        }
    }
}

/// Longer names are in no table.
const LONGEST: usize = 48;

static TABLE: LazyLock<HashMap<&'static [u8], CommandInfo>> = LazyLock::new(|| {
    let mut table: HashMap<&'static [u8], CommandInfo> =
        include_str!("commands.tsv").lines().filter_map(row).map(|info| (info.name.as_bytes(), info)).collect();
    let containers: Vec<&str> = table.values().filter_map(|info| Some(info.name.split_once('|')?.0)).collect();
    for name in containers {
        if let Some(info) = table.get_mut(name.as_bytes()) {
            info.container = true;
        }
    }
    table
});

fn row(line: &'static str) -> Option<CommandInfo> {
    let mut columns = line.split('\t');
    let mut next = || columns.next();
    let (name, group, redis, valkey, flags, specs) = (next()?, next()?, next()?, next()?, next()?, next()?);
    let flag = |wanted: &str| flags.split(',').any(|flag| flag == wanted);
    Some(CommandInfo {
        name,
        group: Group::named(group),
        write: flag("write"),
        redis: version(redis),
        valkey: version(valkey),
        specs: specs.split(' ').filter_map(Spec::parse).collect(),
        container: false,
    })
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// What the table says of a command in any case, of its subcommand if it has such; `None` if no server of the fleet knows it.
pub fn find<W: Words + ?Sized>(command: &W) -> Option<&'static CommandInfo> {
    let mut name = [0; LONGEST];
    let first = command.word(0)?;
    let table = &*TABLE;
    name.get_mut(..first.len())?.copy_from_slice(first);
    name.make_ascii_lowercase();
    let info = table.get(&name[..first.len()])?;
    if !info.container {
        return Some(info);
    }
    let Some(second) = command.word(1) else { return Some(info) };
    let end = first.len() + 1 + second.len();
    name[first.len()] = b'|';
    name.get_mut(first.len() + 1..end)?.copy_from_slice(second);
    name.make_ascii_lowercase();
    table.get(&name[..end])
}

/// All commands, in no order.
pub fn all() -> impl Iterator<Item = &'static CommandInfo> {
    TABLE.values()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(family: Family, major: u32, minor: u32) -> ServerVersion {
        ServerVersion { family, major, minor, patch: 0 }
    }

    #[test]
    fn every_row_of_the_table_is_read() {
        assert_eq!(all().count(), include_str!("commands.tsv").lines().count());
        let specs = include_str!("commands.tsv")
            .lines()
            .flat_map(|line| line.split('\t').nth(5)?.split(' ').next().map(|_| line));
        let written: usize =
            specs.map(|line| line.split('\t').nth(5).map_or(0, |text| text.split_whitespace().count())).sum();
        assert_eq!(all().map(|info| info.specs.len()).sum::<usize>(), written);
        assert!(all().all(|info| info.redis.is_some() || info.valkey.is_some()));
    }

    #[test]
    fn a_command_is_found_in_any_case_and_by_its_subcommand() {
        let name = |words: &[&[u8]]| find(words).map(|info| info.name);
        assert_eq!(name(&[b"pExpireAt"]), Some("pexpireat"));
        assert_eq!(name(&[b"XGROUP", b"Create", b"k"]), Some("xgroup|create"));
        assert_eq!(name(&[b"XGROUP", b"nothing"]), None);
        assert_eq!(name(&[b"JSON.SET", b"k"]), None);
        assert_eq!(name(&[&[b'x'; 1000]]), None);
        assert_eq!(name(&[b"XGROUP", &[b'x'; 1000]]), None);
    }

    #[test]
    fn the_first_versions_are_those_of_each_family() {
        let info = |name: &str| find([name.as_bytes()].as_slice()).unwrap();
        assert_eq!(info("hsetex").since(Family::Redis), Some((8, 0)));
        assert_eq!(info("hsetex").since(Family::Valkey), Some((9, 0)));
        assert!(
            info("unlink").known_to(&server(Family::Redis, 4, 0))
                && !info("unlink").known_to(&server(Family::Redis, 3, 2))
        );
        assert!(!info("xdelex").known_to(&server(Family::Valkey, 9, 1)));
        assert!(info("set").known_to(&server(Family::Valkey, 8, 0)));
    }
}
