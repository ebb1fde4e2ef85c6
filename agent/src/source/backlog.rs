//! What a source could still give of its stream.

use dts_common::error::Result;
use dts_common::position::Position;

use crate::client::Client;
use crate::endpoint::{Endpoint, Side};

/// False if the source says that its backlog does not reach back to this position, or does not answer.
pub async fn holds(source: &Endpoint, position: &Position) -> bool {
    match asked(source, position).await {
        Ok(holds) => holds,
        Err(error) => {
            tracing::warn!(%error, "the source does not tell how far its backlog reaches back");
            false
        }
    }
}

async fn asked(source: &Endpoint, position: &Position) -> Result<bool> {
    let mut client = Client::connect(source, Side::Source).await?;
    let replication = client.info("replication").await?;
    let number = |field| replication.number(field).unwrap_or(0);
    let (first, length) = (number("repl_backlog_first_byte_offset"), number("repl_backlog_histlen"));
    let next = position.offset + 1;
    let named = |field| replication.get(field).and_then(|id| id.parse().ok());
    // Up to 3.2 there is one history, and no field for it.
    let of_it = match named("master_replid") {
        None => true,
        present if present == position.history => true,
        _ => named("master_replid2") == position.history && next <= number("second_repl_offset"),
    };
    Ok(number("repl_backlog_active") == 1 && of_it && (first..=first + length).contains(&next))
}
