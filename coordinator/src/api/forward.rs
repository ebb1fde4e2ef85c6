//! A coordinator that does not lead hands every call of ours, streams too, to the one that does: a client may talk to any.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use tokio::sync::watch;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{HeaderValue, Request, Response};
use tonic::transport::{Channel, Endpoint};

use super::status;
use crate::election::Seat;
use crate::store::Store;

/// Package of our services; health and reflection are everybody's own.
const OURS: &str = "/dts.v1.";
/// Marks what was handed on: it is not handed on twice.
const FORWARDED: &str = "dts-forwarded";
const CONNECT: Duration = Duration::from_secs(2);
/// A silent leader is noticed within the two together.
const PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3));

/// Knows the way to the leader.
pub struct Forwarder<S> {
    seat: watch::Receiver<Seat<S>>,
    /// The address of the last leader, and the way to it.
    way: Arc<Mutex<Option<(String, Channel)>>>,
}

impl<S> Clone for Forwarder<S> {
    fn clone(&self) -> Self {
        Self { seat: self.seat.clone(), way: self.way.clone() }
    }
}

impl<S> Forwarder<S> {
    /// Forwards while the seat says that another leads.
    pub fn new(seat: watch::Receiver<Seat<S>>) -> Self {
        Self { seat, way: Arc::default() }
    }

    fn channel(&self, address: &str) -> Result<Channel> {
        let mut way = self.way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, channel)) = &*way
            && of == address
        {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(address.to_owned())
            .map_err(|error| Error::new(Code::Internal, format!("the leader's address {address}: {error}")))?;
        let channel = endpoint
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(PING.0)
            .keep_alive_timeout(PING.1)
            .connect_lazy();
        *way = Some((address.to_owned(), channel.clone()));
        Ok(channel)
    }
}

/// Our services behind a [`Forwarder`].
#[derive(Clone)]
pub struct Forward<I, S> {
    /// What serves if this coordinator leads.
    pub inner: I,
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

    fn call(&mut self, request: Request<Body>) -> Answer {
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
        let reach = async {
            std::future::poll_fn(|context| channel.poll_ready(context)).await?;
            channel.call(request).await
        };
        let same = leader.clone();
        let leads = move |seat: &Seat<S>| matches!(seat, Seat::Following(Some(address)) if *address == same);
        let deposed = async move {
            let _changed_or_ended = self.seat.wait_for(|seat| !leads(seat)).await;
        };
        let mut deposed: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(deposed);
        let answer = tokio::select! {
            answer = reach => answer,
            () = &mut deposed => return Err(nobody("the lead changed hands")),
        };
        let (parts, body) = answer.map_err(|_| nobody("the leading coordinator does not answer"))?.into_parts();
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
