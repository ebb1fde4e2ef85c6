//! Whose a key is, told by its name.

use std::sync::Arc;

use dts_common::redis::slot::{SlotSet, codis_slot, slot};

use super::Ring;

/// Which keys of the target are this shard's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Owner {
    /// All: it is the only shard.
    #[default]
    Everything,
    /// Those of these slots of a Redis Cluster.
    Slots(SlotSet),
    /// Those of these slots of codis.
    Codis(SlotSet),
    /// Those that the ring of a twemproxy gives to this server.
    Ring(Arc<Ring>, usize),
    /// Those that its source has and no other has: names do not tell.
    Unnamed,
}

impl Owner {
    /// False if the name tells that the key is another shard's.
    pub fn may_own(&self, key: &[u8]) -> bool {
        match self {
            Self::Everything | Self::Unnamed => true,
            Self::Slots(slots) => slots.contains(slot(key)),
            Self::Codis(slots) => slots.contains(codis_slot(key)),
            Self::Ring(ring, server) => ring.server(key) == *server,
        }
    }

    /// True if other shards' keys lie beside ours on the target.
    pub fn shares(&self) -> bool {
        *self != Self::Everything
    }

    /// For people.
    pub fn describe(&self) -> String {
        match self {
            Self::Everything | Self::Unnamed => String::new(),
            Self::Slots(slots) | Self::Codis(slots) => format!("slots {slots}"),
            Self::Ring(_, server) => format!("server {server} of the ring"),
        }
    }
}
