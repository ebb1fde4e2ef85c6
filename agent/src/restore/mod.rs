//! Completion: gives keys and hash fields whose expiry is held (`dts_common::redis::expiry`) their exact one.

mod source;

pub use source::SourcePass;

use std::sync::Arc;

use bytes::Bytes;
use dts_common::error::{Code, Error, Result};
use dts_common::redis::expiry::restore;
use dts_common::redis::resp;
use dts_common::selection::Selection;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::route::{Dialect, HeldKeys};
use crate::sweep::{self, Scan};
use crate::topology::{Owner, exist};

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
    /// Up to 6.2 a source sends expiries as "in so many seconds", which we count from when they reach us: late, if it had
    /// to wait with sending. It knows better, and is asked. `None` from 7.0 on, or where it does not let us.
    source: Option<Client>,
    selection: Arc<Selection>,
    /// Other shards' keys are theirs to restore: one that streams on would lose what it refreshes.
    owner: Owner,
    /// Asked whose a key is, where its name does not tell.
    witness: Option<Client>,
    /// The target can be told that this is no use of a key.
    no_touch: bool,
}

/// Where the next keys come from.
#[derive(Debug)]
enum Keys {
    All(Scan),
    Named(HeldKeys),
}

const PAGE: usize = 1000;

impl ExpiryPass {
    /// Over all keys. With `fields` hash fields are looked at too.
    pub async fn over_everything(
        target: &Endpoint,
        dialect: &Dialect,
        selection: Arc<Selection>,
        fields: bool,
    ) -> Result<Self> {
        // A database without any expiry has no held one either.
        let scan = Scan::open(target, |counts| fields || !counts.contains("expires=0,")).await?;
        Self::new(target, dialect, selection, fields, Keys::All(scan)).await
    }

    /// Over these keys, sorted by database.
    pub async fn over(
        target: &Endpoint,
        dialect: &Dialect,
        selection: Arc<Selection>,
        fields: bool,
        keys: HeldKeys,
    ) -> Result<Self> {
        Self::new(target, dialect, selection, fields, Keys::Named(keys)).await
    }

    async fn new(
        target: &Endpoint,
        dialect: &Dialect,
        selection: Arc<Selection>,
        fields: bool,
        keys: Keys,
    ) -> Result<Self> {
        let client = Client::connect(target, Side::Target).await?;
        let fields = fields && dialect.version.has_field_expiry();
        let knows_expiretime = dialect.version.at_least(7, 0);
        let (source, owner, witness, no_touch) = (None, Owner::Everything, None, false);
        Ok(Self { client, keys, knows_expiretime, fields, source, selection, owner, witness, no_touch })
    }

    /// Keeps a key as long idle, or as seldom used, as it is: from 7.2 on, and if our user may say so. For a standalone target.
    pub async fn leave_unused(&mut self) -> Result<()> {
        self.no_touch = !matches!(self.client.ask(&[b"CLIENT", b"NO-TOUCH", b"ON"]).await?, BytesFrame::Error(_));
        Ok(())
    }

    /// Takes the expiries of keys that have one from the source itself.
    pub fn trust(&mut self, source: Client) {
        self.source = Some(source);
    }

    /// Leaves out what is not the owner's; its source is asked where names do not tell.
    pub async fn only_of(&mut self, owner: &Owner, source: &Endpoint) -> Result<()> {
        if *owner == Owner::Unnamed {
            self.witness = Some(Client::connect(source, Side::Source).await?);
        }
        self.owner = owner.clone();
        Ok(())
    }

    async fn ours(&mut self, page: &mut sweep::Page, source_db: u32) -> Result<()> {
        page.keys.retain(|key| self.owner.may_own(key) && self.selection.holds(page.db, key));
        let Some(witness) = &mut self.witness else { return Ok(()) };
        let mut there = exist(witness, source_db, &page.keys).await?.into_iter();
        page.keys.retain(|_| there.next().unwrap_or(true));
        Ok(())
    }

    /// What the next keys need, often nothing; `None` after the last.
    pub async fn next_page(&mut self) -> Result<Option<Page>> {
        let page = match &mut self.keys {
            Keys::All(scan) => scan.next_page().await?,
            Keys::Named(keys) => keys.next_page(PAGE).map(|(db, keys)| sweep::Page { db, keys }),
        };
        let Some(mut page) = page else { return Ok(None) };
        // What else there may be is not ours to touch.
        let Some(source_db) = self.selection.source_db(page.db) else { return Ok(Some(Out::new(page.db).page())) };
        self.ours(&mut page, source_db).await?;
        self.client.call(&[b"SELECT", page.db.to_string().as_bytes()]).await?;
        if let Some(source) = &mut self.source
            && let Err(error) = source.call(&[b"SELECT", source_db.to_string().as_bytes()]).await
        {
            tracing::warn!(%error, "the source does not tell its expiries: those that it sent late may be late by as much");
            self.source = None;
        }
        let mut out = Out { no_touch: self.no_touch, ..Out::new(page.db) };
        self.keys(&page.keys, &mut out).await?;
        Ok(Some(out.page()))
    }

