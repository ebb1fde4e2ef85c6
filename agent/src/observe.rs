//! Figures for people: asks source and target once a second, and puts them on the board with those of the stages.
//! Nothing here decides anything but whether the shard counts as caught up.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dts_common::error::Result;
use dts_proto::v1::{ShardPhase, SnapshotProgress, SpoolStatus, StreamProgress};
use redis_protocol::resp2::types::{BytesFrame, Resp2Frame as _};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::limits::Limits;
use crate::pace::{Backlog, Keeps, Meter, Sample, Trend};
use crate::source::Received;
use crate::spool;
use crate::status::Board;
use crate::target::{Applied, Destination, Phase};
use crate::verify::key_count;

const TICK: Duration = Duration::from_millis(100);
const ASK_EVERY: Duration = Duration::from_secs(1);
/// The masters of a cluster are looked up anew after so many questions.
const TOPOLOGY_EVERY: u64 = 5;
/// How the target keeps its data is asked again after so many times.
const KEEPS_EVERY: u64 = 10;

/// What the observer looks at.
pub struct Observer {
    /// Asked for offset and keys.
    pub source: Endpoint,
    /// Asked for keys.
    pub target: Destination,
    /// How many keys of the target are ours.
    pub records: u64,
    /// What the source stage has.
    pub received: watch::Receiver<Received>,
    /// What the target confirmed.
    pub applied: watch::Receiver<Applied>,
    /// What the source stage acknowledges.
    pub acknowledged: watch::Sender<u64>,
    /// What the spool holds.
    pub usage: spool::Usage,
    /// The shard's bounds.
    pub limits: watch::Receiver<Limits>,
    /// Where it is shown.
    pub board: Board,
}

impl Observer {
    /// Until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let mut source = Asked::new(Destination::Standalone(self.source.clone()), Side::Source);
        let mut target = Asked::new(self.target.clone(), Side::Target);
        let mut behind_since = None;
        let (mut meter, mut trends) = (Meter::default(), Default::default());
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = cancel.cancelled() => return,
            }
            // Whether the target has caught up is for the source to say, and somebody waits for it.
            let every = if self.board.read().phase() == ShardPhase::CatchingUp { TICK } else { ASK_EVERY };
            tokio::select! {
                () = async { tokio::join!(source.ask(every), target.ask(ASK_EVERY)); } => {}
                () = cancel.cancelled() => return,
            }
            self.show(&source.answer, &target.answer, &mut behind_since, &mut meter, &mut trends);
        }
    }

    fn show(
        &self,
        source: &Answer,
        target: &Answer,
        behind_since: &mut Option<Instant>,
        meter: &mut Meter,
        trends: &mut (Trend, Trend),
    ) {
        let received = self.received.borrow().clone();
        let applied = self.applied.borrow().clone();
        let progress = applied.last.as_ref().map(|commit| commit.progress).unwrap_or_default();
        let position = applied.position();
        let applied_offset = position.map_or(0, |position| position.offset);
        self.acknowledged.send_replace(applied_offset);
        self.usage.confirm(applied_offset);
        // A source that speaks SYNC only counts its offset where we do not see it.
        let source_offset = if received.speaks_psync { source.offset.max(received.offset) } else { received.offset };
        let lag_bytes = source_offset.saturating_sub(applied_offset);
        if lag_bytes == 0 {
            *behind_since = None;
        } else if behind_since.is_none() {
            *behind_since = Some(Instant::now());
        }
        let behind_ms = behind_since.map_or(0, |since| millis(since.elapsed()));
        let lag_ms = match progress.received_ms {
            0 => behind_ms,
            at => behind_ms.min(now_ms().saturating_sub(at)),
        };
        let goal = if received.speaks_psync { source.offset_before } else { received.offset };
        let caught_up = position.is_some() && received.connected && applied_offset >= goal && source.asked > 1;
        let (memory_bytes, disk_bytes) = self.usage.read();
        let now = std::time::Instant::now();
        let limits = *self.limits.borrow();
        let pace = meter.see(
            now,
            &Sample {
                source: source.backlog.map(|(answer, at)| (answer, now.saturating_duration_since(at))),
                speaks_psync: received.speaks_psync,
                connected: received.connected,
                received_offset: received.offset,
                applied_offset: position.map(|position| position.offset),
                snapshot_received: received.snapshot_received,
                snapshot_total: received.snapshot_total,
                snapshot_applied: progress.snapshot_bytes,
                snapshot_keys: progress.snapshot_keys,
                source_keys: source.keys,
                commands: progress.stream_commands,
                limits: (limits.read_bytes_per_second, limits.write_bytes_per_second),
            },
        );
        let backlog_from = source.backlog.map(|(backlog, _)| backlog.offset.saturating_sub(backlog.history));
        let rate = pace.source_bytes_per_second;
        let replay = position.filter(|_| received.speaks_psync).map(|position| {
            crate::pace::replay(position.offset, self.usage.kept_from(), backlog_from, rate, target.keeps)
        });
        let trend = |trend: &mut Trend, of: &Answer| if of.asked > 0 { trend.see(now, of.keys) } else { 0 };
        let change = (trend(&mut trends.0, source), trend(&mut trends.1, target));
        let copy = match &applied.checkpoint {
            Some(checkpoint) if checkpoint.phase != Phase::Claimed => checkpoint.copy,
            _ => 0,
        };
        self.board.update(|status| {
            let swept_keys = status.snapshot.as_ref().map_or(0, |snapshot| snapshot.swept_keys);
            let completion_offset = status.stream.as_ref().map_or(0, |stream| stream.completion_offset);
            status.snapshot = Some(SnapshotProgress {
                received_bytes: received.snapshot_received,
                total_bytes: received.snapshot_total,
                applied_bytes: progress.snapshot_bytes,
                applied_keys: progress.snapshot_keys,
                announced_keys: progress.announced_keys,
                swept_keys,
                copy_number: copy,
            });
            status.stream = Some(StreamProgress {
                replication_id: received.history.map(|id| id.to_string()).unwrap_or_default(),
                source_offset,
                received_offset: received.offset,
                applied_offset,
                lag_bytes,
                lag_ms: if lag_bytes == 0 { 0 } else { lag_ms },
                applied_commands: progress.stream_commands,
                completion_offset,
                exactly_once: !matches!(self.target, Destination::Routed(_)),
            });
            status.spool = Some(SpoolStatus { memory_bytes, disk_bytes });
            status.filtered_keys = progress.filtered_keys;
            status.filtered_commands = progress.filtered_commands;
            status.skipped_commands = progress.skipped_commands;
            status.cut_transactions = applied.notes.cut_transactions;
            status.skipped_cross_slot = applied.notes.skipped.clone().into_iter().collect();
            status.at_risk_commands = applied.notes.at_risk.clone().into_iter().collect();
            status.source_keys = source.keys;
            status.target_keys = target.keys.saturating_sub(self.records);
            status.lost_links = received.lost;
            status.replay = replay;
            status.source_fork_bytes = source.fork_bytes;
            (status.source_keys_change, status.target_keys_change) = change;
        });
        self.board.pace(pace);
        let phase = self.board.read().phase();
        if caught_up && phase == ShardPhase::CatchingUp {
            self.board.phase(ShardPhase::Streaming);
        }
    }
}

