//! The coordinator's page of metrics: who leads, the tasks with their shards, the agents.

use std::collections::BTreeMap;
use std::time::Duration;

use dts_common::metrics::{Recorded, task};
use dts_proto::v1::{Agent, Task, TaskState};
use metrics::gauge;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::election::Seat;
use crate::store::Store;

/// An engine that waits for its store does not keep the page.
const PATIENCE: Duration = Duration::from_secs(1);

/// The page as of now.
pub async fn page<S: Store>(recorded: Recorded, seat: watch::Receiver<Seat<S>>) -> String {
    let engine = match &*seat.borrow() {
        Seat::Leading(leading) if leading.holds() => Some(leading.engine.clone()),
        _ => None,
    };
    let leads = engine.is_some();
    let world = match engine {
        None => Some((Vec::new(), Vec::new())),
        Some(engine) => timeout(PATIENCE, async { (engine.list().await, engine.agents().await) }).await.ok(),
    };
    recorded.page(|| {
        gauge!("dts_build_info", "version" => env!("CARGO_PKG_VERSION"), "role" => "coordinator").set(1.0);
        gauge!("dts_coordinator_leads").set(f64::from(u8::from(leads)));
        gauge!("dts_coordinator_view_complete").set(f64::from(u8::from(world.is_some())));
        if let Some((tasks, agents)) = world.filter(|_| leads) {
            draw(&tasks, &agents);
        }
    })
}

fn draw(tasks: &[Task], agents: &[Agent]) {
    let states = (1..).map_while(|state| TaskState::try_from(state).ok());
    let mut counts: BTreeMap<&str, u32> = states.map(|state| (state.as_str_name(), 0)).collect();
    for of in tasks {
        *counts.entry(of.state().as_str_name()).or_default() += 1;
        task(of);
    }
    for (state, count) in counts {
        gauge!("dts_tasks", "state" => state.trim_start_matches("TASK_STATE_")).set(count);
    }
    for alive in [true, false] {
        let count = agents.iter().filter(|agent| agent.alive == alive).count();
        gauge!("dts_agents", "alive" => alive.to_string()).set(u32::try_from(count).unwrap_or(u32::MAX));
    }
    for agent in agents {
        gauge!("dts_agent_shards", "agent" => agent.id.clone()).set(agent.shards);
    }
}