    async fn keys(&mut self, keys: &[Vec<u8>], out: &mut Out) -> Result<()> {
        let expiries =
            if self.knows_expiretime { self.expire_times(keys).await? } else { ttls(&mut self.client, keys).await? };
        let held: Vec<(&Vec<u8>, i64)> =
            keys.iter().zip(expiries).filter_map(|(key, at)| Some((key, restore(at)?))).collect();
        let names: Vec<Vec<u8>> = held.iter().map(|(key, _)| (*key).clone()).collect();
        let known = self.told_by_the_source(&names).await;
        for ((key, at), known) in held.into_iter().zip(known) {
            // A key that has none there by now, or is gone, will hear of it by the stream.
            let at = if known > 0 { known } else { at };
            out.command(&[b"PEXPIREAT", key, at.to_string().as_bytes()]);
        }
        if self.fields {
            for key in keys {
                hash_fields(&mut self.client, key, out).await?;
            }
        }
        Ok(())
    }

    /// -1 for what it does not tell.
    async fn told_by_the_source(&mut self, names: &[Vec<u8>]) -> Vec<i64> {
        let silent = vec![-1; names.len()];
        let Some(source) = self.source.as_mut().filter(|_| !names.is_empty()) else { return silent };
        match ttls(source, names).await {
            Ok(expiries) => expiries,
            Err(error) => {
                tracing::warn!(%error, "the source does not tell its expiries: those that it sent late may be late by as much");
                self.source = None;
                silent
            }
        }
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
}

/// Absolute expiries in ms, or what `PTTL` says of a key without. `PTTL` between two `TIME`s that name the same millisecond is exact; a key whose turn fell on the edge is asked again.
pub async fn ttls(client: &mut Client, keys: &[Vec<u8>]) -> Result<Vec<i64>> {
    let mut expiries = vec![-1; keys.len()];
    let mut open: Vec<usize> = (0..keys.len()).collect();
    while !open.is_empty() {
        let mut bytes = Vec::new();
        resp::command(&mut bytes, &[b"TIME"]);
        for key in open.iter().filter_map(|index| keys.get(*index)) {
            resp::command(&mut bytes, &[b"PTTL", key]);
            resp::command(&mut bytes, &[b"TIME"]);
        }
        client.send(&bytes).await?;
        let mut before = millis(&client.reply().await?)?;
        let mut again = Vec::new();
        for index in open {
            let ttl = match client.reply().await? {
                BytesFrame::Error(text) => return Err(client.refused("PTTL", &text)),
                reply => integer(&reply),
            };
            let after = millis(&client.reply().await?)?;
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

/// The answer to `TIME` in ms.
fn millis(reply: &BytesFrame) -> Result<i64> {
    let BytesFrame::Array(time) = reply else {
        return Err(Error::new(Code::TargetPermission, "a server does not answer TIME, by which expiries are told"));
    };
    let number = |index: usize| time.get(index).map_or(0, integer);
    Ok(number(0) * 1000 + number(1) / 1000)
}

/// The next keys of one database.
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
    no_touch: bool,
}

impl Out {
    fn new(db: u32) -> Self {
        Self { db, bytes: Vec::new(), commands: 0, no_touch: false }
    }

    fn command(&mut self, words: &[&[u8]]) {
        if self.commands == 0 {
            resp::command(&mut self.bytes, &[b"SELECT", self.db.to_string().as_bytes()]);
            self.commands = 1;
            self.touch(b"ON");
        }
        resp::command(&mut self.bytes, words);
        self.commands += 1;
    }

    fn touch(&mut self, no: &[u8]) {
        if self.no_touch {
            resp::command(&mut self.bytes, &[b"CLIENT", b"NO-TOUCH", no]);
            self.commands += 1;
        }
    }

    fn page(mut self) -> Page {
        if self.commands > 0 {
            self.touch(b"OFF");
            resp::command(&mut self.bytes, &[b"SELECT", b"0"]);
            self.commands += 1;
        }
        Page { bytes: self.bytes.into(), commands: self.commands }
    }
}
