//! A coordinator that does not lead hands every call of ours, streams too, to the one that does: a client may talk to any.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use dts_common::error::{Code, Error, Result};
use dts_common::telemetry::{HEADER, traceparent};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tonic::transport::Channel;

use tracing::{Instrument as _, Span, info_span};

use super::status;
use super::trace::SESSIONS;
use crate::access::way::PeerTls;
use crate::access::{self, Access};
use crate::election::Seat;
use crate::store::Store;

/// Package of our services; health and reflection are everybody's own.
const OURS: &str = "/dts.v1.";
/// Marks what was handed on: it is not handed on twice.
const FORWARDED: &str = "dts-forwarded";

/// Knows the way to the leader.
pub struct Forwarder<S> {
    seat: watch::Receiver<Seat<S>>,
    tls: Option<PeerTls>,
    /// The address of the last leader, and the way to it.
    way: Arc<Mutex<Option<(String, Channel)>>>,
}

impl<S> Clone for Forwarder<S> {
    fn clone(&self) -> Self {
        Self { seat: self.seat.clone(), tls: self.tls.clone(), way: self.way.clone() }
    }
}

impl<S> Forwarder<S> {
    /// Forwards while the seat says that another leads.
    pub fn new(seat: watch::Receiver<Seat<S>>, tls: Option<PeerTls>) -> Self {
        Self { seat, tls, way: Arc::default() }
    }

    fn channel(&self, address: &str) -> Result<Channel> {
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, channel)) = &*way
            && of == address
        {
            return Ok(channel.clone());
        }
        let channel = access::way::way(address, self.tls.as_ref())?;
        *way = Some((address.to_owned(), channel.clone()));
        Ok(channel)
    }

    /// The next call makes a new way, with the certificates of then.
    fn forget(&self) {
        *self.way.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Our services behind a [`Forwarder`].
#[derive(Clone)]
pub struct Forward<I, S> {
    /// What serves if this coordinator leads.
    pub inner: I,
    /// Knows who calls.
    pub access: Access,
    /// The way to who does, if it does not.
    pub forwarder: Forwarder<S>,
}

type Answer = Pin<Box<dyn Future<Output = std::result::Result<Response<Body>, Infallible>> + Send>>;

impl<I, S> Service<Request<Body>> for Forward<I, S>
where
    I: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    S: Store,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Answer {
        let caller = self.access.caller(&mut request);
        request.extensions_mut().insert(caller.clone());
        let leader = match &*self.forwarder.seat.borrow() {
            Seat::Leading(leading) if leading.holds() => None,
            _ if !request.uri().path().starts_with(OURS) => None,
            Seat::Following(leader) => Some(leader.clone()),
            Seat::Leading(_) => Some(None),
        };
        match leader {
            None => Box::pin(self.inner.call(request)),
            Some(leader) => {
                let forwarder = self.forwarder.clone();
                Box::pin(async move {
                    caller.put(&mut request);
                    let answer = forwarder.hand_on(request, leader).await;
                    Ok(answer.unwrap_or_else(|error| status(error).into_http()))
                })
            }
        }
    }
}

fn nobody(why: &str) -> Error {
    Error::new(Code::NoLeader, why)
}

impl<S: Store> Forwarder<S> {
    async fn hand_on(mut self, mut request: Request<Body>, leader: Option<String>) -> Result<Response<Body>> {
        let Some(leader) = leader else { return Err(nobody("no coordinator leads now")) };
        if request.headers_mut().insert(FORWARDED, HeaderValue::from_static("1")).is_some() {
            return Err(nobody("the lead is changing hands"));
        }
        let mut channel = self.channel(&leader)?;
        // A session goes on for too long to be a span.
        let traced = !request.uri().path().starts_with(SESSIONS);
        let span = if traced { info_span!("forward", otel.kind = "client", leader) } else { Span::none() };
        if let Ok(parent) = HeaderValue::from_str(&span.in_scope(traceparent))
            && !parent.is_empty()
        {
            request.headers_mut().insert(HEADER, parent);
        }
        let reach = async {
            std::future::poll_fn(|context| channel.poll_ready(context)).await?;
            channel.call(request).await
        };
        let reach = reach.instrument(span);
        let (same, forwarder) = (leader.clone(), self.clone());
        let leads = move |seat: &Seat<S>| matches!(seat, Seat::Following(Some(address)) if *address == same);
        let deposed = async move {
            let _changed_or_ended = self.seat.wait_for(|seat| !leads(seat)).await;
        };
        let mut deposed: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(deposed);
        let answer = tokio::select! {
            answer = reach => answer,
            () = &mut deposed => return Err(nobody("the lead changed hands")),
        };
        let (parts, body) = match answer {
            Ok(answer) => answer.into_parts(),
            Err(error) => {
                forwarder.forget();
                tracing::warn!(leader, %error, "the leading coordinator does not answer");
                return Err(nobody("the leading coordinator does not answer"));
            }
        };
        Ok(Response::from_parts(parts, Body::new(WhileLeading { body, deposed, over: false })))
    }
}

/// An answer of the leader, which ends in order when the leader is lost.
struct WhileLeading {
    body: Body,
    deposed: Pin<Box<dyn Future<Output = ()> + Send>>,
    over: bool,
}

impl http_body::Body for WhileLeading {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<http_body::Frame<Self::Data>, Status>>> {
        if self.over {
            return Poll::Ready(None);
        }
        if self.deposed.as_mut().poll(context).is_pending() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Err(_)) => {}
                frame => return Poll::Ready(frame),
            }
        }
        self.over = true;
        let mut trailers = tonic::codegen::http::HeaderMap::new();
        status(nobody("the leading coordinator is lost")).add_header(&mut trailers)?;
        Poll::Ready(Some(Ok(http_body::Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.over || self.body.is_end_stream()
    }
}
