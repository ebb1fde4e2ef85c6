//! Positions in a source's replication stream.

use std::fmt;
use std::str::FromStr;

/// The id of a replication history: 40 hexadecimal characters (`run_id` up to Redis 3.2, `master_replid` from 4.0).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReplicationId([u8; 40]);

impl ReplicationId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for ReplicationId {
    type Err = NotAReplicationId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes: [u8; 40] = text.as_bytes().try_into().map_err(|_| NotAReplicationId)?;
        if bytes.iter().all(u8::is_ascii_alphanumeric) { Ok(Self(bytes)) } else { Err(NotAReplicationId) }
    }
}

impl fmt::Display for ReplicationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for ReplicationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is not 40 alphanumeric characters.
#[derive(Debug, thiserror::Error)]
#[error("not a replication id")]
pub struct NotAReplicationId;

/// A place between two commands, outside MULTI: everything up to `offset` is applied, and `db` is selected.
///
/// The selected db is part of it, because a source that continues sends no SELECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// `None`: the source speaks SYNC only, its history has no name and cannot be continued.
    pub history: Option<ReplicationId>,
    /// Bytes of the history before this place.
    pub offset: u64,
    /// The db that the stream has selected.
    pub db: u32,
}
