//! Measures the way to servers that the coordinator names: connects, logs in, and times one PING. Where a shard goes is decided by it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{Probe, Reach};
use futures_util::StreamExt as _;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::endpoint::Side;
use crate::secret::Secrets;
use crate::status::reason;

/// A server is asked again after so long.
const AGAIN: Duration = Duration::from_secs(10);
/// How long one measurement may take.
const WITHIN: Duration = Duration::from_secs(5);
/// Measurements at a time.
const AT_ONCE: usize = 8;
const TICK: Duration = Duration::from_secs(1);

/// Measures in the background.
#[derive(Debug)]
pub struct Prober {
    asked: watch::Sender<Vec<Probe>>,
    found: Arc<Mutex<Found>>,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Found {
    /// Grows with every result.
    number: u64,
    by_probe: HashMap<String, (u64, Instant, Reach)>,
}

impl Prober {
    /// Nothing to measure yet; `changed` is notified when something was found out that is new.
    pub fn start(secrets: Secrets, changed: Arc<Notify>) -> Self {
        let (asked, wanted) = watch::channel(Vec::new());
        let (found, cancel) = (Arc::<Mutex<Found>>::default(), CancellationToken::new());
        let (shared, ends) = (found.clone(), cancel.clone());
        let task = tokio::spawn(async move {
            tokio::select! {
                () = measure(wanted, secrets, shared, changed) => {}
                () = ends.cancelled() => {}
            }
        });
        Self { asked, found, cancel, task }
    }

    /// From now on these are measured, and no others.
    pub fn ask(&self, probes: Vec<Probe>) {
        self.asked.send_if_modified(|asked| {
            let changed = *asked != probes;
            *asked = probes;
            changed
        });
    }

    /// What was found after `seen`, which is brought up to now; 0: everything.
    pub fn news(&self, seen: &mut u64) -> Vec<Reach> {
        let found = lock(&self.found);
        let after = std::mem::replace(seen, found.number);
        found.by_probe.values().filter(|(number, ..)| *number > after).map(|(.., reach)| reach.clone()).collect()
    }

    /// Ends it.
    pub async fn stop(self) {
        self.cancel.cancel();
        let _ended = self.task.await;
    }
}

fn lock(found: &Mutex<Found>) -> MutexGuard<'_, Found> {
    found.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn measure(
    mut wanted: watch::Receiver<Vec<Probe>>,
    secrets: Secrets,
    found: Arc<Mutex<Found>>,
    changed: Arc<Notify>,
) {
    loop {
        let probes = wanted.borrow_and_update().clone();
        let due: Vec<Probe> = {
            let mut found = lock(&found);
            found.by_probe.retain(|id, _| probes.iter().any(|probe| probe.id == *id));
            let fresh = |probe: &Probe| found.by_probe.get(&probe.id).is_some_and(|(_, at, _)| at.elapsed() < AGAIN);
            probes.into_iter().filter(|probe| !fresh(probe)).collect()
        };
        let each = due.into_iter().map(|probe| one(probe, secrets.clone()));
        let mut measured = futures_util::stream::iter(each).buffer_unordered(AT_ONCE);
        while let Some(reach) = measured.next().await {
            let mut found = lock(&found);
            found.number += 1;
            let entry = (found.number, Instant::now(), reach.clone());
            let before = found.by_probe.insert(reach.probe_id.clone(), entry);
            if before.is_none_or(|(.., before)| before.reached != reach.reached) {
                changed.notify_one();
            }
        }
        // Ends with the prober.
        let _changed_or_time = timeout(TICK, wanted.changed()).await;
    }
}

async fn one(probe: Probe, secrets: Secrets) -> Reach {
    let side = if probe.source { Side::Source } else { Side::Target };
    let late = |_| Err(Error::new(side.unreachable(), format!("no answer within {} s", WITHIN.as_secs())));
    let found = timeout(WITHIN, round_trip(&probe, side, &secrets)).await.unwrap_or_else(late);
    let measured_at = Some(SystemTime::now().into());
    let blank = Reach { probe_id: probe.id, measured_at, ..Reach::default() };
    match found {
        Ok(took) => {
            let round_trip_us = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
            Reach { reached: true, round_trip_us, ..blank }
        }
        Err(error) => Reach { reason: Some(reason(&error)), ..blank },
    }
}

async fn round_trip(probe: &Probe, side: Side, secrets: &Secrets) -> Result<Duration> {
    let Some(endpoint) = &probe.endpoint else {
        return Err(Error::new(Code::InvalidRequest, "a probe without an endpoint"));
    };
    let mut client = Client::connect(&secrets.resolve(endpoint)?, side).await?;
    let begun = Instant::now();
    client.ask(&[b"PING"]).await?;
    Ok(begun.elapsed())
}
