//! TaskService.

use std::pin::Pin;
use std::time::Duration;

use dts_proto::v1::task_service_server::TaskService;
use dts_proto::v1::{
    AbortCompletionRequest, AcknowledgeRequest, CancelCheckRequest, CancelTaskRequest, CheckKind, CheckRun,
    CloneTaskRequest, CompleteTaskRequest, CreateTaskRequest, DeleteTaskRequest, DeleteTaskResponse,
    ExplainTaskRequest, Explanation, GetCheckRequest, GetTaskRequest, ListChecksRequest, ListChecksResponse,
    ListTaskEventsRequest, ListTaskEventsResponse, ListTasksRequest, ListTasksResponse, PauseTaskRequest, Plan,
    PlanTaskRequest, ResumeTaskRequest, ResyncTaskRequest, RetryTaskRequest, RunCheckRequest, ScheduleTaskRequest,
    StartTaskRequest, Task, TaskAction, TestConnectivityRequest, UnscheduleTaskRequest, UpdateTaskRequest,
    WatchTaskRequest,
};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{engine, no_leader, status};
use crate::election::Seat;
use crate::store::Store;
use crate::task::check_spec;

const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;
/// Of a watch at a task.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);

/// Serves operators.
pub struct Operator<S> {
    /// What this coordinator is now.
    pub seat: watch::Receiver<Seat<S>>,
    /// Ends open watches.
    pub cancel: CancellationToken,
}

pub(super) type Answer<T> = Result<Response<T>, Status>;

impl<S: Store> Operator<S> {
    async fn request(&self, id: &str, revision: u64, action: TaskAction) -> Answer<Task> {
        engine(&self.seat)?.0.request(id, revision, action).await.map(Response::new).map_err(status)
    }
}

#[tonic::async_trait]
impl<S: Store> TaskService for Operator<S> {
    type WatchTaskStream = Pin<Box<dyn Stream<Item = Result<Task, Status>> + Send>>;

    async fn create_task(&self, request: Request<CreateTaskRequest>) -> Answer<Task> {
        let CreateTaskRequest { spec, request_id } = request.into_inner();
        let spec = spec.unwrap_or_default();
        check_spec(&spec, &request_id).map_err(status)?;
        engine(&self.seat)?.0.create(spec, request_id).await.map(Response::new).map_err(status)
    }

    async fn get_task(&self, request: Request<GetTaskRequest>) -> Answer<Task> {
        engine(&self.seat)?.0.get(&request.into_inner().id).await.map(Response::new).map_err(status)
    }

    async fn list_tasks(&self, request: Request<ListTasksRequest>) -> Answer<ListTasksResponse> {
        let ListTasksRequest { page_size, page_token } = request.into_inner();
        let (tasks, more) = engine(&self.seat)?.0.page(&page_token, size_of(page_size)).await;
        let next_page_token = tasks.last().filter(|_| more).map(|task| task.id.clone()).unwrap_or_default();
        Ok(Response::new(ListTasksResponse { tasks, next_page_token }))
    }

