//! The same services for what speaks HTTP and JSON: browsers, curl, scripts. It is the outermost layer: a call becomes the gRPC call that it
//! stands for and goes through the same door, so roles, the audit trail, the way to the leader, traces and errors are the same code.
//! The protocol is Connect's (connectrpc.com): `POST /dts.v1.TaskService/ListTasks` with JSON as protobuf maps it.

pub mod calls;
mod failure;
mod frame;
pub mod origin;
mod pages;
mod stream;
mod unary;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use dts_common::error::{Code, Error};
use http_body_util::Full;
use prost_reflect::MethodDescriptor;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderMap, Method, Request, Response, StatusCode, Version, header};

use self::calls::Calls;
use self::failure::failed;
use self::origin::Rules;
use crate::api::status;

const GRPC: &str = "application/grpc";
const JSON: &str = "application/json";
const STREAM: &str = "application/connect+json";

/// Services of gRPC, and pages, behind plain HTTP.
#[derive(Clone)]
pub struct Front<I> {
    /// What serves gRPC.
    pub inner: I,
    /// Who may come.
    pub rules: Arc<Rules>,
    /// What may be called.
    pub calls: Arc<Calls>,
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

/// What a request is.
enum Asked {
    Grpc,
    Unary(MethodDescriptor),
    Stream(MethodDescriptor),
    Page,
    Refused(StatusCode, Status),
}

impl<I> Front<I> {
    fn asked(&self, request: &Request<Body>) -> Asked {
        let headers = request.headers();
        let content = media_type(headers);
        let old = request.version() < Version::HTTP_2;
        if content == GRPC && !old && !headers.contains_key(header::ORIGIN) {
            return Asked::Grpc;
        }
        let host = request.uri().authority().map(|authority| authority.as_str()).or_else(|| text(headers, "host"));
        let call = request.method() == Method::POST;
        if let Err(why) = self.rules.admit(host, text(headers, "origin"), text(headers, "sec-fetch-site"), call) {
            return Asked::Refused(StatusCode::FORBIDDEN, status(Error::new(Code::PermissionDenied, why)));
        }
        let unimplemented = |code, why: &str| Asked::Refused(code, Status::unimplemented(why));
        let Some(method) = self.calls.find(request.uri().path()) else {
            return match (request.method(), content) {
                (&Method::GET | &Method::HEAD, _) => Asked::Page,
                (_, GRPC) if !old => Asked::Grpc,
                _ => unimplemented(StatusCode::NOT_FOUND, "there is no such call"),
            };
        };
        match (call, content, method.is_server_streaming()) {
            (true, GRPC, _) if old => {
                unimplemented(StatusCode::HTTP_VERSION_NOT_SUPPORTED, "gRPC needs HTTP/2; over HTTP/1.1 send JSON")
            }
            (true, GRPC, _) => Asked::Grpc,
            (true, ..) if method.is_client_streaming() => {
                unimplemented(StatusCode::NOT_IMPLEMENTED, "this call takes a stream: gRPC only")
            }
            (true, JSON, false) => Asked::Unary(method.clone()),
            (true, STREAM, true) => Asked::Stream(method.clone()),
            (true, ..) => {
                let takes = if method.is_server_streaming() { STREAM } else { JSON };
                unimplemented(StatusCode::UNSUPPORTED_MEDIA_TYPE, &format!("this call takes Content-Type: {takes}"))
            }
            (false, ..) => unimplemented(StatusCode::METHOD_NOT_ALLOWED, "calls are made by POST"),
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    // What is no text fits nothing.
    headers.get(name).map(|value| value.to_str().unwrap_or("\u{fffd}"))
}

/// Without parameters; of gRPC without the encoding of messages.
fn media_type(headers: &HeaderMap) -> &str {
    let whole = text(headers, "content-type").unwrap_or_default();
    let bare = whole.split(';').next().unwrap_or_default().trim();
    if bare.strip_prefix(GRPC).is_some_and(|rest| rest.is_empty() || rest.starts_with('+')) { GRPC } else { bare }
}

impl<I> Service<Request<Body>> for Front<I>
where
    I: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let asked = self.asked(&request);
        if matches!(asked, Asked::Grpc) {
            return Box::pin(self.inner.call(request));
        }
        // The one that said that it is ready serves.
        let unready = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, unready);
        Box::pin(async move {
            Ok(match asked {
                Asked::Unary(method) => unary::answer(inner, method, request).await,
                Asked::Stream(method) => stream::answer(inner, method, request).await,
                Asked::Page | Asked::Grpc => pages::answer(&request),
                Asked::Refused(code, status) => {
                    frame::discard(request.into_body()).await;
                    failed(&status, Some(code))
                }
            })
        })
    }
}

/// An answer of JSON.
fn json(code: StatusCode, body: Vec<u8>) -> Response<Body> {
    let mut answer = Response::new(Body::new(Full::from(body)));
    *answer.status_mut() = code;
    let value = header::HeaderValue::from_static;
    answer.headers_mut().insert(header::CONTENT_TYPE, value(JSON));
    answer.headers_mut().insert(header::CACHE_CONTROL, value("no-store"));
    answer.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, value("nosniff"));
    answer
}
