//! Where a server's stream can be gone on with: its backlog, and an offset in it.

use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_common::position::ReplicationId;
use dts_common::redis::resp;
use redis_protocol::resp2::types::Resp2Frame as _;
use tokio::time::{Instant, sleep};

use crate::client::{Client, Info};
use crate::endpoint::{Endpoint, Side};

/// A server whose stream is busy all the time with what is not ours gives us a moment in this.
const WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Where the other way begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) history: ReplicationId,
    pub(super) offset: u64,
}

/// True if what the server writes from now on can be asked for later.
pub(super) fn has_backlog(replication: &Info) -> bool {
    replication.number("repl_backlog_active") == Some(1)
}

/// False if the server says that our login may not ask for its stream. Before 7.0 it does not say.
pub(super) async fn may_follow(client: &mut Client) -> Result<bool> {
    let own = client.ask(&[b"ACL", b"WHOAMI"]).await?;
    let own = own.as_str().unwrap_or_default();
    let said = client.ask(&[b"ACL", b"DRYRUN", own.as_bytes(), b"PSYNC", b"?", b"-1"]).await?;
    Ok(!said.as_str().is_some_and(|said| said.contains("no permissions")))
}

/// A server begins a backlog when the first replica asks, and keeps it for an hour (`repl-backlog-ttl`) after the last has gone.
pub(super) async fn backlog(target: &Endpoint, client: &mut Client) -> Result<()> {
    if has_backlog(&client.info("replication").await?) {
        return Ok(());
    }
    let mut replica = Client::connect(target, Side::Target).await?;
    // From 7.0 on the snapshot that nobody waits for has nothing in it. Others do not know the word.
    replica.ask(&[b"REPLCONF", b"capa", b"eof"]).await?;
    replica.ask(&[b"REPLCONF", b"rdb-filter-only", b""]).await?;
    let mut psync = Vec::new();
    resp::command(&mut psync, &[b"PSYNC", b"?", b"-1"]);
    replica.send(&psync).await?;
    let until = Instant::now() + WITHIN;
    while !has_backlog(&client.info("replication").await?) {
        if Instant::now() > until {
            let message =
                "the target begins no backlog: let a replica follow it, or grant the task's login +psync +replconf";
            return Err(Error::new(Code::TargetUnsupported, message));
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// An offset at which database 0 is selected in the stream: behind a command of ours with nothing else around it. `name` is the key that it writes, and
/// deletes.
pub(super) async fn place(client: &mut Client, name: &str) -> Result<Place> {
    let (mut select, mut set) = (Vec::new(), Vec::new());
    resp::command(&mut select, &[b"SELECT", b"0"]);
    resp::command(&mut set, &[b"SET", name.as_bytes(), b"1"]);
    let lengths = [set.len() as u64, (select.len() + set.len()) as u64];
    let run_id = client.info("server").await?.get("run_id").unwrap_or_default().to_owned();
    let unreadable = || Error::new(Code::TargetUnsupported, "the target does not tell its replication offset");
    let until = Instant::now() + WITHIN;
    loop {
        let before = client.info("replication").await?.number("master_repl_offset").ok_or_else(unreadable)?;
        client.call(&[b"SET", name.as_bytes(), b"1"]).await?;
        let after = client.info("replication").await?;
        let offset = after.number("master_repl_offset").ok_or_else(unreadable)?;
        if lengths.contains(&offset.saturating_sub(before)) {
            let history = after.get("master_replid").unwrap_or(&run_id).parse().map_err(|_| unreadable())?;
            client.call(&[b"DEL", name.as_bytes()]).await?;
            return Ok(Place { history, offset });
        }
        if Instant::now() > until {
            let message = "the target is written to by somebody else before it was handed over";
            return Err(Error::new(Code::TargetBusy, message));
        }
        sleep(LOOK_EVERY).await;
    }
}
