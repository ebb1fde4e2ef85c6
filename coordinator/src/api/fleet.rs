//! FleetService.

use dts_proto::v1::fleet_service_server::FleetService;
use dts_proto::v1::{
    Agent, CordonAgentRequest, DrainAgentRequest, ListAgentsRequest, ListAgentsResponse, PinShardRequest, Task,
    UncordonAgentRequest, UnpinShardRequest,
};
use tonic::{Request, Response};

use super::task::{Answer, Operator, cut};
use super::{engine, status};
use crate::store::Store;

impl<S: Store> Operator<S> {
    async fn cordon(&self, id: &str, cordoned: bool, draining: bool) -> Answer<Agent> {
        engine(&self.seat)?.0.cordon(id, cordoned, draining).await.map(Response::new).map_err(status)
    }
}

#[tonic::async_trait]
impl<S: Store> FleetService for Operator<S> {
    async fn list_agents(&self, request: Request<ListAgentsRequest>) -> Answer<ListAgentsResponse> {
        let ListAgentsRequest { page_size, page_token } = request.into_inner();
        let mut agents = engine(&self.seat)?.0.agents().await;
        agents.retain(|agent| agent.id > page_token);
        let more = cut(&mut agents, page_size);
        let next_page_token = agents.last().filter(|_| more).map(|agent| agent.id.clone()).unwrap_or_default();
        Ok(Response::new(ListAgentsResponse { agents, next_page_token }))
    }

    async fn cordon_agent(&self, request: Request<CordonAgentRequest>) -> Answer<Agent> {
        self.cordon(&request.into_inner().id, true, false).await
    }

    async fn drain_agent(&self, request: Request<DrainAgentRequest>) -> Answer<Agent> {
        self.cordon(&request.into_inner().id, true, true).await
    }

    async fn uncordon_agent(&self, request: Request<UncordonAgentRequest>) -> Answer<Agent> {
        self.cordon(&request.into_inner().id, false, false).await
    }

    async fn pin_shard(&self, request: Request<PinShardRequest>) -> Answer<Task> {
        let PinShardRequest { task_id, shard_index, agent_id, revision } = request.into_inner();
        if agent_id.is_empty() {
            return Err(status(dts_common::error::Error::new(
                dts_common::error::Code::InvalidRequest,
                "agent_id is missing; UnpinShard unties a shard",
            )));
        }
        let pinned = engine(&self.seat)?.0.pin(&task_id, shard_index, &agent_id, revision).await;
        pinned.map(Response::new).map_err(status)
    }

    async fn unpin_shard(&self, request: Request<UnpinShardRequest>) -> Answer<Task> {
        let UnpinShardRequest { task_id, shard_index, revision } = request.into_inner();
        engine(&self.seat)?.0.pin(&task_id, shard_index, "", revision).await.map(Response::new).map_err(status)
    }
}
