//! What two or more of coordinator, agent and cli use. Nothing here opens a socket or a file, but `metrics`, `telemetry` and `pem`.

pub mod backoff;
pub mod error;
pub mod hex;
pub mod ids;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "tls")]
pub mod pem;
pub mod position;
pub mod redis;
#[cfg(feature = "selection")]
pub mod selection;
#[cfg(feature = "telemetry")]
pub mod telemetry;
pub mod units;
