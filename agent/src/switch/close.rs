//! Closing a source to its users, and opening it again: their permissions, by ACL, less everything that writes.

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::ClosedUser;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use crate::client::Client;

/// The users that are to be closed out, with what they may do; of those that are `known` what they could do before. `spare` our own login, which goes on
/// writing.
pub(super) async fn users(client: &mut Client, spare: bool, known: &[ClosedUser]) -> Result<Vec<ClosedUser>> {
    let own = client.call(&[b"ACL", b"WHOAMI"]).await?.as_str().unwrap_or_default().to_owned();
    let BytesFrame::Array(names) = client.call(&[b"ACL", b"USERS"]).await? else { return Err(odd("ACL USERS")) };
    let mut all = known.to_vec();
    for name in names.iter().filter_map(|name| name.as_str()) {
        if (spare && name == own) || all.iter().any(|user| user.name == name) {
            continue;
        }
        let BytesFrame::Array(fields) = client.call(&[b"ACL", b"GETUSER", name.as_bytes()]).await? else { continue };
        let field = |wanted: &str| {
            fields.chunks(2).find_map(|pair| (pair.first()?.as_str()? == wanted).then(|| pair.get(1)).flatten())
        };
        if matches!(field("selectors"), Some(BytesFrame::Array(selectors)) if !selectors.is_empty()) {
            let message = format!("user {name:?} of the source has selectors, which cannot be given back as they were");
            return Err(Error::new(Code::InvalidRequest, message));
        }
        let commands = field("commands").and_then(|commands| commands.as_str()).ok_or_else(|| odd("ACL GETUSER"))?;
        all.push(ClosedUser { name: name.to_owned(), commands: commands.to_owned(), server: String::new() });
    }
    Ok(all)
}

/// Takes everything that writes from them. Connections that are there, and commands that wait, are refused from now on.
pub(super) async fn close(client: &mut Client, users: &[ClosedUser]) -> Result<()> {
    for user in users {
        client.call(&[b"ACL", b"SETUSER", user.name.as_bytes(), b"-@write"]).await?;
    }
    Ok(())
}

/// Gives them back what they could do.
pub(super) async fn open(client: &mut Client, users: &[ClosedUser]) -> Result<()> {
    for user in users {
        // Naming a user that was removed meanwhile would create it.
        if client.call(&[b"ACL", b"GETUSER", user.name.as_bytes()]).await? == BytesFrame::Null {
            continue;
        }
        let mut words: Vec<&[u8]> = vec![b"ACL", b"SETUSER", user.name.as_bytes(), b"-@all"];
        words.extend(user.commands.split_ascii_whitespace().map(str::as_bytes));
        client.call(&words).await?;
    }
    Ok(())
}

/// Why we may not do that; `None`: we may. Changes nothing.
pub(super) async fn missing(client: &mut Client) -> Result<Option<String>> {
    // A word that no rule begins with: it is refused for what it is, or before that for who we are.
    let said = client.ask(&[b"ACL", b"SETUSER", b"default", b"dts-asks-only"]).await?;
    Ok(match said {
        BytesFrame::Error(text) if text.starts_with("ERR Error in ACL SETUSER") => None,
        BytesFrame::Error(text) => Some(text.to_string()),
        _ => None,
    })
}

fn odd(command: &str) -> Error {
    Error::new(Code::SourceProtocol, format!("the source answers {command} with something else"))
}
