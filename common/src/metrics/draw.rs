//! A page in Prometheus's text format.

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use super::table::{Kind, METRICS};

/// Requests take from tenths of a millisecond to the seconds after which they are given up.
const BUCKETS: &[f64] = &[0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What happened in this process since [`record`] was called.
#[derive(Clone, Debug)]
pub struct Recorded(PrometheusHandle);

fn recorder() -> PrometheusRecorder {
    let builder = PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".into()), BUCKETS);
    // Only an empty list of buckets is refused.
    builder.unwrap_or_else(|_| PrometheusBuilder::new()).build_recorder()
}

fn describe() {
    for metric in METRICS {
        match metric.kind {
            Kind::Counter => metrics::describe_counter!(metric.name, metric.meaning),
            Kind::Gauge => metrics::describe_gauge!(metric.name, metric.meaning),
            Kind::Histogram => metrics::describe_histogram!(metric.name, metric.meaning),
        }
    }
}

/// Counts from now on what happens in this process; once.
pub fn record() -> Result<Recorded, String> {
    let recorder = recorder();
    let recorded = Recorded(recorder.handle());
    metrics::set_global_recorder(recorder).map_err(|error| error.to_string())?;
    describe();
    Ok(recorded)
}

impl Recorded {
    /// The page: what happened, and what `now` draws.
    pub fn page(&self, now: impl FnOnce()) -> String {
        let collector = metrics_process::Collector::default();
        let recorder = recorder();
        metrics::with_local_recorder(&recorder, || {
            describe();
            collector.describe();
            collector.collect();
            now();
        });
        self.0.run_upkeep();
        self.0.render() + &recorder.handle().render()
    }
}

/// What `now` draws.
#[cfg(test)]
pub(super) fn tests_page(now: impl FnOnce()) -> String {
    Recorded(recorder().handle()).page(now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_drawn_again_is_gone_from_the_next_page() {
        let recorded = Recorded(recorder().handle());
        let page = recorded.page(|| metrics::gauge!("dts_shard_epoch", "task" => "a").set(3.0));
        assert!(page.contains("dts_shard_epoch{task=\"a\"} 3") && page.contains("# HELP dts_shard_epoch"), "{page}");
        assert!(page.contains("process_resident_memory_bytes"), "{page}");
        assert!(!recorded.page(|| {}).contains("dts_shard_epoch{"));
    }
}
