//! A spec as a task file. What it is made of is taken apart field by field: one that is new in a server, a filter or the limits does not
//! compile until it has a place.

use dts_proto::v1::credential::Secret;
use dts_proto::v1::{
    BorderPolicy, Credential, CrossSlot, Endpoint, Filter, FlushPolicy, Limits, Mode, Network, Ring, RingServer,
    SourceKind, Strays, TargetFence, TargetGuard, TaskSpec, Tls, Topology,
};
use yaml_rust2::yaml::Hash;
use yaml_rust2::{Yaml, YamlEmitter};

use super::server::{NETWORKS, STORED};
use super::spec::{BORDER, COMPLETE, CROSS_SLOT, FENCE, FLUSH, GUARD, KINDS, MODES, STRAYS, VERSION};

/// The file, with what a reader has to know on top.
pub(super) fn write(spec: &TaskSpec) -> String {
    let mut text = String::new();
    // It only fails if the text does.
    let _written = YamlEmitter::new(&mut text).dump(&task(spec).yaml());
    let body = text.trim_start_matches("---").trim_start();
    let stored = if body.contains(&format!("password: {STORED}")) {
        "# `password: stored` stands for a password that the task holds: it is never given out. To create a task from this file\n\
         # name it by env:VARIABLE, file:PATH or secret:NAME instead.\n"
    } else {
        ""
    };
    format!("# A task of dts: docs/task-file.md\n{stored}{body}\n")
}

/// A map that leaves out what says nothing.
#[derive(Default)]
struct Map(Hash);

impl Map {
    fn put(mut self, name: &str, value: Option<Yaml>) -> Self {
        if let Some(value) = value {
            self.0.insert(Yaml::String(name.to_owned()), value);
        }
        self
    }

    fn text(self, name: &str, value: &str) -> Self {
        self.put(name, (!value.is_empty()).then(|| text(value)))
    }

    fn word(self, name: &str, value: Option<&str>) -> Self {
        self.put(name, value.map(text))
    }

    fn flag(self, name: &str, value: bool) -> Self {
        self.put(name, value.then_some(Yaml::Boolean(true)))
    }

    fn texts(self, name: &str, values: &[String]) -> Self {
        self.put(name, (!values.is_empty()).then(|| Yaml::Array(values.iter().map(|value| text(value)).collect())))
    }

    fn yaml(self) -> Yaml {
        Yaml::Hash(self.0)
    }

    fn some(self) -> Option<Yaml> {
        (!self.0.is_empty()).then(|| self.yaml())
    }
}

fn text(value: &str) -> Yaml {
    Yaml::String(value.to_owned())
}

fn number(value: impl Into<i64>) -> Yaml {
    Yaml::Integer(value.into())
}

