//! `dts task verify`, `dts task verification`, and completions that wait for a verification.

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use comfy_table::Table;
use dts_proto::v1::task_service_client::TaskServiceClient;
use dts_proto::v1::verify_service_client::VerifyServiceClient;
use dts_proto::v1::{
    CancelVerificationRequest, CompletionOutcome, CompletionReport, Difference, GetVerificationRequest,
    ListDifferencesRequest, ListVerificationsRequest, RepairVerificationRequest, StartVerificationRequest, Task,
    Verification, VerifyMode, VerifyOutcome, VerifyProgress, VerifySpec, VerifyState, WatchTaskRequest,
};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::coordinator::explain;
use crate::show::{bytes, short};
use crate::verify::{RateBound, Thoroughness, bounds, rate};
use crate::{COMPLETED, DIFFERS, FAILED, UNDECIDED};

const LOOK_EVERY: Duration = Duration::from_millis(250);

/// `dts task verify`.
#[derive(Debug, Args)]
pub(crate) struct Start {
    pub(crate) id: Option<String>,
    /// How thoroughly to look.
    #[arg(long, value_enum, default_value_t = Thoroughness::Full)]
    mode: Thoroughness,
    /// Mode `sample`: so many picks of each side and shard.
    #[arg(long, default_value_t = 10_000)]
    sample: u64,
    /// How fast each shard's part reads: keys a second (`5000`) or bytes a second (`20MiB`); may be given once for each.
    #[arg(long, value_parser = rate)]
    rate: Vec<RateBound>,
    /// How far apart two expiries may be. Default: 1 s, or 5 s where the source is older than 7.0.
    #[arg(long, value_parser = humantime::parse_duration)]
    ttl_tolerance: Option<Duration>,
    /// Do not wait for its end.
    #[arg(long)]
    no_wait: bool,
}

/// `dts task verification`.
#[derive(Debug, Args)]
pub(crate) struct Look {
    pub(crate) id: Option<String>,
    /// Which; default: the last.
    #[arg(long, default_value_t = 0)]
    number: u64,
    /// All that are kept.
    #[arg(long, conflicts_with_all = ["number", "cancel"])]
    list: bool,
    /// End the one that goes on.
    #[arg(long)]
    cancel: bool,
}

/// `dts task repair`.
#[derive(Debug, Args)]
pub(crate) struct Repair {
    pub(crate) id: Option<String>,
    /// Which verification; default: the last.
    #[arg(long, default_value_t = 0)]
    pub(crate) number: u64,
}

/// How `dts task complete` verifies.
#[derive(Debug, Args)]
pub(crate) struct Gate {
    /// Complete only if a verification finds both sides equal; waits for it. The synchronisation goes on meanwhile, and if it does not.
    #[arg(long, value_enum, conflicts_with = "force")]
    pub(crate) verify: Option<Thoroughness>,
    /// How long the verification may take.
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration)]
    pub(crate) time_limit: Duration,
    /// Complete although the last verification did not find both sides equal; this is recorded.
    #[arg(long)]
    pub(crate) force: bool,
}

impl From<Thoroughness> for VerifyMode {
    fn from(mode: Thoroughness) -> Self {
        match mode {
            Thoroughness::Count => Self::Count,
            Thoroughness::Keys => Self::Keys,
            Thoroughness::Sample => Self::Sample,
            Thoroughness::Full => Self::Full,
        }
    }
}

/// Who asks, as the task keeps it.
pub(crate) fn asker() -> String {
    let of = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}@{}", of("USER").unwrap_or_else(|| "unknown".into()), host.trim()).chars().take(100).collect()
}

pub(crate) async fn start(channel: Channel, task_id: String, start: Start, json: bool) -> Result<u8> {
    let mut client = VerifyServiceClient::new(channel);
    let rate = bounds(&start.rate);
    let spec = VerifySpec {
        mode: VerifyMode::from(start.mode).into(),
        sample: start.sample,
        keys_per_second: rate.keys_per_second,
        bytes_per_second: rate.bytes_per_second,
        repair_of: 0,
        ttl_tolerance_ms: start.ttl_tolerance.map_or(0, |of| u32::try_from(of.as_millis().max(1)).unwrap_or(u32::MAX)),
    };
    let request = StartVerificationRequest { task_id: task_id.clone(), spec: Some(spec), requested_by: asker() };
    let started = client.start_verification(request).await.map_err(|status| explain(&status))?.into_inner();
    if start.no_wait {
        show(&started, &[], json);
        return Ok(COMPLETED);
    }
    let run = ended(&mut client, &task_id, started.number).await?;
    tell(&mut client, &run, json).await
}

