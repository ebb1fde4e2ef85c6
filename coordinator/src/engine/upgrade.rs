//! What earlier versions have stored is read and goes on.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use dts_proto::v1::{Endpoint, Task, TaskAction, TaskSpec, TaskState};
use prost::Message as _;

use super::Engine;
use crate::secret::Sealer;
use crate::store::{Embedded, Store as _, Transaction};

/// As version 0.1 stored it, before tests, checks and schedules.
#[derive(Clone, PartialEq, prost::Message)]
struct Before {
    #[prost(message, optional, tag = "1")]
    task: Option<Task>,
    #[prost(bool, tag = "2")]
    releasing: bool,
    #[prost(bool, tag = "3")]
    ran: bool,
    #[prost(string, tag = "4")]
    request_id: String,
    #[prost(map = "uint32, string", tag = "5")]
    instances: HashMap<u32, String>,
}

#[tokio::test]
async fn tasks_of_the_version_before_are_read_in_every_state_and_can_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let sealer = Arc::new(Sealer::open(&dir.path().join("key")).unwrap());
    let store = Embedded::open(&dir.path().join("store")).unwrap();
    let end = |port| Endpoint { host: "h".into(), port, ..Endpoint::default() };
    for state in 1..=12 {
        let spec = TaskSpec { sources: vec![end(1)], target: Some(end(2)), mode: 2, ..TaskSpec::default() };
        let task = Task { id: format!("{state:02}"), spec: Some(spec), state, generation: 3, ..Task::default() };
        let ran = state > 3;
        let before = Before { task: Some(task), ran, request_id: format!("r{state}"), ..Before::default() };
        let writes = vec![(format!("task/{state:02}"), Some(before.encode_to_vec()))];
        store.commit(Transaction { writes, ..Transaction::default() }).await.unwrap().unwrap();
    }
    let engine = Engine::open(store, sealer, Duration::from_secs(10)).await.unwrap();
    let tasks = engine.list().await;
    assert_eq!(tasks.len(), 12);
    for task in &tasks {
        assert_eq!((task.id.clone(), task.generation), (format!("{:02}", task.state), 3));
        let settled = [TaskState::Cancelling, TaskState::Completing].contains(&task.state());
        assert!(settled || task.allowed_actions().next().is_some(), "{task:?}");
    }
    // The server is in use by those that run.
    let refused = engine.start("12", 0, false).await.unwrap_err();
    assert!(refused.message.contains("in use by task"), "{refused}");
    for id in ["02", "03", "04", "05", "06", "07", "08"] {
        engine.request(id, 0, TaskAction::Cancel).await.unwrap();
    }
    let paused = engine.request("06", 0, TaskAction::Resume).await.unwrap_err();
    assert!(paused.message.contains("TASK_STATE_CANCELLING"), "{paused}");
    let created = engine.start("01", 0, false).await.unwrap();
    assert_eq!(created.state(), TaskState::Checking);
    assert_eq!(engine.events("01").await.unwrap().events.len(), 2);
}
