//! What a policy may say, what of it is secret, and changing it.

use std::collections::HashSet;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::alarm_receiver::To;
use dts_proto::v1::{AlarmKind, AlarmPolicy, AlarmReceiver, AlarmTrigger, EmailReceiver, SmtpSecurity};

const LONGEST_NAME: usize = 128;
const LONGEST_RECEIVER: usize = 64;
const MOST_TRIGGERS: usize = 32;
const MOST_RECEIVERS: usize = 16;
const MOST_MAILBOXES: usize = 32;
const MOST_TASKS: usize = 1024;
const REPEATS: std::ops::RangeInclusive<u32> = 60..=604_800;

fn wrong<T>(what: String) -> Result<T> {
    Err(Error::new(Code::InvalidRequest, what))
}

/// Names the first field that is wrong.
pub(super) fn check(policy: &AlarmPolicy) -> Result<()> {
    if policy.name.is_empty() || policy.name.chars().count() > LONGEST_NAME {
        return wrong(format!("policy.name has to have 1 to {LONGEST_NAME} characters"));
    }
    if policy.repeat_seconds != 0 && !REPEATS.contains(&policy.repeat_seconds) {
        return wrong(format!("policy.repeat_seconds has to be {REPEATS:?}, or 0 for every 4 hours"));
    }
    let tasks = policy.tasks.clone().unwrap_or_default();
    if tasks.ids.len() + tasks.names.len() > MOST_TASKS {
        return wrong(format!("policy.tasks names more than {MOST_TASKS}"));
    }
    if policy.triggers.is_empty() || policy.triggers.len() > MOST_TRIGGERS {
        return wrong(format!("policy.triggers has to have 1 to {MOST_TRIGGERS} entries"));
    }
    let mut kinds = HashSet::new();
    for (index, trigger) in policy.triggers.iter().enumerate() {
        check_trigger(&format!("policy.triggers[{index}]"), trigger)?;
        if !kinds.insert(trigger.kind()) {
            return wrong(format!("policy.triggers[{index}]: {} stands twice", trigger.kind().as_str_name()));
        }
    }
    if policy.receivers.is_empty() || policy.receivers.len() > MOST_RECEIVERS {
        return wrong(format!("policy.receivers has to have 1 to {MOST_RECEIVERS} entries"));
    }
    let mut names = HashSet::new();
    for (index, receiver) in policy.receivers.iter().enumerate() {
        let field = format!("policy.receivers[{index}]");
        if receiver.name.is_empty() || receiver.name.chars().count() > LONGEST_RECEIVER {
            return wrong(format!("{field}.name has to have 1 to {LONGEST_RECEIVER} characters"));
        }
        if !names.insert(&receiver.name) {
            return wrong(format!("{field}: the name {:?} stands twice", receiver.name));
        }
        check_receiver(&field, receiver)?;
    }
    Ok(())
}

fn check_trigger(field: &str, trigger: &AlarmTrigger) -> Result<()> {
    let AlarmTrigger { threshold_seconds, threshold_bytes, .. } = trigger;
    match trigger.kind() {
        AlarmKind::Unspecified | AlarmKind::Test => wrong(format!("{field}.kind is missing, or no trigger")),
        AlarmKind::Lag if *threshold_seconds == 0 && *threshold_bytes == 0 => {
            wrong(format!("{field}: LAG needs threshold_seconds or threshold_bytes"))
        }
        AlarmKind::Backlog | AlarmKind::Certificate if *threshold_seconds == 0 => {
            wrong(format!("{field}: {} needs threshold_seconds", trigger.kind().as_str_name()))
        }
        _ => Ok(()),
    }
}

fn check_receiver(field: &str, receiver: &AlarmReceiver) -> Result<()> {
    let http = |of: &str, url: &str| {
        let uri = url.parse::<tonic::codegen::http::Uri>().ok();
        let scheme = uri.as_ref().and_then(|uri| uri.scheme_str());
        if matches!(scheme, Some("http" | "https")) && uri.as_ref().is_some_and(|uri| uri.host().is_some()) {
            return Ok(());
        }
        wrong(format!("{field}.{of}.url has to begin with http:// or https://, and to name a host"))
    };
    match &receiver.to {
        None => wrong(format!("{field}: webhook, alertmanager or email is missing")),
        Some(To::Webhook(webhook)) => http("webhook", &webhook.url),
        Some(To::Alertmanager(alertmanager)) => http("alertmanager", &alertmanager.url),
        Some(To::Email(email)) => check_email(&format!("{field}.email"), email),
    }
}

