//! Logs on stderr, and traces to an OpenTelemetry collector if one is named.
