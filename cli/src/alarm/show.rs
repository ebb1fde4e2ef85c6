//! Alarms, and what became of their messages, for people and as JSON.

use comfy_table::Table;
use dts_proto::v1::{Alarm, AlarmDelivery, AlarmKind, AlarmNeed};
use serde_json::{Value, json};

use crate::show::short;

pub(super) fn kind(kind: AlarmKind) -> String {
    short(kind.as_str_name(), "ALARM_KIND_")
}

fn need(need: AlarmNeed) -> &'static str {
    match need {
        AlarmNeed::NeedsYou => "needs you",
        AlarmNeed::WillRetry | AlarmNeed::Unspecified => "will retry",
    }
}

pub(super) fn outcome(delivery: &AlarmDelivery) -> String {
    let event = short(delivery.event().as_str_name(), "ALARM_EVENT_").to_ascii_lowercase();
    match (&delivery.delivered_at, delivery.given_up) {
        (Some(at), _) => format!("{event}: delivered at {at}"),
        (None, true) => format!("{event}: given up: {}", delivery.error),
        (None, false) if delivery.attempts > 0 => {
            format!("{event}: tried {} times, will be tried again: {}", delivery.attempts, delivery.error)
        }
        _ => format!("{event}: on its way"),
    }
}

pub(super) fn of_delivery(delivery: &AlarmDelivery) -> Value {
    json!({
        "receiver": delivery.receiver, "event": short(delivery.event().as_str_name(), "ALARM_EVENT_"),
        "sequence": delivery.sequence, "attempts": delivery.attempts, "error": delivery.error,
        "delivered_at": delivery.delivered_at.map(|at| at.to_string()), "given_up": delivery.given_up,
    })
}

pub(super) fn show(alarms: &[Alarm], json: bool) {
    let mut table = Table::new();
    table.set_header(["raised", "resolved", "", "task", "what", "told"]);
    for alarm in alarms {
        let time = |at: &Option<prost_types::Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
        if json {
            let deliveries: Vec<Value> = alarm.deliveries.iter().map(of_delivery).collect();
            println!(
                "{}",
                json!({
                    "id": alarm.id, "policy": alarm.policy_name, "kind": kind(alarm.kind()),
                    "need": short(alarm.need().as_str_name(), "ALARM_NEED_"), "task": alarm.task_id,
                    "task_name": alarm.task_name, "about": alarm.about, "message": alarm.message,
                    "code": alarm.reason.as_ref().map(|reason| reason.code.clone()),
                    "raised_at": time(&alarm.raised_at), "resolved_at": alarm.resolved_at.map(|at| at.to_string()),
                    "repeats": alarm.repeats, "deliveries": deliveries,
                })
            );
            continue;
        }
        let told: Vec<String> =
            alarm.deliveries.iter().map(|delivery| format!("{}: {}", delivery.receiver, outcome(delivery))).collect();
        let need = if alarm.kind() == AlarmKind::Test { "test" } else { need(alarm.need()) };
        table.add_row([
            time(&alarm.raised_at),
            alarm.resolved_at.map_or("on".to_owned(), |at| at.to_string()),
            need.to_owned(),
            alarm.task_name.clone(),
            alarm.message.clone(),
            told.join("\n"),
        ]);
    }
    if !json {
        println!("{table}");
    }
}
