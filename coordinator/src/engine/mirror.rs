//! A copy of the targets' positions in the store, for people, when nobody is left who reports them: one key a task, written seldom and a few tasks at a
//! time, so that what the store has to bear does not grow with the fleet. Nothing is decided by it: the targets hold the truth.

use std::time::{Duration, SystemTime};

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{KnownPosition, ShardStatus};
use prost::Message as _;
use tokio::time::Instant;

use super::{Engine, Held, World, lost_race};
use crate::store::{Store, Transaction};

/// Under it stand the positions, by task.
const POSITION: &str = "position/";
/// A task's are written no more often.
const EVERY: Duration = Duration::from_secs(60);
/// And no more than so many tasks, and bytes, at a tick.
const TASKS: usize = 20;
const BYTES: usize = 512 << 10;

/// The positions of a task's shards, as they are stored.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Positions {
    #[prost(message, repeated, tag = "1")]
    shards: Vec<KnownPosition>,
}

/// What is stored of a task, and since when.
#[derive(Debug, Default)]
pub(super) struct Mirror {
    stored: Positions,
    at: Option<Instant>,
}

impl Mirror {
    /// Of a shard, if it is known.
    pub(super) fn position(&self, index: u32) -> Option<KnownPosition> {
        self.stored.shards.iter().find(|known| known.shard_index == index).cloned()
    }
}

pub(super) fn key(task: &str) -> String {
    format!("{POSITION}{task}")
}

fn position(index: u32, status: &ShardStatus) -> Option<KnownPosition> {
    let stream = status.stream.as_ref().filter(|stream| stream.applied_offset > 0)?;
    Some(KnownPosition {
        shard_index: index,
        replication_id: stream.replication_id.clone(),
        applied_offset: stream.applied_offset,
        observed_at: status.observed_at.or_else(|| Some(SystemTime::now().into())),
    })
}

impl Held {
    /// What is to be stored, if it is something else than what is.
    fn moved_on(&self) -> Option<Positions> {
        let of = |index: u32| {
            let now = self.statuses.get(&index).and_then(|status| position(index, status));
            now.or_else(|| self.mirror.position(index))
        };
        let shards: Vec<_> = self.view().shards.iter().filter_map(|shard| of(shard.index)).collect();
        let place = |known: &KnownPosition| (known.shard_index, known.applied_offset, known.replication_id.clone());
        let same = shards.iter().map(place).eq(self.mirror.stored.shards.iter().map(place));
        (!same).then_some(Positions { shards })
    }
}

impl<S: Store> Engine<S> {
    /// Gives the tasks what is stored.
    pub(super) async fn load_positions(&self) -> Result<()> {
        let mut world = self.world.lock().await;
        for (key, found) in self.store.list(POSITION).await? {
            let stored = Positions::decode(found.value.as_slice())
                .map_err(|error| Error::new(Code::Internal, format!("what is stored at {key}: {error}")))?;
            if let Some(held) = world.tasks.get_mut(&key[POSITION.len()..]) {
                held.mirror.stored = stored;
            }
        }
        Ok(())
    }

    /// Stores the positions that were stored longest ago; to be called at every tick.
    pub(super) async fn mirror_positions(&self, world: &mut World) -> Result<()> {
        let due = |held: &&mut Held| held.revision > 0 && held.mirror.at.is_none_or(|at| at.elapsed() >= EVERY);
        let mut due: Vec<&mut Held> = world.tasks.values_mut().filter(due).collect();
        due.sort_by_key(|held| held.mirror.at);
        let (mut write, mut bytes, mut written) = (Transaction::default(), 0, Vec::new());
        for held in due {
            let Some(positions) = held.moved_on() else { continue };
            let value = positions.encode_to_vec();
            if written.len() == TASKS || (bytes > 0 && bytes + value.len() > BYTES) {
                break;
            }
            bytes += value.len();
            write.writes.push((key(&held.id), Some(value)));
            written.push((held, positions));
        }
        if written.is_empty() {
            return Ok(());
        }
        self.store.commit(write).await?.ok_or_else(lost_race)?;
        let now = Instant::now();
        for (held, positions) in written {
            held.mirror = Mirror { stored: positions, at: Some(now) };
        }
        Ok(())
    }
}
