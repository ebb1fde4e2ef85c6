//! Mail by SMTP.

use dts_proto::v1::{EmailReceiver, SmtpSecurity};
use lettre::message::Mailbox;
use lettre::message::header::ContentType;
use lettre::transport::smtp::authentication::Credentials;
use lettre::{AsyncSmtpTransport, AsyncTransport as _, Message as Mail, Tokio1Executor};

use super::http::reasons;
use super::{Message, PATIENCE};
use crate::alarm::check::server;
use crate::alarm::message::{text, title};

pub(super) async fn send(to: &EmailReceiver, message: &Message) -> Result<(), String> {
    let (host, port) = server(&to.server).ok_or("the server is not host:port")?;
    let builder = match to.security() {
        SmtpSecurity::None => AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host),
        SmtpSecurity::Tls => AsyncSmtpTransport::<Tokio1Executor>::relay(host).map_err(|error| reasons(&error))?,
        SmtpSecurity::Starttls | SmtpSecurity::Unspecified => {
            AsyncSmtpTransport::<Tokio1Executor>::starttls_relay(host).map_err(|error| reasons(&error))?
        }
    };
    let mut builder = builder.port(port).timeout(Some(PATIENCE));
    if !to.username.is_empty() {
        builder = builder.credentials(Credentials::new(to.username.clone(), to.password.clone()));
    }
    builder.build().send(mail(to, message)?).await.map(drop).map_err(|error| reasons(&error))
}

fn mail(to: &EmailReceiver, message: &Message) -> Result<Mail, String> {
    let mailbox = |text: &str| text.parse::<Mailbox>().map_err(|error| error.to_string());
    let Message { alarm, event, sequence, .. } = message;
    let mut mail = Mail::builder()
        .from(mailbox(&to.from)?)
        .subject(format!("[DTS] {}", title(alarm, *event)))
        // One thread an alarm.
        .message_id(Some(format!("<{}.{sequence}@dts>", alarm.id)))
        .header(ContentType::TEXT_PLAIN);
    if *sequence > 1 {
        mail = mail.references(format!("<{}.1@dts>", alarm.id));
    }
    for address in &to.to {
        mail = mail.to(mailbox(address)?);
    }
    mail.body(text(alarm, *event)).map_err(|error| error.to_string())
}
