//! `dts alarm policy …`: who is told of what.

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand, ValueEnum};
use comfy_table::Table;
use dts_proto::v1::alarm_receiver::To;
use dts_proto::v1::alarm_service_client::AlarmServiceClient;
use dts_proto::v1::{
    AlarmPolicy, AlarmReceiver, AlarmTrigger, AlertmanagerReceiver, CreateAlarmPolicyRequest, DeleteAlarmPolicyRequest,
    EmailReceiver, GetAlarmPolicyRequest, ListAlarmPoliciesRequest, SmtpSecurity, TaskSelector,
    UpdateAlarmPolicyRequest, WebhookReceiver,
};
use serde_json::json;
use tonic::transport::Channel;

use super::trigger::{trigger, words};
use crate::coordinator::explain;
use crate::serve::read_file;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
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
pub(super) struct Policy {
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

pub(super) async fn run(client: &mut AlarmServiceClient<Channel>, verb: Verb, json: bool) -> Result<()> {
    let wrong = |status: tonic::Status| explain(&status);
    let policies = match verb {
        Verb::Create(given) => {
            let (policy, _) = given.read()?;
            let request_id = uuid::Uuid::new_v4().to_string();
            let request = CreateAlarmPolicyRequest { policy: Some(policy), request_id };
            vec![client.create_alarm_policy(request).await.map_err(wrong)?.into_inner()]
        }
        Verb::Get { id } => {
            vec![client.get_alarm_policy(GetAlarmPolicyRequest { id }).await.map_err(wrong)?.into_inner()]
        }
        Verb::List => {
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
        Verb::Update { id, policy, disable, enable } => {
            let (mut policy, mut paths) = policy.read()?;
            if disable || enable {
                policy.disabled = disable;
                paths.push("disabled".into());
            }
            let update_mask = Some(prost_types::FieldMask { paths });
            let request = UpdateAlarmPolicyRequest { id, revision: 0, policy: Some(policy), update_mask };
            vec![client.update_alarm_policy(request).await.map_err(wrong)?.into_inner()]
        }
        Verb::Delete { id } => {
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