pub(crate) async fn repair(channel: Channel, task_id: String, number: u64, json: bool) -> Result<u8> {
    let mut client = VerifyServiceClient::new(channel);
    let request = RepairVerificationRequest { task_id: task_id.clone(), number, requested_by: asker() };
    let started = client.repair_verification(request).await.map_err(|status| explain(&status))?.into_inner();
    let run = ended(&mut client, &task_id, started.number).await?;
    tell(&mut client, &run, json).await
}

pub(crate) async fn look(channel: Channel, task_id: String, look: Look, json: bool) -> Result<u8> {
    let mut client = VerifyServiceClient::new(channel);
    if look.list {
        let listed = client.list_verifications(ListVerificationsRequest { task_id }).await;
        for run in listed.map_err(|status| explain(&status))?.into_inner().verifications {
            show(&run, &[], json);
        }
        return Ok(COMPLETED);
    }
    let number = look.number;
    let run = if look.cancel {
        client.cancel_verification(CancelVerificationRequest { task_id, number }).await
    } else {
        client.get_verification(GetVerificationRequest { task_id, number }).await
    };
    let run = run.map_err(|status| explain(&status))?.into_inner();
    tell(&mut client, &run, json).await
}

async fn ended(client: &mut VerifyServiceClient<Channel>, task_id: &str, number: u64) -> Result<Verification> {
    loop {
        let request = GetVerificationRequest { task_id: task_id.to_owned(), number };
        let run = client.get_verification(request).await.map_err(|status| explain(&status))?.into_inner();
        if run.state() != VerifyState::Running {
            return Ok(run);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Shows a run with what it found; gives the exit code.
async fn tell(client: &mut VerifyServiceClient<Channel>, run: &Verification, json: bool) -> Result<u8> {
    let (mut differences, mut page_token) = (Vec::new(), String::new());
    loop {
        let request =
            ListDifferencesRequest { task_id: run.task_id.clone(), number: run.number, page_size: 1000, page_token };
        let page = client.list_differences(request).await.map_err(|status| explain(&status))?.into_inner();
        differences.extend(page.differences);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    show(run, &differences, json);
    Ok(match (run.state(), run.outcome()) {
        (VerifyState::Done, VerifyOutcome::Equal) | (VerifyState::Running, _) => COMPLETED,
        (VerifyState::Done, VerifyOutcome::Differs) => DIFFERS,
        (VerifyState::Done, _) => UNDECIDED,
        _ => FAILED,
    })
}

fn show(run: &Verification, differences: &[Difference], json: bool) {
    let state = short(run.state().as_str_name(), "VERIFY_STATE_").to_lowercase();
    let outcome = short(run.outcome().as_str_name(), "VERIFY_OUTCOME_").to_lowercase();
    let mode = short(run.spec.unwrap_or_default().mode().as_str_name(), "VERIFY_MODE_").to_lowercase();
    let progress = run.progress.unwrap_or_default();
    let mut counts = std::collections::BTreeMap::<&str, u64>::new();
    for (kind, count) in run.shards.iter().flat_map(|shard| &shard.counts) {
        *counts.entry(kind).or_default() += count;
    }
    if json {
        let shards: Vec<Value> = run.shards.iter().map(shard_as_json).collect();
        let listed: Vec<Value> = differences.iter().map(as_json).collect();
        let mut shown = figures(&progress);
        for (name, value) in [
            ("event", json!("verification")),
            ("task", json!(run.task_id)),
            ("number", json!(run.number)),
            ("state", json!(state)),
            ("outcome", json!(outcome)),
            ("mode", json!(mode)),
            ("repair_of", json!(run.spec.unwrap_or_default().repair_of)),
            ("requested_by", json!(run.requested_by)),
            ("counts", json!(counts)),
            ("shards", json!(shards)),
            ("differences", json!(listed)),
        ] {
            shown[name] = value;
        }
        println!("{shown}");
        return;
    }
    println!(
        "verification {} ({mode}{}): {state}{}{}",
        run.number,
        match run.spec.unwrap_or_default().repair_of {
            0 => String::new(),
            of => format!(", after repairing what {of} found"),
        },
        if run.outcome() == VerifyOutcome::Unspecified { "" } else { ", " },
        if run.outcome() == VerifyOutcome::Unspecified { String::new() } else { outcome.to_uppercase() }
    );
    println!(
        "  keys {} of about {} of the source, {} of the target, compared {}, read {}",
        progress.source_keys,
        progress.expected_keys,
        progress.target_keys,
        progress.compared_keys,
        bytes(progress.bytes)
    );
    for (kind, count) in counts {
        println!("  {kind}: {count}");
    }
    for shard in &run.shards {
        if !shard.error.is_empty() {
            println!("  shard {}: {}", shard.index, shard.error);
        }
        for note in &shard.notes {
            println!("  shard {}: {note}", shard.index);
        }
    }
    if !differences.is_empty() {
        let mut table = Table::new();
        table.set_header(["shard", "db", "key", "kind", "source", "target"]);
        for Difference { shard_index, db, target_db, key, kind, source, target } in differences {
            let db = if db == target_db { db.to_string() } else { format!("{db} -> {target_db}") };
            let key = key.escape_ascii().to_string();
            table.add_row([shard_index.to_string(), db, key, kind.clone(), source.clone(), target.clone()]);
        }
        println!("{table}");
    }
}

fn figures(progress: &VerifyProgress) -> Value {
    json!({
        "source_keys": progress.source_keys,
        "expected_keys": progress.expected_keys,
        "target_keys": progress.target_keys,
        "compared_keys": progress.compared_keys,
        "bytes": progress.bytes,
        "suspects": progress.suspects,
        "unsettled_keys": progress.unsettled_keys,
        "incomparable_keys": progress.incomparable_keys,
        "held_keys": progress.held_keys,
    })
}

fn shard_as_json(shard: &dts_proto::v1::VerifyShard) -> Value {
    json!({
        "index": shard.index,
        "state": short(shard.state().as_str_name(), "VERIFY_STATE_").to_lowercase(),
        "outcome": short(shard.outcome().as_str_name(), "VERIFY_OUTCOME_").to_lowercase(),
        "error": shard.error,
        "notes": shard.notes,
    })
}

fn as_json(found: &Difference) -> Value {
    json!({
        "shard": found.shard_index,
        "db": found.db,
        "target_db": found.target_db,
        "key": found.key.escape_ascii().to_string(),
        "kind": found.kind,
        "source": found.source,
        "target": found.target,
    })
}

/// Waits until the completion is decided, and if it is granted until the task is completed; gives the exit code.
pub(crate) async fn decided(channel: Channel, id: &str, json: bool) -> Result<u8> {
    let mut client = TaskServiceClient::new(channel.clone());
    let watched = client.watch_task(WatchTaskRequest { id: id.to_owned() }).await;
    let mut changes = watched.map_err(|status| explain(&status))?.into_inner();
    loop {
        let Some(task) = changes.message().await.map_err(|status| explain(&status))? else {
            bail!("the coordinator ended before the completion was decided: look at the task once it runs again");
        };
        let report = task.completion.clone().unwrap_or_default();
        match report.outcome() {
            CompletionOutcome::Pending => {}
            CompletionOutcome::Verified => {
                tell_completion(&task, json);
                return Ok(COMPLETED);
            }
            outcome => {
                tell_completion(&task, json);
                let number = report.verification;
                let request = GetVerificationRequest { task_id: id.to_owned(), number };
                let mut client = VerifyServiceClient::new(channel);
                let run = client.get_verification(request).await.map_err(|status| explain(&status))?.into_inner();
                let code = tell(&mut client, &run, json).await?;
                return Ok(if outcome == CompletionOutcome::Refused && code != COMPLETED { code } else { FAILED });
            }
        }
    }
}

pub(crate) fn completion_as_json(report: &CompletionReport) -> Value {
    let barriers = report
        .barriers
        .iter()
        .map(|at| json!({"shard": at.shard_index, "replication_id": at.replication_id, "offset": at.offset}));
    let when = |at: Option<prost_types::Timestamp>| at.map(|at| at.to_string());
    json!({
        "event": "completion",
        "outcome": short(report.outcome().as_str_name(), "COMPLETION_OUTCOME_").to_lowercase(),
        "summary": report.summary,
        "requested_by": report.requested_by,
        "requested_at": when(report.requested_at),
        "decided_at": when(report.decided_at),
        "completed_at": when(report.completed_at),
        "verification": report.verification,
        "mode": short(report.mode().as_str_name(), "VERIFY_MODE_").to_lowercase(),
        "waived": report.waived,
        "barriers": barriers.collect::<Vec<_>>(),
    })
}

/// One line for the outcome, then what belongs to it.
pub(crate) fn completion_lines(report: &CompletionReport) -> Vec<String> {
    let outcome = short(report.outcome().as_str_name(), "COMPLETION_OUTCOME_");
    let by = if report.requested_by.is_empty() { String::new() } else { format!(", asked by {}", report.requested_by) };
    let when = report.completed_at.map(|at| format!(", completed at {at}")).unwrap_or_default();
    let mut lines = vec![format!("completion {outcome}: {}{by}{when}", report.summary)];
    lines.extend(report.waived.iter().map(|waived| format!("  passed over: {waived}")));
    lines.extend(
        report
            .barriers
            .iter()
            .map(|at| format!("  shard {}: everything up to {} of {}", at.shard_index, at.offset, at.replication_id)),
    );
    lines
}

fn tell_completion(task: &Task, json: bool) {
    let Some(report) = &task.completion else { return };
    if json {
        println!("{}", completion_as_json(report));
    } else {
        completion_lines(report).iter().for_each(|line| println!("{line}"));
    }
}
