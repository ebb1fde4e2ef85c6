//! `dts alarm …`: who is told of what, and what was told.

use anyhow::{Context as _, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::Table;
use dts_proto::v1::alarm_receiver::To;
use dts_proto::v1::alarm_service_client::AlarmServiceClient;
use dts_proto::v1::{
    Alarm, AlarmDelivery, AlarmKind, AlarmNeed, AlarmPolicy, AlarmReceiver, AlarmTrigger, AlertmanagerReceiver,
    CreateAlarmPolicyRequest, DeleteAlarmPolicyRequest, EmailReceiver, GetAlarmPolicyRequest, ListAlarmPoliciesRequest,
    ListAlarmsRequest, SmtpSecurity, TaskSelector, TestAlarmPolicyRequest, UpdateAlarmPolicyRequest, WebhookReceiver,
};
use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::coordinator::{Coordinator, explain};
use crate::serve::read_file;
use crate::show::{parse_bytes, short};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    coordinator: Coordinator,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Who is told of what.
    #[command(subcommand)]
    Policy(Box<PolicyVerb>),
    /// Send a test message to every receiver of a policy.
    Test { id: String },
    /// List the alarms that are on.
    List,
    /// List all alarms, newest first, with what became of their messages.
    History {
        /// Of this task only.
        #[arg(long)]
        task: Option<String>,
        /// At most so many.
        #[arg(long, default_value_t = 100)]
        limit: usize,
    },
}

#[derive(Debug, Subcommand)]
enum PolicyVerb {
    /// Store a policy.
    Create(Policy),
    /// List the policies.
    List,
    /// Show a policy.
    Get { id: String },
    /// Change a policy; what is not named stays.
    Update {
        id: String,
        #[command(flatten)]
        policy: Policy,
        /// Raise nothing from now on.
        #[arg(long, conflicts_with = "enable")]
        disable: bool,
        /// Raise alarms again.
        #[arg(long)]
        enable: bool,
    },
    /// Forget a policy; its alarms that are on are resolved.
    Delete { id: String },
}

