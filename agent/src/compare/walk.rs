//! Every key of one side, page by page. A key that is there all the time is given at least once.

use dts_common::error::Result;

use super::keep::Place;
use super::reply;
use super::servers::Servers;
use crate::endpoint::Side;
use crate::target::RESERVED_PREFIX;

const PAGE: &[u8] = b"1000";

/// Keys of one database of one server.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) db: u32,
    pub(super) keys: Vec<Vec<u8>>,
    /// Names of tasks' records; they and the rest of what is ours are left out of the keys.
    pub(super) records: Vec<Vec<u8>>,
}

#[derive(Debug)]
pub(super) struct Walk {
    servers: Servers,
    side: Side,
    /// Server and database, the next one last.
    left: Vec<(usize, u32)>,
    cursor: Vec<u8>,
}

impl Walk {
    /// Over all databases that hold keys now; of those that an earlier walk was through with none.
    pub(super) async fn over(mut servers: Servers, side: Side, from: Option<Place>) -> Result<Self> {
        let mut left = Vec::new();
        for (node, keyspace) in servers.infos("keyspace").await?.into_iter().enumerate() {
            let number = |(name, _): (&str, &str)| name.strip_prefix("db")?.parse::<u32>().ok();
            left.extend(keyspace.fields().filter_map(number).map(|db| (node, db)));
        }
        left.sort_unstable_by(|one, other| other.cmp(one));
        let mut cursor = b"0".to_vec();
        if let Some(Place { server, db, scan }) = from {
            left.retain(|at| *at >= (server, db));
            if left.last() == Some(&(server, db)) {
                cursor = scan;
            }
        }
        Ok(Self { servers, side, left, cursor })
    }

    /// Where the next page begins; `None` behind the last.
    pub(super) fn place(&self) -> Option<Place> {
        let (server, db) = self.left.last().copied()?;
        Some(Place { server, db, scan: self.cursor.clone() })
    }

    pub(super) async fn next_page(&mut self) -> Result<Option<Page>> {
        let Some((node, db)) = self.left.last().copied() else { return Ok(None) };
        let answer = self.servers.ask_one(node, db, &[b"SCAN", &self.cursor, b"COUNT", PAGE]).await?;
        let (cursor, found) = reply::page(answer, self.side, "SCAN")?.unwrap_or((b"0".to_vec(), Vec::new()));
        self.cursor = cursor;
        if self.cursor == b"0" {
            self.left.pop();
        }
        let mut keys: Vec<Vec<u8>> = found.iter().map(|key| reply::bytes(key).to_vec()).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut records = Vec::new();
        keys.retain(|key| {
            let ours = key.starts_with(RESERVED_PREFIX.as_bytes());
            if ours && key.ends_with(b":position") {
                records.push(key.clone());
            }
            !ours
        });
        Ok(Some(Page { db, keys, records }))
    }
}
