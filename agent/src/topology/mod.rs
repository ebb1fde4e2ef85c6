//! What the sources of one task are to each other: which keys are this shard's, whether the list of them is whole, and where a
//! source is after it moved.

mod cluster;
mod coverage;
mod nodes;
mod owner;
mod ring;
pub(crate) mod sentinel;
mod siblings;
mod unclaimed;

pub(crate) use cluster::unchanged;
pub use cluster::{members, prove, watch};
pub use coverage::Proof;
pub use owner::Owner;
pub use ring::Ring;
pub(crate) use siblings::exist;
pub use siblings::{are_apart, no_duplicates};
pub use unclaimed::Others;

use std::sync::Arc;

use dts_common::error::{Code, Error, Result};
use dts_common::redis::slot::{CODIS_SLOTS, SlotSet};
use dts_proto::v1::{self, SourceKind, Strays};

use crate::endpoint::Endpoint;

/// The sources of a task, as one of its shards sees them.
#[derive(Clone, Debug)]
pub struct Topology {
    /// All of them, this one too, in the order of their shards.
    pub siblings: Vec<Endpoint>,
    /// What they are to each other.
    pub kind: Kind,
    /// Keys that another shard owns end the task; else they are left out.
    pub stop_at_strays: bool,
}

/// What sources are to each other, with what is needed to tell whose a key is, or where a source is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// Servers by themselves.
    Independent,
    /// Nodes of one cluster: they say themselves what they own.
    Cluster,
    /// Groups of codis, and the slots of each.
    Codis(Vec<SlotSet>),
    /// Servers behind twemproxy.
    Twemproxy(Arc<Ring>),
    /// Masters by name, and whom to ask for them.
    Sentinel(Vec<Endpoint>, Vec<String>),
}

impl Topology {
    /// From the task; `sentinels` are the task's, with their secrets.
    pub fn new(spec: &v1::Topology, siblings: Vec<Endpoint>, sentinels: Vec<Endpoint>) -> Result<Self> {
        let wrong = |what: String| Err(Error::new(Code::InvalidRequest, what));
        let one_each = |what: &str, found: usize| match found == siblings.len() {
            true => Ok(()),
            false => Err(Error::new(Code::InvalidRequest, format!("{} sources and {found} {what}", siblings.len()))),
        };
        let kind = match spec.kind() {
            SourceKind::Unspecified | SourceKind::Standalone => Kind::Independent,
            SourceKind::Cluster => Kind::Cluster,
            SourceKind::Codis => {
                one_each("codis_slots", spec.codis_slots.len())?;
                Kind::Codis(codis_slots(&spec.codis_slots)?)
            }
            SourceKind::Twemproxy => {
                let ring = spec.ring.clone().unwrap_or_default();
                one_each("servers of the ring", ring.servers.len())?;
                Kind::Twemproxy(Arc::new(Ring::new(&ring)?))
            }
            SourceKind::Sentinel if sentinels.is_empty() => return wrong("topology.sentinels is empty".into()),
            SourceKind::Sentinel => {
                one_each("master_names", spec.master_names.len())?;
                Kind::Sentinel(sentinels, spec.master_names.clone())
            }
        };
        let stop_at_strays = match spec.strays() {
            Strays::Stop => true,
            Strays::Drop => false,
            Strays::Unspecified => matches!(kind, Kind::Twemproxy(_) | Kind::Independent),
        };
        Ok(Self { siblings, kind, stop_at_strays })
    }

    /// True if other shards write to the same target.
    pub fn is_shared(&self) -> bool {
        self.siblings.len() > 1
    }

    /// How many shards the task has.
    pub fn shards(&self) -> u32 {
        u32::try_from(self.siblings.len()).unwrap_or(u32::MAX)
    }

    /// Those behind this one: two sources are compared by the first of them.
    pub fn later(&self, index: u32) -> &[Endpoint] {
        let begin = usize::try_from(index).unwrap_or(usize::MAX).saturating_add(1);
        self.siblings.get(begin..).unwrap_or_default()
    }

    /// The others.
    pub fn others(&self, index: u32) -> impl Iterator<Item = &Endpoint> {
        self.siblings
            .iter()
            .enumerate()
            .filter(move |(at, _)| u32::try_from(*at) != Ok(index))
            .map(|(_, source)| source)
    }
}

/// Together all 1024, and no slot twice.
pub(crate) fn codis_slots(texts: &[String]) -> Result<Vec<SlotSet>> {
    let wrong = |what: String| Err(Error::new(Code::SourceTopology, what));
    let mut covered = SlotSet::default();
    let mut all = Vec::new();
    for text in texts {
        let Some(slots) = SlotSet::parse(text) else { return wrong(format!("codis_slots: {text:?} are not slots")) };
        let twice = covered.and(&slots);
        if !twice.is_empty() {
            return wrong(format!("two groups of codis have slots {twice}"));
        }
        covered = covered.or(&slots);
        all.push(slots);
    }
    let mut every = SlotSet::default();
    let _within = every.insert_range(0, CODIS_SLOTS - 1);
    if covered == every {
        return Ok(all);
    }
    let missing = every.without(&covered);
    wrong(if missing.is_empty() {
        "codis has slots 0 to 1023".into()
    } else {
        format!("no group of codis has slots {missing}")
    })
}
