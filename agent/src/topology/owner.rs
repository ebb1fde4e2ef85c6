//! Whose a key is, told by its name.

use dts_common::redis::slot::{SlotSet, slot};

/// Which keys of the target are this shard's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Owner {
    /// All: it is the only shard.
    #[default]
    Everything,
    /// Those of these slots of a Redis Cluster.
    Slots(SlotSet),
    /// Those that its source has and no other has: names do not tell.
    Unnamed,
}

impl Owner {
    /// False if the name tells that the key is another shard's.
    pub fn may_own(&self, key: &[u8]) -> bool {
        match self {
            Self::Everything | Self::Unnamed => true,
            Self::Slots(slots) => slots.contains(slot(key)),
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
            Self::Slots(slots) => format!("slots {slots}"),
        }
    }
}
