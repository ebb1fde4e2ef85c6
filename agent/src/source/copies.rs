//! A full copy costs the source a fork, and memory while it lasts: one that came to nothing is not asked for again at once.

use std::time::Duration;

use dts_common::backoff::Backoff;
use tokio::time::Instant;

const FIRST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(60);
/// A copy whose stream lived this long was worth its price.
const WORTH: Duration = Duration::from_secs(60);

/// Delays between copies that fail, or that end soon after they were whole.
#[derive(Debug)]
pub(crate) struct Copies {
    backoff: Backoff,
    begun: bool,
    whole_since: Option<Instant>,
}

/// Delays before copies that are begun again.
pub(crate) fn pause_between_copies() -> Backoff {
    Backoff::new(FIRST, LONGEST)
}

impl Default for Copies {
    fn default() -> Self {
        Self { backoff: pause_between_copies(), begun: false, whole_since: None }
    }
}

impl Copies {
    /// The source makes a snapshot for us.
    pub(crate) fn begun(&mut self) {
        (self.begun, self.whole_since) = (true, None);
    }

    /// All of the snapshot is here.
    pub(crate) fn whole(&mut self) {
        self.whole_since = Some(Instant::now());
    }

    /// The link is lost: how long the source is to be left alone.
    pub(crate) fn lost(&mut self) -> Duration {
        let worth = self.whole_since.take().is_some_and(|since| since.elapsed() >= WORTH);
        if worth {
            self.backoff.reset();
        }
        if std::mem::take(&mut self.begun) && !worth { self.backoff.next_delay() } else { Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn copies_that_fail_come_less_and_less_often_and_one_that_was_worth_it_starts_over() {
        let mut copies = Copies::default();
        assert_eq!(copies.lost(), Duration::ZERO, "no copy was begun");
        let mut before = Duration::ZERO;
        for _ in 0..6 {
            copies.begun();
            let delay = copies.lost();
            assert!(delay >= before.max(FIRST / 2), "{delay:?} after {before:?}");
            before = delay.min(LONGEST / 2);
        }
        copies.begun();
        copies.whole();
        assert!(copies.lost() >= LONGEST / 2, "whole, but lost at once");
        copies.begun();
        copies.whole();
        tokio::time::advance(WORTH).await;
        assert_eq!(copies.lost(), Duration::ZERO);
        copies.begun();
        assert!(copies.lost() <= FIRST);
    }
}
