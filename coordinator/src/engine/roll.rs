//! Which agents live, for the next leader: their names under one lease, which this leader keeps. So a fleet of any size that just lives costs the
//! store one renewal a tick.

use std::collections::BTreeMap;

use dts_common::error::Result;

use super::{AGENT, Engine, lost_race};
use crate::store::{Lease, MOST_WRITES, Store, Transaction};

/// What the store holds of it.
#[derive(Debug, Default)]
pub(super) struct Roll {
    lease: Option<Lease>,
    /// Instances by name.
    entries: BTreeMap<String, String>,
}

impl<S: Store> Engine<S> {
    /// Brings the roll up to date; what fails is tried again at the next tick.
    pub(super) async fn keep_roll(&self) {
        let alive: BTreeMap<String, String> = {
            let world = self.world.lock().await;
            let alive = world.agents.iter().filter(|(_, session)| self.alive(session));
            alive.map(|(name, session)| (name.clone(), session.instance_id.clone())).collect()
        };
        let mut roll = self.roll.lock().await;
        if let Err(error) = self.write_roll(&mut roll, &alive).await {
            tracing::warn!(%error, "the roll of agents could not be kept");
        }
    }

    async fn write_roll(&self, roll: &mut Roll, alive: &BTreeMap<String, String>) -> Result<()> {
        let kept = match roll.lease {
            Some(lease) => self.store.keep_alive(lease).await?,
            None if alive.is_empty() => return Ok(()),
            None => false,
        };
        if !kept {
            *roll = Roll { lease: Some(self.store.grant(self.lease_ttl).await?), entries: BTreeMap::new() };
        }
        let come = alive.iter().filter(|(name, instance)| roll.entries.get(*name) != Some(*instance));
        let gone = roll.entries.keys().filter(|name| !alive.contains_key(*name));
        let changes: Vec<(String, Option<String>)> = come
            .map(|(name, instance)| (name.clone(), Some(instance.clone())))
            .chain(gone.map(|name| (name.clone(), None)))
            .collect();
        for part in changes.chunks(MOST_WRITES) {
            let write = |(name, instance): &(String, Option<String>)| {
                (format!("{AGENT}{name}"), instance.clone().map(String::into_bytes))
            };
            let writes = part.iter().map(write).collect();
            let write = Transaction { writes, lease: roll.lease, ..Transaction::default() };
            self.store.commit(write).await?.ok_or_else(lost_race)?;
            for (name, instance) in part {
                match instance {
                    Some(instance) => roll.entries.insert(name.clone(), instance.clone()),
                    None => roll.entries.remove(name),
                };
            }
        }
        Ok(())
    }
}
