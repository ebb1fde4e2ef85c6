//! Which few of many agents have to do with a shard that they do not run: agents and shards lie on a ring by their names' hashes, and a shard
//! has to do with those that follow it. So the work is spread, and an agent that comes or goes changes little.

use std::hash::{DefaultHasher, Hash, Hasher as _};

use crate::placement::{self, Candidate, Spot, Wanted};

/// So many measure the way to a shard's servers; in a fleet that is no larger than that all do.
const MEASURE: usize = 16;

/// The agents that are connected, by where the servers are that their labels let them reach.
pub(super) struct Rings<'a> {
    pub(super) agents: &'a [Candidate],
    by_place: Vec<Ring>,
}

struct Ring {
    source: Spot,
    target: Spot,
    /// Hash, and place in `agents`.
    admitted: Vec<(u64, usize)>,
}

fn hash(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

impl<'a> Rings<'a> {
    pub(super) fn of(agents: &'a [Candidate]) -> Self {
        Self { agents, by_place: Vec::new() }
    }

    fn admitted(&mut self, shard: &Wanted) -> &[(u64, usize)] {
        let at = self.by_place.iter().position(|ring| ring.source == shard.source && ring.target == shard.target);
        let at = at.unwrap_or_else(|| {
            let able = |(_, agent): &(usize, &Candidate)| agent.connected && placement::admits(agent, shard);
            let able = self.agents.iter().enumerate().filter(able);
            let mut admitted: Vec<_> = able.map(|(at, agent)| (hash(&agent.name), at)).collect();
            admitted.sort_unstable();
            let (source, target) = (shard.source.clone(), shard.target.clone());
            self.by_place.push(Ring { source, target, admitted });
            self.by_place.len() - 1
        });
        &self.by_place[at].admitted
    }

    /// The first `most` that follow the shard and fit, as places in `agents`.
    pub(super) fn some(&mut self, shard: &Wanted, most: usize, fits: impl Fn(&Candidate) -> bool) -> Vec<usize> {
        let agents = self.agents;
        let admitted = self.admitted(shard);
        let begin = admitted.partition_point(|(at, _)| *at < hash((&shard.task, shard.index)));
        let (before, after) = admitted.split_at(begin);
        after.iter().chain(before).map(|(_, at)| *at).filter(|at| fits(&agents[*at])).take(most).collect()
    }

    /// Who measures the way to its servers.
    pub(super) fn measurers(&mut self, shard: &Wanted) -> Vec<usize> {
        if self.admitted(shard).len() <= MEASURE {
            return self.some(shard, MEASURE, |_| true);
        }
        let mut chosen = self.some(shard, MEASURE, |agent| !agent.cordoned);
        // Whether its own way is cut is told by who runs it.
        let holder = self.agents.iter().position(|agent| agent.name == shard.on);
        let holder = holder.filter(|at| self.agents[*at].connected && !chosen.contains(at));
        chosen.extend(holder);
        chosen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agents(count: usize) -> Vec<Candidate> {
        let agent = |at| Candidate { name: format!("agent-{at}"), connected: true, ..Candidate::default() };
        (0..count).map(agent).collect()
    }

    fn shard(index: u32) -> Wanted {
        Wanted { task: "t".into(), index, on: "agent-7".into(), ..Wanted::default() }
    }

    fn names(agents: &[Candidate], shard: &Wanted) -> Vec<String> {
        let mut chosen: Vec<_> =
            Rings::of(agents).measurers(shard).into_iter().map(|at| agents[at].name.clone()).collect();
        chosen.sort();
        chosen
    }

    #[test]
    fn all_of_a_small_fleet_measure_and_of_a_large_one_a_few_and_the_holder() {
        assert_eq!(names(&agents(16), &shard(0)).len(), 16);
        let many = agents(1000);
        let mut times = vec![0; 1000];
        for index in 0..1000 {
            let chosen = Rings::of(&many).measurers(&shard(index));
            assert!((MEASURE..=MEASURE + 1).contains(&chosen.len()) && chosen.contains(&7));
            chosen.iter().filter(|at| **at != 7).for_each(|at| times[*at] += 1);
        }
        assert!(times.iter().all(|times| *times < 300), "one agent measures for {:?} shards", times.iter().max());
    }

    #[test]
    fn an_agent_more_changes_little_and_those_that_cannot_are_left_out() {
        let (few, more) = (agents(100), agents(101));
        for index in 0..20 {
            let (before, after) = (names(&few, &shard(index)), names(&more, &shard(index)));
            assert!(before.iter().filter(|name| !after.contains(name)).count() <= 1);
        }
        let mut cut = agents(100);
        cut[3].connected = false;
        cut[5].region = "r".into();
        let near = Wanted { source: Spot { region: "r".into(), ..Spot::default() }, ..shard(0) };
        assert_eq!(names(&cut, &near), ["agent-5"]);
        assert!((0..100).all(|index| !names(&cut, &shard(index)).contains(&"agent-3".to_owned())));
    }
}
