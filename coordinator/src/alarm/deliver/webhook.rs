//! A POST of JSON, signed with its time, so that neither can be made up nor sent again later.

use std::time::{SystemTime, UNIX_EPOCH};

use dts_common::hex::hex;
use dts_proto::v1::WebhookReceiver;
use ring::hmac;

use super::{Http, Message};
use crate::alarm::message::body;

pub(super) async fn send(http: &Http, to: &WebhookReceiver, message: &Message, now: SystemTime) -> Result<(), String> {
    let body = body(&message.alarm, message.event, message.sequence).to_string();
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut headers = vec![("dts-timestamp", seconds.to_string())];
    if !to.secret.is_empty() {
        headers.push(("dts-signature", signature(&to.secret, seconds, &body)));
    }
    http.post(&to.url, body, &headers).await
}

fn signature(secret: &str, seconds: u64, body: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let tag = hmac::sign(&key, format!("{seconds}.{body}").as_bytes());
    format!("v1={}", hex(tag.as_ref().iter().copied()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_what_others_compute() {
        // printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac topsecret
        let expected = "v1=6a939b0c71853d606167625a15168ee9188c6a511c773ef4f42d307f3849e50f";
        assert_eq!(signature("topsecret", 1_700_000_000, "{\"a\":1}"), expected);
    }
}
