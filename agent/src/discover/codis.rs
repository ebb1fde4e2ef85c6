//! codis: the topology that its dashboard gives, or that was saved from there.

use std::collections::BTreeMap;
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_common::redis::slot::SlotSet;
use dts_proto::v1::{SourceKind, Topology};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Found, Source, address};

const PATIENCE: Duration = Duration::from_secs(10);
const LONGEST: u64 = 64 << 20;

/// Asks a dashboard, `host:port`, for its topology.
pub async fn dashboard(at: &str) -> Result<Found> {
    let lost = |why: String| Error::new(Code::SourceUnreachable, format!("codis's dashboard {at}: {why}"));
    let asked = async {
        let mut stream = TcpStream::connect(at).await?;
        stream.write_all(format!("GET /topom HTTP/1.0\r\nHost: {at}\r\n\r\n").as_bytes()).await?;
        let mut text = Vec::new();
        stream.take(LONGEST).read_to_end(&mut text).await?;
        Ok::<_, std::io::Error>(String::from_utf8_lossy(&text).into_owned())
    };
    let text = timeout(PATIENCE, asked).await.map_err(|_| lost("no answer".into()))?;
    let text = text.map_err(|error| lost(error.to_string()))?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.split(' ').nth(1) == Some("200") => topology(body),
        _ => Err(lost(format!("it answers {:?}", text.lines().next().unwrap_or_default()))),
    }
}

/// The answer to `GET /topom` or `/topom/stats`.
pub fn topology(text: &str) -> Result<Found> {
    let wrong = |what: String| Error::new(Code::SourceTopology, what);
    let all: Value = serde_json::from_str(text).map_err(|error| wrong(format!("not codis's topology: {error}")))?;
    let stats = all.get("stats").unwrap_or(&all);
    let mut slots: BTreeMap<u64, SlotSet> = BTreeMap::new();
    for slot in stats["slots"].as_array().into_iter().flatten() {
        let id = slot["id"].as_u64().and_then(|id| u16::try_from(id).ok());
        let id = id.ok_or_else(|| wrong("a slot of codis without an id".into()))?;
        if slot["action"]["state"].as_str().is_some_and(|state| !state.is_empty()) {
            return Err(Error::new(Code::SourceResharded, format!("codis is moving slot {id}")));
        }
        let group = slot["group_id"].as_u64().filter(|group| *group > 0);
        let group = group.ok_or_else(|| wrong(format!("no group of codis has slot {id}")))?;
        slots.entry(group).or_default().insert_range(id, id).ok_or_else(|| wrong(format!("codis has no slot {id}")))?;
    }
    let mut found =
        Found { topology: Topology { kind: SourceKind::Codis.into(), ..Topology::default() }, sources: Vec::new() };
    for (group, owned) in slots {
        let models = stats["group"]["models"].as_array().into_iter().flatten();
        let model = models.into_iter().find(|model| model["id"].as_u64() == Some(group));
        let master = model.and_then(|model| model["servers"][0]["server"].as_str());
        let (host, port) = address(master.ok_or_else(|| wrong(format!("group {group} of codis has no server")))?)?;
        found.topology.codis_slots.push(owned.to_string());
        let about = format!("master of group {group}, slots {owned}");
        found.sources.push(Source { host, port, about, password: None });
    }
    if found.sources.is_empty() {
        return Err(wrong("not codis's topology: no slots".into()));
    }
    crate::topology::codis_slots(&found.topology.codis_slots)?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(slots: std::ops::Range<u16>, state: &str) -> String {
        let slot = |id| {
            let group = if id < 512 { 1 } else { 2 };
            serde_json::json!({"id": id, "group_id": group, "action": {"state": state}})
        };
        let slots: Vec<Value> = slots.map(slot).collect();
        let group = |id: u16| serde_json::json!({"id": id, "servers": [{"server": format!("10.0.0.{id}:6379")}]});
        serde_json::json!({"stats": {"slots": slots, "group": {"models": [group(1), group(2)]}}}).to_string()
    }

    #[test]
    fn every_group_is_read_at_its_master_with_its_slots() {
        let found = topology(&text(0..1024, "")).unwrap();
        assert_eq!(found.topology.codis_slots, ["0-511", "512-1023"]);
        assert_eq!((found.sources[1].host.as_str(), found.sources[1].port), ("10.0.0.2", 6379));
    }

    #[test]
    fn gaps_moves_and_other_files_are_refused() {
        assert!(topology(&text(0..1000, "")).unwrap_err().message.contains("1000-1023"));
        assert_eq!(topology(&text(0..1024, "migrating")).unwrap_err().code, Code::SourceResharded);
        assert!(topology("{}").is_err() && topology("x").is_err());
    }
}
