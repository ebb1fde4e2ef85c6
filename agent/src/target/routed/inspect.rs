//! What stands behind an endpoint, as far as a script that runs where a key is can tell: nothing is written.

use std::collections::BTreeMap;

use dts_common::error::{Code, Error, Result};
use dts_common::redis::version::ServerVersion;
use redis_protocol::resp2::types::BytesFrame;

use crate::client::{Client, Info};
use crate::endpoint::{Endpoint, Side};
use crate::target::RESERVED_PREFIX;
use crate::verify::key_count;

/// Names of keys that are asked for: few servers are missed by so many.
const NAMES: u32 = 128;

const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// The servers that were met.
#[derive(Debug)]
pub struct Behind {
    /// The oldest.
    pub version: ServerVersion,
    /// How many.
    pub servers: usize,
    /// Keys of all of them.
    pub keys: u64,
    /// Run ids.
    pub run_ids: Vec<String>,
}

/// Asks at as many places as there may be servers.
pub async fn inspect(endpoint: &Endpoint) -> Result<Behind> {
    let mut client = Client::connect(endpoint, Side::Target).await?;
    let mut found = BTreeMap::new();
    for number in 0..NAMES {
        // Proxies may hash so badly that names which look alike all lie on one server.
        let key = format!("{RESERVED_PREFIX}{:016x}", u64::from(number + 1).wrapping_mul(SPREAD));
        let asked = client.ask(&[b"EVAL", b"return redis.call('INFO')", b"1", key.as_bytes()]).await;
        let info = match asked {
            Ok(BytesFrame::Error(text)) => return Err(refused(endpoint, &text)),
            Ok(reply) => Info::of(&reply),
            // A proxy hangs up on what it does not know.
            Err(error) if number == 0 => return Err(refused(endpoint, &error.message)),
            Err(error) => return Err(error),
        };
        if info.get("role") == Some("slave") {
            return Err(Error::new(Code::TargetRole, "a server behind the endpoint is a replica"));
        }
        found.insert(info.get("run_id").unwrap_or_default().to_owned(), info);
    }
    let version = |info: &Info| ServerVersion::from_info(|field| info.get(field));
    let versions: Option<Vec<ServerVersion>> = found.values().map(version).collect();
    let oldest = versions
        .unwrap_or_default()
        .into_iter()
        .reduce(|one, other| if one.takes_all_of(&other) { other } else { one });
    let unknown = || Error::new(Code::TargetUnsupported, "a server behind the endpoint does not tell its version");
    Ok(Behind {
        version: oldest.ok_or_else(unknown)?,
        servers: found.len(),
        keys: found.values().map(key_count).sum(),
        run_ids: found.into_keys().collect(),
    })
}

fn refused(endpoint: &Endpoint, why: &str) -> Error {
    let message =
        format!("{endpoint} does not run a script with one key (EVAL), by which we learn what stands behind it: {why}");
    Error::new(Code::TargetUnsupported, message)
}
