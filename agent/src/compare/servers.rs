//! One side of a comparison: the servers that together hold its keys. Questions to them are sent in batches, to all at once.

use dts_common::error::{Code, Error, Result};
use dts_common::redis::resp;
use dts_common::redis::slot::slot;
use dts_common::redis::version::ServerVersion;
use futures_util::future::join_all;
use redis_protocol::resp2::types::BytesFrame;

use super::reply;
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::target::Destination;
use crate::target::cluster::Topology;

/// Connections to the servers of one side.
#[derive(Debug)]
pub(super) struct Servers {
    side: Side,
    at: Vec<Endpoint>,
    topology: Option<Topology>,
    links: Vec<Link>,
}

#[derive(Debug)]
struct Link {
    client: Client,
    db: u32,
}

/// What one side knows and allows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Abilities {
    pub(super) version: ServerVersion,
    /// MEMORY USAGE is there and allowed.
    pub(super) memory_usage: bool,
}

/// Commands for the servers of one side, in one database; the answers come in the order of the commands.
#[derive(Debug, Default)]
pub(super) struct Batch {
    bytes: Vec<Vec<u8>>,
    counts: Vec<usize>,
    order: Vec<usize>,
}

impl Batch {
    /// For the server of this place.
    pub(super) fn add(&mut self, node: usize, words: &[&[u8]]) {
        if self.bytes.len() <= node {
            self.bytes.resize_with(node + 1, Vec::new);
            self.counts.resize(node + 1, 0);
        }
        if let (Some(bytes), Some(count)) = (self.bytes.get_mut(node), self.counts.get_mut(node)) {
            resp::command(bytes, words);
            *count += 1;
        }
        self.order.push(node);
    }
}

impl Servers {
    /// Connects to all of them.
    pub(super) async fn open(destination: &Destination, side: Side) -> Result<Self> {
        let (at, topology) = match destination {
            Destination::Standalone(endpoint) | Destination::Routed(endpoint) => (vec![endpoint.clone()], None),
            Destination::Cluster(seeds) => {
                let topology = Topology::find(seeds).await?;
                (topology.masters.clone(), Some(topology))
            }
        };
        let mut links = Vec::new();
        for endpoint in &at {
            links.push(Link { client: connect(endpoint, side).await?, db: 0 });
        }
        Ok(Self { side, at, topology, links })
    }

    /// How many servers.
    pub(super) fn count(&self) -> usize {
        self.at.len()
    }

    /// True if slots are divided among them.
    pub(super) fn is_cluster(&self) -> bool {
        self.topology.is_some()
    }

    /// The place of the server that has the key.
    pub(super) fn place(&self, key: &[u8]) -> usize {
        self.topology.as_ref().and_then(|topology| topology.place(slot(key))).unwrap_or(0)
    }

    pub(super) async fn abilities(&mut self) -> Result<Abilities> {
        let link =
            self.links.first_mut().ok_or_else(|| Error::new(self.side.unreachable(), "a side without a server"))?;
        let info = link.client.info("server").await?;
        let unknown = || Error::new(self.side.refusal(""), "its INFO names no version that we can read");
        let version = ServerVersion::from_info(|field| info.get(field)).ok_or_else(unknown)?;
        let usage = link.client.ask(&[b"MEMORY", b"USAGE", b"__dts:none"]).await?;
        Ok(Abilities { version, memory_usage: !matches!(usage, BytesFrame::Error(_)) })
    }

    /// The processes, by their own names for themselves.
    pub(super) async fn run_ids(&mut self) -> Result<Vec<String>> {
        let ids = self.infos("server").await?;
        Ok(ids.iter().map(|info| info.get("run_id").unwrap_or_default().to_owned()).collect())
    }

    /// A section of INFO, of each of them.
    pub(super) async fn infos(&mut self, section: &str) -> Result<Vec<crate::client::Info>> {
        let mut infos = Vec::new();
        for link in &mut self.links {
            infos.push(link.client.info(section).await?);
        }
        Ok(infos)
    }

    /// All answers, in the order of the commands. An error reply is an answer, unless it says that this is not the place or the time.
    pub(super) async fn ask(&mut self, db: u32, batch: Batch) -> Result<Vec<BytesFrame>> {
        let (side, at) = (self.side, &self.at);
        let parts = batch.bytes.into_iter().zip(batch.counts);
        let asked = self.links.iter_mut().zip(at).zip(parts).map(|((link, at), (bytes, count))| async move {
            if count == 0 { Ok(Vec::new()) } else { link.ask(side, at, db, bytes, count).await }
        });
        let mut answers = Vec::new();
        for of_one in join_all(asked).await {
            answers.push(of_one?.into_iter());
        }
        let lost = || Error::new(Code::Internal, "a command without an answer");
        batch.order.iter().map(|node| answers.get_mut(*node).and_then(Iterator::next).ok_or_else(lost)).collect()
    }

    /// The same in whatever database each connection is.
    pub(super) async fn ask_anywhere(&mut self, batch: Batch) -> Result<Vec<BytesFrame>> {
        // All of them are in one: questions go to all servers together.
        let db = self.links.first().map_or(0, |link| link.db);
        self.ask(db, batch).await
    }

    /// True if the server lets us watch keys.
    pub(super) async fn may_watch(&mut self, node: usize) -> Result<bool> {
        let Some(link) = self.links.get_mut(node) else { return Ok(false) };
        for words in [&[&b"WATCH"[..], b"__dts:none"][..], &[b"MULTI"], &[b"EXEC"]] {
            if matches!(link.client.ask(words).await?, BytesFrame::Error(text) if !reply::moved(&text)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// One command to one server.
    pub(super) async fn ask_one(&mut self, node: usize, db: u32, words: &[&[u8]]) -> Result<BytesFrame> {
        let mut batch = Batch::default();
        batch.add(node, words);
        let mut answers = self.ask(db, batch).await?;
        answers.pop().ok_or_else(|| Error::new(Code::Internal, "a command without an answer"))
    }
}

/// Reads as gently as the server lets us.
async fn connect(endpoint: &Endpoint, side: Side) -> Result<Client> {
    let mut client = Client::connect_named(endpoint, side).await?;
    // Each may be unknown: 7.2 knows the first, a cluster's replica needs the second, no other cares.
    client.ask(&[b"CLIENT", b"NO-TOUCH", b"ON"]).await?;
    client.ask(&[b"READONLY"]).await?;
    Ok(client)
}

impl Link {
    async fn ask(
        &mut self,
        side: Side,
        at: &Endpoint,
        db: u32,
        bytes: Vec<u8>,
        count: usize,
    ) -> Result<Vec<BytesFrame>> {
        if self.db != db {
            self.client.call(&[b"SELECT", db.to_string().as_bytes()]).await?;
            self.db = db;
        }
        self.client.send(&bytes).await?;
        let mut answers = Vec::with_capacity(count);
        let mut refused = None;
        for _ in 0..count {
            let answer = self.client.reply().await?;
            if let BytesFrame::Error(text) = &answer
                && reply::is_elsewhere(text)
            {
                refused = refused.or(Some(Error::new(side.refusal(text), format!("{at}: {text}"))));
            }
            answers.push(answer);
        }
        refused.map_or(Ok(answers), Err)
    }
}
