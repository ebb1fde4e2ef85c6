//! Carries a trace from one process to the next: W3C's `traceparent`.

use std::collections::HashMap;

use opentelemetry::global;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Name of the header.
pub const HEADER: &str = "traceparent";

/// Of the current span; empty if nobody traces.
pub fn traceparent() -> String {
    let mut carrier = HashMap::new();
    let context = Span::current().context();
    global::get_text_map_propagator(|propagator| propagator.inject_context(&context, &mut carrier));
    carrier.remove(HEADER).unwrap_or_default()
}

/// Makes a span that has not begun the child of what a `traceparent` names; one that names nothing changes nothing.
pub fn continues(span: &Span, traceparent: &str) {
    if traceparent.is_empty() {
        return;
    }
    let carrier = HashMap::from([(HEADER.to_owned(), traceparent.to_owned())]);
    let context = global::get_text_map_propagator(|propagator| propagator.extract(&carrier));
    let _not_traced_or_begun = span.set_parent(context);
}
