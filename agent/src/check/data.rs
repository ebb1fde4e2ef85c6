//! What the keys are like: bounded looks, which name none of them.

use dts_common::error::Result;
use dts_common::units::bytes;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use super::found::Found;
use super::look::Shard;
use crate::client::Client;
use crate::target::RESERVED_PREFIX;

/// Pages of SCAN, and keys a page.
const PAGES: usize = 20;
const PAGE: &[u8] = b"500";
/// Keys whose size is asked for, and of how many of them what they are in a snapshot.
const SIZED: usize = 500;
const DUMPED: u64 = 100;
/// A larger one takes long on every way, and blocks both servers when it is deleted.
const BIG: u64 = 256 << 20;
/// A larger one is not asked for as a whole.
const SMALL: u64 = 64 << 10;
/// Version and checksum at the end of a DUMP; kind, length and expiry before a key in a snapshot.
const FOOTER: usize = 10;
const HEADER: usize = 4;

/// What a sample of keys adds up to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sample {
    keys: u64,
    largest: u64,
    /// Of those that were dumped: memory, and bytes of a snapshot.
    dumped: u64,
    memory: u64,
    snapshot: u64,
    /// Memory of all.
    total: u64,
}

impl Sample {
    /// Bytes of a snapshot of `keys` keys that take `data` bytes of memory.
    fn snapshot_of(&self, keys: u64, data: u64) -> u64 {
        let scaled = |part: u64, whole: u64, of: u64| {
            u64::try_from(u128::from(part) * u128::from(of) / u128::from(whole.max(1))).unwrap_or(u64::MAX)
        };
        let by_number = scaled(self.snapshot, self.dumped, keys);
        let by_memory = scaled(self.snapshot, self.memory, data);
        // A few large keys that a sample does not meet are seen in the memory that it does not explain.
        let explained = scaled(self.total, self.keys, keys);
        if explained < data / 2 || self.largest > SMALL { by_memory } else { by_number }
    }
}

/// The largest of some keys, and how long a snapshot of all will be.
pub(super) async fn big_keys(shard: &Shard<'_>) -> Found {
    let look = async {
        let data = super::room::data_bytes(shard).await?;
        let mut from = shard.from().await?;
        let (db, keys) = fullest(&mut from).await?;
        if keys == 0 {
            return Ok(Found::noted("the source has no keys"));
        }
        from.ask(&[b"SELECT", db.to_string().as_bytes()]).await?;
        let BytesFrame::Array(page) = from.ask(&[b"SCAN", b"0", b"COUNT", PAGE]).await? else {
            return Ok(Found::unknown("the user may not scan the source"));
        };
        let Some(BytesFrame::Array(names)) = page.get(1) else { return Ok(Found::fine()) };
        let Some(sample) = sample(&mut from, names).await? else {
            return Ok(Found::unknown("the source does not tell how large keys are (before 4.0, or not allowed)"));
        };
        shard.figure(|figures| {
            (figures.sampled_keys, figures.largest_key_bytes) = (sample.keys, sample.largest);
            if sample.dumped > 0 {
                figures.snapshot_bytes = sample.snapshot_of(figures.source_keys, data);
            }
        });
        let said = format!("the largest of {} keys of db {db} takes {}", sample.keys, bytes(sample.largest));
        Ok(if sample.largest >= BIG { Found::bad(said) } else { Found::noted(said) })
    };
    Found::asked(look.await)
}

/// The database with the most keys.
async fn fullest(from: &mut Client) -> Result<(u32, u64)> {
    let keyspace = from.info("keyspace").await?;
    let counts = keyspace.fields().filter_map(|(name, counts)| {
        let keys = counts.strip_prefix("keys=")?.split(',').next()?.parse::<u64>().ok()?;
        Some((name.strip_prefix("db")?.parse::<u32>().ok()?, keys))
    });
    Ok(counts.max_by_key(|(_, keys)| *keys).unwrap_or_default())
}

/// `None`: the source does not tell.
async fn sample(from: &mut Client, names: &[BytesFrame]) -> Result<Option<Sample>> {
    let mut sample = Sample::default();
    for name in names.iter().take(SIZED).filter_map(BytesFrame::as_bytes) {
        let size = match from.ask(&[b"MEMORY", b"USAGE", name]).await? {
            BytesFrame::Integer(size) => u64::try_from(size).unwrap_or(0),
            // It is gone meanwhile.
            BytesFrame::Null => continue,
            _ => return Ok(None),
        };
        sample.keys += 1;
        sample.total += size;
        sample.largest = sample.largest.max(size);
        if sample.dumped >= DUMPED || size > SMALL {
            continue;
        }
        if let Some(dump) = from.ask(&[b"DUMP", name]).await?.as_bytes() {
            sample.dumped += 1;
            sample.memory += size;
            sample.snapshot += (dump.len().saturating_sub(FOOTER) + HEADER + name.len()) as u64;
        }
    }
    Ok(Some(sample))
}

/// Nothing of somebody else's begins with what our keys begin with.
pub(super) async fn reserved(shard: &Shard<'_>) -> Found {
    let look = async {
        let pattern = format!("{RESERVED_PREFIX}*");
        let mut from = shard.from().await?;
        let (db, _) = fullest(&mut from).await?;
        from.ask(&[b"SELECT", db.to_string().as_bytes()]).await?;
        let (found, all) = scan(&mut from, pattern.as_bytes()).await?;
        Ok(match (found, all) {
            (None, _) => Found::unknown("the user may not scan the source"),
            (Some(0), true) => Found::fine(),
            (Some(0), false) => Found::noted("none in the part of the keys that was looked at"),
            (Some(count), _) => {
                Found::bad(format!("{count} keys of db {db} of the source begin with {RESERVED_PREFIX}"))
            }
        })
    };
    Found::asked(look.await)
}

/// How many keys fit, and whether all were looked at; `None`: the user may not.
async fn scan(client: &mut Client, pattern: &[u8]) -> Result<(Option<usize>, bool)> {
    let (mut cursor, mut found) = (b"0".to_vec(), 0);
    for _ in 0..PAGES {
        let BytesFrame::Array(page) = client.ask(&[b"SCAN", &cursor, b"MATCH", pattern, b"COUNT", PAGE]).await? else {
            return Ok((None, false));
        };
        if let Some(BytesFrame::Array(keys)) = page.get(1) {
            found += keys.len();
        }
        cursor = page.first().and_then(BytesFrame::as_bytes).unwrap_or(b"0").to_vec();
        if cursor == b"0" {
            return Ok((Some(found), true));
        }
    }
    Ok((Some(found), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_estimated_by_number_unless_memory_says_that_the_sample_missed_something() {
        let sample = Sample { keys: 100, largest: 200, dumped: 100, memory: 10_000, snapshot: 5_000, total: 10_000 };
        assert_eq!(sample.snapshot_of(1000, 120_000), 50_000);
        assert_eq!(sample.snapshot_of(1000, 1_000_000), 500_000);
    }
}
