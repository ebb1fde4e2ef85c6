//! Deleting keys that this shard moves, and no others: all of them where the source was flushed, and after a repeated copy those that its
//! snapshot lacks.

use dts_common::error::{Code, Error, Result};

use super::{Context, Driver};
use crate::endpoint::Endpoint;
use crate::route::{Clear, Commit, Fingerprinter, Progress};
use crate::sweep::{self, KeyIndex, Scan};
use crate::target::cluster::SlotRecords;
use crate::target::{Destination, reserved_key};
use crate::topology::{Others, Owner};

impl Driver {
    /// Deletes every key that this shard moves, and no other. Cut off and begun again it ends the same: the position stays before it, and slots
    /// of a cluster that were brought further are left alone.
    pub(super) async fn clear(&mut self, clear: Clear) -> Result<()> {
        self.outlet.settled().await?;
        let destination = self.context.destination.clone();
        loop {
            let parts = destination.parts().await?;
            let mut walked = Ok(());
            for server in &parts.servers {
                walked = self.clear_one(server, &clear).await;
                if walked.is_err() {
                    break;
                }
            }
            self.outlet.settled().await?;
            if destination.has_shown_all(&parts, walked).await? {
                return Ok(());
            }
        }
    }

    async fn clear_one(&mut self, server: &Endpoint, clear: &Clear) -> Result<()> {
        let mut scan = Scan::open(server, |_| true).await?;
        while let Some(mut page) = scan.next_page().await? {
            let Context { owner, selection, .. } = &self.context;
            page.keys.retain(|key| owner.may_own(key) && selection.holds(page.db, key));
            if clear.databases.contains(&page.db) && !page.keys.is_empty() {
                self.delete(&page, Some(clear.offset), clear.commit.clone()).await?;
            }
        }
        Ok(())
    }

    /// `offset`: where the stream asked for it.
    async fn delete(&mut self, page: &sweep::Page, offset: Option<u64>, commit: Commit) -> Result<u64> {
        if self.context.owner == Owner::Unnamed {
            return self.delete_unclaimed(page, offset).await.map_err(|error| match error.code {
                // Another source, not ours: waiting for it is not our source's outage.
                Code::SourceLost | Code::SourceUnreachable => Error::new(Code::SourceBusy, error.message),
                _ => error,
            });
        }
        self.outlet.send(sweep::delete_chunk(page, offset, commit)).await?;
        Ok(u64::try_from(page.keys.len()).unwrap_or(u64::MAX))
    }

    async fn delete_unclaimed(&mut self, page: &sweep::Page, offset: Option<u64>) -> Result<u64> {
        self.outlet.settled().await?;
        let Context { shard, epoch, topology, selection, .. } = &self.context;
        let source_db = selection.source_db(page.db).unwrap_or(page.db);
        let mut others = Others::connect(topology.others(shard.index), page.db, source_db).await?;
        match &self.context.destination {
            Destination::Standalone(target) => {
                let key = reserved_key(shard, "position");
                let record = self.outlet.record().map(|record| record.encode()).unwrap_or_default();
                others.delete_unclaimed(target, (&key, &record), &page.keys).await
            }
            Destination::Routed(_) => {
                Err(Error::new(Code::TargetUnsupported, "keys behind an endpoint are not listed"))
            }
            Destination::Cluster(seeds) => {
                let records = SlotRecords::of(seeds, shard, *epoch).await?;
                others.delete_unclaimed_of_slots(&records, offset.unwrap_or(u64::MAX), &page.keys).await
            }
        }
    }

    /// Deletes what the target holds and the snapshot does not.
    pub(super) async fn sweep(
        &mut self,
        index: KeyIndex,
        fingerprinter: Fingerprinter,
        progress: Progress,
    ) -> Result<()> {
        let (destination, selection) = (self.context.destination.clone(), self.context.selection.clone());
        let mut parts = destination.parts().await?;
        let first = parts.servers.first().unwrap_or(&self.context.target).clone();
        let mut stale = index.stale(&first, selection, fingerprinter, self.context.owner.clone()).await?;
        loop {
            let mut walked = Ok(());
            for server in &parts.servers {
                walked = self.sweep_one(&mut stale, server, progress).await;
                if walked.is_err() {
                    break;
                }
            }
            self.outlet.settled().await?;
            if destination.has_shown_all(&parts, walked).await? {
                return Ok(());
            }
            parts = destination.parts().await?;
        }
    }

    async fn sweep_one(&mut self, stale: &mut sweep::Stale, server: &Endpoint, progress: Progress) -> Result<()> {
        stale.go_on_at(server).await?;
        while let Some(page) = stale.next_page().await? {
            let commit = Commit { position: None, holds_field_expiry: false, progress };
            let keys = self.delete(&page, None, commit).await?;
            self.context.board.update(|status| {
                status.snapshot.get_or_insert_default().swept_keys += keys;
            });
        }
        Ok(())
    }
}
