//! Asks the nodes of a Redis Cluster: before a shard begins, and while it runs.

use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_common::redis::slot::{SLOTS, SlotSet};
use redis_protocol::resp2::types::Resp2Frame as _;
use tokio::time::{MissedTickBehavior, interval};

use super::coverage::{Proof, Seen, judge, myself};
use super::nodes::{self, Node};
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A node that takes longer to say what it knows is as good as gone.
const PATIENCE: Duration = Duration::from_secs(3);

/// Proves that `siblings` are the whole cluster. A node that is gone is looked for at whoever owns what it owned: `recorded` are
/// the slots of each, as the target knows them from an earlier attempt.
pub async fn prove(siblings: &[Endpoint], recorded: &[Option<SlotSet>]) -> Result<Vec<Proof>> {
    let asked = futures_util::future::join_all(siblings.iter().map(see)).await;
    let mut seen = Vec::new();
    for (index, found) in asked.iter().enumerate() {
        match found {
            Ok(found) => {
                seen.push(Seen { at: found.at.clone(), nodes: found.nodes.clone(), master: found.master.clone() })
            }
            Err(error) if error.code.retry() => {
                let owned = recorded.get(index).and_then(Option::as_ref);
                let heir = asked.iter().flatten().find_map(|other| heir(&other.nodes, owned?, &siblings[index]));
                seen.push(see(&heir.ok_or_else(|| error.clone())?).await?);
            }
            Err(error) => return Err(error.clone()),
        }
    }
    judge(&seen)
}

/// Every master that owns slots, with them and its living replicas, as one node sees them; in the order of their slots.
pub async fn members(entry: &Endpoint) -> Result<Vec<(Endpoint, SlotSet, Vec<Endpoint>)>> {
    let nodes = view(entry).await?;
    let masters = nodes.iter().filter(|node| !node.slots.is_empty());
    let replicas = |of: &Node| {
        let ours = |node: &&Node| !node.failed && node.master.as_ref() == Some(&of.id);
        nodes.iter().filter(ours).map(|node| address(node, entry)).collect()
    };
    let mut members: Vec<_> =
        masters.map(|master| (address(master, entry), master.slots.clone(), replicas(master))).collect();
    members.sort_by_cached_key(|(_, slots, _)| (0..SLOTS).find(|slot| slots.contains(*slot)));
    Ok(members)
}

/// Who owns now what a node that is gone owned.
fn heir(view: &[Node], owned: &SlotSet, gone: &Endpoint) -> Option<Endpoint> {
    let owns = |node: &&Node| !node.failed && !node.slots.is_empty() && node.slots.and(owned) == *owned;
    let node = view.iter().find(owns)?;
    Some(address(node, gone)).filter(|heir| !heir.is_at(gone))
}

/// A node's address with the login of a sibling: a cluster has one for all.
fn address(node: &Node, login: &Endpoint) -> Endpoint {
    let host = if node.host.is_empty() { login.host.clone() } else { node.host.clone() };
    Endpoint { host, port: node.port, ..login.clone() }
}

async fn see(at: &Endpoint) -> Result<Seen> {
    let nodes = view(at).await?;
    let me = myself(&nodes)?;
    let master = match me.master.as_ref().and_then(|id| nodes.iter().find(|node| node.id == *id)) {
        // A master that does not answer is about to be replaced; its replica goes on meanwhile.
        Some(master) => view(&address(master, at)).await.ok(),
        None => None,
    };
    Ok(Seen { at: at.clone(), nodes, master })
}

async fn view(at: &Endpoint) -> Result<Vec<Node>> {
    let late = |_| Error::new(Code::SourceUnreachable, format!("{at} does not answer within {} s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, ask(at)).await.map_err(late)?
}

async fn ask(at: &Endpoint) -> Result<Vec<Node>> {
    let mut client = Client::connect(at, Side::Source).await?;
    let not_a_node = |what: &str| {
        Error::new(
            Code::SourceTopology,
            format!("{at} is not a node of a Redis Cluster ({what}): a proxy, or a server by itself"),
        )
    };
    let reply = client.ask(&[b"CLUSTER", b"NODES"]).await.map_err(|error| match error.code {
        // Proxies hang up on what they do not know.
        Code::SourceLost => not_a_node("it hangs up when asked"),
        _ => error,
    })?;
    if let redis_protocol::resp2::types::BytesFrame::Error(text) = &reply {
        return Err(match Side::Source.refusal(text) {
            Code::SourceProtocol => not_a_node(text.split(',').next().unwrap_or_default()),
            code => Error::new(code, format!("{at} refuses CLUSTER NODES: {text}")),
        });
    }
    nodes::parse(reply.as_str().unwrap_or_default()).ok_or_else(|| not_a_node("its CLUSTER NODES cannot be read"))
}

/// Ends with what changed: the slots of this shard, or where its data is.
pub async fn watch(proof: Proof, siblings: Vec<Endpoint>) -> Error {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if let Err(error) = unchanged(&proof, &siblings).await {
            return error;
        }
    }
}

/// An error if the shard is no longer what was proved.
pub(crate) async fn unchanged(proof: &Proof, siblings: &[Endpoint]) -> Result<()> {
    match see(&proof.at).await {
        Ok(seen) => {
            let me = seen.myself()?;
            for nodes in std::iter::once(&seen.nodes).chain(&seen.master) {
                if let Some(slot) = myself(nodes)?.moving.first() {
                    return Err(moved(format!("slots of {} are being moved ({slot})", proof.at)));
                }
            }
            let slots = seen.nodes.iter().find(|node| node.id == me.shard()).map(|node| &node.slots);
            match slots {
                // While a failover is going on nobody may own them.
                Some(slots) if slots.is_empty() || *slots == proof.slots => Ok(()),
                Some(slots) => Err(moved(format!("{} owned slots {} and owns {slots} now", proof.at, proof.slots))),
                None => Ok(()),
            }
        }
        Err(error) if error.code.retry() => {
            // The source stage tries to reach it; if another node has its slots, that is where to go on.
            for sibling in siblings.iter().filter(|sibling| !sibling.is_at(&proof.at)) {
                if let Ok(nodes) = view(sibling).await
                    && let Some(heir) = heir(&nodes, &proof.slots, &proof.at)
                {
                    let message = format!("{} does not answer, and {heir} has its slots now", proof.at);
                    return Err(Error::new(Code::SourceFailedOver, message));
                }
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn moved(what: String) -> Error {
    Error::new(Code::SourceResharded, what)
}
