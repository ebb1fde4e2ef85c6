//! The store of a single coordinator: one redb file, durable at each commit, locked against a second process.

use std::path::Path;
use std::sync::Arc;

use dts_common::error::{Code, Error, Result};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::{Store, Transaction, Versioned};

/// Key -> revision (8 bytes, little-endian), then the value.
const DATA: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("data");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const REVISION: &str = "revision";

/// A store in a file.
#[derive(Clone, Debug)]
pub struct Embedded(Arc<Database>);

impl Embedded {
    /// Opens or makes the file.
    pub fn open(path: &Path) -> Result<Self> {
        let failed = |error: redb::Error| {
            let why = match &error {
                redb::Error::DatabaseAlreadyOpen => {
                    "another process uses it; stop that one, or use another state directory".to_owned()
                }
                other => other.to_string(),
            };
            Error::new(Code::AgentDisk, format!("store {}: {why}", path.display()))
        };
        let database = Database::create(path).map_err(|error| failed(error.into()))?;
        let begin = || -> Result<(), redb::Error> {
            let write = database.begin_write()?;
            write.open_table(DATA)?;
            write.open_table(META)?;
            Ok(write.commit()?)
        };
        begin().map_err(failed)?;
        Ok(Self(Arc::new(database)))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Database) -> Result<T, redb::Error> + Send + 'static,
    ) -> Result<T> {
        let database = self.0.clone();
        let done = tokio::task::spawn_blocking(move || work(&database)).await;
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(Error::new(Code::AgentDisk, format!("store: {error}"))),
            Err(error) => Err(Error::new(Code::Internal, format!("store: {error}"))),
        }
    }
}

fn versioned(bytes: &[u8]) -> Versioned {
    let (revision, value) = bytes.split_at_checked(8).unwrap_or_default();
    Versioned { value: value.to_vec(), revision: u64::from_le_bytes(revision.try_into().unwrap_or_default()) }
}

impl Store for Embedded {
    async fn get(&self, key: &str) -> Result<Option<Versioned>> {
        let key = key.to_owned();
        self.blocking(move |database| {
            let table = database.begin_read()?.open_table(DATA)?;
            Ok(table.get(key.as_str())?.map(|value| versioned(value.value())))
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Versioned)>> {
        let prefix = prefix.to_owned();
        self.blocking(move |database| {
            let table = database.begin_read()?.open_table(DATA)?;
            let mut found = Vec::new();
            for entry in table.range(prefix.as_str()..)? {
                let (key, value) = entry?;
                if !key.value().starts_with(&prefix) {
                    break;
                }
                found.push((key.value().to_owned(), versioned(value.value())));
            }
            Ok(found)
        })
        .await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Option<u64>> {
        self.blocking(move |database| {
            let write = database.begin_write()?;
            let revision = {
                let mut data = write.open_table(DATA)?;
                let mut meta = write.open_table(META)?;
                for (key, expected) in &transaction.compares {
                    let found = data.get(key.as_str())?.map_or(0, |value| versioned(value.value()).revision);
                    if found != *expected {
                        return Ok(None);
                    }
                }
                let revision = meta.get(REVISION)?.map_or(0, |value| value.value()) + 1;
                meta.insert(REVISION, revision)?;
                for (key, value) in &transaction.writes {
                    match value {
                        Some(value) => {
                            let bytes = [&revision.to_le_bytes()[..], value].concat();
                            data.insert(key.as_str(), bytes.as_slice())?;
                        }
                        None => drop(data.remove(key.as_str())?),
                    }
                }
                revision
            };
            write.commit()?;
            Ok(Some(revision))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::super::conformance;
    use super::*;

    #[tokio::test]
    async fn it_does_what_every_store_has_to() {
        let dir = tempfile::tempdir().unwrap();
        conformance(&Embedded::open(&dir.path().join("store.redb")).unwrap()).await;
    }

    #[tokio::test]
    async fn what_was_committed_is_there_after_reopening_and_revisions_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("store.redb");
        let write = || Transaction { compares: vec![], writes: vec![("k".into(), Some(b"v".to_vec()))] };
        let store = Embedded::open(&path).unwrap();
        let first = store.commit(write()).await.unwrap().unwrap();
        assert!(Embedded::open(&path).unwrap_err().message.contains("another process"));
        drop(store);
        let store = Embedded::open(&path).unwrap();
        assert_eq!(store.get("k").await.unwrap().unwrap().value, b"v");
        assert!(store.commit(write()).await.unwrap().unwrap() > first);
    }
}
