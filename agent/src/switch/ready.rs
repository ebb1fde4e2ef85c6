//! Making the target ready for clients, by one shard for all, once all are finished.

use std::time::Duration;

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{Opened, SwitchOverOrder, SwitchOverStep, Turned};
use tokio::time::{Instant, timeout};

use super::{Part, reopen, turn};

/// Clients wait while a step is tried: for so long, and then they come without.
const WITHIN: Duration = Duration::from_secs(30);

impl Part {
    /// Takes the place of the way back. Whoever comes before the coordinator knows of it begins anew: nobody was let in yet.
    pub(super) async fn turn(&mut self, order: &SwitchOverOrder) -> Result<bool> {
        if self.shown.read().turned.is_some() {
            return Ok(true);
        }
        if !self.finish().await? {
            return Ok(false);
        }
        let left = self.left(SwitchOverStep::Turn);
        let done = timeout(left, turn::turn(&self.job, &self.board, &order.way_back_task_id)).await;
        let turned = match done.unwrap_or_else(|_| Err(late())) {
            Ok(turned) => turned,
            Err(error) => Turned { failed: self.given_up(SwitchOverStep::Turn, error)?, ..Turned::default() },
        };
        self.shown.update(|report| report.turned = Some(turned));
        Ok(true)
    }

    /// Lets in whom an earlier switch-over closed out.
    pub(super) async fn open(&mut self, order: &SwitchOverOrder) -> Result<bool> {
        if !self.finish().await? {
            return Ok(false);
        }
        let left = self.left(SwitchOverStep::Open);
        let failed = match timeout(left, reopen::reopen(&self.job, &order.open)).await.unwrap_or_else(|_| Err(late())) {
            Ok(()) => String::new(),
            Err(error) => self.given_up(SwitchOverStep::Open, error)?,
        };
        self.shown.update(|report| report.opened = Some(Opened { failed }));
        Ok(true)
    }

    fn left(&mut self, step: SwitchOverStep) -> Duration {
        let since = match self.trying {
            Some((of, since)) if of == step => since,
            _ => Instant::now(),
        };
        self.trying = Some((step, since));
        (since + WITHIN).saturating_duration_since(Instant::now())
    }

    /// Why a step was not done, if there is no time left to try it again.
    fn given_up(&mut self, step: SwitchOverStep, error: Error) -> Result<String> {
        if !self.left(step).is_zero() {
            return Err(error);
        }
        // What an attempt found that had its time says more.
        let found = Some(self.shown.shard().error).filter(|found| !found.is_empty());
        let why = found.unwrap_or_else(|| error.to_string());
        tracing::error!(shard = %self.job.shard, why, "{} was given up", step.as_str_name());
        Ok(why)
    }
}

fn late() -> Error {
    Error::new(Code::TargetBusy, "it took too long")
}
