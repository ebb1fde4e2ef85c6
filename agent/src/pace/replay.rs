//! How far a target may step back and still be brought up without a new copy, and how far it might.

use dts_proto::v1::Replay;

/// What of its data a server's disk holds at any time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Keeps {
    /// Everything that it has confirmed.
    Always,
    /// All but the last second, two in a bad one.
    EverySecond,
    /// All but what the kernel has not written yet: half a minute by default.
    WhenTheKernelLikes,
    /// What stood in the last snapshot.
    Nothing,
}

impl Keeps {
    /// By `aof_enabled`, and `appendfsync`, which not everybody may read.
    pub fn of(append_only: bool, fsync: Option<&str>) -> Self {
        match fsync {
            _ if !append_only => Self::Nothing,
            Some("always") => Self::Always,
            Some("no") => Self::WhenTheKernelLikes,
            _ => Self::EverySecond,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::EverySecond => "everysec",
            Self::WhenTheKernelLikes => "no",
            Self::Nothing => "nothing",
        }
    }

    fn loss_ms(self) -> Option<u64> {
        match self {
            Self::Always => Some(0),
            Self::EverySecond => Some(2000),
            Self::WhenTheKernelLikes => Some(30_000),
            Self::Nothing => None,
        }
    }
}

/// `applied`: the target's position. `kept_from`, `backlog_from`: where the stream begins that we, and that the source, still have.
pub fn replay(
    applied: u64,
    kept_from: Option<u64>,
    backlog_from: Option<u64>,
    source_bytes_per_second: u64,
    keeps: Option<Keeps>,
) -> Replay {
    let behind = |from: Option<u64>| from.and_then(|from| applied.checked_sub(from)).unwrap_or(0);
    let (window_bytes, backlog_bytes) = (behind(kept_from), behind(backlog_from));
    let bytes = window_bytes.max(backlog_bytes);
    let lasts_ms = bytes.saturating_mul(1000).checked_div(source_bytes_per_second);
    let loss_ms = keeps.and_then(Keeps::loss_ms);
    let short = match (keeps, loss_ms) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(_), Some(loss)) => lasts_ms.is_some_and(|lasts| lasts < loss),
    };
    Replay {
        window_bytes,
        backlog_bytes,
        lasts_ms,
        target_keeps: keeps.map(Keeps::name).unwrap_or_default().into(),
        loss_ms,
        short,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_larger_window_counts_and_is_short_if_the_target_may_lose_more() {
        let second = Some(Keeps::EverySecond);
        let both = replay(1000, Some(200), Some(900), 100, second);
        assert_eq!((both.window_bytes, both.backlog_bytes, both.lasts_ms, both.short), (800, 100, Some(8000), false));
        assert!(replay(1000, None, Some(900), 100, second).short);
        assert!(!replay(1000, None, Some(900), 100, Some(Keeps::Always)).short);
        assert!(replay(1000, Some(0), Some(0), 1, Some(Keeps::Nothing)).short, "all may be gone");
        // What begins behind the target's position is no use to it; where nothing is written nothing is lost.
        assert_eq!(replay(1000, Some(1001), None, 0, second).window_bytes, 0);
        assert!(!replay(1000, None, None, 0, second).short && !replay(1000, None, None, 9, None).short);
    }

    #[test]
    fn what_the_target_keeps_is_told_by_its_settings() {
        assert_eq!(Keeps::of(false, Some("always")), Keeps::Nothing);
        assert_eq!(Keeps::of(true, None), Keeps::EverySecond);
        assert_eq!(Keeps::of(true, Some("no")), Keeps::WhenTheKernelLikes);
    }
}
