//! Logs on stderr, and traces to an OpenTelemetry collector if one is named.

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, fmt};

/// The filter's environment variable.
pub const FILTER_VARIABLE: &str = "DTS_LOG";
/// The transport would trace its own export.
const QUIET: &str = "h2=warn,hyper=warn,hyper_util=warn,tonic=warn,tower=warn";

/// Sends what is left when it is shut down.
#[derive(Debug, Default)]
pub struct Guard(Option<SdkTracerProvider>);

/// Sets logging up; call inside of the runtime. `level` is used where the environment names no filter.
pub fn init(level: &str, otlp_endpoint: Option<&str>) -> Result<Guard, Box<dyn std::error::Error + Send + Sync>> {
    let wanted = std::env::var(FILTER_VARIABLE).unwrap_or_else(|_| level.to_owned());
    let filter = EnvFilter::try_new(format!("{wanted},{QUIET}"))?;
    let logs = fmt::layer().with_writer(std::io::stderr).with_target(false);
    let provider = match otlp_endpoint {
        None => None,
        Some(endpoint) => {
            let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
            let resource = Resource::builder().with_service_name("dts").build();
            Some(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
        }
    };
    let traces = provider.as_ref().map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer("dts")));
    tracing_subscriber::registry().with(filter).with(logs).with(traces).try_init()?;
    Ok(Guard(provider))
}

impl Guard {
    /// Blocks until the last spans are sent, or cannot be.
    pub fn shutdown(self) {
        if let Some(Err(error)) = self.0.map(|provider| provider.shutdown()) {
            eprintln!("traces were not sent: {error}");
        }
    }
}
