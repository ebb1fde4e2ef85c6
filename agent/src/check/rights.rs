//! What our users may do, found out without doing it: a PSYNC that is only tried would make the source fork.

use dts_common::error::{Code, Error, Result};
use dts_common::redis::version::ServerVersion;
use dts_proto::v1::Severity;
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use super::found::Found;
use super::look::Shard;
use crate::client::Client;
use crate::endpoint::Side;
use crate::verify::version;

/// Commands that the pipeline needs on a target, with arguments that are only judged.
const WRITES: &[&[&[u8]]] = &[
    &[b"SELECT", b"0"],
    &[b"WATCH", b"__dts:check"],
    &[b"MULTI"],
    &[b"EXEC"],
    &[b"SET", b"__dts:check", b"1"],
    &[b"DEL", b"__dts:check"],
    &[b"RESTORE", b"__dts:check", b"0", b""],
    &[b"PEXPIREAT", b"__dts:check", b"1"],
];

/// Replication, by PSYNC or SYNC.
pub(super) async fn of_source(shard: &Shard<'_>) -> Result<Found> {
    let mut from = shard.from().await?;
    let of = version(&mut from, Side::Source).await?;
    let known = known(&mut from, &["psync", "sync", "replconf"]).await?;
    if let Some([psync, sync, _]) = known.as_deref()
        && !psync
        && !sync
    {
        return Ok(Found::Failed(
            Error::new(Code::SourceNoReplication, "the source knows neither PSYNC nor SYNC: they are renamed").into(),
        ));
    }
    let unnamed = Found::Passed("PSYNC is renamed: every interruption costs a new copy".into());
    let psync: &[&[u8]] = &[b"PSYNC", b"?", b"-1"];
    let sync: &[&[u8]] = &[b"SYNC"];
    let may = match may(&mut from, &of, psync).await? {
        Some(false) => may_by(&mut from, &of, sync).await?,
        may => may,
    };
    Ok(match (may, known.as_deref()) {
        (Some(false), _) => Found::Failed(
            Error::new(Code::SourcePermission, "the source does not let this user replicate (PSYNC, SYNC)").into(),
        ),
        (Some(true), Some([false, ..])) | (None, Some([false, ..])) if !of.at_least(6, 0) => unnamed,
        (Some(true), _) => Found::fine(),
        // Before 6.0 whoever is logged in may do everything.
        (None, Some(_)) if !of.at_least(6, 0) => Found::fine(),
        // Nothing is written before the source has granted it.
        (None, _) => Found::unknown("the user may not ask what it may do on the source").weighing(Severity::Informs),
    })
}

async fn may_by(client: &mut Client, of: &ServerVersion, command: &[&[u8]]) -> Result<Option<bool>> {
    may(client, of, command).await
}

/// Everything that a batch is made of.
pub(super) async fn of_target(shard: &Shard<'_>) -> Result<Found> {
    let mut to = shard.to().await?;
    let of = version(&mut to, Side::Target).await?;
    let names: Vec<String> = WRITES.iter().map(|command| String::from_utf8_lossy(command[0]).to_lowercase()).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let lacks = |what: &str, missing: Vec<String>| {
        let message = format!("the target {what} {}", missing.join(", ").to_uppercase());
        Found::Failed(Error::new(Code::TargetPermission, message).into())
    };
    if let Some(known) = known(&mut to, &names).await? {
        let missing: Vec<String> =
            names.iter().zip(&known).filter(|(_, known)| !**known).map(|(name, _)| (*name).to_owned()).collect();
        if !missing.is_empty() {
            return Ok(lacks("does not know", missing));
        }
    }
    if !of.at_least(6, 0) {
        return Ok(Found::fine());
    }
    Ok(match own(&mut to).await? {
        Some(user) => match refused(&mut to, &of, &user).await? {
            Some(refused) if refused.is_empty() => Found::fine(),
            Some(refused) => lacks("does not let this user run", refused),
            None => unasked(),
        },
        None => unasked(),
    })
}

fn unasked() -> Found {
    // The first batch would be refused, before anything was written.
    Found::unknown("the user may not ask what it may do on the target").weighing(Severity::Informs)
}

/// What of a batch this user may not run; `None`: that may not be asked.
pub(super) async fn refused(client: &mut Client, of: &ServerVersion, user: &str) -> Result<Option<Vec<String>>> {
    let mut refused = Vec::new();
    for command in WRITES {
        match judged(client, of, user, command).await? {
            Some(true) => {}
            Some(false) => refused.push(String::from_utf8_lossy(command[0]).into_owned()),
            None => return Ok(None),
        }
    }
    Ok(Some(refused))
}

/// Which of them the server knows by these names; `None`: it may not be asked.
pub(super) async fn known(client: &mut Client, names: &[&str]) -> Result<Option<Vec<bool>>> {
    let mut ask: Vec<&[u8]> = vec![b"COMMAND", b"INFO"];
    ask.extend(names.iter().map(|name| name.as_bytes()));
    let BytesFrame::Array(found) = client.ask(&ask).await? else { return Ok(None) };
    // Before 2.8.13 there is no COMMAND; a reply of another length is not one of it.
    if found.len() != names.len() {
        return Ok(None);
    }
    let is_there = |entry: &BytesFrame| matches!(entry, BytesFrame::Array(fields) if !fields.is_empty());
    Ok(Some(found.iter().map(is_there).collect()))
}

/// By ACL DRYRUN from 7.0 on; 6.x queues the command in a transaction that is discarded.
async fn may(client: &mut Client, of: &ServerVersion, command: &[&[u8]]) -> Result<Option<bool>> {
    if of.at_least(7, 0) || !of.at_least(6, 0) {
        return may_dry(client, of, command).await;
    }
    if client.ask(&[b"MULTI"]).await?.as_str() != Some("OK") {
        return Ok(None);
    }
    let queued = client.ask(command).await?;
    client.ask(&[b"DISCARD"]).await?;
    Ok(match queued {
        BytesFrame::Error(text) if text.starts_with("NOPERM") => Some(false),
        BytesFrame::Error(_) => None,
        _ => Some(true),
    })
}

async fn may_dry(client: &mut Client, of: &ServerVersion, command: &[&[u8]]) -> Result<Option<bool>> {
    match own(client).await? {
        Some(user) => judged(client, of, &user, command).await,
        None => Ok(None),
    }
}

/// Who we are there.
async fn own(client: &mut Client) -> Result<Option<String>> {
    let reply = client.ask(&[b"ACL", b"WHOAMI"]).await?;
    Ok(reply.as_str().filter(|_| !matches!(reply, BytesFrame::Error(_))).map(str::to_owned))
}

async fn judged(client: &mut Client, of: &ServerVersion, user: &str, command: &[&[u8]]) -> Result<Option<bool>> {
    if !of.at_least(7, 0) {
        return Ok(None);
    }
    let ask: Vec<&[u8]> = [&[&b"ACL"[..], b"DRYRUN", user.as_bytes()][..], command].concat();
    let judged = client.ask(&ask).await?;
    Ok(match &judged {
        BytesFrame::Error(_) => None,
        judged => judged.as_str().map(|text| text == "OK"),
    })
}
