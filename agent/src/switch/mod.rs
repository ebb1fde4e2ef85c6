//! Switching clients over, seen from one source: writes are held, the barrier is taken, the source is closed; and, by one for
//! all, the way back is prepared.
//!
//! The coordinator says which step is wanted; every step may be told again, to another agent as well. A hold is renewed in short pieces, so that it
//! outlives nobody, and the source's own count of writing commands says at the end whether one came in between.

mod back;
mod close;
mod hold;
mod look;
mod place;
mod ready;
mod reopen;
mod turn;
mod writes;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{
    HoldMethod, ShardPhase, SwitchOverOrder, SwitchOverReport, SwitchOverShard, SwitchOverSpec, SwitchOverStep,
};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::client::Client;
use crate::endpoint::{Endpoint, Side};
use crate::pipeline::Job;
use crate::status::Board;
use hold::Hold;

const TICK: Duration = Duration::from_millis(20);
/// What cannot be done now is tried again so soon.
const AGAIN: Duration = Duration::from_millis(300);

/// A switch-over that this agent takes part in.
#[derive(Debug)]
pub struct Switch {
    /// Of the switch-over.
    pub number: u64,
    order: watch::Sender<SwitchOverOrder>,
    shown: Shown,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Switch {
    /// Begins with whatever step is wanted.
    pub fn start(order: SwitchOverOrder, job: Job, board: Board, changed: Arc<Notify>) -> Self {
        let number = order.number;
        let known = order.known.clone().unwrap_or_default();
        let shard = SwitchOverShard { index: job.shard.index, ..known };
        let report = SwitchOverReport { number, shard: Some(shard), ..SwitchOverReport::default() };
        let shown = Shown { report: Arc::new(Mutex::new(report)), changed };
        let cancel = CancellationToken::new();
        let (sender, orders) = watch::channel(order);
        let span = job.span.clone();
        let part = Part { job, board, shown: shown.clone(), hold: None, trying: None };
        let ends = cancel.clone();
        let task = tokio::spawn(
            async move {
                tokio::select! {
                    () = Box::pin(part.run(orders)) => {}
                    () = ends.cancelled() => {}
                }
            }
            .instrument(span),
        );
        Self { number, order: sender, shown, cancel, task }
    }

    /// What is wanted now.
    pub fn direct(&self, order: SwitchOverOrder) {
        self.order.send_if_modified(|held| {
            let changed = *held != order;
            *held = order;
            changed
        });
    }

    /// The last step that is done, and what is known.
    pub fn report(&self) -> SwitchOverReport {
        self.shown.read()
    }

    /// Cancels and joins. A hold that goes on lapses by itself.
    pub async fn stop(self) {
        self.cancel.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a switch-over broke");
        }
    }
}

#[derive(Clone, Debug)]
struct Shown {
    report: Arc<Mutex<SwitchOverReport>>,
    changed: Arc<Notify>,
}

impl Shown {
    fn read(&self) -> SwitchOverReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn shard(&self) -> SwitchOverShard {
        self.read().shard.unwrap_or_default()
    }

