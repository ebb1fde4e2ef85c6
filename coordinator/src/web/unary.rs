//! One message, one answer.

use std::convert::Infallible;

use prost_reflect::MethodDescriptor;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response, StatusCode};

use super::failure::failed;
use super::frame::{Messages, body, call};
use super::json;

pub(super) async fn answer<I>(inner: I, method: MethodDescriptor, request: Request<Body>) -> Response<Body>
where
    I: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    match serve(inner, &method, request).await {
        Ok(message) => json(StatusCode::OK, message),
        Err(status) => failed(&status, None),
    }
}

async fn serve<I>(mut inner: I, method: &MethodDescriptor, request: Request<Body>) -> Result<Vec<u8>, Status>
where
    I: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let (parts, sent) = request.into_parts();
    let sent = body(&parts, sent).await?;
    let answered = inner.call(call(parts, method, &sent)?).await.unwrap_or_else(|never| match never {});
    let mut messages = Messages::of(answered, method.output());
    let message = messages.next().await?.ok_or_else(|| Status::internal("the answer is empty"))?;
    // The status comes behind the message.
    match messages.next().await? {
        None => Ok(message),
        Some(_) => Err(Status::internal("more than one answer")),
    }
}
