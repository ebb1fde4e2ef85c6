//! `dts task test|check|cancel-check|ack`: what agents find out before a task starts.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Subcommand;
use comfy_table::Table;
use dts_proto::v1::task_service_client::TaskServiceClient;
use dts_proto::v1::{
    AcknowledgeRequest, CancelCheckRequest, CheckItem, CheckKind, CheckOutcome, CheckRun, CheckState, Estimate,
    GetCheckRequest, ListChecksRequest, Plan, PlanTaskRequest, RunCheckRequest, Task, TestConnectivityRequest,
};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::coordinator::explain;
use crate::show::{bytes, period, short};
use crate::task::only;

/// How often a run is looked at.
const LOOK: Duration = Duration::from_millis(200);

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Try every server from the agents, and say what was found; exit code 1 if one was not reached.
    Test { id: Option<String> },
    /// Check everything that can be known before the start; exit code 1 if something blocks.
    Check {
        id: Option<String>,
        /// Begin no run: show this one (0: the last).
        #[arg(long, value_name = "RUN")]
        show: Option<u64>,
        /// Begin no run: list those that are kept.
        #[arg(long, conflicts_with = "show")]
        list: bool,
    },
    /// Say what the last check means for the copy to come and, once it is done, how right that was.
    Plan { id: Option<String> },
    /// End the check that is running.
    CancelCheck { id: Option<String> },
    /// Take warnings of the last check upon oneself.
    Ack {
        id: Option<String>,
        /// Only this item; may repeat. Without it all that need it.
        #[arg(long = "item", value_name = "ITEM")]
        items: Vec<String>,
        /// Who.
        #[arg(long, default_value = "", env = "USER")]
        by: String,
        /// Why.
        #[arg(long, default_value = "")]
        reason: String,
    },
}

/// Does it; a task is what is left to show.
pub(crate) async fn run(verb: Verb, client: &mut TaskServiceClient<Channel>, json: bool) -> Result<Option<Task>> {
    let revision = 0;
    match verb {
        Verb::Test { id } => {
            let id = only(client, id).await?;
            let begun = client.test_connectivity(TestConnectivityRequest { id: id.clone(), revision }).await;
            let run = ended(client, id, begun.map_err(|status| explain(&status))?.into_inner()).await?;
            show(&run, json);
            judge(&run)?;
        }
        Verb::Check { id, show: None, list: false } => {
            let id = only(client, id).await?;
            let begun = client.run_check(RunCheckRequest { id: id.clone(), revision }).await;
            let run = ended(client, id, begun.map_err(|status| explain(&status))?.into_inner()).await?;
            show(&run, json);
            judge(&run)?;
        }
        Verb::Check { id, show: Some(number), .. } => {
            let id = only(client, id).await?;
            let run = client.get_check(GetCheckRequest { id, number }).await.map_err(|status| explain(&status))?;
            show(&run.into_inner(), json);
        }
        Verb::Check { id, .. } => {
            let id = only(client, id).await?;
            let listed = client.list_checks(ListChecksRequest { id }).await.map_err(|status| explain(&status))?;
            for run in listed.into_inner().runs {
                println!("{}", if json { shown(&run).to_string() } else { head(&run) });
            }
        }
        Verb::Plan { id } => {
            let id = only(client, id).await?;
            let plan = client.plan_task(PlanTaskRequest { id }).await.map_err(|status| explain(&status))?;
            show_plan(&plan.into_inner(), json);
        }
        Verb::CancelCheck { id } => {
            let id = only(client, id).await?;
            let cancelled = client.cancel_check(CancelCheckRequest { id, revision }).await;
            return Ok(Some(cancelled.map_err(|status| explain(&status))?.into_inner()));
        }
        Verb::Ack { id, items, by, reason } => {
            let id = only(client, id).await?;
            let request = AcknowledgeRequest { id, revision, items, by, reason };
            let task = client.acknowledge(request).await.map_err(|status| explain(&status))?;
            return Ok(Some(task.into_inner()));
        }
    }
    Ok(None)
}

/// The run once it has ended.
async fn ended(client: &mut TaskServiceClient<Channel>, id: String, mut run: CheckRun) -> Result<CheckRun> {
    let number = run.number;
    while run.state() == CheckState::Running {
        tokio::time::sleep(LOOK).await;
        let request = GetCheckRequest { id: id.clone(), number };
        run = client.get_check(request).await.map_err(|status| explain(&status))?.into_inner();
    }
    Ok(run)
}

