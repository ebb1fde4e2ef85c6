//! One file a service: translate, delegate, map errors.

pub mod agent;
pub mod task;

use std::collections::HashMap;

use dts_common::error::{Code, Error};
use tonic::{Code as GrpcCode, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

/// An error as it goes over the wire.
pub fn status(error: Error) -> Status {
    let Error { code, .. } = error;
    let grpc = match code {
        Code::InvalidRequest => GrpcCode::InvalidArgument,
        Code::TaskNotFound => GrpcCode::NotFound,
        Code::ActionNotAllowed => GrpcCode::FailedPrecondition,
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
