//! What a shard shows of itself: written by its stages, read by the report loop.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use dts_common::error::{Code, Error};
use dts_proto::v1::{self, Pace, ShardPhase, ShardStatus};
use tokio::sync::Notify;

use tracing::{Span, info_span};

use crate::pace::aged;

/// Figures that are older than this are shown as what they have become meanwhile.
const SILENCE: Duration = Duration::from_secs(2);

/// The shared board of one shard.
#[derive(Clone, Debug)]
pub struct Board {
    shown: Arc<Mutex<Shown>>,
    changed: Arc<Notify>,
    /// Every phase is a span in it.
    span: Span,
}

#[derive(Debug, Default)]
struct Shown {
    status: ShardStatus,
    /// When somebody last looked at how fast it goes.
    paced: Option<Instant>,
    /// Of the phase that it is in.
    step: Option<Span>,
}

impl Board {
    /// An empty board; `changed` is notified when the phase or the reason changes.
    pub fn new(changed: Arc<Notify>) -> Self {
        Self { shown: Arc::default(), changed, span: Span::none() }
    }

    /// The phases are traced within this span.
    #[must_use]
    pub fn within(self, span: Span) -> Self {
        Self { span, ..self }
    }

    /// The status now.
    pub fn read(&self) -> ShardStatus {
        let shown = self.lock();
        let mut status = shown.status.clone();
        let silence = shown.paced.map_or(Duration::ZERO, |at| at.elapsed());
        drop(shown);
        if silence > SILENCE {
            status.pace = status.pace.map(|pace| aged(pace, silence));
        }
        status.observed_at = Some(SystemTime::now().into());
        status
    }

    fn lock(&self) -> MutexGuard<'_, Shown> {
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows how fast it goes now.
    pub fn pace(&self, pace: Pace) {
        let mut shown = self.lock();
        (shown.status.pace, shown.paced) = (Some(pace), Some(Instant::now()));
    }

    /// Changes figures.
    pub fn update(&self, change: impl FnOnce(&mut ShardStatus)) {
        change(&mut self.lock().status);
    }

    /// Enters a phase with no trouble.
    pub fn phase(&self, phase: ShardPhase) {
        self.show(phase, None);
    }

    /// Waiting, in the phase that it is in, for what `error` says.
    pub fn waiting(&self, error: &Error) {
        self.show(self.read().phase(), Some(error));
    }

    /// Retrying because of `error`.
    pub fn retrying(&self, error: &Error) {
        self.show(ShardPhase::Retrying, Some(error));
    }

    /// Ended by `error`.
    pub fn failed(&self, error: &Error) {
        self.show(ShardPhase::Failed, Some(error));
    }

    /// A span that lasts as long as the phase.
    fn step(&self, phase: ShardPhase, error: Option<&Error>) -> Span {
        let name = phase.as_str_name().trim_start_matches("SHARD_PHASE_");
        let code = error.map(|error| error.code.as_str());
        let failed = error.map(|_| "ERROR");
        info_span!(parent: &self.span, "phase", otel.name = name, phase = name, code, otel.status_code = failed)
    }

    fn show(&self, phase: ShardPhase, error: Option<&Error>) {
        let reason = error.map(reason);
        let mut shown = self.lock();
        let Shown { status, step, .. } = &mut *shown;
        if let Some(error) = error {
            *status.errors.entry(error.code.as_str().to_owned()).or_default() += 1;
        }
        if status.phase != phase as i32 || status.reason != reason {
            tracing::info!(phase = phase.as_str_name(), reason = error.map(|error| error.code.as_str()), "shard");
            if status.phase != phase as i32 || step.is_none() {
                *step = Some(self.step(phase, error));
            }
            status.set_phase(phase);
            status.reason = reason;
            if matches!(phase, ShardPhase::Released | ShardPhase::Stopped | ShardPhase::Failed) {
                *step = None;
            }
            self.changed.notify_one();
        }
    }
}

/// As it goes over the wire.
pub fn reason(error: &Error) -> v1::Reason {
    let Error { code, .. } = error;
    v1::Reason {
        code: Code::as_str(*code).to_owned(),
        scope: code.scope().as_str().to_owned(),
        retry: code.retry(),
        message: error.for_operator(),
        fix: code.fix().to_owned(),
    }
}
