//! What agents report, and what follows from it.

use std::collections::BTreeSet;

use dts_common::error::Result;
use dts_proto::v1::{Report, ShardReport, ShardStatus, TaskState};

use super::probe::cut_off;
use super::{Engine, Held, World, life, verification, way_back};
use crate::store::Store;
use crate::task::{Step, decide};

impl<S: Store> Engine<S> {
    /// What an agent sees of its shards. Only news has consequences: a fleet that runs says the same again and again.
    pub async fn report(&self, agent_id: &str, report: Report) -> Result<()> {
        let mut world = self.world.lock().await;
        let World { tasks, agents, moves, .. } = &mut *world;
        let mut news = agents.get_mut(agent_id).is_some_and(|session| session.report(&report, moves.looks_at_ways()));
        news |= moves.reported(tasks, agent_id, &report);
        let of: BTreeSet<String> = report.shards.iter().map(|shard| shard.task_id.clone()).collect();
        for shard in report.shards {
            let Some(held) = tasks.get_mut(&shard.task_id) else { continue };
            if held.takes(&shard, agent_id) {
                news |= self.take_status(held, shard).await?;
            }
        }
        for id in of {
            if let Some(held) = tasks.get_mut(&id) {
                self.watch_copy(held).await?;
            }
        }
        news |= self.take_checks(&mut world, agent_id, report.checks).await?;
        self.changed.send_modify(|count| *count += 1);
        if !news {
            return Ok(());
        }
        self.forget_deleted(&mut world).await?;
        self.reconcile(&mut world).await
    }

    /// True if places or orders may follow from it.
    async fn take_status(&self, held: &mut Held, mut shard: ShardReport) -> Result<bool> {
        let (index, epoch, verifies) = (shard.shard_index, shard.epoch, shard.verify.is_some());
        let ordered = |held: &Held| verifies.then(|| held.runs.order(index, epoch).is_some());
        let before = (held.revision, held.stored.resync.len(), ordered(held));
        self.take_verification(held, &mut shard).await?;
        self.take_switch(held, &mut shard);
        self.take_guard(held, &mut shard).await?;
        let code = |status: &ShardStatus| status.reason.as_ref().map(|reason| reason.code.clone());
        let status = shard.status.unwrap_or_default();
        let now = (status.phase, code(&status), cut_off(&status));
        let last = held.statuses.insert(index, status).map(|last| (last.phase, code(&last), cut_off(&last)));
        self.settle_switch(held).await?;
        if last.as_ref() != Some(&now) || held.advanced != held.revision {
            self.advance(held).await?;
            self.settle_switch(held).await?;
        }
        let cut = last.is_some_and(|(.., cut)| cut);
        Ok(before != (held.revision, held.stored.resync.len(), ordered(held)) || cut != now.2)
    }

    /// Every step that the shards' phases allow.
    pub(super) async fn advance(&self, held: &mut Held) -> Result<()> {
        while !held.unsure {
            life::note_copies(held);
            match decide(&held.observation()) {
                None => {
                    held.advanced = held.revision;
                    return Ok(());
                }
                // Clients may use the target once every part of a switch-over is done, and the way back prepared.
                Some(Step::Enter(TaskState::Completed)) if !way_back::is_finished(held) => return Ok(()),
                Some(Step::Enter(state)) => self.enter(held, state).await?,
                Some(Step::Release) => {
                    held.stored.releasing = true;
                    verification::note_barriers(held);
                    self.save(held).await?;
                }
            }
        }
        Ok(())
    }
}