#[derive(Debug, Args)]
struct Policy {
    /// A name for people.
    #[arg(long)]
    name: Option<String>,
    /// For this task only. May repeat; without it and --task-name: all tasks.
    #[arg(long = "task", value_name = "ID")]
    tasks: Vec<String>,
    /// For tasks whose name fits this pattern: orders-*. May repeat.
    #[arg(long = "task-name", value_name = "PATTERN")]
    task_names: Vec<String>,
    /// interrupted, needs-decision, failed, agent-lost, degraded, lag>30s, lag>64MiB, backlog<10m, certificate<14d; each with :1m
    /// behind it to wait until it has held for that long. May repeat.
    #[arg(long = "when", value_name = "TRIGGER", value_parser = trigger)]
    triggers: Vec<AlarmTrigger>,
    /// How often an alarm that stays is told again.
    #[arg(long, value_parser = humantime::parse_duration)]
    repeat: Option<std::time::Duration>,
    /// POST to this address.
    #[arg(long, value_name = "URL")]
    webhook: Option<String>,
    /// File with the secret that signs what is posted; DTS_WEBHOOK_SECRET works too.
    #[arg(long, value_name = "FILE", requires = "webhook")]
    webhook_secret_file: Option<String>,
    /// Tell Prometheus's Alertmanager at this address.
    #[arg(long, value_name = "URL")]
    alertmanager: Option<String>,
    /// Mail to this address. May repeat.
    #[arg(long, value_name = "ADDRESS", requires_all = ["email_from", "smtp_server"])]
    email_to: Vec<String>,
    /// Sender of the mail.
    #[arg(long, value_name = "ADDRESS")]
    email_from: Option<String>,
    /// SMTP server.
    #[arg(long, value_name = "HOST:PORT")]
    smtp_server: Option<String>,
    #[arg(long, value_enum, default_value_t = Security::Starttls)]
    smtp_security: Security,
    /// User of the SMTP server.
    #[arg(long, value_name = "NAME", requires = "smtp_password_file")]
    smtp_user: Option<String>,
    /// File with that user's password.
    #[arg(long, value_name = "FILE", requires = "smtp_user")]
    smtp_password_file: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Security {
    Starttls,
    Tls,
    None,
}

/// `lag>30s:1m`.
fn trigger(text: &str) -> Result<AlarmTrigger, String> {
    let (what, held) = text.split_once(':').map_or((text, None), |(what, held)| (what, Some(held)));
    let seconds = |text: &str| -> Result<u32, String> {
        let time = humantime::parse_duration(text).map_err(|error| format!("{text}: {error}"))?;
        u32::try_from(time.as_secs()).map_err(|_| format!("{text} is too long"))
    };
    let at = what.find(['<', '>']).unwrap_or(what.len());
    let (name, bound) = (&what[..at], what.get(at + 1..).filter(|bound| !bound.is_empty()));
    let kind = match name {
        "interrupted" => AlarmKind::Interrupted,
        "needs-decision" => AlarmKind::NeedsDecision,
        "failed" => AlarmKind::Failed,
        "lag" => AlarmKind::Lag,
        "backlog" => AlarmKind::Backlog,
        "agent-lost" => AlarmKind::AgentLost,
        "degraded" => AlarmKind::Degraded,
        "certificate" => AlarmKind::Certificate,
        "foreign-writes" => AlarmKind::ForeignWrites,
        "verification-mismatch" => AlarmKind::VerificationMismatch,
        "replay-short" => AlarmKind::ReplayShort,
        other => return Err(format!("{other:?} is no trigger")),
    };
    let mut trigger = AlarmTrigger { kind: kind.into(), ..AlarmTrigger::default() };
    let sign = what.as_bytes().get(at);
    match (kind, sign, bound) {
        (AlarmKind::Lag, Some(b'>'), Some(bound)) => match humantime::parse_duration(bound) {
            Ok(_) => trigger.threshold_seconds = seconds(bound)?,
            Err(_) => trigger.threshold_bytes = parse_bytes(bound)?,
        },
        (AlarmKind::Backlog | AlarmKind::Certificate, Some(b'<'), Some(bound)) => {
            trigger.threshold_seconds = seconds(bound)?;
        }
        (AlarmKind::Lag, ..) => return Err("lag needs a bound: lag>30s, or lag>64MiB".into()),
        (AlarmKind::Backlog | AlarmKind::Certificate, ..) => return Err(format!("{name} needs a bound: {name}<10m")),
        (_, None, None) => {}
        _ => return Err(format!("{name} takes no bound")),
    }
    if let Some(held) = held {
        trigger.for_seconds = seconds(held)?;
    }
    Ok(trigger)
}

impl Policy {
    fn receivers(&self) -> Result<Vec<AlarmReceiver>> {
        let mut receivers = Vec::new();
        let mut add = |name: &str, to| receivers.push(AlarmReceiver { name: name.to_owned(), to: Some(to) });
        if let Some(url) = self.webhook.clone() {
            let secret = match &self.webhook_secret_file {
                Some(path) => read_file(path)?,
                None => std::env::var("DTS_WEBHOOK_SECRET").unwrap_or_default(),
            };
            add("webhook", To::Webhook(WebhookReceiver { url, secret, secret_set: false }));
        }
        if let Some(url) = self.alertmanager.clone() {
            add("alertmanager", To::Alertmanager(AlertmanagerReceiver { url }));
        }
        if !self.email_to.is_empty() {
            let security = match self.smtp_security {
                Security::Starttls => SmtpSecurity::Starttls,
                Security::Tls => SmtpSecurity::Tls,
                Security::None => SmtpSecurity::None,
            };
            let email = EmailReceiver {
                server: self.smtp_server.clone().context("--smtp-server")?,
                security: security.into(),
                username: self.smtp_user.clone().unwrap_or_default(),
                password: self.smtp_password_file.as_deref().map(read_file).transpose()?.unwrap_or_default(),
                password_set: false,
                from: self.email_from.clone().context("--email-from")?,
                to: self.email_to.clone(),
            };
            add("email", To::Email(email));
        }
        Ok(receivers)
    }

