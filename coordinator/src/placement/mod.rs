//! Which agent runs which shard. Pure: agents, shards and where these are now -> where they shall be, or why nowhere.
//!
//! A shard that runs stays where it is, unless its agent is being drained, it is pinned to another, or its agent is cut off from its
//! servers and another is not; and then only if somebody can take it. Of those who can take a shard the first is taken by: the way to
//! its servers, who held it last, the region that is preferred, the distance, spread of the task's shards, load, name.

mod rule;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

pub use rule::{Why, check};

use dts_proto::v1::{Network, Register};

/// Less disk than this left, and an agent gets no more shards.
const LEAST_DISK: u64 = 256 << 20;

/// An agent that might run something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Candidate {
    /// Its name.
    pub name: String,
    /// It lives, and has a session.
    pub connected: bool,
    /// It shall get nothing.
    pub cordoned: bool,
    /// It shall lose what it has.
    pub draining: bool,
    /// Its label; empty: none.
    pub region: String,
    /// Its label.
    pub networks: Vec<Network>,
    /// So many shards at most; 0: unbounded.
    pub max_shards: u32,
    /// Bytes; 0: not known.
    pub free_disk: u64,
}

impl Candidate {
    /// As it registered.
    pub fn new(register: &Register) -> Self {
        let label = |name: &str| register.labels.get(name).cloned().unwrap_or_default();
        Self {
            name: register.agent_id.clone(),
            region: label("region"),
            networks: label("network").split('|').filter_map(network).collect(),
            max_shards: register.max_shards,
            free_disk: register.free_disk_bytes,
            ..Self::default()
        }
    }
}

/// By its name in a label.
pub fn network(name: &str) -> Option<Network> {
    Network::from_str_name(&format!("NETWORK_{}", name.trim().to_ascii_uppercase()))
        .filter(|network| *network != Network::Unspecified)
}

/// Where a server is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spot {
    /// Empty: not said.
    pub region: String,
    /// How it is reached.
    pub network: Network,
}

/// What an agent found out about the way to both servers of a shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// Reached; microseconds of both round trips.
    Open(u32),
    /// One of them was not reached: which, and why.
    Cut(String),
}

/// A shard that shall run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Its task.
    pub task: String,
    /// Its number in the task.
    pub index: u32,
    /// Where its source is.
    pub source: Spot,
    /// Where its target is.
    pub target: Spot,
    /// The only agent that may run it; empty: any.
    pub pinned_to: String,
    /// The agent that runs it; empty: none.
    pub on: String,
    /// The agent that ran it last; empty: none.
    pub last: String,
    /// It does not get on, and the agent that runs it found its way cut.
    pub stuck: bool,
    /// By agent; who did not measure is not there.
    pub ways: BTreeMap<String, Way>,
}

/// Where a shard shall be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// `None`: nobody can take it.
    pub agent: Option<String>,
    /// Why no other can take it, if one should.
    pub refusals: Vec<(String, Why)>,
}

/// True if the agent's labels allow it the shard.
pub fn admits(agent: &Candidate, shard: &Wanted) -> bool {
    rule::wrong_place(agent, &shard.source, &shard.target).is_none()
}

/// A place for every shard, in their order.
pub fn place(agents: &[Candidate], shards: &[Wanted]) -> Vec<Placed> {
    let mut agents: Vec<&Candidate> = agents.iter().collect();
    agents.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    let mut tally = Tally::default();
    shards.iter().filter(|shard| !shard.on.is_empty()).for_each(|shard| tally.add(&shard.on, &shard.task));
    let mut order: Vec<usize> = (0..shards.len()).collect();
    order.sort_unstable_by_key(|at| (&shards[*at].task, shards[*at].index));
    let mut placed = vec![Placed::default(); shards.len()];
    for at in order {
        placed[at] = one(&agents, &shards[at], &mut tally);
    }
    placed
}

/// How much each agent has.
#[derive(Default)]
struct Tally<'a> {
    all: HashMap<&'a str, u32>,
    of_task: HashMap<(&'a str, &'a str), u32>,
}

