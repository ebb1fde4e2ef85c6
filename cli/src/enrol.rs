//! `dts fleet token`, `tokens`, `revoke-token`, `audit`: who may become an agent, and who did what.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use comfy_table::Table;
use dts_proto::v1::fleet_service_client::FleetServiceClient;
use dts_proto::v1::{AuditEntry, CreateTokenRequest, ListAuditRequest, ListTokensRequest, RevokeTokenRequest};
use serde_json::json;
use tonic::transport::Channel;

use crate::coordinator::explain;

type Client = FleetServiceClient<Channel>;

fn when(at: Option<prost_types::Timestamp>) -> String {
    let at = at.and_then(|at| SystemTime::try_from(at).ok());
    at.map(|at| humantime::format_rfc3339_seconds(at).to_string()).unwrap_or_default()
}

/// Prints the token alone, to go into a file.
pub(crate) async fn token(client: &mut Client, agent_id: String, ttl: Duration, json: bool) -> Result<()> {
    let ttl_seconds = u32::try_from(ttl.as_secs()).context("--ttl is too long")?;
    let request = CreateTokenRequest { agent_id, ttl_seconds };
    let token = client.create_token(request).await.map_err(|status| explain(&status))?.into_inner();
    let expires = when(token.expires_at);
    if json {
        println!("{}", json!({"id": token.id, "agent": token.agent_id, "expires": expires, "token": token.token}));
    } else {
        println!("{}", token.token);
        eprintln!("for agent {}, once, until {expires}; id {}", token.agent_id, token.id);
    }
    Ok(())
}

pub(crate) async fn tokens(client: &mut Client, json: bool) -> Result<()> {
    let listed = client.list_tokens(ListTokensRequest {}).await.map_err(|status| explain(&status))?.into_inner();
    let mut table = Table::new();
    table.set_header(["id", "agent", "expires", "made by"]);
    for token in listed.tokens {
        let expires = when(token.expires_at);
        if json {
            println!(
                "{}",
                json!({"id": token.id, "agent": token.agent_id, "expires": expires, "created_by": token.created_by})
            );
        }
        table.add_row([token.id, token.agent_id, expires, token.created_by]);
    }
    if !json {
        println!("{table}");
    }
    Ok(())
}

pub(crate) async fn revoke(client: &mut Client, id: String) -> Result<()> {
    client.revoke_token(RevokeTokenRequest { id }).await.map_err(|status| explain(&status))?;
    Ok(())
}

/// The last so many, the newest first.
pub(crate) async fn audit(client: &mut Client, last: usize, json: bool) -> Result<()> {
    let (mut entries, mut page_token) = (Vec::<AuditEntry>::new(), String::new());
    while entries.len() < last {
        let page_size = u32::try_from((last - entries.len()).min(1000)).unwrap_or(1000);
        let request = ListAuditRequest { page_size, page_token };
        let page = client.list_audit(request).await.map_err(|status| explain(&status))?.into_inner();
        entries.extend(page.entries);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    let mut table = Table::new();
    table.set_header(["at", "who", "from", "what", "about", "outcome"]);
    for entry in entries {
        let at = when(entry.at);
        if json {
            println!(
                "{}",
                json!({"number": entry.number, "at": at, "who": entry.who, "from": entry.address, "what": entry.what,
                    "about": entry.about, "outcome": entry.outcome})
            );
        }
        table.add_row([at, entry.who, entry.address, entry.what, entry.about, entry.outcome]);
    }
    if !json {
        println!("{table}");
    }
    Ok(())
}
