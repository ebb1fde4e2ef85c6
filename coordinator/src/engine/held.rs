//! A task as the leader holds it: what is stored, and what is known of it besides.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{
    self, Shard, ShardPhase, ShardReport, ShardStatus, SwitchOverStep, Task, TaskAction, TaskSpec, TaskState,
};
use tokio::time::Instant;

use super::assign::Refused;
use super::mirror::Mirror;
use crate::task::{Observation, Seen, Stored, actions, requested};
use crate::verify::Runs;

pub(super) struct Held {
    pub(super) id: Arc<str>,
    pub(super) stored: Stored,
    /// What the store holds at `revision`: what is left of a change that it did not take.
    pub(super) saved: Stored,
    pub(super) revision: u64,
    /// A change of ours may have reached the store, or may not: nothing is changed before it was read again.
    pub(super) unsure: bool,
    /// At this revision there was nothing more to do, by the phases of then.
    pub(super) advanced: u64,
    pub(super) statuses: HashMap<u32, ShardStatus>,
    /// Why nobody takes a shard that should go somewhere.
    pub(super) refusals: BTreeMap<u32, Refused>,
    /// What was asked last, and what assigned a shard, for who traces it.
    pub(super) asked: String,
    pub(super) traces: HashMap<u32, String>,
    /// What agents report of the run that is going on.
    pub(super) seen: HashMap<(String, u32), Seen>,
    /// Who tries a shard in it without being the one to run it.
    pub(super) standbys: HashMap<u32, Vec<String>>,
    /// The run counts as ended then, whoever is still silent.
    pub(super) deadline: Option<Instant>,
    pub(super) runs: Runs,
    pub(super) mirror: Mirror,
    /// The last step of the switch-over that each shard's agent has done.
    pub(super) switched: HashMap<u32, SwitchOverStep>,
}

impl Held {
    pub(super) fn new(stored: Stored, revision: u64) -> Self {
        Self {
            id: stored.task.as_ref().map(|task| task.id.as_str()).unwrap_or_default().into(),
            saved: stored.clone(),
            stored,
            revision,
            unsure: false,
            advanced: 0,
            statuses: HashMap::new(),
            refusals: BTreeMap::new(),
            asked: String::new(),
            traces: HashMap::new(),
            seen: HashMap::new(),
            standbys: HashMap::new(),
            deadline: None,
            runs: Runs::default(),
            mirror: Mirror::default(),
            switched: HashMap::new(),
        }
    }

    pub(super) fn task(&self) -> Task {
        self.view().clone()
    }

    /// Where the store has it.
    pub(super) fn key(&self) -> String {
        format!("task/{}", self.id)
    }

    pub(super) fn view(&self) -> &Task {
        static NONE: LazyLock<Task> = LazyLock::new(Task::default);
        self.stored.task.as_ref().unwrap_or(&NONE)
    }

    pub(super) fn shard(&self, index: u32) -> Option<&Shard> {
        // Where it stands unless somebody numbers them otherwise one day.
        let shards = &self.view().shards;
        let at = usize::try_from(index).ok().and_then(|at| shards.get(at)).filter(|shard| shard.index == index);
        at.or_else(|| shards.iter().find(|shard| shard.index == index))
    }

    /// True if the report is that of the agent that holds the shard, of its present epoch.
    pub(super) fn takes(&self, report: &ShardReport, agent_id: &str) -> bool {
        self.shard(report.shard_index).is_some_and(|shard| shard.epoch == report.epoch && shard.agent_id == agent_id)
    }

    pub(super) fn task_mut(&mut self) -> &mut Task {
        self.stored.task.get_or_insert_default()
    }

    /// Why the first shard in this phase is in it; of several shards it says which.
    pub(super) fn reason(&self, phase: ShardPhase) -> Option<v1::Reason> {
        let mut shards: Vec<_> = self.statuses.iter().filter(|(_, status)| status.phase() == phase).collect();
        shards.sort_unstable_by_key(|(index, _)| **index);
        let (index, status) = shards.first()?;
        let mut reason = status.reason.clone()?;
        if self.view().shards.len() > 1 {
            reason.message = format!("shard {index}: {}", reason.message);
        }
        Some(reason)
    }

    pub(super) fn observation(&self) -> Observation {
        let task = self.view();
        let spec = task.spec.as_ref();
        let phase = |shard: &Shard| self.statuses.get(&shard.index).map_or(ShardPhase::Unspecified, ShardStatus::phase);
        Observation {
            state: task.state(),
            past: self.stored.past(),
            lost: self.reason(ShardPhase::Failed).is_some_and(|reason| reason.code == Code::Fenced.as_str()),
            held: self.stored.held,
            mode: spec.map(TaskSpec::mode).unwrap_or_default(),
            complete_when_caught_up: spec.is_some_and(|spec| spec.complete_when_caught_up),
            phases: task.shards.iter().map(phase).collect(),
        }
    }

    pub(super) fn at_revision(&self, revision: u64) -> Result<()> {
        if revision != 0 && revision != self.revision {
            let message = format!("the task is at revision {}, the request names {revision}", self.revision);
            return Err(Error::new(Code::RevisionConflict, message));
        }
        Ok(())
    }

    /// Where the action leads, if the task is at this revision and its state allows it.
    pub(super) fn allowed(&self, revision: u64, action: TaskAction) -> Result<TaskState> {
        self.at_revision(revision)?;
        let (past, state) = (self.stored.past(), self.view().state());
        let releasing = past.releasing;
        requested(state, past, action).ok_or_else(|| {
            let allowed: Vec<_> = actions(state, releasing).iter().map(|action| action.as_str_name()).collect();
            let (asked, state) = (action.as_str_name(), state.as_str_name());
            let message = format!("{asked} is not allowed in {state}; allowed: {}", allowed.join(", "));
            Error::new(Code::ActionNotAllowed, message)
        })
    }
}
