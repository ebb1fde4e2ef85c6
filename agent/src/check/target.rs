//! The target as it is now: whether it takes writes, who else writes, and what keeps a writer of ours that was replaced from writing.

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{Severity, TargetGuard};
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};
use tokio::time::sleep;

use super::found::Found;
use super::look::Shard;
use super::words::setting;
use crate::client::Client;
use crate::guard;
use crate::target::{BEHIND_A_ROUTER, Destination, cluster, lacks};

/// Clients that are named.
const NAMED: usize = 5;

/// It does not refuse writes for its own safety.
pub(super) async fn accepts(shard: &Shard<'_>) -> Found {
    let look = async {
        for mut to in shard.to_each().await? {
            if let Some(why) = refuses(&mut to).await? {
                return Ok(Found::Failed(Error::new(Code::TargetBusy, format!("the target {why}")).into()));
            }
        }
        Ok(Found::fine())
    };
    Found::asked(look.await)
}

async fn refuses(to: &mut Client) -> Result<Option<String>> {
    let (persistence, replication) = (to.info("persistence").await?, to.info("replication").await?);
    if persistence.get("aof_last_write_status") == Some("err") {
        return Ok(Some("cannot write its append only file, and refuses writes".into()));
    }
    let saves = setting(to, "save").await?.is_none_or(|points| !points.is_empty());
    let stops = setting(to, "stop-writes-on-bgsave-error").await?.is_none_or(|stops| stops == "yes");
    if persistence.get("rdb_last_bgsave_status") == Some("err") && saves && stops {
        return Ok(Some("could not save, and refuses writes".into()));
    }
    let wanted = match setting(to, "min-replicas-to-write").await? {
        None => setting(to, "min-slaves-to-write").await?,
        wanted => wanted,
    };
    let wanted = wanted.and_then(|wanted| wanted.parse::<u64>().ok()).unwrap_or(0);
    let has = replication.number("min_slaves_good_slaves").unwrap_or(wanted);
    Ok((has < wanted).then(|| format!("has {has} of the {wanted} replicas without which it refuses writes")))
}

/// Slots stay where they are.
pub(super) async fn rests(shard: &Shard<'_>) -> Found {
    let Destination::Cluster(seeds) = &shard.destination else { return Found::noted("the target is not a cluster") };
    Found::asked(cluster::Topology::at_rest(seeds).await.map(|rests| match rests {
        Some(_) => Found::fine(),
        None => {
            let message = "slots of the target are on their way, or its nodes do not agree";
            Found::Failed(Error::new(Code::TargetBusy, message).into())
        }
    }))
}

/// Nobody changes the target while it is watched.
pub(super) async fn others(shard: &Shard<'_>) -> Found {
    let look = async {
        let mut servers = shard.to_each().await?;
        let mut before = Vec::new();
        for to in &mut servers {
            before.push(changes(to).await?);
        }
        sleep(shard.sample).await;
        let (mut count, mut who) = (0, Vec::new());
        for (to, before) in servers.iter_mut().zip(before) {
            let (Some(before), Some(after)) = (before, changes(to).await?) else {
                return Ok(Found::unknown("the target does not count its changes"));
            };
            if after > before {
                count += after - before;
                who.extend(clients(to).await?);
            }
        }
        if count == 0 {
            return Ok(Found::fine());
        }
        who.truncate(NAMED);
        let who = if who.is_empty() { "by unknown clients".to_owned() } else { who.join(", ") };
        Ok(Found::bad(format!("{count} changes while the target was watched: {who}")))
    };
    Found::asked(look.await)
}

async fn changes(to: &mut Client) -> Result<Option<u64>> {
    Ok(to.info("persistence").await?.number("rdb_changes_since_last_save"))
}

/// `host:port (command)` of those that were active within the last seconds.
async fn clients(to: &mut Client) -> Result<Vec<String>> {
    let reply = to.ask(&[b"CLIENT", b"LIST"]).await?;
    Ok(match reply {
        BytesFrame::Error(_) => Vec::new(),
        list => active(list.as_str().unwrap_or_default()),
    })
}

