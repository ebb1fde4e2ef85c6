use dts_proto::v1::{Endpoint, TaskSpec};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;

use super::*;

fn agent(name: &str) -> Candidate {
    Candidate { name: name.into(), connected: true, ..Candidate::default() }
}

fn shard(index: u32) -> Wanted {
    Wanted { task: "t".into(), index, ..Wanted::default() }
}

fn at(region: &str, network: Network) -> Spot {
    Spot { region: region.into(), network }
}

fn only(agents: &[Candidate], shard: Wanted) -> Placed {
    place(agents, &[shard]).remove(0)
}

#[test]
fn shards_of_a_task_are_spread_and_the_last_holder_is_preferred() {
    let agents = [agent("a"), agent("b"), agent("c")];
    let placed = place(&agents, &[shard(0), shard(1), shard(2)]);
    let names: Vec<_> = placed.iter().filter_map(|placed| placed.agent.as_deref()).collect();
    assert_eq!(names, ["a", "b", "c"]);
    assert_eq!(only(&agents, Wanted { last: "c".into(), ..shard(0) }).agent.as_deref(), Some("c"));
}

#[test]
fn who_cannot_take_a_shard_says_why() {
    let agents = [
        Candidate { connected: false, ..agent("away") },
        Candidate { cordoned: true, ..agent("cordoned") },
        Candidate { draining: true, cordoned: true, ..agent("draining") },
        Candidate { free_disk: 1 << 20, region: "r".into(), networks: vec![Network::Vpn], ..agent("full") },
        Candidate { region: "far".into(), networks: vec![Network::Vpn], ..agent("other region") },
        Candidate { region: "r".into(), networks: vec![Network::Cvm], ..agent("other way") },
    ];
    let placed = only(&agents, Wanted { source: at("r", Network::Vpn), ..shard(0) });
    assert_eq!(placed.agent, None);
    let whys: Vec<_> = placed.refusals.iter().map(|(agent, why)| format!("{agent}: {why}")).collect();
    assert_eq!(
        whys,
        [
            "away: it is not connected",
            "cordoned: it is cordoned",
            "draining: it is being drained",
            "full: its disk has 1 MiB left, less than 256",
            "other region: it is in region far, and the source in r",
            "other way: its label network does not name vpn, by which the source is reached",
        ]
    );
}

#[test]
fn a_drained_agent_keeps_what_nobody_else_can_take() {
    let drained = Candidate { draining: true, cordoned: true, ..agent("a") };
    let held = Wanted { on: "a".into(), ..shard(0) };
    let full = Candidate { max_shards: 1, ..agent("b") };
    let other = Wanted { on: "b".into(), ..shard(1) };
    let placed = place(&[drained.clone(), full], &[held.clone(), other]);
    assert_eq!(placed[0].agent.as_deref(), Some("a"));
    assert_eq!(placed[0].refusals, [("b".into(), Why::Full(1))]);
    assert_eq!(only(std::slice::from_ref(&drained), held.clone()).refusals, [("a".into(), Why::Alone)]);
    let pinned = Wanted { pinned_to: "a".into(), ..held.clone() };
    assert_eq!(only(&[drained.clone(), agent("b")], pinned).refusals, [("a".into(), Why::Draining)]);
    assert_eq!(only(&[drained, agent("b")], held).agent.as_deref(), Some("b"));
}

#[test]
fn a_pin_is_stronger_than_a_cordon_and_waits_for_its_agent() {
    let agents = [agent("a"), Candidate { cordoned: true, ..agent("b") }];
    let pinned = Wanted { pinned_to: "b".into(), on: "a".into(), ..shard(0) };
    assert_eq!(only(&agents, pinned.clone()).agent.as_deref(), Some("b"));
    let waits = only(&agents[..1], pinned.clone());
    assert_eq!((waits.agent.as_deref(), waits.refusals), (Some("a"), vec![("b".into(), Why::Gone)]));
    assert_eq!(only(&agents[..1], Wanted { on: String::new(), ..pinned }).agent, None);
}

