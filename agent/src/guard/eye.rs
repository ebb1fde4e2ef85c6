//! One server of the target, looked at: bounded questions only. MONITOR would tell everything, and cost every client of the target its speed.

use std::collections::BTreeSet;

use dts_common::error::Result;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use super::acl::Restricted;
use super::clients::Clients;
use crate::client::{Client, Info};
use crate::endpoint::{Endpoint, Side};

/// A server with more connections is not asked for their list at every look.
const MANY: u64 = 5000;
const SELDOM: u64 = 10;

/// A connection to one server, and what was seen by it.
#[derive(Debug)]
pub(super) struct Eye {
    pub(super) client: Client,
    pub(super) restricted: Restricted,
    /// Names of commands that write, as this server says.
    writes: BTreeSet<String>,
    clients: Clients,
    /// How often those have run.
    calls: Option<u64>,
    looks: u64,
}

/// What one look found.
#[derive(Debug, Default)]
pub(super) struct Foreign {
    pub(super) writes: u64,
    pub(super) by: Vec<String>,
}

impl Eye {
    pub(super) async fn open(server: &Endpoint) -> Result<Self> {
        let mut client = Client::connect_named(server, Side::Target).await?;
        let writes = writing(&client.ask(&[b"COMMAND"]).await?);
        let (restricted, clients) = (Restricted::default(), Clients::default());
        Ok(Self { client, restricted, writes, clients, calls: None, looks: 0 })
    }

    /// Writes of others since the look before: exactly, while none of ours comes between; else as many clients as were seen to write.
    pub(super) async fn look(&mut self) -> Result<Foreign> {
        self.looks += 1;
        let connected = self.client.info("clients").await?.number("connected_clients").unwrap_or(0);
        if connected > MANY && !self.looks.is_multiple_of(SELDOM) {
            return Ok(Foreign::default());
        }
        let calls = self.count().await?;
        let listed = self.client.ask(&[b"CLIENT", b"LIST"]).await?;
        let list = if matches!(listed, BytesFrame::Error(_)) { "" } else { listed.as_str().unwrap_or_default() };
        let looked = self.clients.look(list, &self.writes);
        let since = match (self.calls, calls) {
            // A server that was restarted, or whose counts were reset, begins anew.
            (Some(before), Some(now)) => now.saturating_sub(before),
            _ => 0,
        };
        self.calls = calls;
        let seen = looked.writers.len() as u64;
        // Without a list nobody can tell ours from others.
        let exact = !looked.is_shared && !list.is_empty();
        let mut by = looked.writers;
        let writes = if exact { seen.max(since) } else { seen };
        if writes > 0 && by.is_empty() {
            by.push("a client that is gone already".into());
        }
        Ok(Foreign { writes, by })
    }

    /// Calls of commands that write.
    async fn count(&mut self) -> Result<Option<u64>> {
        let stats = self.client.ask(&[b"INFO", b"commandstats"]).await?;
        if matches!(stats, BytesFrame::Error(_)) {
            return Ok(None);
        }
        let stats = Info::of(&stats);
        let calls = |(name, figures): (&str, &str)| {
            let name = name.strip_prefix("cmdstat_")?;
            self.writes
                .contains(name)
                .then(|| figures.strip_prefix("calls=")?.split(',').next()?.parse::<u64>().ok())?
        };
        Ok(Some(stats.fields().filter_map(calls).sum()))
    }
}

/// Names with the flag `write` in an answer to COMMAND; before 2.8.13 there is none.
fn writing(reply: &BytesFrame) -> BTreeSet<String> {
    let BytesFrame::Array(commands) = reply else { return BTreeSet::new() };
    let name = |command: &BytesFrame| {
        let BytesFrame::Array(fields) = command else { return None };
        let BytesFrame::Array(flags) = fields.get(2)? else { return None };
        flags
            .iter()
            .any(|flag| flag.as_str() == Some("write"))
            .then(|| fields.first()?.as_str().map(str::to_lowercase))?
    };
    commands.iter().filter_map(name).collect()
}
