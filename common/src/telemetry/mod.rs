//! Logs on stderr, and traces to an OpenTelemetry collector if one is named. A collector that does not answer costs spans, and
//! nothing else: they wait in a bounded queue and are dropped when it is full.

mod context;

use std::time::Duration;

use opentelemetry::global;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt};

pub use context::{HEADER, continues, traceparent};

/// The filter's environment variable.
pub const FILTER_VARIABLE: &str = "DTS_LOG";
/// What OpenTelemetry calls the address of its collector.
pub const ENDPOINT_VARIABLE: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// The transport would trace its own export.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn";
/// Our own spans, whatever is logged.
const TRACED: &str = "off,dts=info,dts_cli=info,dts_common=info,dts_agent=info,dts_coordinator=info";
/// A collector that is slower than this is not waited for.
const PATIENCE: Duration = Duration::from_secs(3);

/// How to log and trace.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Used where the environment names no filter.
    pub level: &'a str,
    /// One JSON object a line.
    pub json: bool,
    /// Where traces go; without it to where OpenTelemetry's own variable says, or nowhere.
    pub otlp_endpoint: Option<&'a str>,
    /// What this process is: `coordinator`.
    pub role: &'a str,
}

/// Sends what is left when it is shut down.
#[derive(Debug, Default)]
pub struct Guard(Option<SdkTracerProvider>);

/// Sets logging up; call inside of the runtime.
pub fn init(options: Options<'_>) -> Result<Guard, Box<dyn std::error::Error + Send + Sync>> {
    let wanted = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| options.level.to_owned());
    let filter = EnvFilter::try_new(format!("{wanted},{QUIET}"))?;
    let logs = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let logs = if options.json { logs.json().flatten_event(true).with_span_list(false).boxed() } else { logs.boxed() };
    let from_environment = std::env::var(ENDPOINT_VARIABLE).ok().filter(|endpoint| !endpoint.is_empty());
    let provider = match options.otlp_endpoint.or(from_environment.as_deref()) {
        None => None,
        Some(endpoint) => {
            global::set_text_map_propagator(TraceContextPropagator::new());
            let exporter =
                SpanExporter::builder().with_tonic().with_endpoint(endpoint).with_timeout(PATIENCE).build()?;
            let resource = Resource::builder().with_service_name(format!("dts-{}", options.role)).build();
            Some(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
        }
    };
    let traces = provider.as_ref().map(|provider| {
        tracing_opentelemetry::layer().with_tracer(provider.tracer("dts")).with_filter(EnvFilter::new(TRACED))
    });
    tracing_subscriber::registry().with(logs.with_filter(filter)).with(traces).try_init()?;
    Ok(Guard(provider))
}

impl Guard {
    /// Blocks until the last spans are sent, or cannot be, a few seconds at most.
    pub fn shutdown(self) {
        if let Some(Err(error)) = self.0.map(|provider| provider.shutdown_with_timeout(PATIENCE)) {
            eprintln!("traces were not sent: {error}");
        }
    }
}
