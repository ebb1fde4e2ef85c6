//! AlarmService.

use dts_proto::v1::alarm_service_server::AlarmService;
use dts_proto::v1::{
    AlarmPolicy, CreateAlarmPolicyRequest, DeleteAlarmPolicyRequest, DeleteAlarmPolicyResponse, GetAlarmPolicyRequest,
    ListAlarmPoliciesRequest, ListAlarmPoliciesResponse, ListAlarmsRequest, ListAlarmsResponse, TestAlarmPolicyRequest,
    TestAlarmPolicyResponse, UpdateAlarmPolicyRequest,
};
use tonic::{Request, Response};

use super::task::{Answer, Operator, cut};
use super::{alarms, status};
use crate::store::Store;

#[tonic::async_trait]
impl<S: Store> AlarmService for Operator<S> {
    async fn create_alarm_policy(&self, request: Request<CreateAlarmPolicyRequest>) -> Answer<AlarmPolicy> {
        let CreateAlarmPolicyRequest { policy, request_id } = request.into_inner();
        let created = alarms(&self.seat)?.create(policy.unwrap_or_default(), request_id).await;
        created.map(Response::new).map_err(status)
    }

    async fn get_alarm_policy(&self, request: Request<GetAlarmPolicyRequest>) -> Answer<AlarmPolicy> {
        alarms(&self.seat)?.get(&request.into_inner().id).await.map(Response::new).map_err(status)
    }

    async fn list_alarm_policies(
        &self,
        request: Request<ListAlarmPoliciesRequest>,
    ) -> Answer<ListAlarmPoliciesResponse> {
        let ListAlarmPoliciesRequest { page_size, page_token } = request.into_inner();
        let mut policies = alarms(&self.seat)?.list(&page_token).await;
        let more = cut(&mut policies, page_size);
        let next_page_token = policies.last().filter(|_| more).map(|policy| policy.id.clone()).unwrap_or_default();
        Ok(Response::new(ListAlarmPoliciesResponse { policies, next_page_token }))
    }

    async fn update_alarm_policy(&self, request: Request<UpdateAlarmPolicyRequest>) -> Answer<AlarmPolicy> {
        let UpdateAlarmPolicyRequest { id, revision, policy, update_mask } = request.into_inner();
        let paths = update_mask.unwrap_or_default().paths;
        let updated = alarms(&self.seat)?.update(&id, revision, policy.unwrap_or_default(), &paths).await;
        updated.map(Response::new).map_err(status)
    }

    async fn delete_alarm_policy(
        &self,
        request: Request<DeleteAlarmPolicyRequest>,
    ) -> Answer<DeleteAlarmPolicyResponse> {
        let DeleteAlarmPolicyRequest { id, revision } = request.into_inner();
        alarms(&self.seat)?.delete(&id, revision).await.map_err(status)?;
        Ok(Response::new(DeleteAlarmPolicyResponse {}))
    }

    async fn test_alarm_policy(&self, request: Request<TestAlarmPolicyRequest>) -> Answer<TestAlarmPolicyResponse> {
        let deliveries = alarms(&self.seat)?.test(&request.into_inner().id).await.map_err(status)?;
        Ok(Response::new(TestAlarmPolicyResponse { deliveries }))
    }

    async fn list_alarms(&self, request: Request<ListAlarmsRequest>) -> Answer<ListAlarmsResponse> {
        let ListAlarmsRequest { page_size, page_token, on, task_id, policy_id } = request.into_inner();
        let fits = |alarm: &dts_proto::v1::Alarm| {
            (page_token.is_empty() || alarm.id < page_token)
                && (!on || alarm.resolved_at.is_none())
                && (task_id.is_empty() || alarm.task_id == task_id)
                && (policy_id.is_empty() || alarm.policy_id == policy_id)
        };
        let mut found = alarms(&self.seat)?.alarms(fits).await.map_err(status)?;
        let more = cut(&mut found, page_size);
        let next_page_token = found.last().filter(|_| more).map(|alarm| alarm.id.clone()).unwrap_or_default();
        Ok(Response::new(ListAlarmsResponse { alarms: found, next_page_token }))
    }
}