fn check_email(field: &str, email: &EmailReceiver) -> Result<()> {
    if server(&email.server).is_none() {
        return wrong(format!("{field}.server has to be host:port"));
    }
    if email.username.is_empty() && !email.password.is_empty() {
        return wrong(format!("{field}: a password without a username"));
    }
    if email.security() == SmtpSecurity::None && !email.password.is_empty() {
        return wrong(format!("{field}: a password does not go in clear: security has to be STARTTLS or TLS"));
    }
    let mailbox = |text: &str| text.parse::<lettre::message::Mailbox>().is_ok();
    if !mailbox(&email.from) {
        return wrong(format!("{field}.from is no mail address"));
    }
    if email.to.is_empty() || email.to.len() > MOST_MAILBOXES {
        return wrong(format!("{field}.to has to have 1 to {MOST_MAILBOXES} entries"));
    }
    match email.to.iter().position(|to| !mailbox(to)) {
        Some(index) => wrong(format!("{field}.to[{index}] is no mail address")),
        None => Ok(()),
    }
}

/// Host and port.
pub(super) fn server(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok().filter(|port| *port > 0)?;
    (!host.is_empty()).then(|| (host.trim_start_matches('[').trim_end_matches(']'), port))
}

/// The secrets of a policy, and where it is said that there is one.
fn secrets(policy: &mut AlarmPolicy) -> impl Iterator<Item = (&mut String, &mut bool)> {
    policy.receivers.iter_mut().filter_map(|receiver| secret(receiver))
}

fn secret(receiver: &mut AlarmReceiver) -> Option<(&mut String, &mut bool)> {
    match receiver.to.as_mut()? {
        To::Webhook(webhook) => Some((&mut webhook.secret, &mut webhook.secret_set)),
        To::Email(email) => Some((&mut email.password, &mut email.password_set)),
        To::Alertmanager(_) => None,
    }
}

/// Changes every secret that there is.
pub(super) fn for_each_secret(policy: &mut AlarmPolicy, change: impl Fn(&str) -> Result<String>) -> Result<()> {
    for (secret, set) in secrets(policy) {
        *set = false;
        if !secret.is_empty() {
            *secret = change(secret)?;
        }
    }
    Ok(())
}

/// For an answer: says only that there is one.
pub(super) fn redact(mut policy: AlarmPolicy) -> AlarmPolicy {
    for (secret, set) in secrets(&mut policy) {
        *set = !std::mem::take(secret).is_empty();
    }
    policy
}

/// Takes over what the mask names. Secrets of `from` are sealed; a receiver without one keeps the one that it has.
pub(super) fn update(held: &mut AlarmPolicy, from: AlarmPolicy, paths: &[String]) -> Result<()> {
    if paths.is_empty() {
        return wrong("update_mask is empty".into());
    }
    for path in paths {
        match path.as_str() {
            "name" => held.name.clone_from(&from.name),
            "tasks" => held.tasks.clone_from(&from.tasks),
            "triggers" => held.triggers.clone_from(&from.triggers),
            "repeat_seconds" => held.repeat_seconds = from.repeat_seconds,
            "disabled" => held.disabled = from.disabled,
            "receivers" => {
                let mut receivers = from.receivers.clone();
                for receiver in &mut receivers {
                    let before = held.receivers.iter_mut().find(|before| before.name == receiver.name);
                    keep_secret(receiver, before);
                }
                held.receivers = receivers;
            }
            other => return wrong(format!("update_mask names {other:?}, which cannot be changed")),
        }
    }
    Ok(())
}

