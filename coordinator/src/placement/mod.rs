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

/// True if an agent with so much disk left gets more; 0: not known.
pub fn has_room(free_disk: u64) -> bool {
    free_disk == 0 || free_disk >= LEAST_DISK
}

/// A place for every shard, in their order.
pub fn place(agents: &[Candidate], shards: &[Wanted]) -> Vec<Placed> {
    let fleet = Fleet::new(agents);
    let mut tally = Tally { all: vec![0; agents.len()], of_task: Vec::new() };
    shards.iter().filter_map(|shard| fleet.at(&shard.on)).for_each(|at| tally.all[at] += 1);
    let mut order: Vec<usize> = (0..shards.len()).collect();
    order.sort_unstable_by_key(|at| (&shards[*at].task, shards[*at].index));
    let mut placed = vec![Placed::default(); shards.len()];
    for task in order.chunk_by(|one, other| shards[*one].task == shards[*other].task) {
        tally.of_task = vec![0; agents.len()];
        task.iter().filter_map(|at| fleet.at(&shards[*at].on)).for_each(|at| tally.of_task[at] += 1);
        for at in task {
            placed[*at] = one(&fleet, &shards[*at], &mut tally);
        }
    }
    placed
}

/// Agents by name, and by number in that order.
struct Fleet<'a> {
    agents: Vec<&'a Candidate>,
    by_name: HashMap<&'a str, usize>,
}

impl<'a> Fleet<'a> {
    fn new(agents: &'a [Candidate]) -> Self {
        let mut agents: Vec<&Candidate> = agents.iter().collect();
        agents.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let by_name = agents.iter().enumerate().map(|(at, agent)| (agent.name.as_str(), at)).collect();
        Self { agents, by_name }
    }

    /// Empty: nobody's name.
    fn at(&self, name: &str) -> Option<usize> {
        if name.is_empty() { None } else { self.by_name.get(name).copied() }
    }
}

/// How much each agent has, by its number.
struct Tally {
    all: Vec<u32>,
    /// Of the task that is being placed.
    of_task: Vec<u32>,
}

impl Tally {
    fn moved(&mut self, from: Option<usize>, to: usize) {
        for counts in [&mut self.all, &mut self.of_task] {
            counts[to] += 1;
            if let Some(from) = from {
                counts[from] = counts[from].saturating_sub(1);
            }
        }
    }
}

fn one(fleet: &Fleet<'_>, shard: &Wanted, tally: &mut Tally) -> Placed {
    let runs = !shard.on.is_empty();
    let on = fleet.at(&shard.on);
    let unpinned = shard.pinned_to.is_empty();
    let leaves = on.is_some_and(|at| fleet.agents[at].draining) || !(unpinned || shard.pinned_to == shard.on);
    if runs && !leaves && !(shard.stuck && unpinned) {
        return Placed { agent: Some(shard.on.clone()), refusals: Vec::new() };
    }
    let (mut fitting, mut refusals) = (Vec::new(), Vec::new());
    let pinned = fleet.at(&shard.pinned_to);
    let asked = if unpinned { 0..fleet.agents.len() } else { pinned.map_or(0..0, |at| at..at + 1) };
    for at in asked {
        match rule::refusal(fleet.agents[at], shard, tally.all[at]) {
            None => fitting.push(at),
            Some(why) => refusals.push((fleet.agents[at].name.as_str(), why)),
        }
    }
    if !unpinned && pinned.is_none() {
        refusals.push((&shard.pinned_to, Why::Gone));
    }
    let way = |at: usize| shard.ways.get(&fleet.agents[at].name);
    let open = fitting.iter().any(|at| matches!(way(*at), Some(Way::Open(_))));
    // A server that nobody reaches is down: that is for the shard to say.
    let only_open = unpinned && (open || (runs && !leaves));
    fitting.retain(|at| match way(*at) {
        Some(Way::Cut(why)) if only_open => {
            refusals.push((&fleet.agents[*at].name, Why::Cut(why.clone())));
            false
        }
        // What runs, if badly, does not leave for the unknown.
        None if runs && !leaves => false,
        _ => Some(*at) != on,
    });
    match fitting.into_iter().min_by_key(|at| rank(fleet.agents[*at], shard, tally, *at)) {
        Some(at) => {
            tally.moved(on, at);
            Placed { agent: Some(fleet.agents[at].name.clone()), refusals: Vec::new() }
        }
        None => {
            refusals.retain(|(agent, _)| !runs || !unpinned || *agent != shard.on);
            if leaves && refusals.is_empty() {
                refusals.push((&shard.on, Why::Alone));
            }
            refusals.sort_by_key(|(agent, _)| *agent);
            let refusals = refusals.into_iter().map(|(agent, why)| (agent.to_owned(), why)).collect();
            Placed { agent: runs.then(|| shard.on.clone()), refusals }
        }
    }
}

/// The least is the best; `at`: its number.
fn rank<'a>(agent: &'a Candidate, shard: &Wanted, tally: &Tally, at: usize) -> impl Ord + use<'a> {
    let (way, distance) = match shard.ways.get(&agent.name) {
        // Classes of distance: below 4 ms, 16 ms, 64 ms …
        Some(Way::Open(micros)) => (0, (micros / 1000).checked_ilog(4).unwrap_or(0)),
        None => (1, 0),
        Some(Way::Cut(_)) => (2, 0),
    };
    let elsewhere = |spot: &Spot| u32::from(!spot.region.is_empty() && spot.region != agent.region);
    let far = (2 * elsewhere(&shard.source) + elsewhere(&shard.target), distance);
    (way, agent.name != shard.last, far, tally.of_task[at], tally.all[at], agent.name.as_str())
}
