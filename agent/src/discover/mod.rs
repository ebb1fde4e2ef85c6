//! Finds the sources of a task from one entry: any node of a cluster, a sentinel, twemproxy's `nutcracker.yml`, codis's topology.

mod cluster;
mod codis;
mod nutcracker;
mod sentinel;

pub use codis::{dashboard, topology as codis};
pub use nutcracker::pool as twemproxy;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{SourceKind, Topology};

use crate::client::{Client, Info};
use crate::endpoint::{Endpoint, Side};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// What the sources are to each other; `sentinels` and `found_by` are for the caller to fill in.
    pub topology: Topology,
    /// One a shard.
    pub sources: Vec<Source>,
}

/// A server that is going to be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Name or address.
    pub host: String,
    /// TCP port.
    pub port: u16,
    /// What it is, for people.
    pub about: String,
    /// Its password, if the entry told.
    pub password: Option<String>,
}

/// What a server says that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// By itself; also the only node of a cluster.
    Standalone,
    /// One of several masters of a cluster, or a replica of one.
    Cluster,
    /// A sentinel.
    Sentinel,
}

/// Asks a server what it is.
pub async fn mode(entry: &Endpoint) -> Result<Mode> {
    let mut client = Client::connect(entry, Side::Source).await?;
    Ok(match client.info("server").await?.get("redis_mode") {
        Some("sentinel") => Mode::Sentinel,
        Some("cluster") => {
            let size = Info::of(&client.call(&[b"CLUSTER", b"INFO"]).await?).number("cluster_size");
            if size > Some(1) { Mode::Cluster } else { Mode::Standalone }
        }
        _ => Mode::Standalone,
    })
}

/// Asks a server what it is, and what belongs to it; `nodes` is the login of the data nodes that a sentinel tells of.
pub async fn server(entry: &Endpoint, nodes: &Endpoint) -> Result<Found> {
    let mut client = Client::connect(entry, Side::Source).await?;
    let info = client.info("server").await?;
    match info.get("redis_mode") {
        Some("cluster") => cluster::discover(entry).await,
        Some("sentinel") => sentinel::discover(&mut client, nodes).await,
        _ => {
            let source =
                Source { host: entry.host.clone(), port: entry.port, about: "standalone".into(), password: None };
            let topology = Topology { kind: SourceKind::Standalone.into(), ..Topology::default() };
            Ok(Found { topology, sources: vec![source] })
        }
    }
}

/// `host:port`, IPv6 with or without brackets.
fn address(text: &str) -> Result<(String, u16)> {
    let parsed = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) =
        parsed.ok_or_else(|| Error::new(Code::SourceTopology, format!("{text:?} is not a host and a port")))?;
    Ok((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
}

/// How far a replica may be behind its master, in bytes, to be read in its stead.
const RECENT: u64 = 1 << 20;

/// A replica of 4.0 or later that is in step: it spares the master the copy, and has the master's history.
async fn is_good_replica(at: &Endpoint, master_offset: u64) -> bool {
    let asked = async {
        let mut client = Client::connect(at, Side::Source).await?;
        let info = client.info("replication").await?;
        Ok::<bool, Error>(
            info.get("role") == Some("slave")
                && info.get("master_link_status") == Some("up")
                && info.get("master_sync_in_progress") == Some("0")
                && info.get("master_replid").is_some()
                && info.number("master_repl_offset").is_some_and(|offset| offset + RECENT >= master_offset),
        )
    };
    matches!(tokio::time::timeout(std::time::Duration::from_secs(3), asked).await, Ok(Ok(true)))
}