    fn update(&self, change: impl FnOnce(&mut SwitchOverReport)) {
        change(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn put(&self, change: impl FnOnce(&mut SwitchOverShard)) {
        self.update(|report| change(report.shard.get_or_insert_default()));
    }

    fn done(&self, step: SwitchOverStep) {
        self.update(|report| {
            report.set_done(step);
            report.shard.get_or_insert_default().error.clear();
        });
        self.changed.notify_one();
    }

    fn wrong(&self, error: &Error) {
        // What may pass by itself is tried again; everything else is for the coordinator to judge.
        let failed = !error.code.retry();
        let said = format!("{}: {}", error.code.as_str(), error.for_operator());
        let before = self.shard();
        if before.error == said && before.failed == failed {
            return;
        }
        tracing::warn!(%error, failed, "switching over");
        self.put(|shard| (shard.error, shard.failed) = (said, failed));
        self.changed.notify_one();
    }
}

/// This shard's part.
struct Part {
    job: Job,
    board: Board,
    shown: Shown,
    hold: Option<Hold>,
    /// Since when a step is tried for which clients wait.
    trying: Option<(SwitchOverStep, Instant)>,
}

impl Part {
    async fn run(mut self, mut orders: watch::Receiver<SwitchOverOrder>) {
        loop {
            let order = orders.borrow_and_update().clone();
            let pause = match self.tend(&order).await {
                Ok(()) => TICK,
                Err(error) => {
                    self.shown.wrong(&error);
                    AGAIN
                }
            };
            tokio::select! {
                changed = orders.changed() => if changed.is_err() { return },
                () = sleep(pause) => {}
            }
        }
    }

    /// Keeps a hold up, and does what is wanted next.
    async fn tend(&mut self, order: &SwitchOverOrder) -> Result<()> {
        self.keep(order.step()).await?;
        let report = self.shown.read();
        if report.done() == order.step() || (report.shard.is_some_and(|shard| shard.failed) && is_tried_once(order)) {
            return Ok(());
        }
        let done = match order.step() {
            SwitchOverStep::Look => self.look(order).await?,
            SwitchOverStep::Hold => self.hold(order).await?,
            SwitchOverStep::Close => self.close(order).await?,
            SwitchOverStep::Finish => self.finish().await?,
            SwitchOverStep::Turn => self.turn(order).await?,
            SwitchOverStep::Open => self.open(order).await?,
            SwitchOverStep::Free => self.free().await?,
            SwitchOverStep::Unspecified => false,
        };
        if done {
            self.shown.done(order.step());
        }
        Ok(())
    }

    /// A hold that is to be ended is not kept up, and one whose time is over does not stop what was decided.
    async fn keep(&mut self, step: SwitchOverStep) -> Result<()> {
        let Some(hold) = &mut self.hold else { return Ok(()) };
        let kept = if step == SwitchOverStep::Free { Ok(()) } else { hold.renew().await };
        let held_for = hold.millis();
        self.shown.update(|report| report.held_for_ms = held_for);
        if kept.is_err() && matches!(step, SwitchOverStep::Finish | SwitchOverStep::Turn | SwitchOverStep::Open) {
            self.hold = None;
            return Ok(());
        }
        kept
    }

    async fn look(&mut self, order: &SwitchOverOrder) -> Result<bool> {
        let spec = spec(order);
        let found = look::look(&self.job, &self.board, &spec).await?;
        self.shown.put(|shard| {
            (shard.master, shard.method) = (found.master.to_string(), method(&spec).to_owned());
            (shard.needs, shard.closed_users) = (found.needs, found.users);
        });
        Ok(true)
    }

    /// True once the target has reached the barrier.
    async fn hold(&mut self, order: &SwitchOverOrder) -> Result<bool> {
        if self.hold.is_none() {
            let master = look::master(&self.job, &self.board).await?;
            let users = self.shown.shard().closed_users;
            let (hold, found) = Hold::begin(master, &spec(order), &users).await?;
            self.shown.put(|shard| shard.master = hold.master.to_string());
            self.hold = Some(hold);
            self.shown.put(|shard| {
                (shard.barrier, shard.writes) = (found.offset, found.writes);
                (shard.replication_id, shard.method) = (found.history, method(&spec(order)).to_owned());
            });
            self.shown.changed.notify_one();
        }
        let barrier = self.shown.shard().barrier;
        let reached =
            is_streaming(&self.board) && self.board.read().stream.is_some_and(|at| at.applied_offset >= barrier);
        if reached {
            self.shown.put(|shard| shard.reached = true);
        }
        Ok(reached)
    }

    async fn close(&mut self, order: &SwitchOverOrder) -> Result<bool> {
        let spec = spec(order);
        let known = self.shown.shard();
        if self.hold.is_none() {
            // An agent that takes over: whether a write came meanwhile is seen by the count.
            let master = look::master(&self.job, &self.board).await?;
            self.hold = Some(Hold::begin(master, &spec, &known.closed_users).await?.0);
        }
        let Some(hold) = &mut self.hold else { return Ok(false) };
        let mut admin = Client::connect(&hold.master, Side::Source).await?;
        if !spec.leave_open && !spec.writers_stopped {
            let users = close::users(&mut admin, spec.keep_way_back, &known.closed_users).await?;
            self.shown.put(|shard| shard.closed_users.clone_from(&users));
            close::close(&mut admin, &users).await?;
        }
        if writes::count(&mut admin).await?.writes != known.writes {
            return Err(Error::new(Code::ActionNotAllowed, "a write came to the source after the barrier"));
        }
        self.shown.put(|shard| shard.closed = true);
        if !spec.leave_open && !spec.writers_stopped {
            // Nobody can write any more.
            hold.end_closed().await?;
            self.hold = None;
        }
        Ok(true)
    }

    async fn finish(&mut self) -> Result<bool> {
        if self.board.read().phase() != ShardPhase::Released {
            return Ok(false);
        }
        if let Some(hold) = &mut self.hold {
            hold.send_away().await?;
            hold.end().await?;
            self.hold = None;
        }
        self.shown.put(|shard| shard.finished = true);
        Ok(true)
    }

    async fn free(&mut self) -> Result<bool> {
        let users = self.shown.shard().closed_users;
        let master = match &self.hold {
            Some(hold) => hold.master.clone(),
            None => look::master(&self.job, &self.board).await?,
        };
        if !users.is_empty() {
            close::open(&mut Client::connect(&master, Side::Source).await?, &users).await?;
        }
        if let Some(hold) = &mut self.hold {
            hold.end().await?;
            self.hold = None;
        }
        self.shown.put(|shard| (shard.freed, shard.closed) = (true, false));
        Ok(true)
    }
}

/// Where a failure sends everything back, nothing is tried again.
fn is_tried_once(order: &SwitchOverOrder) -> bool {
    matches!(order.step(), SwitchOverStep::Look | SwitchOverStep::Hold | SwitchOverStep::Close)
}

fn is_streaming(board: &Board) -> bool {
    matches!(board.read().phase(), ShardPhase::CatchingUp | ShardPhase::Streaming)
}

fn spec(order: &SwitchOverOrder) -> SwitchOverSpec {
    order.spec.unwrap_or_default()
}

fn method(spec: &SwitchOverSpec) -> &'static str {
    match spec.hold_method() {
        _ if spec.writers_stopped => "watch",
        HoldMethod::Acl => "acl",
        HoldMethod::Pause | HoldMethod::Unspecified => "pause",
    }
}

/// Host and port, as they are told.
fn parted(endpoint: &Endpoint) -> (String, u32) {
    (endpoint.host.clone(), endpoint.port.into())
}

/// Of `host:port`.
fn address(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    Some((host.trim_matches(['[', ']']), port.parse().ok()?))
}

/// The same login at another address.
fn at(endpoint: &Endpoint, host: &str, port: u16) -> Endpoint {
    Endpoint { host: host.to_owned(), port, ..endpoint.clone() }
}