/// The word that stands for a value; `None` for one that is not said.
fn word<T: PartialEq>(known: &[(&'static str, T)], value: T) -> Option<&'static str> {
    known.iter().find(|(_, of)| *of == value).map(|(word, _)| *word)
}

fn task(spec: &TaskSpec) -> Map {
    let TaskSpec {
        name,
        sources,
        target,
        mode,
        complete_when_caught_up,
        limits,
        allow_downgrade,
        filter,
        db_map,
        on_flush,
        cross_slot,
        topology,
        share_sources,
        target_guard,
        target_fence,
        // A switch-over sets it, nobody else.
        way_back_of: _,
    } = spec;
    let mut pairs: Vec<_> = db_map.iter().collect();
    pairs.sort_unstable();
    let pairs = pairs.into_iter().map(|(from, to)| (number(*from), number(*to))).collect::<Hash>();
    let complete = complete_when_caught_up.then(|| word(COMPLETE, true)).flatten();
    Map::default()
        .put("version", Some(number(VERSION)))
        .text("name", name)
        .word("mode", Mode::try_from(*mode).ok().and_then(|mode| word(MODES, mode)))
        .word("complete", complete)
        .put("source", source(sources, topology.as_ref()))
        .put("target", target.as_ref().map(|end| server(end, true)))
        .put("filter", filter.as_ref().map(self::filter))
        .put("db_map", (!pairs.is_empty()).then_some(Yaml::Hash(pairs)))
        .word("on_flush", FlushPolicy::try_from(*on_flush).ok().and_then(|policy| word(FLUSH, policy)))
        .word("on_cross_slot", CrossSlot::try_from(*cross_slot).ok().and_then(|policy| word(CROSS_SLOT, policy)))
        .flag("allow_downgrade", *allow_downgrade)
        .flag("share_sources", *share_sources)
        .word("target_guard", TargetGuard::try_from(*target_guard).ok().and_then(|guard| word(GUARD, guard)))
        .word("target_fence", TargetFence::try_from(*target_fence).ok().and_then(|fence| word(FENCE, fence)))
        .put("limits", limits.as_ref().map(self::limits))
}

fn source(sources: &[Endpoint], topology: Option<&Topology>) -> Option<Yaml> {
    let first = sources.first()?;
    // What holds for all of them is said once.
    let shared = sources.iter().all(|end| (end.network, &end.region) == (first.network, &first.region));
    let access = if shared { access(first) } else { None };
    let nodes = sources.iter().map(|end| server(end, !shared)).collect();
    let map = Map::default().put("access", access).put("nodes", Some(Yaml::Array(nodes)));
    let Some(topology) = topology else { return map.some() };
    let Topology { kind, found_by, sentinels, master_names, codis_slots, ring, strays } = topology;
    let sentinels: Vec<_> = sentinels.iter().map(|end| server(end, true)).collect();
    map.word("kind", SourceKind::try_from(*kind).ok().and_then(|kind| word(KINDS, kind)))
        .text("found_by", found_by)
        .put("sentinels", (!sentinels.is_empty()).then_some(Yaml::Array(sentinels)))
        .texts("master_names", master_names)
        .texts("codis_slots", codis_slots)
        .put("ring", ring.as_ref().map(self::ring))
        .word("strays", Strays::try_from(*strays).ok().and_then(|strays| word(STRAYS, strays)))
        .some()
}

fn ring(ring: &Ring) -> Yaml {
    let Ring { hash, hash_tag, distribution, servers } = ring;
    let server = |server: &RingServer| {
        let RingServer { name, weight } = server;
        Map::default().text("name", name).put("weight", Some(number(*weight))).yaml()
    };
    let servers = servers.iter().map(server).collect();
    Map::default()
        .text("hash", hash)
        .text("hash_tag", hash_tag)
        .text("distribution", distribution)
        .put("servers", Some(Yaml::Array(servers)))
        .yaml()
}

fn server(end: &Endpoint, with_access: bool) -> Yaml {
    let Endpoint { host, port, credential, tls, region: _, network: _, routes, instance_id } = end;
    let (user, password) = credential.as_ref().map(login).unwrap_or_default();
    Map::default()
        .text("instance", instance_id)
        .text("address", host)
        .put("port", Some(number(*port)))
        .text("user", &user)
        .put("password", password.map(|password| text(&password)))
        .put("tls", tls.as_ref().map(self::tls))
        .put("access", access(end).filter(|_| with_access))
        .flag("routes", *routes)
        .yaml()
}

/// User and password reference.
fn login(credential: &Credential) -> (String, Option<String>) {
    let Credential { username, secret, password_set } = credential;
    let password = match secret {
        Some(Secret::PasswordEnv(name)) => Some(format!("env:{name}")),
        Some(Secret::PasswordFile(path)) => Some(format!("file:{path}")),
        Some(Secret::AgentSecret(name)) => Some(format!("secret:{name}")),
        Some(Secret::Password(_)) => Some(STORED.to_owned()),
        None => password_set.then(|| STORED.to_owned()),
    };
    (username.clone(), password)
}

fn access(end: &Endpoint) -> Option<Yaml> {
    let network = Network::try_from(end.network).ok().filter(|network| *network != Network::Unspecified);
    let kind = network.and_then(|network| word(NETWORKS, network));
    Map::default().word("kind", kind).text("region", &end.region).some()
}

fn tls(tls: &Tls) -> Yaml {
    let Tls { ca_file, certificate_file, key_file, server_name, insecure_skip_verify } = tls;
    let map = Map::default()
        .text("ca_file", ca_file)
        .text("certificate_file", certificate_file)
        .text("key_file", key_file)
        .text("server_name", server_name)
        .flag("insecure_skip_verify", *insecure_skip_verify);
    map.some().unwrap_or(Yaml::Boolean(true))
}

fn filter(filter: &Filter) -> Yaml {
    let Filter {
        include_patterns,
        include_prefixes,
        exclude_patterns,
        exclude_prefixes,
        databases,
        types,
        exclude_commands,
        on_border,
        trust_scripts,
    } = filter;
    let numbers: Vec<_> = databases.iter().map(|database| number(*database)).collect();
    Map::default()
        .texts("include_patterns", include_patterns)
        .texts("include_prefixes", include_prefixes)
        .texts("exclude_patterns", exclude_patterns)
        .texts("exclude_prefixes", exclude_prefixes)
        .put("databases", (!numbers.is_empty()).then_some(Yaml::Array(numbers)))
        .texts("types", types)
        .texts("exclude_commands", exclude_commands)
        .word("on_border", BorderPolicy::try_from(*on_border).ok().and_then(|policy| word(BORDER, policy)))
        .flag("trust_scripts", *trust_scripts)
        .yaml()
}

fn limits(limits: &Limits) -> Yaml {
    let Limits {
        spool_memory_bytes,
        spool_disk_bytes,
        retry_window_seconds,
        read_bytes_per_second,
        write_bytes_per_second,
    } = limits;
    let bytes = |count: u64| (count != 0).then(|| text(&size(count)));
    Map::default()
        .put("spool_memory", bytes(*spool_memory_bytes))
        .put("spool_disk", bytes(*spool_disk_bytes))
        .put("retry_window", (*retry_window_seconds != 0).then(|| text(&format!("{retry_window_seconds}s"))))
        .put("read_rate", bytes(*read_bytes_per_second))
        .put("write_rate", bytes(*write_bytes_per_second))
        .yaml()
}

/// In the largest unit that says it exactly.
fn size(count: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let fits = units.iter().find(|(_, bits)| count.trailing_zeros() >= *bits);
    fits.map_or_else(|| format!("{count}B"), |(unit, bits)| format!("{}{unit}", count >> bits))
}
