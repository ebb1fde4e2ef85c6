//! A span for every call of an operator, the child of what the caller says it belongs to.

use std::convert::Infallible;
use std::task::{Context, Poll};

use dts_common::telemetry::{HEADER, continues};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tracing::instrument::Instrumented;
use tracing::{Instrument as _, Span, info_span};

const OURS: &str = "/dts.v1.";
/// A session lasts as long as its agent.
pub(super) const SESSIONS: &str = "/dts.v1.AgentService/";

/// Our services, traced.
#[derive(Clone)]
pub struct Traced<I>(pub I);

/// What the caller says; empty if it says nothing.
pub fn parent(headers: &HeaderMap) -> &str {
    headers.get(HEADER).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

impl<I> Service<Request<Body>> for Traced<I>
where
    I: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Instrumented<I::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let span = if path.starts_with(OURS) && !path.starts_with(SESSIONS) {
            let method = path.trim_start_matches('/');
            let span = info_span!("call", otel.name = method, otel.kind = "server", rpc.system = "grpc", method);
            continues(&span, parent(request.headers()));
            span
        } else {
            Span::none()
        };
        let answer = span.in_scope(|| self.0.call(request));
        answer.instrument(span)
    }
}
