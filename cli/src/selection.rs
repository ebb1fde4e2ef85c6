//! Flags that say what is moved, and how a task's spec shows it.

use clap::{Args, ValueEnum};
use dts_proto::v1::{BorderPolicy, Filter, FlushPolicy, TaskSpec};
use serde_json::{Value, json};

use crate::show::short;

/// What is moved. The rules: docs/filters.md.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "What is moved")]
pub(crate) struct Selecting {
    /// Only keys that fit a pattern of KEYS, such as `user:*`. May be repeated, as may all that follow.
    #[arg(long, value_name = "PATTERN")]
    include_key: Vec<String>,
    /// No keys that fit a pattern.
    #[arg(long, value_name = "PATTERN")]
    exclude_key: Vec<String>,
    /// Only keys that begin so.
    #[arg(long, value_name = "PREFIX")]
    include_prefix: Vec<String>,
    /// No keys that begin so.
    #[arg(long, value_name = "PREFIX")]
    exclude_prefix: Vec<String>,
    /// Only this database of the source.
    #[arg(long, value_name = "N")]
    include_db: Vec<u32>,
    /// Only keys of this type: string, list, set, zset, hash, stream, array, module.
    #[arg(long, value_name = "TYPE")]
    include_type: Vec<String>,
    /// Drop this command from the stream.
    #[arg(long, value_name = "NAME")]
    exclude_command: Vec<String>,
    /// Move a database of the source into another one of the target.
    #[arg(long, value_name = "FROM:TO", value_parser = pair)]
    map_db: Vec<(u32, u32)>,
    /// What FLUSHALL and FLUSHDB on the source do to the target.
    #[arg(long, value_enum, default_value_t = OnFlush::Pass)]
    on_flush: OnFlush,
    /// What becomes of a command whose effect on the keys that are moved cannot be known.
    #[arg(long, value_enum, default_value_t = OnBorder::Stop)]
    on_border: OnBorder,
    /// Scripts of the source touch the keys that they declare and no others (sources up to 4.0).
    #[arg(long)]
    trust_scripts: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnFlush {
    /// Delete what is moved.
    Pass,
    /// Keep it: the target differs from then on.
    Ignore,
    /// Stop before it.
    Stop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum OnBorder {
    /// Stop before it.
    Stop,
    /// Leave it out and count it: the target may differ from then on.
    Skip,
}

fn pair(text: &str) -> Result<(u32, u32), String> {
    let pair = text.split_once(':').and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    pair.ok_or_else(|| "use two numbers: FROM:TO".into())
}

impl Selecting {
    /// Puts it into a spec; a database that is mapped twice is an error.
    pub(crate) fn put(&self, spec: &mut TaskSpec) -> anyhow::Result<()> {
        let filter = Filter {
            include_patterns: self.include_key.clone(),
            include_prefixes: self.include_prefix.clone(),
            exclude_patterns: self.exclude_key.clone(),
            exclude_prefixes: self.exclude_prefix.clone(),
            databases: self.include_db.clone(),
            types: self.include_type.clone(),
            exclude_commands: self.exclude_command.clone(),
            on_border: match self.on_border {
                OnBorder::Stop => BorderPolicy::Unspecified.into(),
                OnBorder::Skip => BorderPolicy::Skip.into(),
            },
            trust_scripts: self.trust_scripts,
        };
        spec.filter = (filter != Filter::default()).then_some(filter);
        spec.on_flush = match self.on_flush {
            OnFlush::Pass => FlushPolicy::Unspecified.into(),
            OnFlush::Ignore => FlushPolicy::Ignore.into(),
            OnFlush::Stop => FlushPolicy::Stop.into(),
        };
        for (from, to) in &self.map_db {
            if spec.db_map.insert(*from, *to).is_some() {
                anyhow::bail!("--map-db names database {from} twice");
            }
        }
        Ok(())
    }
}

/// The policies, which may change from one run to the next, and the rest, which may not.
pub(crate) fn policies(spec: &TaskSpec) -> (i32, i32, bool) {
    let filter = spec.filter.clone().unwrap_or_default();
    (spec.on_flush, filter.on_border, filter.trust_scripts)
}

/// What may not change, in words that can be compared and shown.
pub(crate) fn fixed(spec: &TaskSpec) -> String {
    let mut shown = shown(spec);
    if let Some(fields) = shown.as_object_mut() {
        for policy in ["on_flush", "on_border", "trust_scripts"] {
            fields.remove(policy);
        }
    }
    shown.to_string()
}

/// A spec's filter, map and policies; what is not said is left out.
pub(crate) fn shown(spec: &TaskSpec) -> Value {
    let filter = spec.filter.clone().unwrap_or_default();
    let mut fields = serde_json::Map::new();
    for (name, values) in [
        ("include_patterns", &filter.include_patterns),
        ("include_prefixes", &filter.include_prefixes),
        ("exclude_patterns", &filter.exclude_patterns),
        ("exclude_prefixes", &filter.exclude_prefixes),
        ("types", &filter.types),
        ("exclude_commands", &filter.exclude_commands),
    ] {
        if !values.is_empty() {
            fields.insert(name.into(), json!(values));
        }
    }
    if !filter.databases.is_empty() {
        fields.insert("databases".into(), json!(filter.databases));
    }
    if !spec.db_map.is_empty() {
        let map: std::collections::BTreeMap<_, _> =
            spec.db_map.iter().map(|(from, to)| (from.to_string(), *to)).collect();
        fields.insert("db_map".into(), json!(map));
    }
    if spec.on_flush() != FlushPolicy::Unspecified {
        fields.insert("on_flush".into(), json!(short(spec.on_flush().as_str_name(), "FLUSH_POLICY_")));
    }
    if filter.on_border() != BorderPolicy::Unspecified {
        fields.insert("on_border".into(), json!(short(filter.on_border().as_str_name(), "BORDER_POLICY_")));
    }
    if filter.trust_scripts {
        fields.insert("trust_scripts".into(), json!(true));
    }
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        selecting: Selecting,
    }

    fn spec(arguments: &[&str]) -> TaskSpec {
        let command = Command::parse_from(["x"].iter().chain(arguments));
        let mut spec = TaskSpec::default();
        command.selecting.put(&mut spec).unwrap();
        spec
    }

    #[test]
    fn no_flags_say_nothing_and_every_flag_is_shown() {
        assert_eq!(spec(&[]), TaskSpec::default());
        assert_eq!(shown(&spec(&[])), json!({}));
        let all = spec(&[
            "--include-key",
            "a*",
            "--exclude-key",
            "b?",
            "--include-prefix",
            "c",
            "--exclude-prefix",
            "d",
            "--include-db",
            "3",
            "--include-type",
            "hash",
            "--exclude-command",
            "publish",
            "--map-db",
            "3:4",
            "--on-flush",
            "stop",
            "--on-border",
            "skip",
            "--trust-scripts",
        ]);
        assert_eq!(
            shown(&all),
            json!({
                "include_patterns": ["a*"], "exclude_patterns": ["b?"], "include_prefixes": ["c"], "exclude_prefixes": ["d"],
                "databases": [3], "types": ["hash"], "exclude_commands": ["publish"], "db_map": {"3": 4},
                "on_flush": "STOP", "on_border": "SKIP", "trust_scripts": true,
            })
        );
    }

    #[test]
    fn policies_may_change_and_the_rest_is_compared() {
        let (before, after) = (spec(&["--include-db", "1"]), spec(&["--include-db", "1", "--on-flush", "ignore"]));
        assert_eq!(fixed(&before), fixed(&after));
        assert_ne!(policies(&before), policies(&after));
        assert_ne!(fixed(&before), fixed(&spec(&["--include-db", "2"])));
    }
}
