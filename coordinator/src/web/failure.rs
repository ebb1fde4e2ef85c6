//! A status as Connect writes it: code, message, and the details that the gRPC call would have had.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use prost::Message as _;
use serde_json::{Value, json};
use tonic::body::Body;
use tonic::codegen::http::{Response, StatusCode};
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use super::json;

/// `google.rpc.Status`, of which only the details are of interest.
#[derive(Clone, PartialEq, prost::Message)]
struct Details {
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// The answer; `code` is that of HTTP where there is a better one than the status's own.
pub(super) fn failed(status: &Status, code: Option<StatusCode>) -> Response<Body> {
    let (own, name) = names(status.code());
    let http = code.or_else(|| StatusCode::from_u16(own).ok()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json(http, error(status, name).to_string().into_bytes())
}

/// The error as the end of a stream has it.
pub(super) fn error_of(status: &Status) -> Value {
    error(status, names(status.code()).1)
}

fn error(status: &Status, name: &str) -> Value {
    let details = Details::decode(status.details()).unwrap_or_default().details;
    let details: Vec<Value> = details
        .iter()
        .map(|detail| {
            let kind = detail.type_url.rsplit('/').next().unwrap_or_default();
            let mut shown = json!({"type": kind, "value": BASE64_STANDARD_NO_PAD.encode(&detail.value)});
            if let Some(info) = status.get_details_error_info().filter(|_| kind == "google.rpc.ErrorInfo") {
                shown["debug"] = json!({"reason": info.reason, "domain": info.domain, "metadata": info.metadata});
            }
            shown
        })
        .collect();
    json!({"code": name, "message": status.message(), "details": details})
}

/// The code of HTTP, and Connect's name.
fn names(code: Code) -> (u16, &'static str) {
    match code {
        Code::Ok | Code::Unknown => (500, "unknown"),
        Code::Cancelled => (499, "canceled"),
        Code::InvalidArgument => (400, "invalid_argument"),
        Code::DeadlineExceeded => (504, "deadline_exceeded"),
        Code::NotFound => (404, "not_found"),
        Code::AlreadyExists => (409, "already_exists"),
        Code::PermissionDenied => (403, "permission_denied"),
        Code::ResourceExhausted => (429, "resource_exhausted"),
        Code::FailedPrecondition => (400, "failed_precondition"),
        Code::Aborted => (409, "aborted"),
        Code::OutOfRange => (400, "out_of_range"),
        Code::Unimplemented => (501, "unimplemented"),
        Code::Internal => (500, "internal"),
        Code::Unavailable => (503, "unavailable"),
        Code::DataLoss => (500, "data_loss"),
        Code::Unauthenticated => (401, "unauthenticated"),
    }
}
