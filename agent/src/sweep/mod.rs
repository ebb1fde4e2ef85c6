//! After a repeated copy: finds the keys on the target that the new snapshot does not have.
//!
//! The snapshot's keys are kept as fingerprints, 16 bytes each (on disk, if they are many), while the copy runs; then the target is scanned once, and
//! every key of it that is not among them is deleted.

mod functions;
mod index;

pub use functions::has_functions;
pub use index::KeyIndex;

use std::sync::Arc;

use dts_common::error::Result;
use dts_common::selection::Selection;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::route::{Chunk, Commit, Fingerprinter, Mark};
use crate::target::RESERVED_PREFIX;
use crate::topology::Owner;

const PAGE: &[u8] = b"1000";

/// Keys of one database.
#[derive(Debug, Default)]
pub struct Page {
    /// Their database.
    pub db: u32,
    /// Their names.
    pub keys: Vec<Vec<u8>>,
}

/// Walks over the keys of a server, database by database.
#[derive(Debug)]
pub struct Scan {
    client: Client,
    databases: Vec<u32>,
    cursor: Vec<u8>,
    begun: bool,
}

impl Scan {
    /// Begins at the first database that holds keys and whose counts (as INFO keyspace gives them) are `wanted`.
    pub async fn open(endpoint: &Endpoint, wanted: impl Fn(&str) -> bool) -> Result<Self> {
        Self::over(Client::connect(endpoint, Side::Target).await?, wanted).await
    }

    /// The same with a connection that is there.
    pub async fn over(mut client: Client, wanted: impl Fn(&str) -> bool) -> Result<Self> {
        let keyspace = client.info("keyspace").await?;
        let number = |(name, counts): (&str, &str)| name.strip_prefix("db")?.parse().ok().filter(|_| wanted(counts));
        let mut databases: Vec<u32> = keyspace.fields().filter_map(number).collect();
        databases.sort_unstable_by(|left, right| right.cmp(left));
        Ok(Self { client, databases, cursor: b"0".to_vec(), begun: false })
    }

    /// The next keys, ours left out; a page may be empty. Each key that is there all the time is given at least once.
    pub async fn next_page(&mut self) -> Result<Option<Page>> {
        let Some(db) = self.databases.last().copied() else { return Ok(None) };
        if !self.begun {
            self.client.call(&[b"SELECT", db.to_string().as_bytes()]).await?;
            self.begun = true;
        }
        let reply = self.client.call(&[b"SCAN", &self.cursor, b"COUNT", PAGE]).await?;
        let mut page = Page { db, keys: Vec::new() };
        if let BytesFrame::Array(parts) = &reply
            && let [cursor, BytesFrame::Array(keys)] = parts.as_slice()
        {
            self.cursor = cursor.as_bytes().unwrap_or(b"0").to_vec();
            let names = keys.iter().filter_map(|key| key.as_bytes());
            page.keys = names.filter(|key| !key.starts_with(RESERVED_PREFIX.as_bytes())).map(<[u8]>::to_vec).collect();
        }
        if self.cursor == b"0" {
            self.databases.pop();
            self.begun = false;
        }
        Ok(Some(page))
    }
}

/// The keys of a target that an index does not have.
#[derive(Debug)]
pub struct Stale {
    scan: Scan,
    selection: Arc<Selection>,
    index: KeyIndex,
    fingerprinter: Fingerprinter,
    owner: Owner,
}

impl KeyIndex {
    /// Everything on the target that was not added, is selected, and may be `owner`'s. Nobody else may write such keys meanwhile.
    pub async fn stale(
        mut self,
        endpoint: &Endpoint,
        selection: Arc<Selection>,
        fingerprinter: Fingerprinter,
        owner: Owner,
    ) -> Result<Stale> {
        self.settle()?;
        let scan = Scan::open(endpoint, |_| true).await?;
        Ok(Stale { scan, selection, index: self, fingerprinter, owner })
    }
}

impl Stale {
    /// Goes on with the keys of another server, or of the same once more.
    pub async fn go_on_at(&mut self, endpoint: &Endpoint) -> Result<()> {
        self.scan = Scan::open(endpoint, |_| true).await?;
        Ok(())
    }

    /// The next stale keys; never an empty page.
    pub async fn next_page(&mut self) -> Result<Option<Page>> {
        while let Some(mut page) = self.scan.next_page().await? {
            let (db, index, fingerprinter) = (page.db, &self.index, &self.fingerprinter);
            let keys = std::mem::take(&mut page.keys);
            for key in keys {
                let ours = self.owner.may_own(&key) && self.selection.holds(db, &key);
                if ours && !index.contains(fingerprinter.of(db, &key))? {
                    page.keys.push(key);
                }
            }
            if !page.keys.is_empty() {
                return Ok(Some(page));
            }
        }
        Ok(None)
    }
}

/// The transaction that deletes a page; `offset` is where the stream asked for it, if it did.
pub fn delete_chunk(page: &Page, offset: Option<u64>, commit: Commit) -> Chunk {
    let mut bytes = Vec::new();
    let db = page.db.to_string();
    let words: Vec<&[u8]> = std::iter::once(&b"DEL"[..]).chain(page.keys.iter().map(Vec::as_slice)).collect();
    for command in [&[&b"SELECT"[..], db.as_bytes()][..], &words, &[b"SELECT", b"0"]] {
        dts_common::redis::resp::command(&mut bytes, command);
    }
    let marks = offset.map(|offset| Mark { commands: 3, offset, group: 0 }).into_iter().collect();
    Chunk { bytes: bytes.into(), commands: 3, commit: Some(commit), marks }
}