impl<'a> Tally<'a> {
    fn add(&mut self, agent: &'a str, task: &'a str) {
        *self.all.entry(agent).or_default() += 1;
        *self.of_task.entry((agent, task)).or_default() += 1;
    }

    fn remove(&mut self, agent: &'a str, task: &'a str) {
        for count in self.all.get_mut(agent).into_iter().chain(self.of_task.get_mut(&(agent, task))) {
            *count = count.saturating_sub(1);
        }
    }

    fn all(&self, agent: &str) -> u32 {
        self.all.get(agent).copied().unwrap_or(0)
    }
}

fn one<'a>(agents: &[&'a Candidate], shard: &'a Wanted, tally: &mut Tally<'a>) -> Placed {
    let runs = !shard.on.is_empty();
    let holder = agents.iter().find(|agent| agent.name == shard.on);
    let unpinned = shard.pinned_to.is_empty();
    let leaves = holder.is_some_and(|holder| holder.draining) || !(unpinned || shard.pinned_to == shard.on);
    if runs && !leaves && !(shard.stuck && unpinned) {
        return Placed { agent: Some(shard.on.clone()), refusals: Vec::new() };
    }
    let (mut fitting, mut refusals) = (Vec::new(), Vec::new());
    for agent in agents.iter().filter(|agent| unpinned || agent.name == shard.pinned_to) {
        match rule::refusal(agent, shard, tally.all(&agent.name)) {
            None => fitting.push(*agent),
            Some(why) => refusals.push((agent.name.clone(), why)),
        }
    }
    if !unpinned && !agents.iter().any(|agent| agent.name == shard.pinned_to) {
        refusals.push((shard.pinned_to.clone(), Why::Gone));
    }
    let way = |agent: &Candidate| shard.ways.get(&agent.name);
    let open = fitting.iter().any(|agent| matches!(way(agent), Some(Way::Open(_))));
    // A server that nobody reaches is down: that is for the shard to say.
    let only_open = unpinned && (open || (runs && !leaves));
    fitting.retain(|agent| match way(agent) {
        Some(Way::Cut(why)) if only_open => {
            refusals.push((agent.name.clone(), Why::Cut(why.clone())));
            false
        }
        // What runs, if badly, does not leave for the unknown.
        None if runs && !leaves => false,
        _ => agent.name != shard.on,
    });
    let best = fitting.into_iter().min_by_key(|agent| rank(agent, shard, tally));
    if best.is_some() && runs {
        tally.remove(&shard.on, &shard.task);
    }
    match best {
        Some(agent) => {
            tally.add(&agent.name, &shard.task);
            Placed { agent: Some(agent.name.clone()), refusals: Vec::new() }
        }
        None => {
            refusals.retain(|(agent, _)| !runs || !unpinned || *agent != shard.on);
            if leaves && refusals.is_empty() {
                refusals.push((shard.on.clone(), Why::Alone));
            }
            refusals.sort_by(|(one, _), (other, _)| one.cmp(other));
            Placed { agent: runs.then(|| shard.on.clone()), refusals }
        }
    }
}

/// The least is the best.
fn rank<'a>(agent: &'a Candidate, shard: &Wanted, tally: &Tally<'_>) -> impl Ord + use<'a> {
    let (way, distance) = match shard.ways.get(&agent.name) {
        // Classes of distance: below 4 ms, 16 ms, 64 ms …
        Some(Way::Open(micros)) => (0, (micros / 1000).checked_ilog(4).unwrap_or(0)),
        None => (1, 0),
        Some(Way::Cut(_)) => (2, 0),
    };
    let elsewhere = |spot: &Spot| u32::from(!spot.region.is_empty() && spot.region != agent.region);
    let of_task = tally.of_task.get(&(agent.name.as_str(), shard.task.as_str())).copied().unwrap_or(0);
    let far = (2 * elsewhere(&shard.source) + elsewhere(&shard.target), distance);
    (way, agent.name != shard.last, far, of_task, tally.all(&agent.name), agent.name.as_str())
}
