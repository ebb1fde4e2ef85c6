//! TaskService.

use std::collections::HashSet;
use std::pin::Pin;

use dts_common::error::{Code, Error, Result};
use dts_common::selection::Selection;
use dts_proto::v1::task_service_server::TaskService;
use dts_proto::v1::{
    CancelTaskRequest, CompleteTaskRequest, CreateTaskRequest, DeleteTaskRequest, DeleteTaskResponse, Endpoint,
    GetTaskRequest, ListTasksRequest, ListTasksResponse, Mode, PauseTaskRequest, ResumeTaskRequest, StartTaskRequest,
    Task, TaskAction, TaskSpec, UpdateTaskRequest, WatchTaskRequest,
};
use tokio::sync::watch;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{engine, no_leader, status};
use crate::election::Seat;
use crate::placement;
use crate::store::Store;
use crate::task::check_tls;

const PAGE: usize = 100;
const LARGEST_PAGE: usize = 1000;
const LONGEST_NAME: usize = 128;
const MOST_SHARDS: usize = 1024;

/// Serves operators.
pub struct Operator<S> {
    /// What this coordinator is now.
    pub seat: watch::Receiver<Seat<S>>,
    /// Ends open watches.
    pub cancel: CancellationToken,
}

pub(super) type Answer<T> = std::result::Result<Response<T>, Status>;

impl<S: Store> Operator<S> {
    async fn request(&self, id: &str, revision: u64, action: TaskAction) -> Answer<Task> {
        engine(&self.seat)?.0.request(id, revision, action).await.map(Response::new).map_err(status)
    }
}

#[tonic::async_trait]
impl<S: Store> TaskService for Operator<S> {
    type WatchTaskStream = Pin<Box<dyn Stream<Item = std::result::Result<Task, Status>> + Send>>;

    async fn create_task(&self, request: Request<CreateTaskRequest>) -> Answer<Task> {
        let CreateTaskRequest { spec, request_id } = request.into_inner();
        let spec = spec.unwrap_or_default();
        check(&spec, &request_id).map_err(status)?;
        engine(&self.seat)?.0.create(spec, request_id).await.map(Response::new).map_err(status)
    }

    async fn get_task(&self, request: Request<GetTaskRequest>) -> Answer<Task> {
        engine(&self.seat)?.0.get(&request.into_inner().id).await.map(Response::new).map_err(status)
    }

    async fn list_tasks(&self, request: Request<ListTasksRequest>) -> Answer<ListTasksResponse> {
        let ListTasksRequest { page_size, page_token } = request.into_inner();
        let mut tasks = engine(&self.seat)?.0.list(&page_token).await;
        let more = cut(&mut tasks, page_size);
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
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return },
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
        let StartTaskRequest { id, revision } = request.into_inner();
        self.request(&id, revision, TaskAction::Start).await
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
        let CompleteTaskRequest { id, revision } = request.into_inner();
        self.request(&id, revision, TaskAction::Complete).await
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
}

/// Leaves a page; true if there was more.
pub(super) fn cut<T>(items: &mut Vec<T>, page_size: u32) -> bool {
    let size = match usize::try_from(page_size) {
        Ok(0) | Err(_) => PAGE,
        Ok(size) => size.min(LARGEST_PAGE),
    };
    let more = items.len() > size;
    items.truncate(size);
    more
}

fn check(spec: &TaskSpec, request_id: &str) -> Result<()> {
    let wrong = |what: String| Err(Error::new(Code::InvalidRequest, what));
    if spec.name.is_empty() || spec.name.len() > LONGEST_NAME {
        return wrong(format!("spec.name has to have 1 to {LONGEST_NAME} bytes"));
    }
    if request_id.len() > LONGEST_NAME {
        return wrong(format!("request_id may have at most {LONGEST_NAME} bytes"));
    }
    if spec.sources.is_empty() || spec.sources.len() > MOST_SHARDS {
        return wrong(format!("spec.sources has {} entries; 1 to {MOST_SHARDS} are taken", spec.sources.len()));
    }
    let Some(target) = &spec.target else { return wrong("spec.target is missing".into()) };
    let mut seen = HashSet::new();
    let named = |(index, source)| (format!("spec.sources[{index}]"), source);
    let sources = spec.sources.iter().enumerate().map(named);
    for (field, Endpoint { host, port, tls, .. }) in sources.chain([("spec.target".to_owned(), target)]) {
        if field != "spec.target" && !seen.insert((host, port)) {
            return wrong(format!("{field}: {host}:{port} is listed twice"));
        }
        if host.is_empty() {
            return wrong(format!("{field}.host is missing"));
        }
        if !(1..=65535).contains(port) {
            return wrong(format!("{field}.port has to be 1 to 65535"));
        }
        if let Some(tls) = tls {
            check_tls(&format!("{field}.tls"), tls)?;
        }
    }
    if !matches!(Mode::try_from(spec.mode), Ok(Mode::Migrate | Mode::Sync)) {
        return wrong("spec.mode has to be MODE_MIGRATE or MODE_SYNC".into());
    }
    placement::check(spec)?;
    Selection::new(spec.filter.as_ref(), &spec.db_map, spec.on_flush).map(drop)
}

#[cfg(test)]
mod tests {
    use dts_proto::v1::Tls;

    use super::*;

    #[test]
    fn a_wrong_field_is_named() {
        let end = |host: &str, port| Endpoint { host: host.into(), port, ..Endpoint::default() };
        let good = TaskSpec {
            name: "n".into(),
            sources: vec![end("a", 1)],
            target: Some(end("b", 2)),
            mode: Mode::Sync.into(),
            ..TaskSpec::default()
        };
        check(&good, "").unwrap();
        let with = |tls: Tls| Some(Endpoint { tls: Some(tls), ..end("b", 2) });
        let skips = Tls { ca_file: "ca".into(), insecure_skip_verify: true, ..Tls::default() };
        for (bad, field) in [
            (TaskSpec { name: String::new(), ..good.clone() }, "spec.name"),
            (TaskSpec { sources: vec![], ..good.clone() }, "spec.sources"),
            (
                TaskSpec { sources: vec![end("a", 1), end("a", 1)], ..good.clone() },
                "spec.sources[1]: a:1 is listed twice",
            ),
            (TaskSpec { target: None, ..good.clone() }, "spec.target"),
            (TaskSpec { target: Some(end("b", 70000)), ..good.clone() }, "spec.target.port"),
            (TaskSpec { sources: vec![end("", 1)], ..good.clone() }, "spec.sources[0].host"),
            (
                TaskSpec { target: with(Tls { key_file: "k".into(), ..Tls::default() }), ..good.clone() },
                "spec.target.tls: certificate_file",
            ),
            (TaskSpec { target: with(skips), ..good.clone() }, "spec.target.tls: insecure_skip_verify"),
            (TaskSpec { mode: 0, ..good.clone() }, "spec.mode"),
        ] {
            assert!(check(&bad, "").unwrap_err().message.contains(field), "{field}");
        }
    }
}
