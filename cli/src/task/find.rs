//! Which task is meant.

use anyhow::{Result, anyhow};
use dts_proto::v1::task_service_client::TaskServiceClient;
use dts_proto::v1::{ListTasksRequest, Task};
use tonic::transport::Channel;

use crate::coordinator::explain;

pub(super) async fn all(client: &mut TaskServiceClient<Channel>) -> Result<Vec<Task>> {
    let (mut tasks, mut page_token) = (Vec::new(), String::new());
    loop {
        let request = ListTasksRequest { page_size: 1000, page_token };
        let page = client.list_tasks(request).await.map_err(|status| explain(&status))?.into_inner();
        tasks.extend(page.tasks);
        page_token = page.next_page_token;
        if page_token.is_empty() {
            return Ok(tasks);
        }
    }
}

/// The id that was given, that of the task with this name, or that of the only task.
pub(crate) async fn only(client: &mut TaskServiceClient<Channel>, id: Option<String>) -> Result<String> {
    if let Some(given) = id {
        if uuid::Uuid::parse_str(&given).is_ok() {
            return Ok(given);
        }
        let tasks = all(client).await?;
        let named: Vec<_> =
            tasks.iter().filter(|task| task.spec.as_ref().is_some_and(|spec| spec.name == given)).collect();
        return match named.as_slice() {
            // The coordinator says that there is none.
            [] => Ok(given),
            [task] => Ok(task.id.clone()),
            tasks => Err(anyhow!("{} tasks have the name {given:?}: name one by its id", tasks.len())),
        };
    }
    match all(client).await?.as_slice() {
        [task] => Ok(task.id.clone()),
        tasks => Err(anyhow!("there are {} tasks: name one by its id", tasks.len())),
    }
}