fn keep_secret(receiver: &mut AlarmReceiver, before: Option<&mut AlarmReceiver>) {
    let Some(before) = before else { return };
    let same_place = match (&receiver.to, &before.to) {
        // A secret does not follow to another address.
        (Some(To::Webhook(now)), Some(To::Webhook(then))) => now.url == then.url,
        (Some(To::Email(now)), Some(To::Email(then))) => (&now.server, &now.username) == (&then.server, &then.username),
        _ => false,
    };
    if let (true, Some((secret, _)), Some((kept, _))) = (same_place, secret(receiver), secret(before))
        && secret.is_empty()
    {
        secret.clone_from(kept);
    }
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::{TaskSelector, WebhookReceiver};

    use super::*;

    fn webhook(url: &str, secret: &str) -> AlarmReceiver {
        let to = To::Webhook(WebhookReceiver { url: url.into(), secret: secret.into(), secret_set: false });
        AlarmReceiver { name: "w".into(), to: Some(to) }
    }

    fn policy() -> AlarmPolicy {
        let trigger = AlarmTrigger { kind: AlarmKind::Failed.into(), ..AlarmTrigger::default() };
        AlarmPolicy {
            name: "all".into(),
            triggers: vec![trigger],
            receivers: vec![webhook("https://h/x", "hunter2")],
            ..AlarmPolicy::default()
        }
    }

    #[test]
    fn the_field_that_is_wrong_is_named() {
        check(&policy()).unwrap();
        let email = |email: EmailReceiver| AlarmPolicy {
            receivers: vec![AlarmReceiver { name: "e".into(), to: Some(To::Email(email)) }],
            ..policy()
        };
        let good = EmailReceiver {
            server: "h:25".into(),
            from: "a@b.c".into(),
            to: vec!["d@e.f".into()],
            ..Default::default()
        };
        check(&email(good.clone())).unwrap();
        let trigger = |kind: AlarmKind| AlarmPolicy {
            triggers: vec![AlarmTrigger { kind: kind.into(), ..AlarmTrigger::default() }],
            ..policy()
        };
        let many = TaskSelector { ids: vec![String::new(); MOST_TASKS + 1], names: Vec::new() };
        for (wrong, field) in [
            (AlarmPolicy { name: String::new(), ..policy() }, "policy.name"),
            (AlarmPolicy { repeat_seconds: 5, ..policy() }, "policy.repeat_seconds"),
            (AlarmPolicy { tasks: Some(many), ..policy() }, "policy.tasks"),
            (AlarmPolicy { triggers: Vec::new(), ..policy() }, "policy.triggers"),
            (trigger(AlarmKind::Unspecified), "policy.triggers[0].kind"),
            (trigger(AlarmKind::Test), "policy.triggers[0].kind"),
            (trigger(AlarmKind::Lag), "threshold_seconds or threshold_bytes"),
            (trigger(AlarmKind::Backlog), "threshold_seconds"),
            (AlarmPolicy { receivers: Vec::new(), ..policy() }, "policy.receivers"),
            (AlarmPolicy { receivers: vec![webhook("ftp://h", "")], ..policy() }, "policy.receivers[0].webhook.url"),
            (AlarmPolicy { receivers: vec![webhook("http://h", ""); 2], ..policy() }, "stands twice"),
            (email(EmailReceiver { server: "h".into(), ..good.clone() }), "email.server"),
            (email(EmailReceiver { from: "nobody".into(), ..good.clone() }), "email.from"),
            (email(EmailReceiver { to: vec!["x".into()], ..good.clone() }), "email.to[0]"),
            (
                email(EmailReceiver {
                    security: SmtpSecurity::None.into(),
                    username: "u".into(),
                    password: "p".into(),
                    ..good
                }),
                "in clear",
            ),
        ] {
            let message = check(&wrong).unwrap_err().message;
            assert!(message.contains(field), "{message} does not name {field}");
        }
    }

    #[test]
    fn a_secret_is_kept_where_it_belongs_and_shown_nowhere() {
        let shown = redact(policy());
        assert!(!format!("{shown:?}").contains("hunter2") && format!("{shown:?}").contains("secret_set: true"));
        let mut held = policy();
        let paths = ["receivers".to_owned()];
        update(&mut held, shown.clone(), &paths).unwrap();
        assert!(format!("{held:?}").contains("hunter2"), "an edit without the secret lost it");
        let elsewhere = AlarmPolicy { receivers: vec![webhook("https://evil/x", "")], ..policy() };
        update(&mut held, elsewhere, &paths).unwrap();
        assert!(!format!("{held:?}").contains("hunter2"), "it followed to another address");
        assert!(update(&mut held, policy(), &[]).is_err());
        assert!(update(&mut held, policy(), &["id".to_owned()]).is_err());
    }
}
