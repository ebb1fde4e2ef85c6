//! Tasks as people and programs read them.

use comfy_table::Table;
use dts_proto::v1::{Refusal, Task};
use serde_json::json;

use crate::show::short;
use crate::{event, guard, selection, switch, verification};

pub(crate) fn show(task: &Task, json: bool) {
    if json {
        let mut shown = event::progress(task);
        shown["event"] = json!("task");
        shown["id"] = json!(task.id);
        shown["name"] = json!(task.spec.as_ref().map(|spec| spec.name.clone()));
        shown["reason"] = task.reason.as_ref().map_or(json!(null), |reason| event::reason("reason", reason));
        shown["completion"] = task.completion.as_ref().map_or(json!(null), verification::completion_as_json);
        shown["switch_over"] = task.switch_over.as_ref().map_or(json!(null), switch::as_json);
        shown["selection"] = task.spec.as_ref().map_or(json!({}), selection::shown);
        let refusals = task.shards.iter().flat_map(|shard| {
            let refusal =
                |refusal: &Refusal| json!({"shard": shard.index, "agent": refusal.agent_id, "why": refusal.why});
            shard.refusals.iter().map(refusal).collect::<Vec<_>>()
        });
        shown["refusals"] = refusals.collect();
        println!("{shown}");
        return;
    }
    println!("{} {}", task.id, event::line(task));
    for line in event::shard_lines(task) {
        println!("{line}");
    }
    if let Some(fence) = fence(task) {
        println!("  fence {fence}");
    }
    let selection = task.spec.as_ref().map_or(json!({}), selection::shown);
    if selection != json!({}) {
        println!("  moves {selection}");
    }
    if let Some(line) = guard::line(task) {
        println!("  {line}");
    }
    if let Some(report) = &task.completion {
        verification::completion_lines(report).iter().for_each(|line| println!("  {line}"));
    }
    if let Some(switch) = &task.switch_over {
        switch::lines(switch).iter().for_each(|line| println!("  {line}"));
    }
    for shard in &task.shards {
        for refusal in &shard.refusals {
            println!("  shard {}: agent {}: {}", shard.index, refusal.agent_id, refusal.why);
        }
    }
    if let Some(reason) = &task.reason {
        println!("  {}: {} \u{2014} {}", reason.code, reason.message, reason.fix);
    }
}

/// The weakest of its shards', as far as they have said.
fn fence(task: &Task) -> Option<&str> {
    let fences = task.shards.iter().filter_map(|shard| Some(shard.status.as_ref()?.fence.as_str()));
    fences.filter(|fence| !fence.is_empty()).min()
}

pub(super) fn show_all(tasks: &[Task], json: bool) {
    if json {
        tasks.iter().for_each(|task| show(task, json));
        return;
    }
    let mut table = Table::new();
    table.set_header(["id", "name", "state", "allowed"]);
    for task in tasks {
        let allowed: Vec<_> =
            task.allowed_actions().map(|action| short(action.as_str_name(), "TASK_ACTION_")).collect();
        let name = task.spec.as_ref().map(|spec| spec.name.clone()).unwrap_or_default();
        table.add_row([task.id.clone(), name, event::phase(task), allowed.join(" ")]);
    }
    println!("{table}");
}
