//! SwitchOverService.

use dts_proto::v1::switch_over_service_server::SwitchOverService;
use dts_proto::v1::{CancelSwitchOverRequest, GetSwitchOverRequest, StartSwitchOverRequest, SwitchOver};
use tonic::Request;

use super::task::{Answer, Operator};
use super::verify::named;
use super::{engine, status};
use crate::store::Store;

#[tonic::async_trait]
impl<S: Store> SwitchOverService for Operator<S> {
    async fn start_switch_over(&self, request: Request<StartSwitchOverRequest>) -> Answer<SwitchOver> {
        let StartSwitchOverRequest { task_id, spec, requested_by } = request.into_inner();
        named(&requested_by)?;
        let engine = engine(&self.seat)?.0;
        let started = engine.start_switch_over(&task_id, spec.unwrap_or_default(), requested_by).await;
        started.map(tonic::Response::new).map_err(status)
    }

    async fn get_switch_over(&self, request: Request<GetSwitchOverRequest>) -> Answer<SwitchOver> {
        let found = engine(&self.seat)?.0.switch_over(&request.into_inner().task_id).await;
        found.map(tonic::Response::new).map_err(status)
    }

    async fn cancel_switch_over(&self, request: Request<CancelSwitchOverRequest>) -> Answer<SwitchOver> {
        let cancelled = engine(&self.seat)?.0.cancel_switch_over(&request.into_inner().task_id).await;
        cancelled.map(tonic::Response::new).map_err(status)
    }
}
