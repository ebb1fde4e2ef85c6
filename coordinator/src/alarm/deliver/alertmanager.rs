//! Prometheus's Alertmanager, API v2. It ends what it does not hear of again; so every message says until when it is good.

use std::time::SystemTime;

use dts_proto::v1::AlertmanagerReceiver;

use super::{Http, Message};
use crate::alarm::message::alert;

pub(super) async fn send(
    http: &Http,
    to: &AlertmanagerReceiver,
    message: &Message,
    now: SystemTime,
) -> Result<(), String> {
    let url = format!("{}/api/v2/alerts", to.url.trim_end_matches('/'));
    let ends_at = (now + 2 * message.repeat).into();
    http.post(&url, alert(&message.alarm, message.event, ends_at).to_string(), &[]).await
}
