//! Completion: gives keys and hash fields whose expiry is held (`dts_common::redis::expiry`) their exact one.

use bytes::Bytes;
use dts_common::error::Result;
use dts_common::redis::expiry::restore;
use dts_common::redis::resp;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::route::Dialect;
use crate::sweep::{self, Scan};

/// Commands that restore what one page of keys needs, as a transaction that begins and ends in db 0.
#[derive(Debug)]
pub struct Page {
    /// RESP.
    pub bytes: Bytes,
    /// How many.
    pub commands: u32,
}

/// One walk over the keys that may carry a held expiry. Nobody may write between reading a page and applying it.
#[derive(Debug)]
pub struct ExpiryPass {
    client: Client,
    keys: Keys,
    /// PEXPIRETIME is known (7.0); else PTTL and TIME together give the same.
    knows_expiretime: bool,
    fields: bool,
}

/// Where the next keys come from.
#[derive(Debug)]
enum Keys {
    All(Scan),
    Named(std::vec::IntoIter<(u32, Box<[u8]>)>),
}

const PAGE: usize = 1000;

impl ExpiryPass {
    /// Over all keys. With `fields` hash fields are looked at too.
    pub async fn over_everything(target: &Endpoint, dialect: &Dialect, fields: bool) -> Result<Self> {
        // A database without any expiry has no held one either.
        let scan = Scan::open(target, |counts| fields || !counts.contains("expires=0,")).await?;
        Self::new(target, dialect, fields, Keys::All(scan)).await
    }

    /// Over these keys, sorted by database.
    pub async fn over(target: &Endpoint, dialect: &Dialect, fields: bool, keys: Vec<(u32, Box<[u8]>)>) -> Result<Self> {
        Self::new(target, dialect, fields, Keys::Named(keys.into_iter())).await
    }

    async fn new(target: &Endpoint, dialect: &Dialect, fields: bool, keys: Keys) -> Result<Self> {
        let client = Client::connect(target, Side::Target).await?;
        let fields = fields && dialect.version.has_field_expiry();
        Ok(Self { client, keys, knows_expiretime: dialect.version.at_least(7, 0), fields })
    }

    /// What the next keys need, often nothing; `None` after the last.
    pub async fn next_page(&mut self) -> Result<Option<Page>> {
        let page = match &mut self.keys {
            Keys::All(scan) => scan.next_page().await?,
            Keys::Named(keys) => named_page(keys),
        };
        let Some(page) = page else { return Ok(None) };
        self.client.call(&[b"SELECT", page.db.to_string().as_bytes()]).await?;
        let mut out = Out::new(page.db);
        self.keys(&page.keys, &mut out).await?;
        Ok(Some(out.page()))
    }

    async fn keys(&mut self, keys: &[Vec<u8>], out: &mut Out) -> Result<()> {
        let expiries = if self.knows_expiretime { self.expire_times(keys).await? } else { self.ttls(keys).await? };
        for (key, at) in keys.iter().zip(expiries) {
            if let Some(at) = restore(at) {
                out.command(&[b"PEXPIREAT", key, at.to_string().as_bytes()]);
            }
        }
        if self.fields {
            for key in keys {
                hash_fields(&mut self.client, key, out).await?;
            }
        }
        Ok(())
    }

    async fn expire_times(&mut self, keys: &[Vec<u8>]) -> Result<Vec<i64>> {
        let mut bytes = Vec::new();
        for key in keys {
            resp::command(&mut bytes, &[b"PEXPIRETIME", key]);
        }
        let client = &mut self.client;
        client.send(&bytes).await?;
        let mut expiries = Vec::with_capacity(keys.len());
        for _ in keys {
            expiries.push(integer(&client.reply().await?));
        }
        Ok(expiries)
    }

