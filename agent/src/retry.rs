//! Trying again within a window, and saying so meanwhile.

use std::time::Duration;

use dts_common::backoff::Backoff;
use dts_common::error::{Error, Result};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

/// Where the stages of a shard say what they are retrying; `None`: all is well.
pub type Trouble = watch::Sender<Option<Error>>;

/// One stage's attempts. The window begins with the first failure after a success.
#[derive(Debug)]
pub struct Retry {
    window: Duration,
    backoff: Backoff,
    failing_since: Option<Instant>,
    trouble: Trouble,
    cancel: CancellationToken,
}

impl Retry {
    /// Attempts of a stage that tells `trouble` and ends with `cancel`.
    pub fn new(window: Duration, trouble: Trouble, cancel: CancellationToken) -> Self {
        let backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        Self { window, backoff, failing_since: None, trouble, cancel }
    }

    /// How long to wait before the next attempt; gives the error back if it is not one to retry, or the window is spent.
    pub fn failed(&mut self, error: &Error) -> Result<Duration> {
        self.failed_at_least(Duration::ZERO, error)
    }

    fn failed_at_least(&mut self, least: Duration, error: &Error) -> Result<Duration> {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        if !error.code.retry() || since.elapsed() >= self.window {
            return Err(error.clone());
        }
        let delay = self.backoff.next_delay().max(least);
        tracing::warn!(%error, retry_in_ms = delay.as_millis(), "retrying");
        self.trouble.send_replace(Some(error.clone()));
        Ok(delay)
    }

    /// Waits before the next attempt; gives the error back if it is not one to retry, the window is spent, or the
    /// stage is cancelled.
    pub async fn wait(&mut self, error: Error) -> Result<()> {
        self.wait_at_least(Duration::ZERO, error).await
    }

    /// The same, no sooner than after `least`.
    pub async fn wait_at_least(&mut self, least: Duration, error: Error) -> Result<()> {
        let delay = self.failed_at_least(least, &error)?;
        tokio::select! {
            () = sleep(delay) => Ok(()),
            () = self.cancel.cancelled() => Err(error),
        }
    }

    /// The stage works again.
    pub fn succeeded(&mut self) {
        if self.failing_since.take().is_some() {
            self.backoff.reset();
            self.trouble.send_replace(None);
        }
    }

    /// Nothing has failed, but the stage waits, for as long as it takes, until this ends; gives `error`, its reason, back if the stage is cancelled.
    pub async fn until<T>(&self, error: Error, ends: impl Future<Output = T>) -> Result<T> {
        tracing::warn!(%error, "waiting");
        self.trouble.send_replace(Some(error.clone()));
        let ended = tokio::select! {
            ended = ends => ended,
            () = self.cancel.cancelled() => return Err(error),
        };
        self.trouble.send_replace(None);
        Ok(ended)
    }
}

#[cfg(test)]
mod tests {
    use dts_common::error::Code;

    use super::*;

    fn retry(window: Duration) -> (Retry, watch::Receiver<Option<Error>>) {
        let (trouble, seen) = watch::channel(None);
        (Retry::new(window, trouble, CancellationToken::new()), seen)
    }

    #[tokio::test(start_paused = true)]
    async fn a_passing_fault_is_told_and_taken_back() {
        let (mut retry, seen) = retry(Duration::from_secs(60));
        retry.wait(Error::new(Code::SourceLost, "gone")).await.unwrap();
        assert!(seen.borrow().is_some());
        retry.succeeded();
        assert!(seen.borrow().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_window_ends_the_attempts() {
        let (mut retry, _seen) = retry(Duration::from_secs(3));
        let mut attempts = 0;
        while retry.wait(Error::new(Code::SourceLost, "gone")).await.is_ok() {
            attempts += 1;
            assert!(attempts < 100, "never gave up");
        }
        assert!(attempts > 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_retrying_cannot_mend_is_not_retried() {
        let (mut retry, _seen) = retry(Duration::from_secs(60));
        assert!(retry.wait(Error::new(Code::SourceAuth, "wrong password")).await.is_err());
    }
}
