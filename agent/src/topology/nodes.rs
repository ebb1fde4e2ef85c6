//! The answer to CLUSTER NODES, of every version.

use dts_common::redis::slot::SlotSet;

/// A node as another (or itself) sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) id: String,
    /// Empty in the own line of a node that was never told its address.
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) myself: bool,
    pub(super) failed: bool,
    /// `None`: a master.
    pub(super) master: Option<String>,
    pub(super) slots: SlotSet,
    /// Slots that are being moved away or taken in; only the own line tells.
    pub(super) moving: Vec<String>,
}

impl Node {
    /// The id of the master whose data it holds.
    pub(super) fn shard(&self) -> &str {
        self.master.as_deref().unwrap_or(&self.id)
    }
}

/// The whole answer; `None` if it is none.
pub(super) fn parse(text: &str) -> Option<Vec<Node>> {
    let nodes: Option<Vec<Node>> = text.lines().filter(|line| !line.trim().is_empty()).map(line).collect();
    nodes.filter(|nodes| nodes.iter().filter(|node| node.myself).count() == 1)
}

/// `id ip:port@bus[,name[,aux]] flags master ping pong epoch link slots…`; up to 3.x without `@bus`.
fn line(text: &str) -> Option<Node> {
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let [id, address, flags, master, _ping, _pong, _epoch, _link, slots @ ..] = words.as_slice() else { return None };
    let address = address.split(['@', ',']).next()?;
    let (host, port) = address.rsplit_once(':')?;
    let has = |flag: &str| flags.split(',').any(|found| found == flag);
    let (moving, held): (Vec<&str>, Vec<&str>) = slots.iter().partition(|word| word.starts_with('['));
    Some(Node {
        id: (*id).to_owned(),
        host: host.to_owned(),
        port: port.parse().ok()?,
        myself: has("myself"),
        failed: has("fail") || has("handshake") || has("noaddr"),
        master: (*master != "-").then(|| (*master).to_owned()),
        slots: SlotSet::parse(&held.join(","))?,
        moving: moving.into_iter().map(str::to_owned).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_old_and_new_versions_are_understood() {
        let old = "aa 127.0.0.1:7001 master - 0 1 2 connected 5461-10922 11000\nbb :7000 myself,master - 0 0 1 connected 0-5460 [7->-aa]\n";
        let nodes = parse(old).unwrap();
        assert_eq!((nodes[0].slots.to_string().as_str(), nodes[0].port), ("5461-10922,11000", 7001));
        assert!(nodes[1].myself && nodes[1].host.is_empty() && nodes[1].moving == ["[7->-aa]"]);
        let new = "cc 10.0.0.1:7002@17002,name,shard-id=x myself,slave bb 0 1 1 connected\ndd fe80::1:7003@17003 master,fail - 0 0 0 disconnected";
        let nodes = parse(new).unwrap();
        assert_eq!((nodes[0].shard(), nodes[0].host.as_str()), ("bb", "10.0.0.1"));
        assert!(nodes[1].failed && nodes[1].host == "fe80::1" && nodes[1].slots.is_empty());
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for text in ["", "OK", "aa 127.0.0.1:1 master - 0 1 2 connected 0-1", "a b c"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
