//! `dts alarm …`: who is told of what, and what was told.

mod policy;
mod show;
mod trigger;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use dts_proto::v1::alarm_service_client::AlarmServiceClient;
use dts_proto::v1::{Alarm, ListAlarmsRequest, TestAlarmPolicyRequest};
use tonic::transport::Channel;

use self::show::{of_delivery, outcome, show};
use crate::coordinator::{Coordinator, explain};

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
    Policy(Box<policy::Verb>),
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

pub(crate) async fn run(arguments: Arguments) -> Result<()> {
    let Arguments { coordinator, verb } = arguments;
    let mut client = AlarmServiceClient::new(coordinator.channel().await?);
    let json = coordinator.json;
    match verb {
        Verb::Policy(verb) => policy::run(&mut client, *verb, json).await,
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
            let request = ListAlarmsRequest { on: true, ..ListAlarmsRequest::default() };
            show(&alarms(&mut client, request, usize::MAX).await?, json);
            Ok(())
        }
        Verb::History { task, limit } => {
            let request = ListAlarmsRequest { task_id: task.unwrap_or_default(), ..ListAlarmsRequest::default() };
            show(&alarms(&mut client, request, limit).await?, json);
            Ok(())
        }
    }
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
