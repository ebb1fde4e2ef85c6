//! From what the user asked for; what cannot be meant is refused by name.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use dts_proto::v1::{BorderPolicy, Filter, FlushPolicy};

use super::{Name, OnBorder, OnFlush, Selection};
use crate::error::{Code, Error, Result};
use crate::redis::command_table::{self, Group};

/// Names of types as TYPE gives them; `module` for all that modules define.
const TYPES: [(&str, Group); 8] = [
    ("string", Group::String),
    ("list", Group::List),
    ("set", Group::Set),
    ("zset", Group::Zset),
    ("hash", Group::Hash),
    ("stream", Group::Stream),
    ("array", Group::Array),
    ("module", Group::Module),
];
/// Without them a stream cannot be followed.
const NEEDED: [&str; 6] = ["SELECT", "MULTI", "EXEC", "PING", "REPLCONF", "SWAPDB"];
const MOST_NAMES: usize = 1024;
const LONGEST_NAME: usize = 1024;
const MOST_DATABASES: usize = 128;

impl Selection {
    /// From a task or an assignment.
    pub fn new(filter: Option<&Filter>, map: &HashMap<u32, u32>, on_flush: i32) -> Result<Self> {
        let nothing = Filter::default();
        let filter = filter.unwrap_or(&nothing);
        let selection = Self {
            include: names(&filter.include_patterns, &filter.include_prefixes)?,
            exclude: names(&filter.exclude_patterns, &filter.exclude_prefixes)?,
            databases: filter.databases.iter().copied().collect(),
            types: filter.types.iter().map(|name| type_named(name)).collect::<Result<_>>()?,
            commands: filter.exclude_commands.iter().map(|name| command_named(name)).collect::<Result<_>>()?,
            map: map.iter().map(|(from, to)| (*from, *to)).collect(),
            on_flush: match FlushPolicy::try_from(on_flush) {
                Ok(FlushPolicy::Unspecified | FlushPolicy::Pass) => OnFlush::Pass,
                Ok(FlushPolicy::Ignore) => OnFlush::Ignore,
                Ok(FlushPolicy::Stop) => OnFlush::Stop,
                Err(_) => return Err(wrong("spec.on_flush is no policy of this version")),
            },
            on_border: match BorderPolicy::try_from(filter.on_border) {
                Ok(BorderPolicy::Unspecified | BorderPolicy::Stop) => OnBorder::Stop,
                Ok(BorderPolicy::Skip) => OnBorder::Skip,
                Err(_) => return Err(wrong("spec.filter.on_border is no policy of this version")),
            },
            trust_scripts: filter.trust_scripts,
        };
        if selection.include.len() + selection.exclude.len() > MOST_NAMES {
            return Err(wrong(format!("spec.filter: at most {MOST_NAMES} patterns and prefixes")));
        }
        if selection.map.len() > MOST_DATABASES || selection.databases.len() > MOST_DATABASES {
            return Err(wrong(format!("spec.db_map, spec.filter.databases: at most {MOST_DATABASES} entries")));
        }
        selection.one_to_one()?;
        Ok(selection)
    }

    /// Two databases that become one would overwrite each other's keys, silently.
    fn one_to_one(&self) -> Result<()> {
        let sources: BTreeSet<u32> =
            self.map.iter().flat_map(|(from, to)| [*from, *to]).filter(|db| self.covers_db(*db)).collect();
        let mut taken: BTreeMap<u32, u32> = BTreeMap::new();
        for from in sources {
            let Some(to) = self.target_db(from) else { continue };
            if let Some(other) = taken.insert(to, from) {
                let message = format!(
                    "spec.db_map: databases {other} and {from} of the source would both become {to}; map one elsewhere, or leave it out by spec.filter.databases"
                );
                return Err(wrong(message));
            }
        }
        match self.map.keys().find(|from| !self.covers_db(**from)) {
            Some(from) => {
                Err(wrong(format!("spec.db_map names database {from}, which spec.filter.databases leaves out")))
            }
            None => Ok(()),
        }
    }
}

fn wrong(message: impl Into<String>) -> Error {
    Error::new(Code::InvalidRequest, message)
}

fn names(patterns: &[String], prefixes: &[String]) -> Result<Vec<Name>> {
    let bytes = |text: &String| match text.len() {
        1..=LONGEST_NAME => Ok(text.clone().into_bytes()),
        _ => Err(wrong(format!("spec.filter: a pattern or prefix has to have 1 to {LONGEST_NAME} bytes"))),
    };
    let patterns = patterns.iter().map(|text| Ok(Name::Pattern(bytes(text)?)));
    patterns.chain(prefixes.iter().map(|text| Ok(Name::Prefix(bytes(text)?)))).collect()
}

