//! What each step of a switch-over would do to this source, and what it needs. Changes nothing.

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{ClosedUser, HoldMethod, SwitchOverNeed, SwitchOverSpec};
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use super::{address, at, back, close, writes};
use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::pipeline::Job;
use crate::status::Board;
use crate::verify::version;

/// What was found.
pub(super) struct Found {
    pub(super) master: Endpoint,
    pub(super) needs: Vec<SwitchOverNeed>,
    pub(super) users: Vec<ClosedUser>,
}

/// Whose writes are to be held: the master of what is read.
pub(super) async fn master(job: &Job, board: &Board) -> Result<Endpoint> {
    let read_from = board.read().reading_from;
    let mut endpoint = job.source.clone();
    if let Some((host, port)) = address(&read_from) {
        endpoint = at(&job.source, host, port);
    }
    // A replica of a replica has a master behind its master.
    for _ in 0..4 {
        let replication = Client::connect(&endpoint, Side::Source).await?.info("replication").await?;
        if replication.get("role") != Some("slave") {
            return Ok(endpoint);
        }
        let host = replication.get("master_host").unwrap_or_default();
        let port = replication.number("master_port").and_then(|port| u16::try_from(port).ok()).unwrap_or(0);
        endpoint = at(&job.source, host, port);
    }
    Err(Error::new(Code::SourceTopology, "the master of the source is not found"))
}

pub(super) async fn look(job: &Job, board: &Board, spec: &SwitchOverSpec) -> Result<Found> {
    let master = master(job, board).await?;
    let mut client = Client::connect(&master, Side::Source).await?;
    let mut needs = vec![hold(&mut client, &master, spec).await?];
    needs.push(drain(&mut client, job, &master, board).await?);
    let (closing, users) = closing(&mut client, spec).await?;
    needs.push(closing);
    if spec.keep_way_back {
        needs.push(back::look(job, &mut client, &master).await?);
    }
    Ok(Found { master, needs, users })
}

pub(super) fn need(step: &str, does: impl Into<String>, missing: Option<String>) -> SwitchOverNeed {
    SwitchOverNeed { step: step.into(), does: does.into(), missing: missing.unwrap_or_default() }
}

async fn hold(client: &mut Client, master: &Endpoint, spec: &SwitchOverSpec) -> Result<SwitchOverNeed> {
    if spec.writers_stopped {
        let counted = writes::count(client).await.err().map(|error| error.to_string());
        return Ok(need("hold", format!("nothing: looks at {master} every second, whether a write came"), counted));
    }
    if spec.hold_method() == HoldMethod::Acl {
        return refusing(client, master).await;
    }
    // Refused for its number, or before that for who we are.
    let said = client.ask(&[b"CLIENT", b"PAUSE", b"dts-asks-only", b"WRITE"]).await?;
    let missing = match &said {
        BytesFrame::Error(text) if text.starts_with("NOPERM") => {
            Some("the task's login needs +client|pause +client|unpause +client|kill on the source's master".to_owned())
        }
        BytesFrame::Error(text) if text.contains("timeout is not") => None,
        _ => Some(
            "the source is older than 6.2, and cannot hold writes: stop the writers, then use --writers-stopped; 6.0 can refuse them, with --hold-by acl"
                .to_owned(),
        ),
    };
    let missing = match missing {
        Some(missing) => Some(missing),
        None => writes::count(client).await.err().map(|error| error.to_string()),
    };
    let does = format!("CLIENT PAUSE 3000 WRITE on {master}, every second: writes wait, reads do not");
    Ok(need("hold", does, missing))
}

async fn refusing(client: &mut Client, master: &Endpoint) -> Result<SwitchOverNeed> {
    let missing = match close::missing(client).await? {
        Some(why) => Some(format!("the task's login may not change users of the source ({why}): Redis 6.0 and +acl")),
        None => writes::count(client).await.err().map(|error| error.to_string()),
    };
    let does = format!(
        "takes everything that writes from the users of {master}: who writes is refused at once; an agent gives it back when the time is over"
    );
    Ok(need("hold", does, missing))
}

async fn drain(client: &mut Client, job: &Job, master: &Endpoint, board: &Board) -> Result<SwitchOverNeed> {
    let stream = board.read().stream.unwrap_or_default();
    let does = format!(
        "waits until the target holds everything up to the offset; it is {} bytes behind now",
        stream.lag_bytes
    );
    // Up to 3.2 a replica counts its own offsets: that of its master says nothing about it.
    let reads_a_replica = !board.read().reading_from.is_empty() && board.read().reading_from != master.to_string();
    let counts_its_own = reads_a_replica && !version(client, Side::Source).await?.at_least(4, 0);
    let missing = if stream.replication_id.is_empty() {
        Some("a source that speaks SYNC only tells no offsets".to_owned())
    } else {
        counts_its_own.then(|| format!("{} is a replica older than 4.0: read its master", job.source))
    };
    Ok(need("drain", does, missing))
}

async fn closing(client: &mut Client, spec: &SwitchOverSpec) -> Result<(SwitchOverNeed, Vec<ClosedUser>)> {
    if spec.leave_open || spec.writers_stopped {
        let does = "nothing: what writes to the source afterwards is nowhere else";
        return Ok((need("close", does, None), Vec::new()));
    }
    if let Some(why) = close::missing(client).await? {
        let missing =
            format!("the task's login may not change users of the source ({why}): give it +acl, or --leave-open");
        return Ok((need("close", "takes everything that writes from the source's users", Some(missing)), Vec::new()));
    }
    let users = match close::users(client, spec.keep_way_back, &[]).await {
        Ok(users) => users,
        Err(error) => {
            return Ok((need("close", "", Some(format!("{}; or use --leave-open", error.message))), Vec::new()));
        }
    };
    let names: Vec<&str> = users.iter().map(|user| user.name.as_str()).collect();
    let own = client.call(&[b"ACL", b"WHOAMI"]).await?.as_str().unwrap_or_default().to_owned();
    let missing = (spec.keep_way_back && own == "default").then(|| {
        "the way back writes to the source as `default`, which cannot be closed then: give the task a login of its own, or --leave-open"
            .to_owned()
    });
    let does = format!("takes everything that writes from the source's users ({})", names.join(", "));
    Ok((need("close", does, missing), users))
}
