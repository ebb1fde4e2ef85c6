//! VerifyService.

use dts_common::error::{Code, Error};
use dts_proto::v1::verify_service_server::VerifyService;
use dts_proto::v1::{
    CancelVerificationRequest, GetVerificationRequest, ListDifferencesRequest, ListDifferencesResponse,
    ListVerificationsRequest, ListVerificationsResponse, RepairVerificationRequest, StartVerificationRequest,
    Verification,
};
use tonic::{Request, Response, Status};

use super::task::{Operator, size_of};
use super::{engine, status};
use crate::store::Store;

const LONGEST_NAME: usize = 128;

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl<S: Store> VerifyService for Operator<S> {
    async fn start_verification(&self, request: Request<StartVerificationRequest>) -> Answer<Verification> {
        let StartVerificationRequest { task_id, spec, requested_by } = request.into_inner();
        named(&requested_by)?;
        if spec.is_some_and(|spec| spec.repair_of > 0) {
            return Err(status(Error::new(Code::InvalidRequest, "spec.repair_of is for RepairVerification to set")));
        }
        let engine = engine(&self.seat)?.0;
        let started = engine.start_verification(&task_id, spec.unwrap_or_default(), requested_by).await;
        started.map(Response::new).map_err(status)
    }

    async fn get_verification(&self, request: Request<GetVerificationRequest>) -> Answer<Verification> {
        let GetVerificationRequest { task_id, number } = request.into_inner();
        engine(&self.seat)?.0.verification(&task_id, number).await.map(Response::new).map_err(status)
    }

    async fn list_verifications(
        &self,
        request: Request<ListVerificationsRequest>,
    ) -> Answer<ListVerificationsResponse> {
        let verifications = engine(&self.seat)?.0.verifications(&request.into_inner().task_id).await.map_err(status)?;
        Ok(Response::new(ListVerificationsResponse { verifications }))
    }

    async fn cancel_verification(&self, request: Request<CancelVerificationRequest>) -> Answer<Verification> {
        let CancelVerificationRequest { task_id, number } = request.into_inner();
        engine(&self.seat)?.0.cancel_verification(&task_id, number).await.map(Response::new).map_err(status)
    }

    async fn repair_verification(&self, request: Request<RepairVerificationRequest>) -> Answer<Verification> {
        let RepairVerificationRequest { task_id, number, requested_by } = request.into_inner();
        named(&requested_by)?;
        let engine = engine(&self.seat)?.0;
        engine.repair_verification(&task_id, number, requested_by).await.map(Response::new).map_err(status)
    }

    async fn list_differences(&self, request: Request<ListDifferencesRequest>) -> Answer<ListDifferencesResponse> {
        let ListDifferencesRequest { task_id, number, page_size, page_token } = request.into_inner();
        let from = if page_token.is_empty() { Ok(0) } else { page_token.parse() };
        let wrong = |_| status(Error::new(Code::InvalidRequest, "page_token is not one of ours"));
        let from = from.map_err(wrong)?;
        let (differences, next) =
            engine(&self.seat)?.0.differences(&task_id, number, from, size_of(page_size)).await.map_err(status)?;
        let next_page_token = next.map(|next| next.to_string()).unwrap_or_default();
        Ok(Response::new(ListDifferencesResponse { differences, next_page_token }))
    }
}

pub(super) fn named(requested_by: &str) -> Result<(), Status> {
    if requested_by.len() <= LONGEST_NAME {
        return Ok(());
    }
    let message = format!("requested_by may have at most {LONGEST_NAME} bytes");
    Err(status(Error::new(Code::InvalidRequest, message)))
}