fn judge(run: &CheckRun) -> Result<()> {
    match run.state() {
        CheckState::Passed => Ok(()),
        state => bail!("the run has {}", short(state.as_str_name(), "CHECK_STATE_").to_lowercase()),
    }
}

fn head(run: &CheckRun) -> String {
    let kind = short(run.kind().as_str_name(), "CHECK_KIND_").to_lowercase();
    format!("run {} ({kind}): {}", run.number, short(run.state().as_str_name(), "CHECK_STATE_"))
}

fn show(run: &CheckRun, json: bool) {
    if json {
        println!("{}", shown(run));
        return;
    }
    println!("{}", head(run));
    let mut table = Table::new();
    table.set_header(["item", "", "found", "what to do"]);
    for item in &run.items {
        let findings = item.findings.iter().filter(|finding| !finding.message.is_empty());
        let found: Vec<String> = findings.clone().map(|finding| finding.message.clone()).collect();
        let fixes: Vec<String> = findings.map(|finding| finding.fix.clone()).filter(|fix| !fix.is_empty()).collect();
        let found = if found.is_empty() { item.title.clone() } else { found.join("\n") };
        table.add_row([item.id.clone(), verdict(item), found, fixes.join("\n")]);
    }
    println!("{table}");
}

fn show_plan(plan: &Plan, json: bool) {
    if json {
        let estimate = |found: &Estimate| json!({"id": found.id, "planned": found.value, "actual": found.actual, "basis": found.basis});
        let estimates: Vec<Value> = plan.estimates.iter().map(estimate).collect();
        println!(
            "{}",
            json!({"event": "plan", "run": plan.run, "catches_up": plan.catches_up, "estimates": estimates})
        );
        return;
    }
    let shown = |id: &str, value: Option<u64>, none: &str| match value {
        None => none.to_owned(),
        Some(value) if id.ends_with("_ms") => period(value),
        Some(value) => bytes(value),
    };
    let mut table = Table::new();
    table.set_header(["", "planned", "actual", "rests on"]);
    for found in &plan.estimates {
        let name = found.id.trim_end_matches("_ms").trim_end_matches("_bytes").replace('_', " ");
        let (planned, actual) = (shown(&found.id, found.value, "never"), shown(&found.id, found.actual, "-"));
        table.add_row([name, planned, actual, found.basis.clone()]);
    }
    println!("by check {}\n{table}", plan.run);
    if !plan.catches_up {
        println!("The target cannot get in step: the source writes faster than the target can take it.");
    }
}

/// In one word what it means.
fn verdict(item: &CheckItem) -> String {
    let outcome = short(item.outcome().as_str_name(), "CHECK_OUTCOME_").to_lowercase();
    let severity = short(item.severity().as_str_name(), "SEVERITY_").to_lowercase();
    match (item.outcome(), &item.acknowledgement) {
        (CheckOutcome::Passed, _) => outcome,
        (_, Some(taken)) if item.needs_acknowledgement => format!("{outcome}, acknowledged by {}", taken.by),
        (CheckOutcome::Failed, _) => severity,
        _ => format!("{outcome} ({severity})"),
    }
}

/// The run as JSON: docs/checks.md.
pub(crate) fn shown(run: &CheckRun) -> Value {
    let item = |item: &CheckItem| {
        let findings: Vec<Value> = item
            .findings
            .iter()
            .map(|finding| {
                json!({
                    "shard": finding.shard_index, "agent": finding.agent_id, "code": finding.code,
                    "message": finding.message, "fix": finding.fix,
                })
            })
            .collect();
        json!({
            "id": item.id,
            "severity": short(item.severity().as_str_name(), "SEVERITY_"),
            "outcome": short(item.outcome().as_str_name(), "CHECK_OUTCOME_"),
            "needs_acknowledgement": item.needs_acknowledgement && item.acknowledgement.is_none(),
            "acknowledged_by": item.acknowledgement.as_ref().map(|taken| taken.by.clone()),
            "took_ms": item.took_ms,
            "findings": findings,
        })
    };
    let items: Vec<Value> = run.items.iter().map(item).collect();
    let kind = if run.kind() == CheckKind::Test { "TEST" } else { "CHECK" };
    json!({
        "event": "check", "run": run.number, "kind": kind, "generation": run.generation,
        "state": short(run.state().as_str_name(), "CHECK_STATE_"), "items": items,
    })
}
