//! Whether a target that is restarted has its transactions again. From Redis 7.0 on an append only file is loaded as the user `default`: a transaction
//! with a command that `default` may not run is left out, and nobody is told. Ours hold data and position; a position that was written alone
//! is no transaction in that file, comes back, and names data that did not.

use dts_common::error::Result;
use dts_common::redis::rdb::Family;
use dts_common::redis::version::ServerVersion;

use super::found::Found;
use super::look::Shard;
use super::rights;
use crate::endpoint::Side;
use crate::verify::version;

/// Of every server of the target.
pub(super) async fn has_all(shard: &Shard<'_>) -> Found {
    Found::asked(look(shard).await)
}

async fn look(shard: &Shard<'_>) -> Result<Found> {
    for mut to in shard.to_each().await? {
        let of = version(&mut to, Side::Target).await?;
        if !loads_as_default(&of) || to.info("persistence").await?.number("aof_enabled") != Some(1) {
            continue;
        }
        let Some(refused) = rights::refused(&mut to, &of, "default").await? else {
            return Ok(Found::noted("the user may not ask what `default` may do on the target (ACL DRYRUN)"));
        };
        if !refused.is_empty() {
            return Ok(Found::bad(format!(
                "the target would forget its transactions in a restart: it loads its append only file as the user `default`, which may not run {}",
                refused.join(", ").to_uppercase()
            )));
        }
    }
    Ok(Found::fine())
}

/// 6.2, Redis 8.10.2 and Valkey 9.1.2 were seen not to, 7.0 to 8.2 and Valkey 8.1 and 9.0 to do it; what lies between is taken for one that does.
fn loads_as_default(of: &ServerVersion) -> bool {
    let mended = match of.family {
        Family::Valkey => (9, 1, 2),
        Family::Redis => (8, 10, 0),
    };
    of.at_least(7, 0) && (of.major, of.minor, of.patch) < mended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_that_have_it_mended_are_told_from_those_that_have_not() {
        let of = |family, (major, minor, patch)| ServerVersion { family, major, minor, patch };
        for version in [(7, 0, 0), (7, 4, 1), (8, 2, 3), (8, 8, 9)] {
            assert!(loads_as_default(&of(Family::Redis, version)), "{version:?}");
        }
        for version in [(6, 2, 14), (8, 10, 0), (9, 0, 0)] {
            assert!(!loads_as_default(&of(Family::Redis, version)), "{version:?}");
        }
        assert!(loads_as_default(&of(Family::Valkey, (9, 1, 1))) && !loads_as_default(&of(Family::Valkey, (9, 1, 2))));
    }
}
