//! YAML as a tree that knows where everything stands.

use std::fmt;

use yaml_rust2::Event;
use yaml_rust2::parser::{MarkedEventReceiver, Parser};
use yaml_rust2::scanner::{Marker, TScalarStyle};

use super::reader::Problem;

/// A place in the file, from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Mark {
    line: usize,
    column: usize,
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

impl From<Marker> for Mark {
    fn from(marker: Marker) -> Self {
        Self { line: marker.line(), column: marker.col() + 1 }
    }
}

#[derive(Debug)]
pub(super) struct Node {
    pub(super) at: Mark,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// `None`: no value is there.
    Text(Option<String>),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) at: Mark,
    pub(super) value: Node,
}

/// The one document of a file.
pub(super) fn parse(text: &str) -> Result<Node, Problem> {
    let mut builder = Builder::default();
    let parsed = Parser::new_from_str(text).load(&mut builder, true);
    if let Some(problem) = builder.problem {
        return Err(problem);
    }
    parsed.map_err(|error| Problem::new((*error.marker()).into(), format!("no YAML: {}", error.info())))?;
    builder.root.ok_or_else(|| Problem::new(Mark { line: 1, column: 1 }, "the file is empty"))
}

enum Open {
    List(Mark, Vec<Node>),
    Map(Mark, Vec<Entry>, Option<(String, Mark)>),
}

#[derive(Default)]
struct Builder {
    open: Vec<Open>,
    root: Option<Node>,
    problem: Option<Problem>,
}

impl Builder {
    fn fail(&mut self, at: Mark, what: &str) {
        self.problem.get_or_insert_with(|| Problem::new(at, what));
    }

    fn put(&mut self, node: Node) {
        let at = node.at;
        match self.open.last_mut() {
            None if self.root.is_some() => self.fail(at, "a file holds one task; this is a second document"),
            None => self.root = Some(node),
            Some(Open::List(_, items)) => items.push(node),
            Some(Open::Map(_, entries, pending)) => match (pending.take(), node.what) {
                (Some((name, at)), what) => {
                    if let Some(first) = entries.iter().find(|entry| entry.name == name).map(|entry| entry.at) {
                        return self.fail(at, &format!("{name} stands twice; it is at {first} already"));
                    }
                    // What is not there stands where its name does.
                    let found = if matches!(what, What::Text(None)) { at } else { node.at };
                    entries.push(Entry { name, at, value: Node { at: found, what } });
                }
                (None, What::Text(Some(name))) => *pending = Some((name, at)),
                (None, _) => self.fail(at, "the name of a field has to be a word"),
            },
        }
    }
}

impl MarkedEventReceiver for Builder {
    fn on_event(&mut self, event: Event, mark: Marker) {
        let at = Mark::from(mark);
        let (anchor, tag) = match &event {
            Event::Scalar(_, _, anchor, tag) | Event::SequenceStart(anchor, tag) | Event::MappingStart(anchor, tag) => {
                (*anchor, tag.is_some())
            }
            _ => (0, false),
        };
        if anchor != 0 || tag || matches!(event, Event::Alias(_)) {
            return self.fail(at, "anchors (&), aliases (*) and tags (!) are not taken: write the values out");
        }
        match event {
            Event::Scalar(text, style, ..) => {
                let missing = style == TScalarStyle::Plain && matches!(text.as_str(), "" | "~" | "null");
                self.put(Node { at, what: What::Text((!missing).then_some(text)) });
            }
            Event::SequenceStart(..) => self.open.push(Open::List(at, Vec::new())),
            Event::MappingStart(..) => self.open.push(Open::Map(at, Vec::new(), None)),
            Event::SequenceEnd | Event::MappingEnd => {
                let node = match self.open.pop() {
                    Some(Open::List(at, items)) => Node { at, what: What::List(items) },
                    // Without braces it begins with its first name, though the parser says otherwise.
                    Some(Open::Map(at, entries, _)) => {
                        let at = entries.first().map_or(at, |first| first.at.min(at));
                        Node { at, what: What::Map(entries) }
                    }
                    None => return,
                };
                self.put(node);
            }
            _ => {}
        }
    }
}
