//! EnrolmentService.

use dts_common::error::{Code, Error};
use dts_proto::v1::enrolment_service_server::EnrolmentService;
use dts_proto::v1::{EnrolRequest, Enrolled, RenewRequest};
use tokio::sync::watch;
use tonic::{Request, Response, Status};

use super::{engine, status};
use crate::access::Caller;
use crate::access::authority::{Authority, Signed};
use crate::audit;
use crate::election::Seat;
use crate::store::Store;

/// Serves agents that want a certificate.
pub struct Enrolment<S> {
    /// What this coordinator is now.
    pub seat: watch::Receiver<Seat<S>>,
    /// Signs, if it can.
    pub authority: Option<Authority>,
}

impl<S> Enrolment<S> {
    fn authority(&self) -> Result<&Authority, Status> {
        let message = "this coordinator signs no certificates: start it with --agent-ca-cert and --agent-ca-key";
        self.authority.as_ref().ok_or_else(|| status(Error::new(Code::InvalidRequest, message)))
    }
}

fn answer(signed: Signed) -> Response<Enrolled> {
    Response::new(Enrolled { certificate_pem: signed.pem, expires_at: Some(signed.expires.into()) })
}

#[tonic::async_trait]
impl<S: Store> EnrolmentService for Enrolment<S> {
    async fn enrol(&self, request: Request<EnrolRequest>) -> Result<Response<Enrolled>, Status> {
        let authority = self.authority()?;
        let EnrolRequest { token, agent_id, request_pem } = request.into_inner();
        let signed = engine(&self.seat)?.0.enrol(&token, &agent_id, &request_pem, authority).await;
        signed.map(answer).map_err(status)
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Result<Response<Enrolled>, Status> {
        let authority = self.authority()?;
        let certificate = request.extensions().get::<Caller>().and_then(|caller| caller.certificate.clone());
        let known = certificate.filter(|certificate| certificate.agent);
        let named = known.and_then(|agent| Some((agent.names.first()?.clone(), agent.issued_ms)));
        let refused =
            || Error::new(Code::PermissionDenied, "only what a coordinator has signed for an agent is renewed");
        let (name, issued_ms) = named.ok_or_else(|| status(refused()))?;
        audit::about(format!("agent {name}"));
        engine(&self.seat)?.0.check_barred(&name, issued_ms).await.map_err(status)?;
        authority.sign(&name, &request.into_inner().request_pem).map(answer).map_err(status)
    }
}