    /// `PTTL` between two `TIME`s that name the same millisecond is exact; a key whose turn fell on the edge is asked again.
    async fn ttls(&mut self, keys: &[Vec<u8>]) -> Result<Vec<i64>> {
        let mut expiries = vec![-1; keys.len()];
        let mut open: Vec<usize> = (0..keys.len()).collect();
        while !open.is_empty() {
            let mut bytes = Vec::new();
            resp::command(&mut bytes, &[b"TIME"]);
            for key in open.iter().filter_map(|index| keys.get(*index)) {
                resp::command(&mut bytes, &[b"PTTL", key]);
                resp::command(&mut bytes, &[b"TIME"]);
            }
            let client = &mut self.client;
            client.send(&bytes).await?;
            let mut before = millis(&client.reply().await?);
            let mut again = Vec::new();
            for index in open {
                let ttl = integer(&client.reply().await?);
                let after = millis(&client.reply().await?);
                match expiries.get_mut(index) {
                    Some(expiry) if ttl < 0 => *expiry = ttl,
                    Some(expiry) if before == after => *expiry = after.saturating_add(ttl),
                    _ => again.push(index),
                }
                before = after;
            }
            open = again;
        }
        Ok(expiries)
    }
}

/// The answer to `TIME` in ms.
fn millis(reply: &BytesFrame) -> i64 {
    let BytesFrame::Array(time) = reply else { return -1 };
    let number = |index: usize| time.get(index).map_or(0, integer);
    number(0) * 1000 + number(1) / 1000
}

/// The next keys of one database.
fn named_page(keys: &mut std::vec::IntoIter<(u32, Box<[u8]>)>) -> Option<sweep::Page> {
    let (db, _) = keys.as_slice().first()?;
    let db = *db;
    let count = keys.as_slice().iter().take(PAGE).take_while(|(of, _)| *of == db).count();
    Some(sweep::Page { db, keys: keys.take(count).map(|(_, key)| key.into_vec()).collect() })
}

async fn hash_fields(client: &mut Client, key: &[u8], out: &mut Out) -> Result<()> {
    let kind = client.call(&[b"TYPE", key]).await?;
    if kind.as_bytes() != Some(b"hash") {
        return Ok(());
    }
    let mut cursor = b"0".to_vec();
    loop {
        let reply = client.call(&[b"HSCAN", key, &cursor, b"COUNT", b"500"]).await?;
        let BytesFrame::Array(parts) = &reply else { return Ok(()) };
        let [next, BytesFrame::Array(pairs)] = parts.as_slice() else { return Ok(()) };
        let fields: Vec<&[u8]> = pairs.iter().step_by(2).filter_map(|field| field.as_bytes()).collect();
        if !fields.is_empty() {
            let count = fields.len().to_string();
            let mut words: Vec<&[u8]> = vec![b"HPEXPIRETIME", key, b"FIELDS", count.as_bytes()];
            words.extend(&fields);
            if let BytesFrame::Array(times) = client.call(&words).await? {
                for (field, at) in fields.iter().zip(&times) {
                    if let Some(at) = restore(integer(at)) {
                        out.command(&[b"HPEXPIREAT", key, at.to_string().as_bytes(), b"FIELDS", b"1", field]);
                    }
                }
            }
        }
        cursor = next.as_bytes().unwrap_or(b"0").to_vec();
        if cursor == b"0" {
            return Ok(());
        }
    }
}

fn integer(reply: &BytesFrame) -> i64 {
    match reply {
        BytesFrame::Integer(value) => *value,
        other => other.as_str().and_then(|text| text.parse().ok()).unwrap_or(-1),
    }
}

/// Commands in one database.
struct Out {
    db: u32,
    bytes: Vec<u8>,
    commands: u32,
}

impl Out {
    fn new(db: u32) -> Self {
        Self { db, bytes: Vec::new(), commands: 0 }
    }

    fn command(&mut self, words: &[&[u8]]) {
        if self.commands == 0 {
            resp::command(&mut self.bytes, &[b"SELECT", self.db.to_string().as_bytes()]);
            self.commands = 1;
        }
        resp::command(&mut self.bytes, words);
        self.commands += 1;
    }

    fn page(mut self) -> Page {
        if self.commands > 0 {
            resp::command(&mut self.bytes, &[b"SELECT", b"0"]);
            self.commands += 1;
        }
        Page { bytes: self.bytes.into(), commands: self.commands }
    }
}
