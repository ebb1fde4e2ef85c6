//! What a server says of a key without its value: whether it is there, its type, when it dies.

use dts_common::error::{Code, Error, Result};
use redis_protocol::resp2::types::BytesFrame;

use super::reply;
use super::servers::{Abilities, Batch, Servers};
use super::ttl::Expiry;
use crate::endpoint::Side;

/// A key that is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct View {
    /// As TYPE names it.
    pub(super) kind: String,
    /// Its real expiry.
    pub(super) expiry: Expiry,
    /// A running task holds the expiry back.
    pub(super) held: bool,
    /// The server's clock when it was asked.
    pub(super) now: i64,
}

impl View {
    /// True if the key dies about now: its absence elsewhere means nothing.
    pub(super) fn is_dying(&self) -> bool {
        const ABOUT: i64 = 1000;
        self.expiry.is_over(self.now + ABOUT)
    }

    /// For people.
    pub(super) fn describe(&self) -> String {
        format!("{}, {}", self.kind, self.expiry.describe())
    }
}

/// Looks at keys of one database; `None`: not there, or dead.
pub(super) async fn views(
    servers: &mut Servers,
    (side, abilities): (Side, Abilities),
    db: u32,
    keys: &[(usize, &[u8])],
) -> Result<Vec<Option<View>>> {
    let exact = abilities.version.at_least(7, 0);
    let mut batch = Batch::default();
    let nodes = servers.count();
    (0..nodes).for_each(|node| batch.add(node, &[b"TIME"]));
    for (node, key) in keys {
        batch.add(*node, &[b"TYPE", key]);
        batch.add(*node, &[if exact { b"PEXPIRETIME" } else { b"PTTL" }, key]);
    }
    (0..nodes).for_each(|node| batch.add(node, &[b"TIME"]));
    let answers = servers.ask(db, batch).await?;
    let clocks = |answers: &[BytesFrame]| answers.iter().map(|answer| millis(answer, side)).collect::<Result<Vec<_>>>();
    let (before, rest) = answers.split_at(nodes);
    let (found, after) = rest.split_at(rest.len().saturating_sub(nodes));
    let (before, after) = (clocks(before)?, clocks(after)?);
    let mut views = Vec::with_capacity(keys.len());
    for ((node, _), answer) in keys.iter().zip(found.chunks(2)) {
        let [kind, expiry] = answer else { return Err(Error::new(Code::Internal, "a question without an answer")) };
        if let BytesFrame::Error(text) = kind {
            reply::changed(text, side, "TYPE")?;
        }
        let command = if exact { "PEXPIRETIME" } else { "PTTL" };
        let expiry = reply::number(expiry, side, command)?.unwrap_or(-2);
        let kind = String::from_utf8_lossy(reply::bytes(kind)).into_owned();
        let clock = |clocks: &[i64]| clocks.get(*node).copied().unwrap_or_default();
        views.push(view(kind, expiry, exact, (clock(&before), clock(&after))));
    }
    Ok(views)
}

fn view(kind: String, expiry: i64, exact: bool, (before, after): (i64, i64)) -> Option<View> {
    // A replica before 3.2 shows a dead key, with nothing left to live.
    if kind == "none" || kind.is_empty() || expiry == -2 || (!exact && expiry == 0) {
        return None;
    }
    let told = if exact { Expiry::at(expiry) } else { Expiry::left(expiry, before, after) };
    let (expiry, held) = told.released();
    (!expiry.is_over(after)).then_some(View { kind, expiry, held, now: after })
}

/// The answer to TIME in ms.
fn millis(answer: &BytesFrame, side: Side) -> Result<i64> {
    if let BytesFrame::Error(text) = answer {
        reply::changed(text, side, "TIME")?;
    }
    let BytesFrame::Array(parts) = answer else {
        return Err(Error::new(side.refusal(""), format!("the {} does not answer TIME", reply::name(side))));
    };
    let number = |index: usize| parts.get(index).and_then(|part| reply::number(part, side, "TIME").ok().flatten());
    Ok(number(0).unwrap_or(0) * 1000 + number(1).unwrap_or(0) / 1000)
}

#[cfg(test)]
mod tests {
    use dts_common::redis::expiry::hold;

    use super::*;

    const NOW: i64 = 1_790_000_000_000;

    fn seen(expiry: i64, exact: bool) -> Option<View> {
        view("string".into(), expiry, exact, (NOW - 5, NOW))
    }

    #[test]
    fn what_is_dead_is_not_there_however_it_is_told() {
        assert_eq!(seen(-2, true), None);
        assert_eq!(seen(0, false), None);
        assert_eq!(seen(NOW, true), None);
        assert_eq!(seen(hold(NOW), true), None, "held back by a task, and dead");
        assert!(seen(-1, false).is_some_and(|view| view.expiry == Expiry::Never));
        assert!(seen(NOW + 500, true).is_some_and(|view| view.is_dying()));
        assert!(seen(hold(NOW + 5000), true).is_some_and(|view| view.held && !view.is_dying()));
    }
}