#[test]
fn what_was_measured_counts_unless_nobody_gets_through() {
    let agents = [agent("a"), agent("b"), agent("c")];
    let cut = || Way::Cut("it does not reach the source".into());
    let ways = |ways: &[(&str, Way)]| ways.iter().map(|(agent, way)| ((*agent).to_owned(), way.clone())).collect();
    let near = ways(&[("a", cut()), ("b", Way::Open(90_000)), ("c", Way::Open(1000))]);
    assert_eq!(only(&agents, Wanted { ways: near, ..shard(0) }).agent.as_deref(), Some("c"));
    let nobody = ways(&[("a", cut()), ("b", cut()), ("c", cut())]);
    assert_eq!(only(&agents, Wanted { ways: nobody.clone(), ..shard(0) }).agent.as_deref(), Some("a"));
    // What runs and does not get on leaves only for one that gets through.
    let stuck = Wanted { on: "a".into(), stuck: true, ..shard(0) };
    assert_eq!(only(&agents, Wanted { ways: nobody, ..stuck.clone() }).agent.as_deref(), Some("a"));
    assert_eq!(only(&agents, stuck.clone()).agent.as_deref(), Some("a"));
    let through = ways(&[("a", cut()), ("c", Way::Open(5000))]);
    assert_eq!(only(&agents, Wanted { ways: through, ..stuck }).agent.as_deref(), Some("c"));
}

#[test]
fn a_source_on_a_cvm_does_not_leave_its_region() {
    let end = |region: &str, network: Network| Endpoint {
        region: region.into(),
        network: network.into(),
        ..Endpoint::default()
    };
    let spec = |source, target| TaskSpec { sources: vec![source], target: Some(target), ..TaskSpec::default() };
    let cvm = || end("one", Network::Cvm);
    check(&spec(cvm(), end("one", Network::Unspecified))).unwrap();
    check(&spec(end("one", Network::Public), end("two", Network::Cvm))).unwrap();
    let crossed = check(&spec(cvm(), end("two", Network::Cvm))).unwrap_err();
    assert_eq!(crossed.code.as_str(), "CROSS_REGION");
    assert!(check(&spec(cvm(), Endpoint::default())).is_err(), "without a region nothing is known");
}

const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

fn region() -> impl Strategy<Value = String> {
    prop::sample::select(vec![String::new(), "one".to_owned(), "two".to_owned()])
}

fn kind() -> impl Strategy<Value = Network> {
    prop::sample::select(vec![Network::Unspecified, Network::Cvm, Network::Vpn, Network::Public])
}

fn spot() -> impl Strategy<Value = Spot> {
    (region(), kind()).prop_map(|(region, network)| Spot { region, network })
}

fn agents() -> impl Strategy<Value = Vec<Candidate>> {
    let fields = (prop::bool::weighted(0.9), prop::bool::weighted(0.2), prop::bool::weighted(0.2));
    let one = (fields, region(), vec(kind(), 0..4), 0u32..4);
    vec(one, 0..NAMES.len()).prop_map(|agents| {
        let named = agents.into_iter().zip(NAMES);
        let made = named.map(|(((connected, cordoned, draining), region, networks, max_shards), name)| Candidate {
            name: name.into(),
            connected,
            cordoned: cordoned || draining,
            draining,
            region,
            networks,
            max_shards,
            free_disk: 0,
        });
        made.collect()
    })
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![(0u32..200_000).prop_map(Way::Open), Just(Way::Cut("cut".into()))]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![2 => Just(String::new()), 1 => prop::sample::select(NAMES.map(str::to_owned).to_vec())]
}

fn shards() -> impl Strategy<Value = Vec<Wanted>> {
    let ways = btree_map(prop::sample::select(NAMES.map(str::to_owned).to_vec()), way(), 0..4);
    let one = (0u32..3, spot(), spot(), name(), name(), name(), any::<bool>(), ways);
    vec(one, 0..12).prop_map(|shards| {
        let numbered = shards.into_iter().enumerate();
        let made = numbered.map(|(index, (task, source, target, pinned_to, on, last, stuck, ways))| Wanted {
            task: task.to_string(),
            index: u32::try_from(index).unwrap(),
            source,
            target,
            pinned_to,
            on,
            last,
            stuck,
            ways,
        });
        made.collect()
    })
}

