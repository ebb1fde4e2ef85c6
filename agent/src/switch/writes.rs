//! How many writing commands a server has run, by its own count: what tells that none came in between, however long nobody looked.

use dts_common::error::{Code, Error, Result};
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use crate::client::{Client, Info};
use crate::endpoint::Side;

/// A server at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) history: String,
    pub(super) offset: u64,
    pub(super) writes: u64,
}

/// Count and offset of one moment.
pub(super) async fn count(client: &mut Client) -> Result<Moment> {
    let run_id = client.info("server").await?.get("run_id").unwrap_or_default().to_owned();
    client.call(&[b"MULTI"]).await?;
    client.call(&[b"INFO", b"commandstats"]).await?;
    client.call(&[b"INFO", b"replication"]).await?;
    let wrong = || Error::new(Side::Source.refusal(""), "the source answers EXEC with something else");
    let BytesFrame::Array(answers) = client.call(&[b"EXEC"]).await? else { return Err(wrong()) };
    let [stats, replication] = answers.as_slice() else { return Err(wrong()) };
    let (stats, replication) = (Info::of(stats), Info::of(replication));
    if replication.get("role") == Some("slave") {
        let message = "the source's master is a replica now: it failed over";
        return Err(Error::new(Code::ActionNotAllowed, message));
    }
    let offset = replication.number("master_repl_offset").ok_or_else(wrong)?;
    // Before 4.0 the history is the server's own.
    let history = replication.get("master_replid").unwrap_or(&run_id).to_owned();
    let calls: Vec<(&str, u64)> =
        stats.fields().filter_map(|(name, said)| Some((command(name)?, calls(said)?))).collect();
    let names: Vec<&str> = calls.iter().map(|(name, _)| *name).collect();
    let writes = writing(client, &names).await?;
    let writes = calls.iter().zip(writes).filter(|(_, writes)| *writes).map(|((_, calls), _)| calls).sum();
    Ok(Moment { history, offset, writes })
}

/// `cmdstat_xgroup|create` -> `xgroup|create`.
fn command(field: &str) -> Option<&str> {
    field.strip_prefix("cmdstat_")
}

/// `calls=3,usec=…` -> 3.
fn calls(said: &str) -> Option<u64> {
    said.strip_prefix("calls=")?.split(',').next()?.parse().ok()
}

/// Which of the commands write; one that the server does not tell of counts as if it did.
async fn writing(client: &mut Client, names: &[&str]) -> Result<Vec<bool>> {
    let mut words: Vec<&[u8]> = vec![b"COMMAND", b"INFO"];
    words.extend(names.iter().map(|name| name.as_bytes()));
    match client.ask(&words).await? {
        BytesFrame::Array(found) if found.len() == names.len() => Ok(found.iter().map(may_write).collect()),
        BytesFrame::Error(text) if text.starts_with("NOPERM") => Err(client.refused("COMMAND", &text)),
        _ => Err(Error::new(Code::SourceProtocol, "the source does not tell which commands write (COMMAND INFO)")),
    }
}

fn may_write(command: &BytesFrame) -> bool {
    let BytesFrame::Array(fields) = command else { return true };
    let Some(BytesFrame::Array(flags)) = fields.get(2) else { return true };
    flags.iter().any(|flag| flag.as_str() == Some("write"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_of_commands_and_their_subcommands_are_read() {
        let text = "# Commandstats\r\ncmdstat_set:calls=7,usec=3,usec_per_call=1.0\r\ncmdstat_xgroup|create:calls=2,usec=1\r\n";
        let info = Info::of(&BytesFrame::BulkString(text.as_bytes().into()));
        let read: Vec<_> = info.fields().filter_map(|(name, said)| Some((command(name)?, calls(said)?))).collect();
        assert_eq!(read, [("set", 7), ("xgroup|create", 2)]);
    }
}
