//! What the end-to-end tests and the demo stand on. It shares no code with the product: it starts real servers and the
//! `dts` binary, and compares servers by plain Redis commands.

pub mod browser;
pub mod cluster;
pub mod command_table;
pub mod distance;
pub mod dts;
pub mod etcd;
pub mod http;
pub mod load;
pub mod oracle;
pub mod patterns;
pub mod port;
pub mod proxy;
pub mod server;
pub mod spread;
pub mod spread_load;
pub mod talkers;
pub mod tls;
pub mod usage;

use std::time::Duration;

/// How long a test waits for a state: far longer than any takes, also where the machine is slow and busy.
pub const PATIENCE: Duration = Duration::from_secs(120);
