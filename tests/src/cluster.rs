//! A real cluster of one version: made, asked, moved about, hurt, and ended with its owner.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use redis::Connection;

use crate::server::Server;
use crate::tls::{Authority, Identity, TlsServer};

/// Slots of every cluster.
pub const SLOTS: u16 = 16_384;
/// Keys that one step of a move takes along.
const STEP: usize = 200;
/// After so long without an answer a node counts as failed: short, so that failovers are quick; not so short that a busy
/// machine makes some.
const NODE_TIMEOUT_MS: &str = "4000";
/// A manual failover is over by then (Redis: CLUSTER_MF_TIMEOUT, 5 s).
const GIVEN_UP: Duration = Duration::from_secs(7);

/// A running cluster. The first `masters` nodes began as masters, in the order of their slots.
pub struct Cluster {
    /// All nodes, in the order in which they were started.
    pub nodes: Vec<Server>,
    masters: usize,
}

/// A line of CLUSTER NODES.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its 40 characters.
    pub id: String,
    /// Where it listens.
    pub port: u16,
    /// `master`, `slave`, `fail`, `myself` …
    pub flags: Vec<String>,
    /// Of a replica.
    pub master: Option<String>,
    /// First and last of each range.
    pub slots: Vec<(u16, u16)>,
}

impl Node {
    /// True for a master that is not failed.
    pub fn is_master(&self) -> bool {
        self.has("master") && !self.has("fail")
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|found| found == flag)
    }
}

impl Cluster {
    /// Starts `masters` nodes with the slots divided among them, and `replicas` of each.
    pub fn start(name: &str, masters: usize, replicas: usize, options: &[&str]) -> Result<Self> {
        let mut all = vec!["--cluster-enabled", "yes", "--cluster-node-timeout", NODE_TIMEOUT_MS];
        all.extend(["--cluster-require-full-coverage", "yes", "--repl-diskless-sync-delay", "0"]);
        all.extend(options);
        // 3.0 to 5.0 would stop at an option that came later.
        if ["redis-2.8", "redis-3.0"].contains(&name) {
            all.retain(|option| *option != "--repl-diskless-sync-delay" && *option != "0");
        }
        let nodes = (0..masters * (1 + replicas)).map(|_| Server::start(name, &all)).collect::<Result<Vec<_>>>()?;
        let port = nodes.first().context("no nodes")?.port;
        let cluster = Self { nodes, masters };
        cluster.form(replicas, port)?;
        Ok(cluster)
    }

    /// Nodes that speak TLS with each other, and with clients at a second port each, which are given as well.
    pub fn start_tls(
        name: &str,
        masters: usize,
        replicas: usize,
        identity: &Identity,
        authority: &Authority,
    ) -> Result<(Self, Vec<u16>)> {
        let options = ["--cluster-enabled", "yes", "--cluster-node-timeout", NODE_TIMEOUT_MS, "--tls-cluster", "yes"];
        let options = [&options[..], &["--tls-replication", "yes", "--repl-diskless-sync-delay", "0"]].concat();
        let start = |_| TlsServer::start(name, identity, authority, false, &options);
        let servers = (0..masters * (1 + replicas)).map(start).collect::<Result<Vec<_>>>()?;
        let ports: Vec<u16> = servers.iter().map(|server| server.port).collect();
        let cluster = Self { nodes: servers.into_iter().map(|server| server.plain).collect(), masters };
        cluster.form(replicas, *ports.first().context("no nodes")?)?;
        Ok((cluster, ports))
    }

    /// The first node is met at `port`.
    fn form(&self, replicas: usize, port: u16) -> Result<()> {
        for (index, node) in self.nodes.iter().enumerate() {
            let mut connection = node.connect()?;
            redis::cmd("CLUSTER").arg("SET-CONFIG-EPOCH").arg(index + 1).exec(&mut connection)?;
            if index < self.masters {
                let count = usize::from(SLOTS);
                let (from, to) = (index * count / self.masters, (index + 1) * count / self.masters);
                redis::cmd("CLUSTER").arg("ADDSLOTS").arg((from..to).collect::<Vec<_>>()).exec(&mut connection)?;
            }
            if index > 0 {
                redis::cmd("CLUSTER").arg("MEET").arg("127.0.0.1").arg(port).exec(&mut connection)?;
            }
        }
        self.until("every node knows every node", || {
            Ok(self.nodes.iter().all(|node| {
                nodes_of(node).is_ok_and(|known| {
                    known.len() == self.nodes.len() && !known.iter().any(|node| node.has("handshake"))
                })
            }))
        })?;
        for index in self.masters..self.nodes.len() {
            let master = self.id(index % self.masters)?;
            redis::cmd("CLUSTER").arg("REPLICATE").arg(master).exec(&mut self.nodes[index].connect()?)?;
        }
        self.until_ok()?;
        self.until("replicas follow", || {
            let follows = |node: &Server| node.info("master_link_status").is_ok_and(|status| status == "up");
            Ok(replicas == 0 || self.nodes.iter().skip(self.masters).all(follows))
        })
    }

