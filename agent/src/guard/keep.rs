//! The loop: looks at every server of the target once a second, and shows what it found.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::{Duration, SystemTime};

use dts_common::error::Result;
use dts_proto::v1::{GuardStatus, TargetGuard};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::eye::Eye;
use crate::pipeline::Job;
use crate::status::Board;
use crate::target::Destination;

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A target that answers more slowly is looked at again later.
const PATIENCE: Duration = Duration::from_secs(10);
/// The masters of a cluster are looked up anew after so many looks.
const TOPOLOGY_EVERY: u64 = 5;
/// For so long a foreign write is news.
const NEWS: Duration = Duration::from_secs(60);
/// Clients and users that are named.
const NAMED: usize = 8;

/// Looks, until it is dropped; at once if there is nothing to look at.
pub async fn keep(job: &Job, destination: &Destination, board: &Board) {
    let level = job.guard.level();
    if level == TargetGuard::Off || matches!(destination, Destination::Routed(_)) {
        return std::future::pending().await;
    }
    let mut keeper = Keeper::new(job, destination, level);
    let mut tick = interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = job.guard.stored.notified() => {}
        }
        match timeout(PATIENCE, keeper.look()).await {
            Ok(Ok(())) => {}
            // The shard's own connections tell what is wrong.
            Ok(Err(error)) => keeper.lost(&error.message),
            Err(_) => keeper.lost("it does not answer"),
        }
        board.update(|status| status.guard = Some(keeper.status()));
    }
}

struct Keeper<'a> {
    job: &'a Job,
    destination: &'a Destination,
    level: TargetGuard,
    eyes: BTreeMap<String, Eye>,
    looks: u64,
    shown: GuardStatus,
    last: Option<Instant>,
}

impl<'a> Keeper<'a> {
    fn new(job: &'a Job, destination: &'a Destination, level: TargetGuard) -> Self {
        let (eyes, shown) = (BTreeMap::new(), GuardStatus::default());
        Self { job, destination, level, eyes, looks: 0, shown, last: None }
    }

    async fn look(&mut self) -> Result<()> {
        if self.looks.is_multiple_of(TOPOLOGY_EVERY) {
            let servers = self.destination.servers().await?;
            let names: Vec<String> = servers.iter().map(ToString::to_string).collect();
            self.eyes.retain(|name, _| names.contains(name));
            for (server, name) in servers.iter().zip(names) {
                if let Entry::Vacant(place) = self.eyes.entry(name) {
                    place.insert(Eye::open(server).await?);
                }
            }
        }
        self.looks += 1;
        let (mut users, mut why) = (Vec::new(), String::new());
        let mut found = Vec::new();
        for (name, eye) in &mut self.eyes {
            if self.level == TargetGuard::Acl {
                match eye.restricted.look(&mut eye.client, name, &self.job.guard).await? {
                    Ok(names) => users.extend(names),
                    Err(refused) => why = refused,
                }
            }
            found.push(eye.look().await?);
        }
        users.sort_unstable();
        users.dedup();
        users.truncate(NAMED);
        let level = if users.is_empty() { TargetGuard::Watch } else { self.level };
        self.shown.set_level(level);
        (self.shown.read_only_users, self.shown.why) = (users, why);
        for foreign in found.into_iter().filter(|foreign| foreign.writes > 0) {
            tracing::warn!(shard = %self.job.shard, writes = foreign.writes, by = foreign.by.join(", "), "somebody else writes to the target");
            self.last = Some(Instant::now());
            self.shown.last_at = Some(SystemTime::now().into());
            self.shown.foreign_writes += foreign.writes;
            let older = std::mem::take(&mut self.shown.foreign_clients);
            let named = foreign.by.into_iter().chain(older).fold(Vec::new(), |mut named: Vec<String>, client| {
                if !named.contains(&client) && named.len() < NAMED {
                    named.push(client);
                }
                named
            });
            self.shown.foreign_clients = named;
        }
        Ok(())
    }

    /// Begins anew with other connections.
    fn lost(&mut self, why: &str) {
        self.eyes.clear();
        self.looks = 0;
        self.shown.why = format!("the target cannot be looked at now: {why}");
    }

    fn status(&self) -> GuardStatus {
        let recent = self.last.is_some_and(|at| at.elapsed() < NEWS);
        GuardStatus { recent, ..self.shown.clone() }
    }
}
