//! Whether a target can have a user for every epoch (fence F4), found out without changing anything.

use dts_common::error::{Code, Error, Result};
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};

use crate::client::Client;

/// Nobody has this name, and nobody gets it.
const PROBE: &[u8] = b"dts:check";
/// What these allow writes nothing, or only as far as another rule allows it.
const HARMLESS: [&str; 5] = ["+@read", "+@connection", "+@pubsub", "+@transaction", "+@scripting"];

/// Why an endpoint that routes cannot have it.
pub const BEHIND_A_ROUTER: &str =
    "the servers behind an endpoint that routes cannot be reached one by one, so none gets a user of ours";

/// What a server lacks for a user of ours; `None`: nothing.
pub async fn lacks(to: &mut Client) -> Result<Option<Error>> {
    // A word that no rule is: it is refused for what it is, or before that for who we are.
    if let Some(why) = denied(&to.ask(&[b"ACL", b"SETUSER", PROBE, b"dts-asks-only"]).await?, "create", true) {
        return Ok(Some(why));
    }
    if let Some(why) = denied(&to.ask(&[b"ACL", b"DELUSER", PROBE]).await?, "remove", false) {
        return Ok(Some(why));
    }
    if let Some(why) = denied(&to.ask(&[b"ACL", b"USERS"]).await?, "list", false) {
        return Ok(Some(why));
    }
    let default = to.ask(&[b"ACL", b"GETUSER", b"default"]).await?;
    if let Some(why) = denied(&default, "ask for", false) {
        return Ok(Some(why));
    }
    if !writes_unasked(to, &default).await? {
        return Ok(None);
    }
    let message = "whoever does not log in on the target may write there (the user `default` is on, asks for no password, and may write): \
                   a login that fails does not keep a writer out";
    Ok(Some(Error::new(Code::TargetPermission, message)))
}

fn denied(reply: &BytesFrame, what: &str, judged: bool) -> Option<Error> {
    let BytesFrame::Error(text) = reply else { return None };
    if judged && text.starts_with("ERR Error in ACL SETUSER") {
        return None;
    }
    let error = if text.starts_with("NOPERM") {
        Error::new(Code::TargetPermission, format!("our login may not {what} users on the target (it lacks +acl)"))
    } else {
        Error::new(
            Code::TargetUnsupported,
            "the target knows no users (before 6.0), or hides its ACL command".to_owned(),
        )
    };
    Some(error)
}

/// True if a connection that has not logged in may write. With a password on `default` it may do nothing at all.
async fn writes_unasked(to: &mut Client, default: &BytesFrame) -> Result<bool> {
    let BytesFrame::Array(fields) = default else { return Ok(true) };
    let field = |fields: &[BytesFrame], wanted: &str| {
        fields.chunks(2).find_map(|pair| (pair.first()?.as_str()? == wanted).then(|| pair.get(1).cloned()).flatten())
    };
    let flagged = |flag: &str| match field(fields, "flags") {
        Some(BytesFrame::Array(flags)) => flags.iter().any(|found| found.as_str() == Some(flag)),
        _ => true,
    };
    if !flagged("on") || !flagged("nopass") {
        return Ok(false);
    }
    let mut rules = vec![field(fields, "commands")];
    if let Some(BytesFrame::Array(selectors)) = field(fields, "selectors") {
        for selector in selectors {
            rules.push(match selector {
                BytesFrame::Array(fields) => field(&fields, "commands"),
                _ => None,
            });
        }
    }
    for rules in rules {
        let Some(rules) = rules.as_ref().and_then(|rules| rules.as_str()) else { return Ok(true) };
        match judge(rules) {
            Judged::Writes => return Ok(true),
            Judged::Unless(names) if !names.is_empty() && any_writes(to, &names).await? => return Ok(true),
            Judged::Unless(_) => {}
        }
    }
    Ok(false)
}

#[derive(Debug, PartialEq, Eq)]
enum Judged {
    Writes,
    /// It does not, unless one of these commands does.
    Unless(Vec<String>),
}

/// Rules one after the other, as a server takes them.
fn judge(rules: &str) -> Judged {
    let (mut writes, mut named) = (false, Vec::new());
    for rule in rules.split_ascii_whitespace() {
        match rule {
            "-@all" | "nocommands" | "-@write" => (writes, named) = (false, Vec::new()),
            "+@all" | "allcommands" => writes = true,
            harmless if HARMLESS.contains(&harmless) => {}
            rule if rule.starts_with("+@") => writes = true,
            rule => {
                if let Some(name) = rule.strip_prefix('+') {
                    named.push(name.to_owned());
                }
            }
        }
    }
    if writes { Judged::Writes } else { Judged::Unless(named) }
}

/// True if any of these commands, or a part of it, writes by the server's own word; of what it does not know too.
async fn any_writes(to: &mut Client, names: &[String]) -> Result<bool> {
    let ask: Vec<&[u8]> = [&b"COMMAND"[..], b"INFO"].into_iter().chain(names.iter().map(String::as_bytes)).collect();
    let BytesFrame::Array(entries) = to.ask(&ask).await? else { return Ok(true) };
    Ok(entries.len() != names.len()
        || entries.iter().any(|entry| !matches!(entry, BytesFrame::Array(_)) || says_write(entry)))
}

fn says_write(frame: &BytesFrame) -> bool {
    match frame {
        BytesFrame::Array(frames) => frames.iter().any(says_write),
        frame => matches!(frame.as_str(), Some("write" | "@write")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_that_write_are_told_from_those_that_do_not() {
        for rules in ["+@all", "-@all +@all", "-@all +@hash", "-@write +@all", "+@read +@write"] {
            assert_eq!(judge(rules), Judged::Writes, "{rules}");
        }
        for rules in ["-@all", "+@all -@write", "-@all +@read +@connection", "+@all -@all", "-get"] {
            assert_eq!(judge(rules), Judged::Unless(Vec::new()), "{rules}");
        }
        assert_eq!(judge("-@all +get +set"), Judged::Unless(vec!["get".into(), "set".into()]));
    }
}