    /// What the arguments name, and which fields those are.
    fn read(&self) -> Result<(AlarmPolicy, Vec<String>)> {
        let policy = AlarmPolicy {
            name: self.name.clone().unwrap_or_default(),
            tasks: Some(TaskSelector { ids: self.tasks.clone(), names: self.task_names.clone() }),
            triggers: self.triggers.clone(),
            receivers: self.receivers()?,
            repeat_seconds: self.repeat.map_or(0, |every| u32::try_from(every.as_secs()).unwrap_or(u32::MAX)),
            ..AlarmPolicy::default()
        };
        let named = [
            ("name", self.name.is_some()),
            ("tasks", !self.tasks.is_empty() || !self.task_names.is_empty()),
            ("triggers", !policy.triggers.is_empty()),
            ("receivers", !policy.receivers.is_empty()),
            ("repeat_seconds", self.repeat.is_some()),
        ];
        let paths = named.iter().filter(|(_, given)| *given).map(|(path, _)| (*path).to_owned()).collect();
        Ok((policy, paths))
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let Arguments { coordinator, verb } = arguments;
    let mut client = AlarmServiceClient::new(coordinator.channel().await?);
    let json = coordinator.json;
    match verb {
        Verb::Policy(verb) => policy(&mut client, *verb, json).await,
        Verb::Test { id } => {
            let tested = client.test_alarm_policy(TestAlarmPolicyRequest { id }).await;
            let deliveries = tested.map_err(|status| explain(&status))?.into_inner().deliveries;
            for delivery in &deliveries {
                if json {
                    println!("{}", of_delivery(delivery));
                } else {
                    println!("{:<16} {}", delivery.receiver, outcome(delivery));
                }
            }
            match deliveries.iter().filter(|delivery| delivery.delivered_at.is_none()).count() {
                0 => Ok(()),
                failed => bail!("{failed} of {} receivers could not be reached", deliveries.len()),
            }
        }
        Verb::List => {
            show(
                &alarms(&mut client, ListAlarmsRequest { on: true, ..ListAlarmsRequest::default() }, usize::MAX)
                    .await?,
                json,
            );
            Ok(())
        }
        Verb::History { task, limit } => {
            let request = ListAlarmsRequest { task_id: task.unwrap_or_default(), ..ListAlarmsRequest::default() };
            show(&alarms(&mut client, request, limit).await?, json);
            Ok(())
        }
    }
}

async fn policy(client: &mut AlarmServiceClient<Channel>, verb: PolicyVerb, json: bool) -> Result<()> {
    let wrong = |status: tonic::Status| explain(&status);
    let policies = match verb {
        PolicyVerb::Create(given) => {
            let (policy, _) = given.read()?;
            let request_id = uuid::Uuid::new_v4().to_string();
            let request = CreateAlarmPolicyRequest { policy: Some(policy), request_id };
            vec![client.create_alarm_policy(request).await.map_err(wrong)?.into_inner()]
        }
        PolicyVerb::Get { id } => {
            vec![client.get_alarm_policy(GetAlarmPolicyRequest { id }).await.map_err(wrong)?.into_inner()]
        }
        PolicyVerb::List => {
            let (mut policies, mut page_token) = (Vec::new(), String::new());
            loop {
                let request = ListAlarmPoliciesRequest { page_size: 1000, page_token };
                let page = client.list_alarm_policies(request).await.map_err(wrong)?.into_inner();
                policies.extend(page.policies);
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break policies;
                }
            }
        }
        PolicyVerb::Update { id, policy, disable, enable } => {
            let (mut policy, mut paths) = policy.read()?;
            if disable || enable {
                policy.disabled = disable;
                paths.push("disabled".into());
            }
            let update_mask = Some(prost_types::FieldMask { paths });
            let request = UpdateAlarmPolicyRequest { id, revision: 0, policy: Some(policy), update_mask };
            vec![client.update_alarm_policy(request).await.map_err(wrong)?.into_inner()]
        }
        PolicyVerb::Delete { id } => {
            client.delete_alarm_policy(DeleteAlarmPolicyRequest { id, revision: 0 }).await.map_err(wrong)?;
            return Ok(());
        }
    };
    let mut table = Table::new();
    table.set_header(["id", "name", "when", "tells", "tasks"]);
    for policy in policies {
        let tasks = policy.tasks.clone().unwrap_or_default();
        let when: Vec<String> = policy.triggers.iter().map(words).collect();
        let tells: Vec<String> = policy.receivers.iter().map(|receiver| receiver.name.clone()).collect();
        let of = [tasks.ids, tasks.names].concat();
        if json {
            println!(
                "{}",
                json!({"id": policy.id, "name": policy.name, "when": when, "receivers": tells, "tasks": of,
                    "disabled": policy.disabled, "repeat_seconds": policy.repeat_seconds, "revision": policy.revision})
            );
        }
        let name = if policy.disabled { format!("{} (disabled)", policy.name) } else { policy.name };
        let of = if of.is_empty() { "all".to_owned() } else { of.join(" ") };
        table.add_row([policy.id, name, when.join(" "), tells.join(" "), of]);
    }
    if !json {
        println!("{table}");
    }
    Ok(())
}

async fn alarms(
    client: &mut AlarmServiceClient<Channel>,
    mut request: ListAlarmsRequest,
    limit: usize,
) -> Result<Vec<Alarm>> {
    let mut alarms = Vec::new();
    loop {
        request.page_size = u32::try_from(limit.saturating_sub(alarms.len()).min(1000)).unwrap_or(1000);
        let page = client.list_alarms(request.clone()).await.map_err(|status| explain(&status))?.into_inner();
        alarms.extend(page.alarms);
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() || alarms.len() >= limit {
            return Ok(alarms);
        }
    }
}

/// As `--when` takes it.
fn words(trigger: &AlarmTrigger) -> String {
    let name = kind(trigger.kind()).to_ascii_lowercase().replace('_', "-");
    let sign = if trigger.kind() == AlarmKind::Lag { '>' } else { '<' };
    let mut text = name;
    if trigger.threshold_seconds > 0 {
        text += &format!("{sign}{}s", trigger.threshold_seconds);
    }
    if trigger.threshold_bytes > 0 {
        text += &format!("{sign}{}B", trigger.threshold_bytes);
    }
    if trigger.for_seconds > 0 {
        text += &format!(":{}s", trigger.for_seconds);
    }
    text
}

fn kind(kind: AlarmKind) -> String {
    short(kind.as_str_name(), "ALARM_KIND_")
}

fn need(need: AlarmNeed) -> &'static str {
    match need {
        AlarmNeed::NeedsYou => "needs you",
        AlarmNeed::WillRetry | AlarmNeed::Unspecified => "will retry",
    }
}

fn outcome(delivery: &AlarmDelivery) -> String {
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

fn of_delivery(delivery: &AlarmDelivery) -> Value {
    json!({
        "receiver": delivery.receiver, "event": short(delivery.event().as_str_name(), "ALARM_EVENT_"),
        "sequence": delivery.sequence, "attempts": delivery.attempts, "error": delivery.error,
        "delivered_at": delivery.delivered_at.map(|at| at.to_string()), "given_up": delivery.given_up,
    })
}

fn show(alarms: &[Alarm], json: bool) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triggers_are_read_as_they_are_shown() {
        for text in [
            "interrupted",
            "failed:60s",
            "lag>30s:60s",
            "lag>1024B",
            "backlog<600s",
            "agent-lost",
            "certificate<86400s",
        ] {
            assert_eq!(words(&trigger(text).unwrap()), text);
        }
        assert_eq!(trigger("lag>64MiB").unwrap().threshold_bytes, 64 << 20);
        assert_eq!(trigger("backlog<10m").unwrap().threshold_seconds, 600);
        for wrong in ["", "lag", "lag<3s", "backlog>3s", "failed>3s", "sunshine", "lag>", "failed:soon"] {
            assert!(trigger(wrong).is_err(), "{wrong}");
        }
    }
}