    /// Waits until every living node says that the cluster works, and all agree on who owns which slot.
    pub fn until_ok(&self) -> Result<()> {
        self.until("the cluster is up", || {
            let mut views = self.nodes.iter().filter(|node| node.connect().is_ok()).map(|node| {
                let state: String = redis::cmd("CLUSTER").arg("INFO").query(&mut node.connect()?)?;
                let mut owners: Vec<(Vec<(u16, u16)>, String)> =
                    nodes_of(node)?.into_iter().map(|node| (node.slots, node.id)).collect();
                owners.retain(|(slots, _)| !slots.is_empty());
                owners.sort();
                Ok((state.contains("cluster_state:ok"), owners))
            });
            let first: Option<Result<_>> = views.next();
            let Some(first) = first.transpose()? else { return Ok(false) };
            Ok(first.0 && views.collect::<Result<Vec<_>>>()?.iter().all(|view| *view == first))
        })
    }

    /// The URL of the first node.
    pub fn url(&self) -> String {
        self.nodes[0].url()
    }

    /// The masters now, in the order of their slots, as a node that lives sees them.
    pub fn masters(&self) -> Result<Vec<&Server>> {
        let mut masters: Vec<(u16, u16)> = self
            .view()?
            .iter()
            .filter(|node| node.is_master())
            .filter_map(|node| Some((node.slots.first()?.0, node.port)))
            .collect();
        masters.sort_unstable();
        masters.into_iter().map(|(_, port)| self.by_port(port)).collect()
    }

    /// Index of the node that owns a slot now.
    pub fn owner(&self, slot: u16) -> Result<usize> {
        let view = self.view()?;
        let owns = |node: &&Node| node.slots.iter().any(|(from, to)| (*from..=*to).contains(&slot));
        let port = view.iter().find(owns).with_context(|| format!("nobody owns slot {slot}"))?.port;
        self.nodes.iter().position(|node| node.port == port).context("a node of another cluster")
    }

    /// Index of a replica of the node.
    pub fn replica_of(&self, index: usize) -> Result<usize> {
        let id = self.id(index)?;
        let replica = || -> Result<Option<Node>> {
            Ok(self.view()?.into_iter().find(|node| node.master.as_ref() == Some(&id) && !node.has("fail")))
        };
        // It may not have been heard of yet.
        self.until("a replica is known", || Ok(replica()?.is_some()))?;
        let port = replica()?.context("no replica")?.port;
        self.nodes.iter().position(|node| node.port == port).context("a node of another cluster")
    }

    /// The slot of a key, as the cluster computes it.
    pub fn slot(&self, key: &[u8]) -> Result<u16> {
        Ok(redis::cmd("CLUSTER").arg("KEYSLOT").arg(key).query(&mut self.any()?)?)
    }

    /// A connection to the node that owns the key now.
    pub fn connect_for(&self, key: &[u8]) -> Result<Connection> {
        self.nodes[self.owner(self.slot(key)?)?].connect()
    }

    /// A command for the node that owns the key now.
    pub fn query<T: redis::FromRedisValue>(&self, key: &[u8], command: &redis::Cmd) -> Result<T> {
        Ok(command.query(&mut self.connect_for(key)?)?)
    }

    /// The id of a node.
    pub fn id(&self, index: usize) -> Result<String> {
        let nodes = nodes_of(&self.nodes[index])?;
        Ok(nodes.into_iter().find(|node| node.has("myself")).context("a node does not know itself")?.id)
    }

    /// Lets a replica take over from a master, gracefully, and waits until every node agrees. Up to 5.0 a master that has
    /// never written anything does not let it.
    pub fn failover(&self, master: usize) -> Result<()> {
        let id = self.id(master)?;
        let mut asked: Option<Instant> = None;
        self.until("a replica is the master", || {
            let view = self.view()?;
            if !view.iter().any(|node| node.id == id && node.is_master() && !node.slots.is_empty()) {
                return Ok(true);
            }
            // A replica that gets no majority gives up, and says nothing: operators ask again, and so do we.
            if asked.is_none_or(|asked| asked.elapsed() > GIVEN_UP)
                && let Some(replica) = view.iter().find(|node| node.master.as_ref() == Some(&id) && !node.has("fail"))
            {
                redis::cmd("CLUSTER").arg("FAILOVER").exec(&mut self.by_port(replica.port)?.connect()?)?;
                asked = Some(Instant::now());
            }
            Ok(false)
        })?;
        self.until_ok()
    }

