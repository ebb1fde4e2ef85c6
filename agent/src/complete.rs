//! Completion: reach the source's offset of now, give every key its exact expiry, reach the offset again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::ShardPhase;
use memchr::memmem;
use tokio::time::Instant;

use crate::apply::{Context, Driver, Mode};
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::observe::source_offset;
use crate::restore::{ExpiryPass, SourcePass};
use crate::route::{Chunk, Commit, HeldKeys};
use crate::target::{Destination, Parts};
use crate::topology::{self, Owner};

/// How much of the stream is applied between two pages of the expiry pass, so that it does not fall behind.
const STEPS_BETWEEN_PAGES: usize = 256;
/// A marker that does not come back within this will not come.
const MARKER_PATIENCE: Duration = Duration::from_secs(60);

/// A message published on a source whose stream has no offsets that we know (plain SYNC): where it comes back, everything
/// before it has been sent. Publishing changes no data, and every version replicates it.
pub(crate) struct Marker {
    needle: Vec<u8>,
    tail: Vec<u8>,
    deadline: Instant,
    found: Option<u64>,
}

impl Marker {
    fn new() -> Self {
        let nonce = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos());
        let needle = format!("__dts:marker:{nonce}:{}", std::process::id()).into_bytes();
        Self { needle, tail: Vec::new(), deadline: Instant::now() + MARKER_PATIENCE, found: None }
    }

    /// Looks for the marker in bytes of the stream that begin at `offset`, also across the cut to the bytes before.
    pub(crate) fn look(&mut self, offset: u64, bytes: &[u8]) {
        if self.found.is_some() {
            return;
        }
        let keep = self.needle.len() - 1;
        let before = self.tail.len() as u64;
        self.tail.extend_from_slice(bytes);
        if let Some(at) = memmem::find(&self.tail, &self.needle) {
            self.found = Some((offset + at as u64 + self.needle.len() as u64).saturating_sub(before));
        }
        let cut = self.tail.len().saturating_sub(keep);
        self.tail.drain(..cut);
    }
}

/// What the target has to reach.
enum Barrier {
    Offset(u64),
    Marker,
}

impl Driver {
    /// Ends with phase DRAINED, or early if released meanwhile.
    pub(crate) async fn drain(&mut self) -> Result<()> {
        self.context.board.phase(ShardPhase::Draining);
        let barrier = self.barrier().await?;
        self.reach(barrier).await?;
        self.restore_expiries().await?;
        let barrier = self.barrier().await?;
        let completion_offset = self.reach(barrier).await?;
        if let Some(proof) = self.context.proof.as_ref().filter(|_| !self.released()) {
            topology::unchanged(proof, &self.context.topology.siblings).await?;
        }
        if self.context.owner == Owner::Unnamed && !self.released() {
            let later = self.context.topology.later(self.context.shard.index);
            topology::no_duplicates(&self.context.source, later).await?;
        }
        if !self.released() {
            self.context.board.update(|status| {
                status.stream.get_or_insert_default().completion_offset = completion_offset;
            });
            self.context.board.phase(ShardPhase::Drained);
        }
        Ok(())
    }

    async fn barrier(&mut self) -> Result<Barrier> {
        let mut client = Client::connect(&self.context.source, Side::Source).await?;
        let Mode::Streaming(encoder) = &self.mode else { return Ok(Barrier::Offset(u64::MAX)) };
        if encoder.position().history.is_some() {
            return Ok(Barrier::Offset(source_offset(&mut client).await?));
        }
        let marker = Marker::new();
        client.call(&[b"PUBLISH", &marker.needle, b"1"]).await?;
        self.marker = Some(marker);
        Ok(Barrier::Marker)
    }

    /// Applies until the target holds everything up to the barrier; gives the offset that was reached.
    async fn reach(&mut self, barrier: Barrier) -> Result<u64> {
        loop {
            let goal = match (&barrier, &self.marker) {
                (Barrier::Offset(offset), _) => *offset,
                (Barrier::Marker, Some(marker)) => match marker.found {
                    None if Instant::now() > marker.deadline => {
                        return Err(Error::new(
                            Code::SourceNoReplication,
                            "a message published on the source did not come back: its end cannot be known by SYNC alone",
                        ));
                    }
                    found => found.unwrap_or(u64::MAX),
                },
                // A new copy began meanwhile and took the marker with it.
                (Barrier::Marker, None) => {
                    return Err(Error::new(Code::TargetRewound, "the source began a new copy during completion"));
                }
            };
            let applied = self.outlet.applied_offset();
            if (applied >= goal && matches!(self.mode, Mode::Streaming(_))) || self.released() {
                self.marker = None;
                return Ok(applied);
            }
            self.step().await?;
        }
    }