fn active(list: &str) -> Vec<String> {
    let shown = |line: &str| {
        let field = |name: &str| line.split(' ').find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        let (address, command) = (field("addr")?, field("cmd")?);
        let idle: u64 = field("idle")?.parse().ok()?;
        let quiet = ["client", "info", "ping", "config", "replconf", "NULL"];
        let acts = idle <= 2 && !quiet.iter().any(|word| command.starts_with(word));
        acts.then(|| format!("{address} ({command})"))
    };
    list.lines().filter_map(shown).take(NAMED).collect()
}

/// Said, so that nobody has to guess.
pub(super) async fn fence(shard: &Shard<'_>) -> Found {
    let fence = shard.destination.fence();
    let asked = shard.job.user.is_some();
    let said = match fence {
        "F3" => "every transaction watches the record that names its writer",
        "F1" => "the record of every slot names its writer, and a successor ends the connections of those before it",
        _ if asked => return not_to_be_had(Error::new(Code::TargetUnsupported, BEHIND_A_ROUTER)),
        _ => return Found::bad(format!("{fence}: an endpoint that routes by itself: at least once")),
    };
    let look = async {
        for mut to in shard.to_each().await? {
            if let Some(why) = lacks(&mut to).await? {
                return Ok(match asked {
                    true => not_to_be_had(why),
                    false => Found::noted(format!("{fence}: {said}. F4 is not to be had: {}", why.message)),
                });
            }
        }
        Ok(Found::noted(match asked {
            true => format!("F4: a user of its own for every epoch, which a successor removes; and {fence}: {said}"),
            false => format!("{fence}: {said}. F4 could be had too (--target-fence user)"),
        }))
    };
    match look.await {
        // What stands without a user stands whatever could be asked about users.
        Err(_) if !asked => Found::noted(format!("{fence}: {said}")),
        found => Found::asked(found),
    }
}

fn not_to_be_had(why: Error) -> Found {
    let message = format!("F4 (--target-fence user) is not to be had: {}", why.message);
    Found::Failed(Error { message, ..why }.into()).weighing(Severity::Blocks).mended_by(
        "let our login run ACL, let nobody write who has not logged in (switch the user default off, or give it a password), take a target of 6.0 or newer; or take --target-fence auto",
    )
}

/// Whether what the task asks for can be had.
pub(super) async fn guard(shard: &Shard<'_>) -> Found {
    let level = shard.job.guard.level();
    if shard.job.shard.index > 0 {
        // The first one looks for all.
        return Found::fine();
    }
    let look = async {
        match level {
            TargetGuard::Off => return Ok(Found::noted("nobody is asked to look (--target-guard off)")),
            TargetGuard::Acl => {}
            _ => return Ok(Found::noted("watched: writes of others are counted, and raise an alarm")),
        }
        let mut count = 0;
        for mut to in shard.to_each().await? {
            let (own, others) = match guard::users(&mut to, &shard.job.shard.task).await? {
                Ok(found) => found,
                Err(why) => return Ok(Found::bad(why).weighing(Severity::Warns)),
            };
            // By a user that we may not change nothing is changed.
            let probe: &[&[u8]] = &[b"ACL", b"DRYRUN", own.as_bytes(), b"ACL", b"SETUSER", b"x"];
            if let BytesFrame::BulkString(_) = to.ask(probe).await? {
                return Ok(Found::bad("our user may not change users (ACL SETUSER)").weighing(Severity::Warns));
            }
            count = count.max(others.len());
        }
        Ok(Found::noted(format!("the right to write can be taken from {count} other users")))
    };
    Found::asked(look.await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_that_act_are_named_and_others_are_not() {
        let list = "id=3 addr=10.0.0.1:5 fd=8 name= age=9 idle=0 flags=N cmd=set\n\
                    id=4 addr=10.0.0.2:5 fd=9 name= age=9 idle=0 flags=N cmd=client|list\n\
                    id=5 addr=10.0.0.3:5 fd=9 name= age=9 idle=90 flags=N cmd=set\n";
        assert_eq!(active(list), ["10.0.0.1:5 (set)"]);
    }
}