fn type_named(name: &str) -> Result<Group> {
    let found = TYPES.iter().find(|(known, _)| *known == name).map(|(_, group)| *group);
    found.ok_or_else(|| {
        let known: Vec<&str> = TYPES.iter().map(|(name, _)| *name).collect();
        wrong(format!("spec.filter.types: {name:?} is none of {}", known.join(", ")))
    })
}

fn command_named(name: &str) -> Result<String> {
    let upper = name.to_ascii_uppercase();
    if NEEDED.contains(&upper.as_str()) {
        return Err(wrong(format!("spec.filter.exclude_commands: without {upper} a stream cannot be followed")));
    }
    // A dot: a module's.
    if !upper.contains('.') && command_table::find([upper.as_bytes()].as_slice()).is_none() {
        return Err(wrong(format!("spec.filter.exclude_commands: {name:?} is no command that this version knows")));
    }
    Ok(upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(filter: Filter, map: &[(u32, u32)]) -> Result<Selection> {
        Selection::new(Some(&filter), &map.iter().copied().collect(), 0)
    }

    fn refused(filter: Filter, map: &[(u32, u32)], words: &str) {
        let error = new(filter, map).unwrap_err();
        assert!(error.code == Code::InvalidRequest && error.message.contains(words), "{error}");
    }

    #[test]
    fn nothing_asked_is_everything() {
        assert!(new(Filter::default(), &[]).unwrap().is_everything());
        assert!(!new(Filter { databases: vec![0], ..Filter::default() }, &[]).unwrap().is_everything());
        assert!(!new(Filter::default(), &[(0, 1), (1, 0)]).unwrap().is_everything());
    }

    #[test]
    fn what_cannot_be_meant_is_refused_by_name() {
        let with = |change: fn(&mut Filter)| {
            let mut filter = Filter::default();
            change(&mut filter);
            filter
        };
        refused(with(|filter| filter.types = vec!["hashes".into()]), &[], "hashes");
        refused(with(|filter| filter.exclude_commands = vec!["NONSENSE".into()]), &[], "NONSENSE");
        refused(with(|filter| filter.exclude_commands = vec!["exec".into()]), &[], "EXEC");
        refused(with(|filter| filter.include_patterns = vec![String::new()]), &[], "1 to 1024");
        refused(with(|filter| filter.include_prefixes = vec!["x".into(); 1025]), &[], "1024 patterns");
        refused(with(|filter| filter.on_border = 9), &[], "on_border");
        assert!(Selection::new(None, &HashMap::new(), 9).is_err());
        assert!(new(with(|filter| filter.exclude_commands = vec!["json.set".into(), "flushall".into()]), &[]).is_ok());
    }

    #[test]
    fn two_databases_do_not_become_one() {
        refused(Filter::default(), &[(0, 5), (1, 5)], "databases 0 and 1");
        refused(Filter::default(), &[(0, 1)], "would both become 1");
        let only_0 = Filter { databases: vec![0], ..Filter::default() };
        let moved = new(only_0.clone(), &[(0, 1)]).unwrap();
        assert_eq!(
            (moved.target_db(0), moved.target_db(1), moved.source_db(1), moved.source_db(0)),
            (Some(1), None, Some(0), None)
        );
        refused(only_0, &[(1, 0)], "leaves out");
        let swapped = new(Filter::default(), &[(0, 1), (1, 0)]).unwrap();
        assert_eq!((swapped.target_db(0), swapped.source_db(0), swapped.source_db(7)), (Some(1), Some(1), Some(7)));
    }

    #[test]
    fn names_are_included_then_excluded() {
        let filter = Filter {
            include_patterns: vec!["user:*".into()],
            include_prefixes: vec!["a*".into()],
            exclude_patterns: vec!["*:tmp".into()],
            exclude_prefixes: vec!["user:9".into()],
            ..Filter::default()
        };
        let selection = new(filter, &[]).unwrap();
        for (key, covered) in
            [("user:1", true), ("a*b", true), ("ab", false), ("user:1:tmp", false), ("user:95", false), ("x", false)]
        {
            assert_eq!(selection.covers(0, key.as_bytes()), covered, "{key}");
        }
    }
}
