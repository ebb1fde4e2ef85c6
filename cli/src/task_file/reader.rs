//! Takes values out of the tree, and collects what is wrong: one look at a file tells everything.

use std::fmt;
use std::time::Duration;

use super::tree::{Entry, Mark, Node, What};
use crate::show::parse_bytes;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) at: Mark,
    what: String,
}

impl Problem {
    pub(super) fn new(at: Mark, what: impl Into<String>) -> Self {
        Self { at, what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.at, self.what)
    }
}

/// Collects.
#[derive(Default)]
pub(super) struct Reader {
    pub(super) problems: Vec<Problem>,
    /// `password: stored` may stand for the password that the task has.
    pub(super) may_keep_passwords: bool,
}

/// The fields of one map.
#[derive(Clone, Copy)]
pub(super) struct Fields<'a> {
    pub(super) at: Mark,
    entries: &'a [Entry],
}

impl<'a> Fields<'a> {
    pub(super) fn get(self, name: &str) -> Option<&'a Node> {
        self.entries.iter().find(|entry| entry.name == name).map(|entry| &entry.value)
    }

    /// Every pair, where the names are the user's.
    pub(super) fn entries(self) -> &'a [Entry] {
        self.entries
    }
}

impl Reader {
    pub(super) fn wrong(&mut self, at: Mark, what: impl Into<String>) {
        self.problems.push(Problem::new(at, what));
    }

    /// A map of any names.
    pub(super) fn map<'a>(&mut self, name: &str, node: &'a Node) -> Option<Fields<'a>> {
        match &node.what {
            What::Map(entries) => Some(Fields { at: node.at, entries }),
            _ => {
                self.wrong(node.at, format!("{name} has to hold fields, each as `name: value`"));
                None
            }
        }
    }

    /// A map of these names and no others.
    pub(super) fn fields<'a>(&mut self, name: &str, node: &'a Node, known: &[&str]) -> Option<Fields<'a>> {
        let fields = self.map(name, node)?;
        for entry in fields.entries.iter().filter(|entry| !known.contains(&entry.name.as_str())) {
            let of = if name.is_empty() { "a task".to_owned() } else { name.to_owned() };
            self.wrong(entry.at, format!("{of} has no field {:?}; it may have {}", entry.name, known.join(", ")));
        }
        Some(fields)
    }

    /// The field, or a complaint.
    pub(super) fn required<'a>(&mut self, of: &str, fields: Fields<'a>, name: &str, example: &str) -> Option<&'a Node> {
        let found = fields.get(name);
        if found.is_none() {
            self.wrong(fields.at, format!("{of} has no {name}; give it one, such as `{name}: {example}`"));
        }
        found
    }

    pub(super) fn list<'a>(&mut self, name: &str, node: &'a Node) -> &'a [Node] {
        match &node.what {
            What::List(items) => items,
            _ => {
                self.wrong(node.at, format!("{name} has to be a list: `[a, b]`, or a line with `- ` for each"));
                &[]
            }
        }
    }

    pub(super) fn text<'a>(&mut self, name: &str, node: &'a Node) -> Option<&'a str> {
        match &node.what {
            What::Text(Some(text)) => Some(text),
            What::Text(None) => {
                self.wrong(node.at, format!("{name} has no value; give it one, or leave it out"));
                None
            }
            _ => {
                self.wrong(node.at, format!("{name} has to be one value"));
                None
            }
        }
    }

    /// Text through `read`, which says what it takes if it does not take it.
    pub(super) fn parsed<T>(
        &mut self,
        name: &str,
        node: &Node,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let text = self.text(name, node)?;
        match read(text) {
            Ok(value) => Some(value),
            Err(takes) => {
                self.wrong(node.at, format!("{name} takes {takes}, not {text:?}"));
                None
            }
        }
    }

    pub(super) fn flag(&mut self, name: &str, node: &Node) -> Option<bool> {
        self.one_of(name, node, &[("true", true), ("false", false)])
    }

    pub(super) fn one_of<T: Copy>(&mut self, name: &str, node: &Node, known: &[(&str, T)]) -> Option<T> {
        self.parsed(name, node, |text| {
            let words: Vec<_> = known.iter().map(|(word, _)| *word).collect();
            let found = known.iter().find(|(word, _)| *word == text);
            found.map(|(_, value)| *value).ok_or_else(|| words.join(" or "))
        })
    }

    pub(super) fn number(&mut self, name: &str, node: &Node, from: u32, to: u32) -> Option<u32> {
        self.parsed(name, node, |text| {
            let number = text.parse().ok().filter(|number| (from..=to).contains(number));
            number.ok_or_else(|| format!("a number from {from} to {to}"))
        })
    }

    pub(super) fn bytes(&mut self, name: &str, node: &Node) -> Option<u64> {
        self.parsed(name, node, |text| {
            parse_bytes(text).map_err(|_| "a number of bytes, such as 1048576 or 1MiB".into())
        })
    }

    pub(super) fn seconds(&mut self, name: &str, node: &Node) -> Option<u32> {
        self.parsed(name, node, |text| {
            let seconds = humantime::parse_duration(text).ok().as_ref().map(Duration::as_secs);
            let seconds = seconds.and_then(|seconds| u32::try_from(seconds).ok());
            seconds.ok_or_else(|| "a time with a unit, such as 90s or 10m".into())
        })
    }

    pub(super) fn texts(&mut self, name: &str, node: &Node) -> Vec<String> {
        let items = self.list(name, node);
        items.iter().filter_map(|item| self.text(name, item).map(str::to_owned)).collect()
    }
}
