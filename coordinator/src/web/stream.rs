//! One message, many answers, each in an envelope as it comes; the last envelope says how it ended.

use std::convert::Infallible;

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http_body::Frame;
use http_body_util::StreamBody;
use prost_reflect::MethodDescriptor;
use serde_json::json;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderValue, Request, Response, header};

use super::STREAM;
use super::failure::error_of;
use super::frame::{Messages, body, call, cut, framed, wrong};

/// Flag of the last envelope.
const END: u8 = 2;

pub(super) async fn answer<I>(inner: I, method: MethodDescriptor, request: Request<Body>) -> Response<Body>
where
    I: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let open = match begin(inner, &method, request).await {
        Ok(messages) => Open::Messages(messages),
        Err(status) => Open::Failed(status),
    };
    let envelopes = stream::unfold(open, |open| async {
        let (envelope, open) = next(open).await?;
        Some((Ok::<_, Infallible>(Frame::data(envelope)), open))
    });
    let mut answer = Response::new(Body::new(StreamBody::new(envelopes)));
    let value = HeaderValue::from_static;
    answer.headers_mut().insert(header::CONTENT_TYPE, value(STREAM));
    answer.headers_mut().insert(header::CACHE_CONTROL, value("no-store"));
    answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, value("nosniff"));
    answer
}

enum Open {
    Messages(Messages),
    Failed(Status),
    Ended,
}

async fn next(open: Open) -> Option<(Bytes, Open)> {
    let failed = |status: &Status| framed(END, json!({"error": error_of(status)}).to_string().as_bytes());
    match open {
        Open::Messages(mut messages) => Some(match messages.next().await {
            Ok(Some(message)) => (framed(0, &message), Open::Messages(messages)),
            Ok(None) => (framed(END, b"{}"), Open::Ended),
            Err(status) => (failed(&status), Open::Ended),
        }),
        Open::Failed(status) => Some((failed(&status), Open::Ended)),
        Open::Ended => None,
    }
}

async fn begin<I>(mut inner: I, method: &MethodDescriptor, request: Request<Body>) -> Result<Messages, Status>
where
    I: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let (parts, sent) = request.into_parts();
    let mut sent = BytesMut::from(&body(&parts, sent).await?[..]);
    let (flag, message) = cut(&mut sent).ok_or_else(|| wrong("the body is not one message in an envelope"))?;
    if flag != 0 || !sent.is_empty() {
        return Err(wrong("the body is more than one plain message in an envelope"));
    }
    let answered = inner.call(call(parts, method, &message)?).await.unwrap_or_else(|never| match never {});
    Ok(Messages::of(answered, method.output()))
}
