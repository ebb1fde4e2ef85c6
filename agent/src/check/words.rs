//! Small questions to a server, and figures in words.

use std::time::Duration;

use dts_common::error::Result;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use crate::client::Client;

/// A rate.
pub(super) fn per_second(count: u64, time: Duration) -> u64 {
    let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1);
    u64::try_from(u128::from(count) * 1_000_000 / u128::from(micros)).unwrap_or(u64::MAX)
}

/// CONFIG GET of one name; `None`: it may not be asked, or is not there.
pub(super) async fn setting(client: &mut Client, name: &str) -> Result<Option<String>> {
    let BytesFrame::Array(fields) = client.ask(&[b"CONFIG", b"GET", name.as_bytes()]).await? else { return Ok(None) };
    Ok(fields.get(1).and_then(BytesFrame::as_str).map(str::to_owned))
}

/// An array of texts; `None`: something else, as when the user may not ask.
pub(super) fn texts(reply: &BytesFrame) -> Option<Vec<String>> {
    let BytesFrame::Array(fields) = reply else { return None };
    Some(fields.iter().filter_map(|field| field.as_str().map(str::to_owned)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_counts_parts_of_a_second() {
        assert_eq!(per_second(500, Duration::from_millis(250)), 2000);
    }
}
