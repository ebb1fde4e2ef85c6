//! Completion where the target's keys cannot be listed: the source's are, and each that expires there gets its exact expiry here.

use std::sync::Arc;

use dts_common::error::Result;
use dts_common::selection::Selection;

use super::{Out, Page, ttls};
use crate::client::Client;
use crate::sweep::Scan;
use crate::topology::Owner;

/// One walk over the keys of the source. What it changes behind our back comes by the stream, with its exact expiry.
#[derive(Debug)]
pub struct SourcePass {
    scan: Scan,
    asked: Client,
    selection: Arc<Selection>,
    owner: Owner,
}

impl SourcePass {
    /// At the first key, with two connections to the source.
    pub async fn over((scanned, asked): (Client, Client), selection: Arc<Selection>, owner: Owner) -> Result<Self> {
        let scan = Scan::over(scanned, |counts| !counts.contains("expires=0,")).await?;
        Ok(Self { scan, asked, selection, owner })
    }

    /// What the next keys need, often nothing; `None` after the last.
    pub async fn next_page(&mut self) -> Result<Option<Page>> {
        let Some(mut page) = self.scan.next_page().await? else { return Ok(None) };
        let mut out = Out::new(0);
        let Some(target_db) = self.selection.target_db(page.db) else { return Ok(Some(out.page())) };
        page.keys.retain(|key| self.owner.may_own(key) && self.selection.holds(target_db, key));
        self.asked.call(&[b"SELECT", page.db.to_string().as_bytes()]).await?;
        let expiries = ttls(&mut self.asked, &page.keys).await?;
        for (key, at) in page.keys.iter().zip(expiries).filter(|(_, at)| *at > 0) {
            out.command(&[b"PEXPIREAT", key, at.to_string().as_bytes()]);
        }
        Ok(Some(out.page()))
    }
}
