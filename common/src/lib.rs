//! What two or more of coordinator, agent and cli use. Nothing here opens a socket or a file, but `telemetry`.

pub mod backoff;
pub mod error;
pub mod ids;
pub mod position;
pub mod redis;
pub mod selection;
#[cfg(feature = "telemetry")]
pub mod telemetry;
