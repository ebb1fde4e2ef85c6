//! Libraries of functions on a target that was copied to before.

use redis_protocol::resp2::types::BytesFrame;

use crate::client::Client;
use crate::endpoint::Side;
use crate::target::Destination;

/// True if there are any. Targets before 7.0 have none, and one that does not tell has taken none from us.
pub async fn has_functions(destination: &Destination) -> bool {
    for server in destination.servers().await.unwrap_or_default() {
        let Ok(mut client) = Client::connect(&server, Side::Target).await else { continue };
        let found = client.ask(&[b"FUNCTION", b"LIST"]).await;
        if matches!(found, Ok(BytesFrame::Array(libraries)) if !libraries.is_empty()) {
            return true;
        }
    }
    false
}