/// A server that is asked now and then; one that does not answer keeps its last answer.
struct Asked {
    whom: Destination,
    side: Side,
    clients: Vec<Client>,
    asked_at: Instant,
    answer: Answer,
}

#[derive(Default)]
struct Answer {
    keys: u64,
    offset: u64,
    /// The offset of the answer before: reaching it means being less than a round behind.
    offset_before: u64,
    /// And when it was.
    backlog: Option<(Backlog, std::time::Instant)>,
    /// Of the server that keeps least.
    keeps: Option<Keeps>,
    /// Memory that its last fork took besides.
    fork_bytes: u64,
    asked: u64,
}

impl Asked {
    fn new(whom: Destination, side: Side) -> Self {
        Self { whom, side, clients: Vec::new(), asked_at: Instant::now(), answer: Answer::default() }
    }

    async fn ask(&mut self, every: Duration) {
        if Instant::now() < self.asked_at + every {
            return;
        }
        self.asked_at = Instant::now();
        let bounded = tokio::time::timeout(ASK_EVERY, self.try_ask()).await;
        if !matches!(bounded, Ok(Ok(()))) {
            self.clients.clear();
        }
    }

    async fn try_ask(&mut self) -> Result<()> {
        let mut clients = std::mem::take(&mut self.clients);
        let cluster = matches!(self.whom, Destination::Cluster(_));
        if cluster && self.answer.asked.is_multiple_of(TOPOLOGY_EVERY) {
            clients.clear();
        }
        if clients.is_empty() {
            for server in self.whom.servers().await? {
                clients.push(Client::connect(&server, self.side).await?);
            }
            self.answer.keeps = None;
        }
        // Somebody may follow the advice of an alarm.
        if self.side == Side::Target && (self.answer.keeps.is_none() || self.answer.asked.is_multiple_of(KEEPS_EVERY)) {
            let mut keeps = None;
            for client in &mut clients {
                keeps = keeps.max(Some(what_it_keeps(client).await?));
            }
            self.answer.keeps = keeps;
        }
        let mut keys = 0;
        for client in &mut clients {
            keys += key_count(&client.info("keyspace").await?);
        }
        self.answer.keys = keys;
        if self.side == Side::Source
            && let Some(client) = clients.first_mut()
        {
            self.answer.offset_before = self.answer.offset;
            let replication = client.info("replication").await?;
            let number = |field| replication.number(field).unwrap_or(0);
            let offset = number("master_repl_offset");
            let active = number("repl_backlog_active") == 1;
            let backlog = Backlog {
                offset,
                size: if active { number("repl_backlog_size") } else { 0 },
                history: if active { number("repl_backlog_histlen") } else { 0 },
            };
            self.answer.fork_bytes = client.info("persistence").await?.number("rdb_last_cow_size").unwrap_or(0);
            (self.answer.offset, self.answer.backlog) = (offset, Some((backlog, std::time::Instant::now())));
        }
        self.answer.asked += 1;
        self.clients = clients;
        Ok(())
    }
}

/// What the server's disk holds of its data.
async fn what_it_keeps(client: &mut Client) -> Result<Keeps> {
    let append_only = client.info("persistence").await?.number("aof_enabled") == Some(1);
    // Not everybody may ask.
    let fsync = match client.ask(&[b"CONFIG", b"GET", b"appendfsync"]).await? {
        BytesFrame::Array(pair) => pair.get(1).and_then(|value| value.as_str().map(str::to_owned)),
        _ => None,
    };
    Ok(Keeps::of(append_only, fsync.as_deref()))
}

/// The source's own offset now.
pub async fn source_offset(client: &mut Client) -> Result<u64> {
    Ok(client.info("replication").await?.number("master_repl_offset").unwrap_or(0))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map(millis).unwrap_or(0)
}
