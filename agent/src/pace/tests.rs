use super::*;

/// A source that writes 1000 bytes a second and answers once a second, with a backlog of 10,000 bytes that is full.
struct World {
    begun: Instant,
    meter: Meter,
    ms: u64,
    answered_at: u64,
}

impl World {
    fn new() -> Self {
        Self { begun: Instant::now(), meter: Meter::default(), ms: 0, answered_at: 0 }
    }

    fn written(ms: u64) -> u64 {
        100_000 + ms
    }

    fn answer(&self) -> (Backlog, Duration) {
        let backlog = Backlog { offset: Self::written(self.answered_at), size: 10_000, history: 10_000 };
        (backlog, Duration::from_millis(self.ms - self.answered_at))
    }

    /// Looks ten times a second for so long; `of` says what has come and what is applied.
    fn run(&mut self, ms: u64, of: impl Fn(u64) -> Sample) -> Pace {
        let mut last = Pace::default();
        for _ in 0..ms / 100 {
            self.ms += 100;
            let mut sample = of(self.ms);
            if sample.source.is_none() {
                if self.ms.is_multiple_of(1000) {
                    self.answered_at = self.ms;
                }
                sample.source = Some(self.answer());
            }
            sample.speaks_psync = true;
            last = self.meter.see(self.begun + Duration::from_millis(self.ms), &sample);
        }
        last
    }
}

fn stream(received: u64, applied: u64) -> Sample {
    Sample { connected: true, received_offset: received, applied_offset: Some(applied), ..Sample::default() }
}

#[test]
fn a_shard_in_step_has_no_lag_and_a_backlog_that_lasts() {
    let pace = World::new().run(20_000, |ms| stream(World::written(ms), World::written(ms)));
    assert_eq!((pace.received, pace.applied), (Some(Hop::default()), Some(Hop::default())));
    assert_eq!((pace.source_bytes_per_second, pace.applied_bytes_per_second), (1000, 1000));
    assert_eq!((pace.backlog_left_ms, pace.time_left_ms, pace.throttled_by.as_str()), (Some(10_000), None, ""));
}

#[test]
fn a_target_that_stands_still_is_behind_since_then_until_the_backlog_is_overrun() {
    let mut world = World::new();
    world.run(10_000, |ms| stream(World::written(ms), World::written(ms)));
    let pace = world.run(4000, |ms| stream(World::written(ms), World::written(10_000)));
    let hop = pace.applied.unwrap();
    assert_eq!(hop.lag_bytes, 4000);
    assert!((3800..=4000).contains(&hop.lag_ms), "{hop:?}");
    assert_eq!(pace.received, Some(Hop::default()));
    let left = pace.backlog_left_ms.unwrap();
    assert!((5900..=6100).contains(&left), "{left}");
    let pace = world.run(8000, |ms| stream(World::written(ms), World::written(10_000)));
    assert_eq!(pace.backlog_left_ms, Some(0), "it is overrun");
}

#[test]
fn a_source_that_is_cut_off_is_behind_by_what_it_wrote_before() {
    let mut world = World::new();
    world.run(10_000, |ms| stream(World::written(ms), World::written(ms)));
    let last = world.answer();
    let cut = |ms: u64| Sample {
        connected: false,
        source: Some((last.0, Duration::from_millis(ms - 10_000))),
        ..stream(World::written(10_000), World::written(10_000))
    };
    let pace = world.run(5000, cut);
    let hop = pace.received.unwrap();
    assert!((4900..=5100).contains(&hop.lag_bytes) && (4900..=5100).contains(&hop.lag_ms), "{hop:?}");
    let left = pace.backlog_left_ms.unwrap();
    assert!((4900..=5100).contains(&left), "{left}");
    let later = aged(pace, Duration::from_secs(2));
    assert!(later.received.unwrap().lag_ms >= 6900 && later.backlog_left_ms < Some(3200), "{later:?}");
}

#[test]
fn catching_up_says_when_it_will_be_done_and_what_it_waits_for() {
    let mut world = World::new();
    let pace = world.run(10_000, |ms| {
        let received = 1_000_000 + ms;
        Sample { limits: (0, 3000), ..stream(received, 600_000 + 3 * ms) }
    });
    // Behind by 400,000 - 2 * 10,000, and 2000 of it a second.
    assert!(matches!(pace.time_left_ms, Some(188_000..=192_000)), "{pace:?}");
    assert_eq!(pace.throttled_by, "write_limit");
    let pace = world.run(100, |ms| stream(1_000_000 + ms, 630_000));
    assert_eq!(pace.throttled_by, "target");
}

#[test]
fn a_copy_counts_its_own_bytes() {
    let mut world = World::new();
    let pace = world.run(10_000, |ms| Sample {
        connected: true,
        received_offset: 100_000,
        snapshot_received: ms * 20,
        snapshot_total: 1_000_000,
        snapshot_applied: ms * 10,
        snapshot_keys: ms,
        ..Sample::default()
    });
    assert_eq!(pace.applied.unwrap().lag_bytes, 100_000);
    assert!(pace.received.unwrap().lag_bytes >= 9000, "what is written meanwhile waits in the source");
    assert!(matches!(pace.time_left_ms, Some(89_000..=91_000)), "{pace:?}");
    assert_eq!((pace.applied_keys_per_second, pace.backlog_left_ms), (1000, None));
}