    async fn restore_expiries(&mut self) -> Result<()> {
        self.streaming()?.set_exact();
        if matches!(self.context.destination, Destination::Routed(_)) {
            return self.restore_expiries_by_the_source().await;
        }
        loop {
            // Nothing of ours may change a key between reading its expiry and writing it.
            self.quiet().await?;
            if self.released() {
                return Ok(());
            }
            let mut keys = self.streaming()?.take_held().into_keys();
            if keys.as_ref().is_some_and(HeldKeys::is_empty) {
                return Ok(());
            }
            let destination = self.context.destination.clone();
            loop {
                let parts = destination.parts().await?;
                let walked = self.restore_expiries_on(&parts, keys.take()).await;
                if walked.is_ok() && self.released() {
                    return Ok(());
                }
                if destination.has_shown_all(&parts, walked).await? {
                    break;
                }
                self.quiet().await?;
            }
        }
    }

    /// Where the target's keys cannot be listed.
    async fn restore_expiries_by_the_source(&mut self) -> Result<()> {
        let Context { source, selection, owner, .. } = &self.context;
        let readers = (reader(source).await?, reader(source).await?);
        let mut pass = SourcePass::over(readers, selection.clone(), owner.clone()).await?;
        while let Some(page) = pass.next_page().await? {
            self.quiet().await?;
            if self.released() {
                return Ok(());
            }
            self.write_page(page).await?;
        }
        self.quiet().await
    }

    /// One walk over the named keys, or all.
    async fn restore_expiries_on(&mut self, parts: &Parts, keys: Option<HeldKeys>) -> Result<()> {
        let (dialect, selection) = (self.context.dialect, self.context.selection.clone());
        let fields = self.streaming()?.holds_field_expiry();
        let mut named = keys.map(|keys| parts.divide(keys).into_iter());
        for server in &parts.servers {
            let keys = named.as_mut().map(Iterator::next);
            let mut pass = match keys {
                None => ExpiryPass::over_everything(server, &dialect, selection.clone(), fields).await?,
                Some(None) => continue,
                Some(Some(keys)) if keys.is_empty() => continue,
                Some(Some(keys)) => ExpiryPass::over(server, &dialect, selection.clone(), fields, keys).await?,
            };
            pass.only_of(&self.context.owner, &self.context.source).await?;
            if parts.is_one_server() {
                pass.leave_unused().await?;
            }
            // From 7.0 on a source sends absolute expiries.
            if !dialect.source.at_least(7, 0) {
                pass.trust(reader(&self.context.source).await?);
            }
            while let Some(page) = pass.next_page().await? {
                self.write_page(page).await?;
                for _ in 0..STEPS_BETWEEN_PAGES {
                    match self.reader.try_next()? {
                        Some(record) => self.take(record).await?,
                        None => break,
                    }
                }
                self.quiet().await?;
                if self.released() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    pub(crate) async fn write_page(&mut self, page: crate::restore::Page) -> Result<()> {
        if page.commands == 0 {
            return Ok(());
        }
        let encoder = self.streaming()?;
        let commit = Commit {
            position: Some(encoder.position()),
            holds_field_expiry: encoder.holds_field_expiry(),
            progress: encoder.progress(),
        };
        self.outlet
            .send(Chunk { bytes: page.bytes, commands: page.commands, commit: Some(commit), marks: Vec::new() })
            .await?;
        self.outlet.settled().await
    }

    /// Everything that was taken is on the target, and no transaction is open.
    pub(crate) async fn quiet(&mut self) -> Result<()> {
        loop {
            self.flush().await?;
            if !self.outlet.is_open() || self.released() {
                break;
            }
            self.step().await?;
        }
        if self.released() { Ok(()) } else { self.outlet.settled().await }
    }

    fn streaming(&mut self) -> Result<&mut crate::route::StreamEncoder> {
        match &mut self.mode {
            Mode::Streaming(encoder) => Ok(encoder),
            _ => Err(Error::new(Code::TargetRewound, "the source began a new copy during completion")),
        }
    }
}

/// A connection that tells of keys, also where the source is a replica in a cluster.
async fn reader(source: &Endpoint) -> Result<Client> {
    let mut client = Client::connect(source, Side::Source).await?;
    // Outside of a cluster it is an error that changes nothing.
    let _told_or_not = client.ask(&[b"READONLY"]).await?;
    Ok(client)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_found_wherever_the_stream_is_cut() {
        let needle = Marker::new().needle;
        let stream = [b"x".repeat(100), needle.clone(), b"y".repeat(100)].concat();
        for cut in 0..stream.len() {
            let mut marker = Marker::new();
            marker.needle = needle.clone();
            marker.look(1000, &stream[..cut]);
            marker.look(1000 + cut as u64, &stream[cut..]);
            assert_eq!(marker.found, Some(1000 + 100 + needle.len() as u64), "cut at {cut}");
        }
    }
}
