//! A difference.

use std::fmt;

/// What is different.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The source has the key and the target has not.
    Missing,
    /// The target has a key that the source has not.
    Extra,
    /// The key has another type.
    Type,
    /// The key has another value.
    Value,
    /// The key, or a field of the hash, dies at another time.
    Ttl,
    /// A consumer group of the stream stands elsewhere, or has other entries pending.
    Group,
    /// How many keys a database has (mode `count`).
    Count,
    /// A library of functions.
    Function,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Missing, Self::Extra, Self::Type, Self::Value, Self::Ttl, Self::Group, Self::Count, Self::Function];

    /// In reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Type => "type",
            Self::Value => "value",
            Self::Ttl => "ttl",
            Self::Group => "group",
            Self::Count => "count",
            Self::Function => "function",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What was found of one key. The sides say what each server holds, without its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is different.
    pub kind: Kind,
    /// Of the source: `list, 10 elements`.
    pub source: String,
    /// Of the target.
    pub target: String,
    /// The first data that is not the same, of the source and of the target; cut to a few bytes.
    pub values: Option<(String, String)>,
}

impl Finding {
    pub(super) fn new(kind: Kind, source: impl Into<String>, target: impl Into<String>) -> Self {
        Self { kind, source: source.into(), target: target.into(), values: None }
    }

    pub(super) fn showing(mut self, source: &[u8], target: &[u8]) -> Self {
        self.values = Some((excerpt(source), excerpt(target)));
        self
    }
}

/// Data for people: escaped, and cut.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    const LONGEST: usize = 120;
    let shown = bytes[..bytes.len().min(LONGEST)].escape_ascii();
    if bytes.len() > LONGEST { format!("{shown}… ({} bytes)", bytes.len()) } else { shown.to_string() }
}

/// A difference of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Database of the source.
    pub db: u32,
    /// Database of the target.
    pub target_db: u32,
    /// The key; the library's name for a function, empty for a count.
    pub key: Vec<u8>,
    /// What was found.
    pub finding: Finding,
}
