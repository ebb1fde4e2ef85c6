//! How long an agent may do without a coordinator that has heard of it what no fence keeps it from: write where nothing fences, and begin a copy where
//! no record stands. Until shortly before its shards may be given to another. By this host's monotonic clock; a host that sleeps does not notice.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use dts_common::error::{Code, Error};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

/// Reports that nobody has answered yet; older ones are of no use.
const UNANSWERED: usize = 64;

/// Until when.
#[derive(Clone, Debug)]
pub struct Leash {
    until: watch::Receiver<Instant>,
    wants: Arc<Wants>,
}

/// Who waits for an answer.
#[derive(Debug, Default)]
struct Wants {
    by: AtomicUsize,
    /// Something is to be reported.
    changed: Arc<Notify>,
}

/// Who makes it longer.
#[derive(Debug)]
pub struct Holder {
    until: watch::Sender<Instant>,
    /// Of the coordinators.
    lease: Duration,
    last: u64,
    sent: VecDeque<(u64, Instant)>,
    wants: Arc<Wants>,
}

impl Holder {
    /// `changed` is notified when a report is wanted at once.
    pub fn new(changed: Arc<Notify>) -> Self {
        let wants = Arc::new(Wants { changed, ..Wants::default() });
        Self { until: watch::channel(Instant::now()).0, lease: Duration::ZERO, last: 0, sent: VecDeque::new(), wants }
    }

    /// For a shard.
    pub fn leash(&self) -> Leash {
        Leash { until: self.until.subscribe(), wants: self.wants.clone() }
    }

    /// True if somebody waits for an answer.
    pub fn is_wanted(&self) -> bool {
        self.wants.by.load(Ordering::Relaxed) > 0
    }

    /// A coordinator has taken us in, which was asked at `since`, and said what is ours.
    pub fn told(&mut self, lease: Duration, since: Instant) {
        self.lease = lease;
        self.sent.clear();
        self.extend(since);
    }

    /// The number of the report that is sent now.
    pub fn number(&mut self) -> u64 {
        self.last += 1;
        if self.sent.len() == UNANSWERED {
            self.sent.pop_front();
        }
        self.sent.push_back((self.last, Instant::now()));
        self.last
    }

    /// The coordinator has this report: it does not give our shards away for a lease from when it came, which was not before it was sent.
    pub fn heard(&mut self, number: u64) {
        while let Some((sent, at)) = self.sent.front().copied().filter(|(sent, _)| *sent <= number) {
            self.sent.pop_front();
            if sent == number {
                self.extend(at);
            }
        }
    }

    /// A fifth is left for stopping, and for clocks that do not run alike.
    fn extend(&self, since: Instant) {
        let until = since + self.lease / 5 * 4;
        self.until.send_if_modified(|held| {
            let longer = until > *held;
            *held = until.max(*held);
            longer
        });
    }
}

impl Leash {
    /// Ends when it is over.
    pub async fn over(&self) {
        let mut until = self.until.clone();
        loop {
            let at = *until.borrow_and_update();
            if at <= Instant::now() {
                return;
            }
            tokio::select! {
                () = sleep_until(at) => {}
                changed = until.changed() => if changed.is_err() { sleep_until(at).await },
            }
        }
    }

    /// True if nothing may be written.
    pub fn is_over(&self) -> bool {
        *self.until.borrow() <= Instant::now()
    }

    /// Ends when it is not over.
    pub async fn slack(&self) {
        if !self.is_over() {
            return;
        }
        let _want = Want::of(&self.wants);
        let mut until = self.until.clone();
        // Nobody holds it any more: the agent is about to end.
        if until.wait_for(|until| *until > Instant::now()).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Why nothing is written where nothing fences.
pub fn unfenced() -> Error {
    let why = "no coordinator has been heard of for nearly a lease: another agent may soon write to this endpoint, which fences nobody";
    Error::new(Code::CoordinatorLost, why)
}

/// Why nothing is begun where no record stands.
pub fn unrecorded() -> Error {
    let why = "the target has no record of the shard, which may be over: a copy begins when a coordinator says that it is ours";
    Error::new(Code::CoordinatorLost, why)
}

struct Want<'a>(&'a Wants);

impl<'a> Want<'a> {
    fn of(wants: &'a Wants) -> Self {
        wants.by.fetch_add(1, Ordering::Relaxed);
        wants.changed.notify_one();
        Self(wants)
    }
}

impl Drop for Want<'_> {
    fn drop(&mut self) {
        self.0.by.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{advance, timeout};

    use super::*;

    const SOON: Duration = Duration::from_millis(1);

    #[tokio::test(start_paused = true)]
    async fn it_counts_from_when_a_report_that_was_heard_was_sent() {
        let mut holder = Holder::new(Arc::default());
        let leash = holder.leash();
        assert!(leash.is_over(), "nobody has heard of us");
        holder.told(Duration::from_secs(10), Instant::now());
        assert!(!leash.is_over());
        advance(Duration::from_secs(5)).await;
        let first = holder.number();
        advance(Duration::from_secs(2)).await;
        let second = holder.number();
        holder.heard(first);
        // 5 + 8 s.
        advance(Duration::from_millis(5900)).await;
        assert!(timeout(SOON, leash.over()).await.is_err());
        advance(Duration::from_millis(200)).await;
        assert!(timeout(SOON, leash.over()).await.is_ok() && timeout(SOON, leash.slack()).await.is_err());
        holder.heard(second);
        assert!(timeout(SOON, leash.slack()).await.is_ok() && !leash.is_over());
        holder.heard(first);
        advance(Duration::from_secs(2)).await;
        assert!(leash.is_over(), "an answer that comes twice counts once");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_an_answer_has_a_report_sent_at_once() {
        let changed = Arc::new(Notify::new());
        let mut holder = Holder::new(changed.clone());
        holder.told(Duration::from_secs(10), Instant::now());
        advance(Duration::from_secs(9)).await;
        let leash = holder.leash();
        let waits = tokio::spawn(async move { leash.slack().await });
        changed.notified().await;
        assert!(holder.is_wanted());
        let number = holder.number();
        holder.heard(number);
        waits.await.unwrap();
        assert!(!holder.is_wanted());
    }
}
