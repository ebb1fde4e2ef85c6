//! Every master that a sentinel watches.

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{SourceKind, Topology};
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use super::{Found, Source, is_good_replica};
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::observe::source_offset;

pub(super) async fn discover(sentinel: &mut Client, nodes: &Endpoint) -> Result<Found> {
    let mut topology = Topology { kind: SourceKind::Sentinel.into(), ..Topology::default() };
    let mut sources = Vec::new();
    for master in tables(&sentinel.call(&[b"SENTINEL", b"masters"]).await?) {
        let (Some(name), Some(at)) = (field(&master, "name"), place(&master, nodes)) else { continue };
        let offset = source_offset(&mut Client::connect(&at, Side::Source).await?).await?;
        let mut read = (at.clone(), format!("master {name}"));
        for replica in tables(&sentinel.call(&[b"SENTINEL", b"slaves", name.as_bytes()]).await?) {
            match place(&replica, nodes) {
                Some(replica) if is_good_replica(&replica, offset).await => {
                    read = (replica, format!("replica of {at}, master {name}"));
                    break;
                }
                _ => {}
            }
        }
        topology.master_names.push(name.to_owned());
        sources.push(Source { host: read.0.host, port: read.0.port, about: read.1, password: None });
    }
    if sources.is_empty() {
        return Err(Error::new(Code::SourceTopology, "the sentinel watches no master"));
    }
    Ok(Found { topology, sources })
}

/// Lists of names and values.
fn tables(reply: &BytesFrame) -> Vec<Vec<(String, String)>> {
    let text = |frame: &BytesFrame| frame.as_str().unwrap_or_default().to_owned();
    let table = |frame: &BytesFrame| match frame {
        BytesFrame::Array(words) => words.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect(),
        _ => Vec::new(),
    };
    match reply {
        BytesFrame::Array(rows) => rows.iter().map(table).collect(),
        _ => Vec::new(),
    }
}

fn field<'a>(table: &'a [(String, String)], name: &str) -> Option<&'a str> {
    table.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
}

fn place(table: &[(String, String)], login: &Endpoint) -> Option<Endpoint> {
    let host = field(table, "ip")?.to_owned();
    Some(Endpoint { host, port: field(table, "port")?.parse().ok()?, ..login.clone() })
}
