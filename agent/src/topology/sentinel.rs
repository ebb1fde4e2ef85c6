//! Masters that sentinels watch: asked where one is, before an attempt and while it runs.

use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::client::Client;
use crate::endpoint::{Endpoint, Side};

const LOOK_EVERY: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(3);

/// Where the shard is to be read: where it was listed, if that is the master of this name or a replica that follows it; else the master.
pub(crate) async fn find(listed: &Endpoint, sentinels: &[Endpoint], name: &str) -> Result<Endpoint> {
    let master = master(listed, sentinels, name).await?;
    if follows(listed, &master).await { Ok(listed.clone()) } else { Ok(master) }
}

/// Ends once what is read is no longer the master's data.
pub(crate) async fn watch(read: Endpoint, sentinels: Vec<Endpoint>, name: String) -> Error {
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        // Sentinels that do not answer say nothing against it.
        if let Ok(master) = master(&read, &sentinels, &name).await
            && !master.is_at(&read)
            && !follows(&read, &master).await
        {
            return Error::new(
                Code::SourceFailedOver,
                format!("the sentinels say that {name} is at {master} now, not at {read}"),
            );
        }
    }
}

/// What the first sentinel that answers says, with the login of `login`.
async fn master(login: &Endpoint, sentinels: &[Endpoint], name: &str) -> Result<Endpoint> {
    let mut last = Error::new(Code::SourceTopology, format!("no sentinel is listed for {name}"));
    for sentinel in sentinels {
        match timeout(PATIENCE, address(sentinel, name)).await {
            Ok(Ok(Some((host, port)))) => return Ok(Endpoint { host, port, ..login.clone() }),
            Ok(Ok(None)) => {
                last = Error::new(Code::SourceTopology, format!("the sentinel {sentinel} knows no master {name:?}"));
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = Error::new(Code::SourceUnreachable, format!("the sentinel {sentinel} does not answer")),
        }
    }
    Err(last)
}

async fn address(sentinel: &Endpoint, name: &str) -> Result<Option<(String, u16)>> {
    let mut client = Client::connect(sentinel, Side::Source).await?;
    let reply = client.call(&[b"SENTINEL", b"get-master-addr-by-name", name.as_bytes()]).await?;
    let BytesFrame::Array(words) = &reply else { return Ok(None) };
    let [host, port] = words.as_slice() else { return Ok(None) };
    let port = port.as_str().and_then(|port| port.parse().ok());
    Ok(host.as_str().map(str::to_owned).zip(port))
}

/// True if the server is the master, or a replica whose link to it is up.
async fn follows(at: &Endpoint, master: &Endpoint) -> bool {
    let asked = async {
        let replication = Client::connect(at, Side::Source).await?.info("replication").await?;
        Ok::<bool, Error>(match replication.get("role") {
            Some("master") => at.is_at(master),
            _ => {
                replication.get("master_link_status") == Some("up")
                    && replication.get("master_host") == Some(master.host.as_str())
                    && replication.number("master_port") == Some(u64::from(master.port))
            }
        })
    };
    matches!(timeout(PATIENCE, asked).await, Ok(Ok(true)))
}
