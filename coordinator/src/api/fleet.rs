//! FleetService.

use dts_common::error::{Code, Error};
use dts_proto::v1::fleet_service_server::FleetService;
use dts_proto::v1::{
    Agent, BarAgentRequest, CordonAgentRequest, CreateTokenRequest, DrainAgentRequest, ListAgentsRequest,
    ListAgentsResponse, ListAuditRequest, ListAuditResponse, ListTokensRequest, ListTokensResponse, PinShardRequest,
    RevokeTokenRequest, RevokeTokenResponse, Task, Token, UncordonAgentRequest, UnpinShardRequest,
};
use tonic::{Request, Response};

use super::task::{Answer, Operator, cut};
use super::{engine, status};
use crate::access::Caller;
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

    async fn bar_agent(&self, request: Request<BarAgentRequest>) -> Answer<Agent> {
        engine(&self.seat)?.0.bar(&request.into_inner().id).await.map(Response::new).map_err(status)
    }

    async fn pin_shard(&self, request: Request<PinShardRequest>) -> Answer<Task> {
        let PinShardRequest { task_id, shard_index, agent_id, revision } = request.into_inner();
        if agent_id.is_empty() {
            return Err(status(wrong("agent_id is missing; UnpinShard unties a shard")));
        }
        let pinned = engine(&self.seat)?.0.pin(&task_id, shard_index, &agent_id, revision).await;
        pinned.map(Response::new).map_err(status)
    }

    async fn unpin_shard(&self, request: Request<UnpinShardRequest>) -> Answer<Task> {
        let UnpinShardRequest { task_id, shard_index, revision } = request.into_inner();
        engine(&self.seat)?.0.pin(&task_id, shard_index, "", revision).await.map(Response::new).map_err(status)
    }

    async fn create_token(&self, request: Request<CreateTokenRequest>) -> Answer<Token> {
        let by = request.extensions().get::<Caller>().map(Caller::who).unwrap_or_default();
        let CreateTokenRequest { agent_id, ttl_seconds } = request.into_inner();
        let made = engine(&self.seat)?.0.create_token(&agent_id, ttl_seconds, by).await;
        made.map(Response::new).map_err(status)
    }

    async fn list_tokens(&self, _: Request<ListTokensRequest>) -> Answer<ListTokensResponse> {
        let tokens = engine(&self.seat)?.0.tokens().await.map_err(status)?;
        Ok(Response::new(ListTokensResponse { tokens }))
    }

    async fn revoke_token(&self, request: Request<RevokeTokenRequest>) -> Answer<RevokeTokenResponse> {
        engine(&self.seat)?.0.revoke_token(&request.into_inner().id).await.map_err(status)?;
        Ok(Response::new(RevokeTokenResponse {}))
    }

    async fn list_audit(&self, request: Request<ListAuditRequest>) -> Answer<ListAuditResponse> {
        let ListAuditRequest { page_size, page_token } = request.into_inner();
        let before = match page_token.as_str() {
            "" => 0,
            token => token.parse().map_err(|_| status(wrong("page_token is not one of ListAudit's")))?,
        };
        let mut entries = engine(&self.seat)?.0.audited(before).await.map_err(status)?;
        let more = cut(&mut entries, page_size);
        let last = entries.last().filter(|_| more).map(|entry| entry.number.to_string());
        Ok(Response::new(ListAuditResponse { entries, next_page_token: last.unwrap_or_default() }))
    }
}

fn wrong(what: &str) -> Error {
    Error::new(Code::InvalidRequest, what)
}