    /// Waits until the replica of a master has all that it wrote: what a replica of ours has and the heir does not is copied again, rightly.
    pub fn until_even(&self, master: usize) -> Result<()> {
        let heir = &self.nodes[self.replica_of(master)?];
        let master = &self.nodes[master];
        self.until("an even replica", || Ok(master.info("master_repl_offset")? == heir.info("master_repl_offset")?))
    }

    /// Begins to move a slot: keys that are not there are asked for at the other node from now on.
    pub fn begin_move(&self, slot: u16, to: usize) -> Result<()> {
        let from = self.owner(slot)?;
        let set = |node: usize, state: &str, of: usize| -> Result<()> {
            let mut command = redis::cmd("CLUSTER");
            command.arg("SETSLOT").arg(slot).arg(state).arg(self.id(of)?);
            Ok(command.exec(&mut self.nodes[node].connect()?)?)
        };
        set(to, "IMPORTING", from)?;
        set(from, "MIGRATING", to)
    }

    /// Takes some keys of a slot that is being moved along; how many were left before.
    pub fn move_some(&self, slot: u16, to: usize) -> Result<usize> {
        let mut from = self.nodes[self.owner(slot)?].connect()?;
        let keys: Vec<Vec<u8>> = redis::cmd("CLUSTER").arg("GETKEYSINSLOT").arg(slot).arg(STEP).query(&mut from)?;
        for key in &keys {
            let mut command = redis::cmd("MIGRATE");
            command.arg("127.0.0.1").arg(self.nodes[to].port).arg(key).arg(0).arg(20_000);
            command.exec(&mut from)?;
        }
        Ok(keys.len())
    }

    /// Ends a move whose keys are all there.
    pub fn end_move(&self, slot: u16, to: usize) -> Result<()> {
        let from = self.owner(slot)?;
        let id = self.id(to)?;
        // The importer first: it raises the epoch, and nobody sends the other one away from it.
        for node in [to, from] {
            let mut command = redis::cmd("CLUSTER");
            command.arg("SETSLOT").arg(slot).arg("NODE").arg(&id).exec(&mut self.nodes[node].connect()?)?;
        }
        Ok(())
    }

    /// Moves slots to a node, one after the other, as `redis-cli --cluster reshard` does.
    pub fn move_slots(&self, slots: impl IntoIterator<Item = u16>, to: usize) -> Result<()> {
        for slot in slots {
            self.begin_move(slot, to)?;
            while self.move_some(slot, to)? > 0 {}
            self.end_move(slot, to)?;
        }
        Ok(())
    }

    /// Sums `INFO keyspace` of the masters.
    pub fn key_count(&self) -> Result<usize> {
        self.masters()?.iter().map(|node| Ok(redis::cmd("DBSIZE").query::<usize>(&mut node.connect()?)?)).sum()
    }

    fn any(&self) -> Result<Connection> {
        self.nodes.iter().find_map(|node| node.connect().ok()).context("no node lives")
    }

    fn view(&self) -> Result<Vec<Node>> {
        let living = self.nodes.iter().find(|node| node.connect().is_ok()).context("no node lives")?;
        nodes_of(living)
    }

    fn by_port(&self, port: u16) -> Result<&Server> {
        self.nodes.iter().find(|node| node.port == port).context("a node of another cluster")
    }

    fn until(&self, what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
        let deadline = Instant::now() + crate::PATIENCE;
        while !done()? {
            ensure!(Instant::now() < deadline, "{what}: took too long; {:?}", self.view());
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// The cluster as one of its nodes sees it.
pub fn nodes_of(server: &Server) -> Result<Vec<Node>> {
    let text: String = redis::cmd("CLUSTER").arg("NODES").query(&mut server.connect()?)?;
    text.lines().map(parse).collect()
}

fn parse(line: &str) -> Result<Node> {
    let words: Vec<&str> = line.split(' ').collect();
    ensure!(words.len() >= 8, "a short line: {line}");
    // `ip:port@bus,name`, before 4.0 without the bus.
    let address = words[1].split(['@', ',']).next().unwrap_or_default();
    let port = address.rsplit_once(':').context("no port")?.1.parse()?;
    let mut slots = BTreeMap::new();
    for range in words[8..].iter().filter(|word| !word.starts_with('[')) {
        let (from, to) = range.split_once('-').unwrap_or((range, range));
        slots.insert(from.parse()?, to.parse()?);
    }
    Ok(Node {
        id: words[0].to_owned(),
        port,
        flags: words[2].split(',').map(str::to_owned).collect(),
        master: (words[3] != "-").then(|| words[3].to_owned()),
        slots: slots.into_iter().collect(),
    })
}