    async fn watch_task(&self, request: Request<WatchTaskRequest>) -> Answer<Self::WatchTaskStream> {
        let id = request.into_inner().id;
        let (engine, deposed) = engine(&self.seat)?;
        engine.get(&id).await.map_err(status)?;
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let cancel = self.cancel.clone();
        let mut changes = engine.changes();
        tokio::spawn(async move {
            let mut last = None;
            loop {
                changes.mark_unchanged();
                let Ok(task) = engine.get(&id).await else { return };
                if last.as_ref() != Some(&task) {
                    last = Some(task.clone());
                    if sender.send(Ok(task)).await.is_err() {
                        return;
                    }
                }
                // In a large fleet something changes all the time.
                let changed = async {
                    tokio::time::sleep(BETWEEN_LOOKS).await;
                    changes.changed().await
                };
                tokio::select! {
                    changed = changed => if changed.is_err() { return },
                    () = sender.closed() => return,
                    () = cancel.cancelled() => return,
                    () = deposed.cancelled() => {
                        let _told_or_gone = sender.send(Err(no_leader())).await;
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver).map(|task| task))))
    }

    async fn update_task(&self, request: Request<UpdateTaskRequest>) -> Answer<Task> {
        let UpdateTaskRequest { id, revision, spec, update_mask } = request.into_inner();
        let paths = update_mask.unwrap_or_default().paths;
        let updated = engine(&self.seat)?.0.update(&id, revision, &spec.unwrap_or_default(), &paths).await;
        updated.map(Response::new).map_err(status)
    }

    async fn start_task(&self, request: Request<StartTaskRequest>) -> Answer<Task> {
        let StartTaskRequest { id, revision, acknowledge_warnings } = request.into_inner();
        let started = engine(&self.seat)?.0.start(&id, revision, acknowledge_warnings).await;
        started.map(Response::new).map_err(status)
    }

    async fn pause_task(&self, request: Request<PauseTaskRequest>) -> Answer<Task> {
        let PauseTaskRequest { id, revision } = request.into_inner();
        self.request(&id, revision, TaskAction::Pause).await
    }

    async fn resume_task(&self, request: Request<ResumeTaskRequest>) -> Answer<Task> {
        let ResumeTaskRequest { id, revision } = request.into_inner();
        self.request(&id, revision, TaskAction::Resume).await
    }

    async fn complete_task(&self, request: Request<CompleteTaskRequest>) -> Answer<Task> {
        engine(&self.seat)?.0.complete(request.into_inner()).await.map(Response::new).map_err(status)
    }

    async fn cancel_task(&self, request: Request<CancelTaskRequest>) -> Answer<Task> {
        let CancelTaskRequest { id, revision } = request.into_inner();
        self.request(&id, revision, TaskAction::Cancel).await
    }

    async fn delete_task(&self, request: Request<DeleteTaskRequest>) -> Answer<DeleteTaskResponse> {
        let DeleteTaskRequest { id, revision } = request.into_inner();
        self.request(&id, revision, TaskAction::Delete).await?;
        Ok(Response::new(DeleteTaskResponse {}))
    }

    async fn test_connectivity(&self, request: Request<TestConnectivityRequest>) -> Answer<CheckRun> {
        let TestConnectivityRequest { id, revision } = request.into_inner();
        let run = engine(&self.seat)?.0.begin_check(&id, revision, CheckKind::Test).await;
        run.map(Response::new).map_err(status)
    }

    async fn run_check(&self, request: Request<RunCheckRequest>) -> Answer<CheckRun> {
        let RunCheckRequest { id, revision } = request.into_inner();
        let run = engine(&self.seat)?.0.begin_check(&id, revision, CheckKind::Check).await;
        run.map(Response::new).map_err(status)
    }

    async fn cancel_check(&self, request: Request<CancelCheckRequest>) -> Answer<Task> {
        let CancelCheckRequest { id, revision } = request.into_inner();
        self.request(&id, revision, TaskAction::CancelCheck).await
    }

    async fn get_check(&self, request: Request<GetCheckRequest>) -> Answer<CheckRun> {
        let GetCheckRequest { id, number } = request.into_inner();
        engine(&self.seat)?.0.check_run(&id, number).await.map(Response::new).map_err(status)
    }

    async fn list_checks(&self, request: Request<ListChecksRequest>) -> Answer<ListChecksResponse> {
        let runs = engine(&self.seat)?.0.check_runs(&request.into_inner().id).await.map_err(status)?;
        Ok(Response::new(ListChecksResponse { runs }))
    }

    async fn acknowledge(&self, request: Request<AcknowledgeRequest>) -> Answer<Task> {
        let request = request.into_inner();
        engine(&self.seat)?.0.acknowledge(request).await.map(Response::new).map_err(status)
    }

    async fn schedule_task(&self, request: Request<ScheduleTaskRequest>) -> Answer<Task> {
        let ScheduleTaskRequest { id, revision, start_at } = request.into_inner();
        engine(&self.seat)?.0.schedule(&id, revision, &start_at).await.map(Response::new).map_err(status)
    }

    async fn unschedule_task(&self, request: Request<UnscheduleTaskRequest>) -> Answer<Task> {
        let UnscheduleTaskRequest { id, revision } = request.into_inner();
        self.request(&id, revision, TaskAction::Unschedule).await
    }

    async fn retry_task(&self, request: Request<RetryTaskRequest>) -> Answer<Task> {
        let RetryTaskRequest { id, revision } = request.into_inner();
        self.request(&id, revision, TaskAction::Retry).await
    }

    async fn resync_task(&self, request: Request<ResyncTaskRequest>) -> Answer<Task> {
        let ResyncTaskRequest { id, revision } = request.into_inner();
        self.request(&id, revision, TaskAction::Resync).await
    }

    async fn abort_completion(&self, request: Request<AbortCompletionRequest>) -> Answer<Task> {
        let AbortCompletionRequest { id, revision } = request.into_inner();
        self.request(&id, revision, TaskAction::Abort).await
    }

    async fn clone_task(&self, request: Request<CloneTaskRequest>) -> Answer<Task> {
        let CloneTaskRequest { id, name, request_id } = request.into_inner();
        engine(&self.seat)?.0.clone_task(&id, name, request_id).await.map(Response::new).map_err(status)
    }

    async fn explain_task(&self, request: Request<ExplainTaskRequest>) -> Answer<Explanation> {
        engine(&self.seat)?.0.explain(&request.into_inner().id).await.map(Response::new).map_err(status)
    }

    async fn plan_task(&self, request: Request<PlanTaskRequest>) -> Answer<Plan> {
        engine(&self.seat)?.0.plan(&request.into_inner().id).await.map(Response::new).map_err(status)
    }

    async fn list_task_events(&self, request: Request<ListTaskEventsRequest>) -> Answer<ListTaskEventsResponse> {
        engine(&self.seat)?.0.events(&request.into_inner().id).await.map(Response::new).map_err(status)
    }
}

/// Leaves a page; true if there was more.
pub(super) fn cut<T>(items: &mut Vec<T>, page_size: u32) -> bool {
    let size = size_of(page_size);
    let more = items.len() > size;
    items.truncate(size);
    more
}

/// Of the page that was asked for.
pub(super) fn size_of(page_size: u32) -> usize {
    match usize::try_from(page_size) {
        Ok(0) | Err(_) => PAGE,
        Ok(size) => size.min(LARGEST_PAGE),
    }
}