fn count(name: &str, on: impl Iterator<Item = String>) -> u32 {
    u32::try_from(on.filter(|agent| agent == name).count()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn room_is_never_exceeded_and_no_rule_broken(agents in agents(), shards in shards()) {
        let placed = place(&agents, &shards);
        for (shard, placed) in shards.iter().zip(&placed) {
            let Some(to) = placed.agent.as_ref().filter(|to| **to != shard.on) else { continue };
            let agent = agents.iter().find(|agent| agent.name == *to).unwrap();
            prop_assert!(agent.connected && !agent.draining);
            prop_assert!(!agent.cordoned || shard.pinned_to == *to);
            prop_assert!(shard.pinned_to.is_empty() || shard.pinned_to == *to);
            if shard.source.network == Network::Cvm {
                prop_assert_eq!(&shard.source.region, &shard.target.region);
                prop_assert!(shard.source.region.is_empty() || shard.source.region == agent.region);
            }
            for spot in [&shard.source, &shard.target] {
                prop_assert!(spot.network == Network::Unspecified || agent.networks.contains(&spot.network));
            }
        }
        for agent in agents.iter().filter(|agent| agent.max_shards > 0) {
            let before = count(&agent.name, shards.iter().map(|shard| shard.on.clone()));
            let after = count(&agent.name, placed.iter().filter_map(|placed| placed.agent.clone()));
            prop_assert!(after <= agent.max_shards.max(before), "{} has {after}", agent.name);
        }
    }

    #[test]
    fn what_runs_well_stays_and_what_runs_is_never_stopped_for_nothing(agents in agents(), shards in shards()) {
        for (shard, placed) in shards.iter().zip(place(&agents, &shards)).filter(|(shard, _)| !shard.on.is_empty()) {
            let drained = agents.iter().any(|agent| agent.name == shard.on && agent.draining);
            let pinned_away = !shard.pinned_to.is_empty() && shard.pinned_to != shard.on;
            prop_assert!(placed.agent.is_some());
            if !drained && !pinned_away && !shard.stuck {
                prop_assert_eq!(placed.agent.as_ref(), Some(&shard.on));
            }
            if shard.stuck && !drained && !pinned_away && placed.agent.as_ref() != Some(&shard.on) {
                let to = placed.agent.unwrap();
                prop_assert!(matches!(shard.ways.get(&to), Some(Way::Open(_))));
            }
        }
    }

    #[test]
    fn it_is_the_same_in_any_order_and_once_placed_nothing_moves(agents in agents(), shards in shards(), turn in 0usize..12) {
        let placed = place(&agents, &shards);
        let (mut other_agents, mut other_shards) = (agents.clone(), shards.clone());
        other_agents.reverse();
        let turn = turn.min(shards.len());
        other_shards.rotate_left(turn);
        let mut again = place(&other_agents, &other_shards);
        again.rotate_right(turn);
        prop_assert_eq!(&again, &placed);
        let settled = shards.iter().zip(&placed).map(|(shard, placed)| Wanted {
            on: placed.agent.clone().unwrap_or_default(),
            pinned_to: String::new(),
            stuck: false,
            ..shard.clone()
        });
        let settled: Vec<Wanted> = settled.filter(|shard| !shard.on.is_empty()).collect();
        let calm: Vec<Candidate> = agents.iter().map(|agent| Candidate { draining: false, ..agent.clone() }).collect();
        for (shard, placed) in settled.iter().zip(place(&calm, &settled)) {
            prop_assert_eq!(placed.agent.as_ref(), Some(&shard.on));
        }
    }

    #[test]
    fn whoever_is_not_placed_hears_of_every_agent(agents in agents(), shards in shards()) {
        for (shard, placed) in shards.iter().zip(place(&agents, &shards)).filter(|(_, placed)| placed.agent.is_none()) {
            let expected = if shard.pinned_to.is_empty() { agents.len() } else { 1 };
            prop_assert_eq!(placed.refusals.len(), expected);
        }
    }
}
