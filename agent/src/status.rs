//! What a shard shows of itself: written by its stages, read by the report loop.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use dts_common::error::{Code, Error};
use dts_proto::v1::{self, ShardPhase, ShardStatus};
use tokio::sync::Notify;

/// The shared board of one shard.
#[derive(Clone, Debug)]
pub struct Board {
    status: Arc<Mutex<ShardStatus>>,
    changed: Arc<Notify>,
}

impl Board {
    /// An empty board; `changed` is notified when the phase or the reason changes.
    pub fn new(changed: Arc<Notify>) -> Self {
        Self { status: Arc::default(), changed }
    }

    /// The status now.
    pub fn read(&self) -> ShardStatus {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status.observed_at = Some(SystemTime::now().into());
        status
    }

    /// Changes figures.
    pub fn update(&self, change: impl FnOnce(&mut ShardStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
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

    fn show(&self, phase: ShardPhase, error: Option<&Error>) {
        let reason = error.map(reason);
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if status.phase != phase as i32 || status.reason != reason {
            tracing::info!(phase = phase.as_str_name(), reason = error.map(|error| error.code.as_str()), "shard");
            status.set_phase(phase);
            status.reason = reason;
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
