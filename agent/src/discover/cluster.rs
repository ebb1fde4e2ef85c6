//! A cluster from any one of its nodes.

use dts_common::error::Result;
use dts_proto::v1::{SourceKind, Topology};

use super::{Found, Source, is_good_replica};
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::observe::source_offset;
use crate::topology::{members, prove};

/// Every master that owns slots, read at a replica of its own where one is in step.
pub(super) async fn discover(entry: &Endpoint) -> Result<Found> {
    let mut sources = Vec::new();
    let mut read = Vec::new();
    for (master, slots, replicas) in members(entry).await? {
        let offset = source_offset(&mut Client::connect(&master, Side::Source).await?).await?;
        let mut at = (master.clone(), format!("master, slots {slots}"));
        for replica in replicas {
            if is_good_replica(&replica, offset).await {
                at = (replica, format!("replica of {master}, slots {slots}"));
                break;
            }
        }
        sources.push(Source { host: at.0.host.clone(), port: at.0.port, about: at.1, password: None });
        read.push(at.0);
    }
    let nothing_recorded = vec![None; read.len()];
    prove(&read, &nothing_recorded).await?;
    Ok(Found { topology: Topology { kind: SourceKind::Cluster.into(), ..Topology::default() }, sources })
}
