//! One file a service: translate, delegate, map errors.

pub mod agent;
pub mod alarm;
pub mod enrol;
pub mod fleet;
pub mod forward;
pub mod switch;
pub mod task;
pub mod trace;
pub mod verify;

use std::collections::HashMap;

use std::sync::Arc;

use dts_common::error::{Code, Error};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code as GrpcCode, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::alarm::Alarms;
use crate::election::{Guarded, Seat};
use crate::engine::Engine;
use crate::store::Store;

/// The engine to ask now, and what ends when it is not to be asked any more.
pub(crate) type Asked<S> = (Arc<Engine<Guarded<S>>>, CancellationToken);

/// Of a coordinator that leads.
pub(crate) fn engine<S: Store>(seat: &watch::Receiver<Seat<S>>) -> Result<Asked<S>, Status> {
    match &*seat.borrow() {
        Seat::Leading(leading) if leading.holds() => Ok((leading.engine.clone(), leading.ends.clone())),
        _ => Err(no_leader()),
    }
}

/// The alarms of a coordinator that leads.
fn alarms<S: Store>(seat: &watch::Receiver<Seat<S>>) -> Result<Arc<Alarms<Guarded<S>>>, Status> {
    match &*seat.borrow() {
        Seat::Leading(leading) if leading.holds() => Ok(leading.alarms.clone()),
        _ => Err(no_leader()),
    }
}

/// What an open stream says when the lead is lost.
fn no_leader() -> Status {
    status(Error::new(Code::NoLeader, "this coordinator does not lead"))
}

/// An error as it goes over the wire.
pub fn status(error: Error) -> Status {
    let Error { code, .. } = error;
    let grpc = match code {
        Code::InvalidRequest | Code::CrossRegion => GrpcCode::InvalidArgument,
        Code::TaskNotFound | Code::AgentNotFound | Code::AlarmPolicyNotFound => GrpcCode::NotFound,
        Code::ActionNotAllowed | Code::InstanceBusy | Code::AcknowledgementNeeded => GrpcCode::FailedPrecondition,
        Code::PermissionDenied | Code::TokenRefused => GrpcCode::PermissionDenied,
        Code::Unauthenticated => GrpcCode::Unauthenticated,
        Code::RevisionConflict => GrpcCode::Aborted,
        Code::Internal => GrpcCode::Internal,
        _ => GrpcCode::Unavailable,
    };
    let metadata = HashMap::from([
        ("scope".to_owned(), code.scope().as_str().to_owned()),
        ("retry".to_owned(), code.retry().to_string()),
        ("fix".to_owned(), code.fix().to_owned()),
    ]);
    let details = ErrorDetails::with_error_info(code.as_str(), "dts", metadata);
    Status::with_error_details(grpc, error.message, details)
}
