//! Who did what: the last calls that changed something, or were refused.

use std::time::SystemTime;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::AuditEntry;
use prost::Message as _;

use super::Engine;
use crate::store::{Store, Transaction};

/// Under it stand the entries, by number.
const AUDIT: &str = "audit/";
/// So many are kept.
const MOST: u64 = 10_000;
const LONGEST: usize = 256;

fn key(number: u64) -> String {
    format!("{AUDIT}{number:020}")
}

fn decode(key: &str, value: &[u8]) -> Result<AuditEntry> {
    AuditEntry::decode(value).map_err(|error| Error::new(Code::Internal, format!("what is stored at {key}: {error}")))
}

impl<S: Store> Engine<S> {
    /// Notes a call.
    pub async fn note(&self, entry: AuditEntry) -> Result<()> {
        let mut next = self.trail.lock().await;
        let number = match *next {
            Some(number) => number,
            None => self.trail().await?.last().map_or(1, |last| last.number + 1),
        };
        // Another leader may have written since: never over it.
        *next = None;
        let cut = |text: String| text.chars().take(LONGEST).collect();
        let entry = AuditEntry {
            number,
            at: Some(SystemTime::now().into()),
            who: cut(entry.who),
            about: cut(entry.about),
            ..entry
        };
        let mut writes = vec![(key(number), Some(entry.encode_to_vec()))];
        writes.extend(number.checked_sub(MOST).map(|old| (key(old), None)));
        let write = Transaction { compares: vec![(key(number), 0)], writes, ..Transaction::default() };
        self.store.commit(write).await?.ok_or_else(super::lost_race)?;
        *next = Some(number + 1);
        Ok(())
    }

    async fn trail(&self) -> Result<Vec<AuditEntry>> {
        self.store.list(AUDIT).await?.iter().map(|(key, found)| decode(key, &found.value)).collect()
    }

    /// Those before this number, the newest first; 0: all.
    pub async fn audited(&self, before: u64) -> Result<Vec<AuditEntry>> {
        let mut all = self.trail().await?;
        all.retain(|entry| before == 0 || entry.number < before);
        all.reverse();
        Ok(all)
    }
}
