//! What an agent says of itself when it registers.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use dts_proto::PROTOCOL_VERSION;
use dts_proto::v1::{Budgets, Register};

/// Where it stands and what it takes.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    /// `region`, `network`, and whatever else.
    pub labels: HashMap<String, String>,
    /// So many shards at most; 0: unbounded.
    pub max_shards: u32,
    /// What its shards may use together.
    pub budgets: Budgets,
}

/// Who we are to the coordinator.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Stable name.
    pub agent_id: String,
    /// This process.
    pub instance_id: String,
    /// What we say of ourselves.
    pub profile: Profile,
    /// Where spools lie.
    pub state_dir: PathBuf,
}

impl Identity {
    /// Of this process.
    pub fn new(agent_id: String, profile: Profile, state_dir: &Path) -> Self {
        Self { agent_id, instance_id: uuid::Uuid::new_v4().to_string(), profile, state_dir: state_dir.to_owned() }
    }

    /// The first message of a session.
    pub fn register(&self) -> Register {
        Register {
            agent_id: self.agent_id.clone(),
            instance_id: self.instance_id.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol_version: PROTOCOL_VERSION,
            labels: self.profile.labels.clone(),
            max_shards: self.profile.max_shards,
            budgets: Some(self.profile.budgets),
            free_disk_bytes: self.free_disk(),
        }
    }

    /// Bytes that are left where spools lie; 0: not known.
    pub fn free_disk(&self) -> u64 {
        rustix::fs::statvfs(&self.state_dir).map_or(0, |volume| volume.f_bavail.saturating_mul(volume.f_frsize))
    }
}
