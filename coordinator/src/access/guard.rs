//! The door of all services: who may not is turned away, and what changes something is noted.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use dts_proto::v1::AuditEntry;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::codegen::http::{Request, Response};
use tonic_types::StatusExt as _;

use super::{Access, Caller, roles};
use crate::api::{engine, status};
use crate::audit;
use crate::election::Seat;
use crate::store::Store;

/// A store that does not answer in this time does not hold an answer up.
const NOTE_WITHIN: Duration = Duration::from_secs(5);

/// Services behind a door.
pub struct Guard<I, S> {
    /// What serves.
    pub inner: I,
    /// Who may what.
    pub access: Access,
    /// Whose trail it is noted in.
    pub seat: watch::Receiver<Seat<S>>,
}

impl<I: Clone, S> Clone for Guard<I, S> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), access: self.access.clone(), seat: self.seat.clone() }
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

impl<I, S> Service<Request<Body>> for Guard<I, S>
where
    I: Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send> + Clone + Send + 'static,
    S: Store,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Answer;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> Answer {
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
        let path = request.uri().path().to_owned();
        let seat = self.seat.clone();
        if let Err(error) = self.access.allow(&path, &caller) {
            tracing::warn!(who = caller.who(), method = roles::method(&path), %error, "refused");
            let outcome = error.code.as_str();
            return Box::pin(async move {
                // A stranger could fill the trail with what it is refused.
                if caller.certificate.is_some() {
                    note(&seat, &caller, &path, String::new(), outcome).await;
                }
                Ok(status(error).into_http())
            });
        }
        let serve = self.inner.call(request);
        if !roles::changes(&path) {
            return Box::pin(serve);
        }
        Box::pin(async move {
            let (answer, about) = audit::noting(serve).await;
            let outcome = answer.as_ref().map_or_else(|never| match *never {}, outcome);
            if outcome == "OK" || caller.certificate.is_some() || !path.ends_with("/Enrol") {
                note(&seat, &caller, &path, about, &outcome).await;
            }
            answer
        })
    }
}

/// `OK`, or a code.
fn outcome(answer: &Response<Body>) -> String {
    match Status::from_header_map(answer.headers()) {
        None => "OK".into(),
        Some(status) => match status.get_details_error_info() {
            Some(info) => info.reason,
            None => format!("{:?}", status.code()),
        },
    }
}

async fn note<S: Store>(seat: &watch::Receiver<Seat<S>>, caller: &Caller, path: &str, about: String, outcome: &str) {
    let entry = AuditEntry {
        who: caller.who(),
        address: caller.address.map(|address| address.to_string()).unwrap_or_default(),
        what: roles::method(path).to_owned(),
        about,
        outcome: outcome.to_owned(),
        ..AuditEntry::default()
    };
    // The lead may be lost by now.
    let Ok((engine, _)) = engine(seat) else { return };
    match timeout(NOTE_WITHIN, engine.note(entry.clone())).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::error!(%error, ?entry, "not noted in the trail"),
        Err(_) => tracing::error!(?entry, "not noted in the trail: the store does not answer"),
    }
}
