//! One message to one receiver, once, within a bound.

mod alertmanager;
mod email;
mod http;
mod webhook;

use std::time::{Duration, SystemTime};

use dts_proto::v1::alarm_receiver::To;
use dts_proto::v1::{Alarm, AlarmEvent, AlarmReceiver};
use tokio::time::timeout;

pub(super) use http::Http;

/// A receiver that has not answered by then is tried again later.
const PATIENCE: Duration = Duration::from_secs(10);

/// A message on its way.
#[derive(Clone, Debug)]
pub(super) struct Message {
    pub(super) alarm: Alarm,
    pub(super) event: AlarmEvent,
    pub(super) sequence: u32,
    /// With its secret in clear.
    pub(super) receiver: AlarmReceiver,
    /// How often it is told again: receivers that forget have to remember for longer.
    pub(super) repeat: Duration,
}

/// Says why it was not taken; no secret is in the words.
pub(super) async fn deliver(http: &Http, message: &Message) -> Result<(), String> {
    let sent = async {
        match &message.receiver.to {
            Some(To::Webhook(to)) => webhook::send(http, to, message, SystemTime::now()).await,
            Some(To::Alertmanager(to)) => alertmanager::send(http, to, message, SystemTime::now()).await,
            Some(To::Email(to)) => email::send(to, message).await,
            None => Err("a receiver without an address".into()),
        }
    };
    timeout(PATIENCE, Box::pin(sent))
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", PATIENCE.as_secs())))
}
