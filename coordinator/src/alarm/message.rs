//! What a receiver reads.

use dts_proto::v1::{Alarm, AlarmEvent, AlarmKind, AlarmNeed};
use prost_types::Timestamp;
use serde_json::{Value, json};

/// `FAILED`.
pub(super) fn kind(alarm: &Alarm) -> &'static str {
    alarm.kind().as_str_name().trim_start_matches("ALARM_KIND_")
}

/// `raised`.
pub(super) fn event(event: AlarmEvent) -> &'static str {
    match event {
        AlarmEvent::Unspecified | AlarmEvent::Raised => "raised",
        AlarmEvent::Repeated => "repeated",
        AlarmEvent::Resolved => "resolved",
        AlarmEvent::Test => "test",
    }
}

/// What it means for who reads it.
pub(super) fn need(alarm: &Alarm) -> &'static str {
    match alarm.need() {
        AlarmNeed::NeedsYou => "needs you",
        AlarmNeed::WillRetry | AlarmNeed::Unspecified => "will retry",
    }
}

/// One line: `needs you: orders: the task failed: TARGET_FULL`.
pub(super) fn title(alarm: &Alarm, of: AlarmEvent) -> String {
    let about = if alarm.task_name.is_empty() { String::new() } else { format!("{}: ", alarm.task_name) };
    match of {
        AlarmEvent::Resolved => format!("over: {about}{}", alarm.message),
        AlarmEvent::Test => format!("test: {}", alarm.message),
        AlarmEvent::Repeated => format!("still {}: {about}{}", need(alarm), alarm.message),
        AlarmEvent::Raised | AlarmEvent::Unspecified => format!("{}: {about}{}", need(alarm), alarm.message),
    }
}

/// Several lines for people.
pub(super) fn text(alarm: &Alarm, of: AlarmEvent) -> String {
    let mut lines = vec![title(alarm, of), String::new()];
    let mut line = |name: &str, value: &str| {
        if !value.is_empty() {
            lines.push(format!("{name:<10} {value}"));
        }
    };
    line("task", &alarm.task_id);
    line("about", &alarm.about);
    line("since", &time(alarm.raised_at).unwrap_or_default());
    line("until", &time(alarm.resolved_at).unwrap_or_default());
    if let Some(reason) = &alarm.reason {
        line("reason", &reason.code);
        line("to do", &reason.fix);
    }
    line("policy", &alarm.policy_name);
    line("alarm", &alarm.id);
    if !alarm.task_id.is_empty() {
        lines.extend([String::new(), format!("dts task get {} shows more.", alarm.task_id)]);
    }
    lines.join("\n") + "\n"
}

/// For programs; docs/alarms.md describes it.
pub(super) fn body(alarm: &Alarm, of: AlarmEvent, sequence: u32) -> Value {
    let task = (!alarm.task_id.is_empty()).then(|| json!({"id": alarm.task_id, "name": alarm.task_name}));
    let reason = alarm
        .reason
        .as_ref()
        .map(|reason| json!({"code": reason.code, "scope": reason.scope, "retry": reason.retry, "fix": reason.fix}));
    json!({
        "version": 1,
        "id": alarm.id,
        "event": event(of),
        "sequence": sequence,
        "kind": kind(alarm),
        "need": alarm.need().as_str_name().trim_start_matches("ALARM_NEED_"),
        "title": title(alarm, of),
        "message": alarm.message,
        "policy": {"id": alarm.policy_id, "name": alarm.policy_name},
        "task": task,
        "about": alarm.about,
        "reason": reason,
        "raised_at": time(alarm.raised_at),
        "resolved_at": time(alarm.resolved_at),
        "repeats": alarm.repeats,
    })
}

/// For Alertmanager: `labels` tell one alert from another, so nothing that changes is among them.
pub(super) fn alert(alarm: &Alarm, of: AlarmEvent, ends_at: Timestamp) -> Value {
    let severity = if alarm.need() == AlarmNeed::NeedsYou { "critical" } else { "warning" };
    let name: String = kind(alarm).split('_').map(capitalised).collect();
    let mut labels = json!({
        "alertname": format!("Dts{name}"),
        "severity": severity,
        "need": need(alarm).replace(' ', "_"),
        "policy": alarm.policy_name,
        "alarm": alarm.id,
    });
    for (label, value) in [("task", &alarm.task_id), ("task_name", &alarm.task_name), ("about", &alarm.about)] {
        // Alertmanager takes no empty label.
        if !value.is_empty() {
            labels[label] = json!(value);
        }
    }
    let ends_at = if of == AlarmEvent::Resolved { alarm.resolved_at.unwrap_or(ends_at) } else { ends_at };
    json!([{
        "labels": labels,
        "annotations": {"summary": title(alarm, of), "description": text(alarm, of)},
        "startsAt": time(alarm.raised_at),
        "endsAt": time(Some(ends_at)),
    }])
}

/// A test message of a policy.
pub(super) fn test(policy_id: &str, policy_name: &str, id: String, now: Timestamp) -> Alarm {
    Alarm {
        id,
        policy_id: policy_id.to_owned(),
        policy_name: policy_name.to_owned(),
        kind: AlarmKind::Test.into(),
        need: AlarmNeed::WillRetry.into(),
        message: format!("policy {policy_name} reaches you; nothing is wrong"),
        raised_at: Some(now),
        resolved_at: Some(now),
        ..Alarm::default()
    }
}

fn capitalised(word: &str) -> String {
    let (first, rest) = word.split_at(word.len().min(1));
    first.to_owned() + &rest.to_ascii_lowercase()
}

fn time(at: Option<Timestamp>) -> Option<String> {
    at.map(|at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_say_who_has_to_act() {
        let mut alarm = Alarm {
            kind: AlarmKind::Failed.into(),
            need: AlarmNeed::NeedsYou.into(),
            task_id: "t".into(),
            task_name: "orders".into(),
            message: "the task failed".into(),
            ..Alarm::default()
        };
        assert_eq!(title(&alarm, AlarmEvent::Raised), "needs you: orders: the task failed");
        assert_eq!(title(&alarm, AlarmEvent::Repeated), "still needs you: orders: the task failed");
        assert_eq!(title(&alarm, AlarmEvent::Resolved), "over: orders: the task failed");
        assert_eq!(body(&alarm, AlarmEvent::Raised, 1)["need"], "NEEDS_YOU");
        let alert = alert(&alarm, AlarmEvent::Raised, Timestamp { seconds: 60, nanos: 0 });
        assert_eq!(alert[0]["labels"]["alertname"], "DtsFailed");
        assert_eq!(alert[0]["labels"]["need"], "needs_you");
        assert_eq!(alert[0]["endsAt"], "1970-01-01T00:01:00Z");
        alarm.set_need(AlarmNeed::WillRetry);
        assert_eq!(title(&alarm, AlarmEvent::Raised), "will retry: orders: the task failed");
    }
}
