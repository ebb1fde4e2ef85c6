//! The proof that the listed nodes are the whole cluster: pure, over what each of them said.

use dts_common::error::{Code, Error, Result};
use dts_common::redis::slot::SlotSet;

use super::nodes::Node;
use crate::endpoint::Endpoint;

/// What one source of the task said.
pub(super) struct Seen {
    /// Where it was asked.
    pub(super) at: Endpoint,
    pub(super) nodes: Vec<Node>,
    /// Its master's own words, if it is a replica: only a master tells which of its slots are moving.
    pub(super) master: Option<Vec<Node>>,
}

impl Seen {
    pub(super) fn myself(&self) -> Result<&Node> {
        myself(&self.nodes)
    }
}

pub(super) fn myself(nodes: &[Node]) -> Result<&Node> {
    let missing = || Error::new(Code::SourceProtocol, "a cluster node does not know itself");
    nodes.iter().find(|node| node.myself).ok_or_else(missing)
}

/// What was proved of one shard.
#[derive(Clone, Debug)]
pub struct Proof {
    /// Where it is read.
    pub at: Endpoint,
    /// The id of the master whose data it is.
    shard: String,
    /// What that master owns.
    pub slots: SlotSet,
}

/// Every slot is owned by exactly one of the listed nodes, all agree, and nothing moves.
pub(super) fn judge(seen: &[Seen]) -> Result<Vec<Proof>> {
    let wrong = |what: String| Err(Error::new(Code::SourceTopology, what));
    let mut proofs: Vec<(Proof, String)> = Vec::new();
    for one in seen {
        let me = one.myself()?;
        for (before, id) in &proofs {
            if *id == me.id {
                return wrong(format!("{} and {} are one node, listed twice", before.at, one.at));
            }
            if before.shard == me.shard() {
                return wrong(format!(
                    "{} and {} hold the data of one master: list only one of them",
                    before.at, one.at
                ));
            }
        }
        let slots = one.nodes.iter().find(|node| node.id == me.shard()).map(|node| node.slots.clone());
        let slots = slots.unwrap_or_default();
        proofs.push((Proof { at: one.at.clone(), shard: me.shard().to_owned(), slots }, me.id.clone()));
    }
    let moving = |what: String| Err(Error::new(Code::SourceResharded, what));
    for one in seen {
        for nodes in std::iter::once(&one.nodes).chain(&one.master) {
            if let Some(slot) = myself(nodes)?.moving.first() {
                return moving(format!("slots of {} are being moved ({slot})", one.at));
            }
        }
    }
    for one in &seen[1..] {
        if owners(&one.nodes) != owners(&seen[0].nodes) {
            return moving(format!("{} and {} do not agree on who owns which slot", seen[0].at, one.at));
        }
    }
    let covered = proofs.iter().fold(SlotSet::default(), |covered, (proof, _)| covered.or(&proof.slots));
    let missing = SlotSet::all().without(&covered);
    if let Some(first) = seen.first().filter(|_| !missing.is_empty()) {
        let forgotten = first.nodes.iter().find(|node| !node.slots.and(&missing).is_empty());
        return wrong(match forgotten {
            Some(node) => format!(
                "slots {} belong to {}:{}, of which no node is listed",
                node.slots.and(&missing),
                node.host,
                node.port
            ),
            None => format!("nobody in the cluster owns slots {missing}"),
        });
    }
    Ok(proofs.into_iter().map(|(proof, _)| proof).collect())
}

fn owners(nodes: &[Node]) -> Vec<(&str, &SlotSet)> {
    let mut owners: Vec<_> =
        nodes.iter().filter(|node| !node.slots.is_empty()).map(|node| (node.id.as_str(), &node.slots)).collect();
    owners.sort_unstable_by_key(|(id, _)| *id);
    owners
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::nodes;

    fn at(port: u16) -> Endpoint {
        Endpoint { host: "h".into(), port, username: None, password: None, tls: None, routes: false }
    }

    fn seen(port: u16, text: &str) -> Seen {
        Seen { at: at(port), nodes: nodes::parse(text).unwrap(), master: None }
    }

    fn view(me: &str, slots: [&str; 2], open: &str) -> String {
        let line = |id: &str, port: u16, slots: &str| {
            let (myself, open) = if id == me { ("myself,", open) } else { ("", "") };
            format!("{id} h:{port} {myself}master - 0 0 1 connected {slots} {open}\n")
        };
        let replica =
            if me == "c" { "c h:3 myself,slave a 0 0 1 connected\n" } else { "c h:3 slave a 0 0 1 connected\n" };
        line("a", 1, slots[0]) + &line("b", 2, slots[1]) + replica
    }

    const GOOD: [&str; 2] = ["0-8191", "8192-16383"];

    fn said(sources: &[(u16, String)]) -> std::result::Result<usize, String> {
        let seen: Vec<Seen> = sources.iter().map(|(port, text)| seen(*port, text)).collect();
        judge(&seen).map(|proofs| proofs.len()).map_err(|error| format!("{error}"))
    }

    #[test]
    fn a_whole_cluster_is_proved_by_masters_or_their_replicas() {
        assert_eq!(said(&[(1, view("a", GOOD, "")), (2, view("b", GOOD, ""))]), Ok(2));
        assert_eq!(said(&[(3, view("c", GOOD, "")), (2, view("b", GOOD, ""))]), Ok(2));
    }

    #[test]
    fn every_gap_and_doubt_is_named() {
        let good = |me: &str| view(me, GOOD, "");
        for (sources, expected) in [
            (vec![(1, good("a"))], "SOURCE_TOPOLOGY: slots 8192-16383 belong to h:2, of which no node is listed"),
            (vec![(1, good("a")), (4, good("a"))], "SOURCE_TOPOLOGY: h:1 and h:4 are one node, listed twice"),
            (vec![(1, good("a")), (3, good("c"))], "SOURCE_TOPOLOGY: h:1 and h:3 hold the data of one master"),
            (
                vec![(1, view("a", ["0-8191", "8193-16383"], "")), (2, view("b", ["0-8191", "8193-16383"], ""))],
                "SOURCE_TOPOLOGY: nobody in the cluster owns slots 8192",
            ),
            (vec![(1, view("a", GOOD, "[7->-b]")), (2, good("b"))], "SOURCE_RESHARDED: slots of h:1 are being moved"),
            (
                vec![(1, good("a")), (2, view("b", ["0-8190", "8191-16383"], ""))],
                "SOURCE_RESHARDED: h:1 and h:2 do not agree",
            ),
        ] {
            let found = said(&sources).unwrap_err();
            assert!(found.starts_with(expected), "{found}");
        }
    }
}
