//! Options that say where agents and servers are.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail};
use clap::Args;
use dts_agent::profile::Profile;
use dts_coordinator::placement::network;
use dts_proto::v1::{Budgets, Endpoint, Network, TaskSpec};

use crate::show::parse_bytes;

const LONGEST: usize = 128;
const MOST_LABELS: usize = 64;

/// What an agent says of itself.
#[derive(Debug, Args)]
pub(crate) struct ProfileArguments {
    /// Where it stands: region=NAME, network=cvm|public|dc|vpn|ccn (one, or several with | between), and labels of your own. Commas
    /// between them; may repeat.
    #[arg(long = "label", value_name = "NAME=VALUE", value_delimiter = ',')]
    labels: Vec<String>,
    /// Take so many shards at most; 0: unbounded.
    #[arg(long, default_value_t = 0)]
    max_shards: u32,
    /// Memory of all spools together, for example 2GiB; 0: unbounded.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "0")]
    memory: u64,
    /// Disk of all spools together; 0: unbounded.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "0")]
    disk: u64,
    /// Bytes a second read from all sources together; 0: unbounded.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "0")]
    read_rate: u64,
    /// Bytes a second written to all targets together; 0: unbounded.
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, default_value = "0")]
    write_rate: u64,
}

impl ProfileArguments {
    pub(crate) fn profile(&self) -> Result<Profile> {
        let budgets = Budgets {
            memory_bytes: self.memory,
            disk_bytes: self.disk,
            read_bytes_per_second: self.read_rate,
            write_bytes_per_second: self.write_rate,
        };
        Ok(Profile { labels: labels(&self.labels)?, max_shards: self.max_shards, budgets })
    }
}

fn labels(given: &[String]) -> Result<HashMap<String, String>> {
    let mut labels = HashMap::new();
    for text in given {
        let (name, value) = text.split_once('=').with_context(|| format!("--label takes NAME=VALUE, not {text:?}"))?;
        if [name, value].iter().any(|part| part.is_empty() || part.len() > LONGEST) {
            bail!("--label {text:?}: name and value have 1 to {LONGEST} bytes");
        }
        let unknown = value.split('|').find(|one| network(one).is_none());
        if let Some(unknown) = unknown.filter(|_| name == "network") {
            bail!("--label network={unknown}: cvm, public, dc, vpn and ccn are known, and several with | between");
        }
        if labels.insert(name.to_owned(), value.to_owned()).is_some() {
            bail!("--label {name} is given twice");
        }
    }
    if labels.len() > MOST_LABELS {
        bail!("at most {MOST_LABELS} labels");
    }
    Ok(labels)
}

/// Where the servers of a task are; agents are chosen by it (docs/fleet.md).
#[derive(Debug, Default, Args)]
pub(crate) struct Places {
    /// Region of the sources, as the agents' label says it.
    #[arg(long, value_name = "NAME")]
    source_region: Option<String>,
    /// How the sources are reached: cvm, public, dc, vpn or ccn.
    #[arg(long, value_name = "NETWORK", value_parser = parse_network)]
    source_network: Option<Network>,
    /// Region of the target.
    #[arg(long, value_name = "NAME")]
    target_region: Option<String>,
    /// How the target is reached.
    #[arg(long, value_name = "NETWORK", value_parser = parse_network)]
    target_network: Option<Network>,
}

fn parse_network(text: &str) -> Result<Network, String> {
    network(text).ok_or_else(|| "cvm, public, dc, vpn and ccn are known".into())
}

impl Places {
    pub(crate) fn put(&self, spec: &mut TaskSpec) {
        let put = |end: &mut Endpoint, region: &Option<String>, network: Option<Network>| {
            end.region.clone_from(region.as_ref().unwrap_or(&String::new()));
            end.network = network.unwrap_or_default().into();
        };
        spec.sources.iter_mut().for_each(|source| put(source, &self.source_region, self.source_network));
        spec.target.iter_mut().for_each(|target| put(target, &self.target_region, self.target_network));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_and_a_network_that_does_not_exist_is_named() {
        let given = |text: &[&str]| labels(&text.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>());
        let labels = given(&["region=one", "network=cvm|vpn", "rack=7"]).unwrap();
        assert_eq!((labels["network"].as_str(), labels.len()), ("cvm|vpn", 3));
        assert!(given(&["network=lan"]).unwrap_err().to_string().contains("lan"));
        assert!(given(&["region"]).is_err() && given(&["a=1", "a=2"]).is_err() && given(&["a="]).is_err());
    }
}
