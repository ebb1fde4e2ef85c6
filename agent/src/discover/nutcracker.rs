//! twemproxy: its configuration file is the only map there is.

use dts_common::error::{Code, Error, Result};
use dts_proto::v1::{Ring, RingServer, SourceKind, Topology};
use yaml_rust2::{Yaml, YamlLoader};

use super::{Found, Source, address};

/// The servers of a pool of `nutcracker.yml`; without a name, of the only one that speaks Redis.
pub fn pool(text: &str, name: Option<&str>) -> Result<Found> {
    let wrong = |what: String| Error::new(Code::SourceTopology, what);
    let documents = YamlLoader::load_from_str(text).map_err(|error| wrong(format!("nutcracker.yml: {error}")))?;
    let pools =
        documents.first().and_then(Yaml::as_hash).ok_or_else(|| wrong("nutcracker.yml holds no pools".into()))?;
    let named = pools.iter().filter_map(|(key, pool)| Some((key.as_str()?, pool)));
    let fits = |(found, pool): &(&str, &Yaml)| {
        name.map_or_else(|| pool["redis"].as_bool() == Some(true), |name| *found == name)
    };
    let fitting: Vec<(&str, &Yaml)> = named.filter(fits).collect();
    let [(name, pool)] = fitting.as_slice() else {
        let names: Vec<&str> = fitting.iter().map(|(name, _)| *name).collect();
        return Err(wrong(format!("nutcracker.yml has {} such pools ({}): name one", names.len(), names.join(", "))));
    };
    let word = |key: &str, otherwise: &str| pool[key].as_str().unwrap_or(otherwise).to_owned();
    let mut ring = Ring {
        hash: word("hash", "fnv1a_64"),
        hash_tag: word("hash_tag", ""),
        distribution: word("distribution", "ketama"),
        servers: Vec::new(),
    };
    let password = pool["redis_auth"].as_str().map(str::to_owned);
    let mut sources = Vec::new();
    for line in pool["servers"].as_vec().map(Vec::as_slice).unwrap_or_default() {
        let line = line.as_str().unwrap_or_default();
        let (at, given) = line.split_once(' ').unwrap_or((line, ""));
        let parts = at.rsplit_once(':').and_then(|(at, weight)| Some((at, weight.parse().ok()?)));
        let (at, weight) = parts.ok_or_else(|| wrong(format!("pool {name}: {line:?} is not host:port:weight")))?;
        let (host, port) = address(at)?;
        // The proxy's own default: the port of memcached is left out.
        let own = at.strip_suffix(":11211").unwrap_or(at);
        let server = if given.trim().is_empty() { own } else { given.trim() }.to_owned();
        let about = format!("server {server} of pool {name}, weight {weight}");
        ring.servers.push(RingServer { name: server, weight });
        sources.push(Source { host, port, about, password: password.clone() });
    }
    crate::topology::Ring::new(&ring)?;
    let topology = Topology { kind: SourceKind::Twemproxy.into(), ring: Some(ring), ..Topology::default() };
    Ok(Found { topology, sources })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "alpha:\n  listen: 127.0.0.1:22121\n  hash: fnv1a_64\n  hash_tag: \"{}\"\n  distribution: ketama\n  redis: true\n  redis_auth: secret\n  servers:\n   - 127.0.0.1:6379:1 one\n   - 127.0.0.1:6380:2\nbeta:\n  listen: 127.0.0.1:22122\n  servers:\n   - 127.0.0.1:11211:1\n";

    #[test]
    fn the_pool_that_speaks_redis_is_found_with_names_weights_and_password() {
        let found = pool(TEXT, None).unwrap();
        let ring = found.topology.ring.unwrap();
        let names: Vec<_> = ring.servers.iter().map(|server| (server.name.as_str(), server.weight)).collect();
        assert_eq!(names, [("one", 1), ("127.0.0.1:6380", 2)]);
        assert_eq!((ring.hash_tag.as_str(), found.sources[1].port), ("{}", 6380));
        assert_eq!(found.sources[0].password.as_deref(), Some("secret"));
        assert_eq!(pool(TEXT, Some("beta")).unwrap().topology.ring.unwrap().servers[0].name, "127.0.0.1");
    }

    #[test]
    fn what_is_not_such_a_file_is_refused() {
        for text in ["", "a: [", "a:\n  redis: true\n  servers:\n   - x\n"] {
            assert!(pool(text, None).is_err(), "{text}");
        }
    }
}
